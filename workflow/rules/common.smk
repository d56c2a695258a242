# The study, laid out: everything the rules need to know is asked of histostudy.plan.
import re
import sys
import time
from pathlib import Path

from histostudy.errors import ConfigError, StudyError
from histostudy.layout import PROVENANCE
from histostudy.model_kinds import BAG_KINDS
from histostudy.plan import make_plan, use_this_environment
from histostudy.provenance import behind, records
from histostudy.provenance.following import follow
from histostudy.provenance.leftovers import alone, begin, sweep
from histostudy.studyfile import read_study_file


def configured():
    """What the study says, and the file that its relative paths are relative to."""
    files = [Path(path) for path in workflow.configfiles]
    if MODULE:
        check_module()
        return dict(config), files[-1] if files else None
    if files:
        return dict(config), files[-1]
    # basedir is the root or workflow/, by which of the two Snakefiles was called
    home = next(
        folder for folder in (Path(workflow.basedir), Path(workflow.basedir).parent) if (folder / "config").is_dir()
    )
    source = home / "config" / "config.yaml"
    return {**read_study_file(source), **config}, source


def check_module():
    """Refuse to be part of a workflow that would move the results, or would not keep the records of them."""
    mover = workflow.modifier.path_modifier
    if mover.prefix or mover.modifies_prefixes:
        raise ConfigError(
            f"module {__name__}: the study's paths cannot have a prefix",
            where=workflow.main_snakefile,
            todo="leave out `prefix` and `replace_prefix`, and run in another folder (--directory)",
        )
    # Snakemake runs the handlers of the main Snakefile alone
    lines = Path(workflow.main_snakefile).read_text(encoding="utf-8").splitlines()
    if sum(f"{__name__}.save_records()" in line.partition("#")[0] for line in lines) < 2:
        raise ConfigError(
            f"module {__name__}: the records of how its results were made would not be kept",
            where=workflow.main_snakefile,
            todo=f"put `{__name__}.save_records()` under `onsuccess:` and again under `onerror:`",
        )


def plan_study():
    """The study of --configfile or of the module's `config`, or the default one; a bad one is one line, exit code 2."""
    try:
        overrides, source = configured()
        plan = make_plan(overrides, source, check=workflow.is_main_process)
        # jobs read this file again: only the process that plans may touch Snakemake's records
        if workflow.is_main_process:
            plan.write(dry=any(LOOKS.fullmatch(word) for word in sys.argv))
            for file in plan.layout.provenance:
                records.restore(file, plan.hashes)
        follow(plan.file, leads=workflow.is_main_process)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    return plan


def looked_at():
    """Indexes of the shards of stages that write a file a slide, which every plan looks at."""
    folders = [Path(FOLDERS[stage]) for stage in ("slides", "tissue", "tiles", "features")]
    return [path for folder in [*folders, *pair_folders()] for path in PLAN.indexes(folder)]


def pair_folders():
    """Folders of the pairs that the models learn from."""
    return [PLAN.layout.features / "pairs" / name for name in PLAN.pairs]


def refuse_unrecorded():
    """Stop where a result lies of which nobody can say how it was made."""
    try:
        if workflow.is_main_process:
            outputs = [output for rule in workflow.rules for output in rule.output]
            # of a workflow that this one is a module of, only what lies among the study's results
            ours = tuple(prefix for prefixes in PLAN.layout.provenance.values() for prefix in prefixes)
            # git brings the summary alone to a clone, without records: it is made again
            records.refuse_unrecorded(o for o in outputs if str(o).startswith(ours) and str(o) not in SUMMARY)
            behind.check(looked_at(), PLAN.hashes)
            PLAN.remember()
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def save_records():
    """Keep Snakemake's records with the results, whether the run ended well or not, and nothing half-written."""
    for file, prefixes in PLAN.layout.provenance.items():
        records.save(file, prefixes, PLAN.hashes)
    # what another study of the cohort has in hand is no older than a day
    sweep(Path(COHORT), before=BEGUN if alone() else BEGUN - 24 * 60 * 60)
    sweep(Path(HOME), before=BEGUN)
    PLAN.describe_run()
    PLAN.hashes.save()
    try:
        behind.check(looked_at(), PLAN.hashes)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)


use_this_environment()
# options with which Snakemake looks, and makes nothing
LOOKS = re.compile(
    r"-[a-z]*n[a-z]*|-[lSD]|--(dry-?run|unlock|lint|list.*|(detailed-)?summary|dag|rulegraph|filegraph|d3dag|report)"
)
BEGUN = time.time()
begin()
# part of another workflow, which gives the study as the module's `config`
MODULE = not workflow.modifier.is_main_snakefile()
PLAN = plan_study()
STUDY = PLAN.study
HOME = str(PLAN.layout.home)
COHORT = str(PLAN.layout.cohort)
FOLDERS = {
    "slides": str(PLAN.layout.slides),
    "tissue": str(PLAN.layout.tissue),
    "tiles": str(PLAN.layout.tiles),
    "features": str(PLAN.layout.features),
    "pairs": str(PLAN.layout.features / "pairs"),
    "stain": str(PLAN.layout.stain),
    "source": str(PLAN.layout.source),
}
SUMMARY = [f"{PLAN.layout.summary}.{suffix}" for suffix in ("json", "csv")]
LOGS = f"logs/{STUDY.study}"
# a study of tables alone has no features
INDEX = [str(PLAN.layout.features_table)] if STUDY.uses_tissue else []
BAGS = PLAN.bags
# the record of the bags says what is in them: Snakemake would take the checksum of every input of every job
BAGS_RECORD = [path for path in BAGS if path.endswith(".json")]
DRAWN_FEATURES = STUDY.cohort.simulate is not None and STUDY.cohort.simulate.features is not None
PRECOMPUTED = STUDY.features.precomputed is not None
ENVIRONMENT = "../../envs/environment.yaml"


