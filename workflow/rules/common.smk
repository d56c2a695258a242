# The study, laid out: everything the rules need to know is asked of histostudy.plan.
import re
import sys
from pathlib import Path

from histostudy.errors import StudyError
from histostudy.model_kinds import BAG_KINDS
from histostudy.plan import make_plan, use_this_environment
from histostudy.provenance import records
from histostudy.studyfile import read_study_file


def plan_study():
    """The study of --configfile, or the default one; a bad one is a single line and exit code 2."""
    files = [str(path) for path in workflow.configfiles]
    # basedir is the root or workflow/, by which of the two Snakefiles was called
    home = next(
        folder for folder in (Path(workflow.basedir), Path(workflow.basedir).parent) if (folder / "config").is_dir()
    )
    source = Path(files[-1]) if files else home / "config" / "config.yaml"
    try:
        overrides = dict(config) if files else {**read_study_file(source), **config}
        plan = make_plan(overrides, source, check=workflow.is_main_process)
        # jobs read this file again: only the process that plans may touch Snakemake's records
        if workflow.is_main_process:
            plan.write(dry=any(re.fullmatch(r"--dry-?run|-[a-z]*n[a-z]*", word) for word in sys.argv))
            for file in plan.layout.provenance:
                records.restore(file, plan.hashes)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    return plan


def refuse_unrecorded():
    """Stop where a result lies of which nobody can say how it was made."""
    try:
        if workflow.is_main_process:
            outputs = [output for rule in workflow.rules for output in rule.output]
            # git brings the summary alone to a clone, without records: it is made again
            records.refuse_unrecorded(output for output in outputs if str(output) not in SUMMARY)
            PLAN.hashes.save()
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def save_records():
    """Keep Snakemake's records with the results, whether the run ended well or not."""
    for file, prefixes in PLAN.layout.provenance.items():
        records.save(file, prefixes, PLAN.hashes)
    PLAN.describe_run()
    PLAN.hashes.save()


use_this_environment()
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
    return lambda wildcards: PLAN.code(own.get(STUDY.task(wildcards.task).kind, {}).get(stage, stage))


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