wildcard_constraints:
    tile_task="|".join(re.escape(name) for name in PLAN.labelled) or "none",
    shard=r"\d+",
    pairs="|".join(re.escape(name) for name in PLAN.pairs) or "none",
    task="|".join(task.name for task in STUDY.tasks) or "none",
    model=r"[A-Za-z0-9_.-]+",


def members(wildcards):
    """Digest of a shard's slides: adding one touches its shard alone."""
    return PLAN.shards[int(wildcards.shard)]


def model_settings(wildcards):
    """Digest of what the runs of a model on a task depend on."""
    return PLAN.model_settings(wildcards.task, wildcards.model)


def model_inputs(wildcards):
    """Foreign predictions, the runs of the models that this one builds on, or the pairs that it learns from."""
    return PLAN.model_inputs(wildcards.task, wildcards.model)


def learned():
    """Tables of the models that learned the sequence."""
    names = ("metrics", "matrix", "course", "comparison")
    return [str(PLAN.layout.sequence(name)) for name in names] if STUDY.sequence else []


def audits():
    """Tables of the audits that the study asks for."""
    return [str(PLAN.layout.audit(name)) for name in ("audit", "slides")] if "stain" in STUDY.audit else []


def transfers():
    """Tables of the models that are tried on the other tasks."""
    return [str(PLAN.layout.transfer(model)) for model in STUDY.compare.transfer]


def bags_of_task(wildcards):
    """The bags, where the task is learned from them."""
    return BAGS if STUDY.task(wildcards.task).kind in BAG_KINDS else []


def code_of_task(stage):
    """Version of the code that trains or evaluates a task of its kind."""
    own = {
        "segmentation": {"train": "segment", "evaluate": "evaluate_segmentation"},
        "tile_classification": {"train": "train_tiles", "evaluate": "evaluate_tiles"},
    }

    def code(wildcards):
        named = own.get(STUDY.task(wildcards.task).kind, {}).get(stage, stage)
        # another model's network is no part of what trains this one
        return PLAN.code(named, wildcards.model if named == "train" else None)

    return code


def memory(mb):
    """What a job asks for: so many MB, and as many more with each retry.

    Most jobs need less than their first request, which is what lets many share a node; one that a large slide or a long
    table took beyond it was killed, and would be again for the same request.
    """
    return lambda wildcards, attempt: mb * attempt


def gpus_of_model(wildcards):
    """One for a model whose study asks for CUDA by name; `auto` takes what the machine has."""
    model = STUDY.models.get(wildcards.model)
    return int(model is not None and model.training.device == "cuda")


def runs_of_task(wildcards):
    """Indexes of the runs of all models on a task."""
    return [f"{HOME}/runs/{wildcards.task}/{m}/runs.parquet" for m in STUDY.model_names(wildcards.task)]


def runs_of_study(wildcards):
    """Indexes of all runs."""
    return [f"{HOME}/runs/{t.name}/{m}/runs.parquet" for t in STUDY.tasks for m in STUDY.model_names(t.name)]


def cohort_products():
    """What the cohort's stages declare: asked for by name, or one that a killed job took away would not be missed."""
    if not STUDY.has_slides:
        return []
    stages = [] if PRECOMPUTED else ["slides"]
    stages += ["tissue"] if INDEX and not PRECOMPUTED else []
    stages += ["tiles", "features"] if STUDY.uses_bags and not PRECOMPUTED else []
    stages += ["stain"] if "stain" in STUDY.audit else []
    folders = [*pair_folders(), *(Path(FOLDERS[stage]) for stage in stages)]
    drawn = [table for table in PLAN.tables if table.startswith(f"{FOLDERS['source']}/")]
    made = [str(PLAN.layout.slides_table), *INDEX, *PLAN.encoder, *drawn]
    return made + [path for folder in folders for path in PLAN.indexes(folder)]


def study_products(wildcards):
    """What the study's rules declare; and the cohort's, where these were not left out of a pull."""
    if PLAN.trained_tissue:
        return PLAN.trained_tissue
    cohort = cohort_products() if (PLAN.layout.cohort / PROVENANCE).is_file() else []
    made = [*rules.report.output, *SUMMARY, *rules.cohort.output, *rules.figures.output, *BAGS]
    made += [str(PLAN.layout.labelled(task) / "index.parquet") for task in PLAN.labelled]
    made += [f"{HOME}/runs/sequence/{model}/runs.parquet" for model in STUDY.learners] if STUDY.sequence else []
    if STUDY.tasks:
        made += [*rules.split.output, *rules.overview.output, *runs_of_study(wildcards)]
        made += [path for kind in ("metrics", "comparison") for path in results_of_study(kind)]
        made += [str(PLAN.layout.curves(task.name)) for task in STUDY.tasks]
    return [*cohort, *made, *learned(), *audits(), *transfers()]


def results_of_study(kind):
    """One file a task under a folder of the study."""
    return [f"{HOME}/{kind}/{task.name}.csv" for task in STUDY.tasks]


def figure_files():
    """Every figure of the study, marked for Snakemake's own report."""
    from histostudy.verbs.figures import planned_figures

    files = []
    for figure in planned_figures(STUDY):
        stem = f"{HOME}/figures/{figure.stem}"
        shown = {"category": figure.category, "labels": figure.labels}
        files += [report(f"{stem}.svg", caption=f"../report/{figure.caption}.rst", **shown)]
        files += [f"{stem}.pdf", f"{stem}.png"]
    return files
