"""What a study is to cite: the references of its methods, encoders and libraries, by the names a study file uses.

The keys are those of ``standards/references.bib``. An empty tuple is a method of our own, or one without a source to
name; a test asks for every registered name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from histostudy.report.applies import follows_remark, follows_tripod
from histostudy.report.bibtex import Entry, references
from histostudy.report.licences import encoder_names

Spec = Mapping[str, Any]
Keys = tuple[str, ...]

AGGREGATORS: dict[str, Keys] = {
    "mean": (), "max": (), "abmil": ("ilse2018attention",),
    "clam_sb": ("lu2021clam", "berrada2018smooth"), "clam_mb": ("lu2021clam", "berrada2018smooth"),
    "dsmil": ("li2021dsmil",), "self_vit_mil": ("gul2022selfvitmil", "li2021dsmil"), "dtfd": ("zhang2022dtfd",),
    "ilra": ("xiang2023ilra",), "otsurv": ("ren2025otsurv",), "panther": ("song2024panther",),
    "token_merging": ("luo2025pathohr", "bolya2023tome"), "moe_pkt": ("liu2025pathpkt",),
    "weakstil": ("schirris2022weakstil",), "mixed_magnification": ("zimmermann2026mixed", "ilse2018attention"),
    "transmil": ("shao2021transmil", "xiong2021nystromformer"), "rrt": ("tang2024rrt",),
    "mambamil": ("yang2024mambamil", "gu2023mamba"), "mamba2d": ("zhang2025mamba2d", "gu2023mamba"),
    "lbmamba": ("zhang2025lbmamba", "yang2024mambamil"), "wikg": ("li2024wikg",),
    "gnn_vitcap": ("raju2025gnnvitcap", "xie2016dec"), "hist2rna": ("mondol2023hist2rna",),
    "he2rna": ("schmauch2020he2rna",), "sequoia": ("pizurica2024sequoia",),
    "snn": ("klambauer2017snn", "chen2021mcat"), "mcat": ("chen2021mcat",), "motcat": ("xu2023motcat", "chen2021mcat"),
    "survpath": ("jaume2024survpath",), "pibd": ("zhang2024pibd",),
}  # fmt: skip
RECIPES: dict[str, Keys] = {
    "aem": ("zhang2025aem",), "mhim": ("tang2023mhim", "tang2025mhim2"), "packmil": ("tang2025packmil",),
    "histaug": ("boutaj2025histaug",), "subsample": (), "instance_dropout": (),
    "mixup": ("zhang2018mixup", "verma2019manifold"), "ema": ("polyak1992averaging", "tarvainen2017meanteacher"),
    "swa": ("izmailov2018swa",), "ensemble": (),
}  # fmt: skip
TISSUE: dict[str, Keys] = {
    "otsu": ("otsu1979threshold", "lu2021clam"), "classical": ("vanderlaak2000hsd",),
    "unet": ("lucassen2024slidesegmenter", "ronneberger2015unet"), "atlaspatch": ("alagha2026atlaspatch",),
    "grandqc": ("weng2024grandqc",), "hest": ("jaume2024hest",),
}  # fmt: skip
STAINS: dict[str, Keys] = {
    "macenko": ("macenko2009stain",), "reinhard": ("reinhard2001colour",), "vahadane": ("vahadane2016stain",),
}  # fmt: skip
PRETRAINING: dict[str, Keys] = {
    "dino": ("caron2021dino", "caron2020swav"), "ibot": ("zhou2022ibot", "oquab2023dinov2", "caron2021dino"),
    "distil": ("filiot2025h0mini",),
}  # fmt: skip
ENCODERS: dict[str, Keys] = {
    "builtin": ("ruifrok2001deconvolution", "haralick1973texture", "ojala2002lbp"),
    "builtin_cnn": ("howard2017mobilenets",), "mobilenet_v1": ("howard2017mobilenets",),
    "mobilenet_v1_depths": ("howard2017mobilenets",), "pretrained": (), "resnet50": ("he2016resnet",),
    "uni": ("chen2024uni",), "uni2_h": ("chen2024uni",), "phikon": ("filiot2023phikon",),
    "phikon_v2": ("filiot2024phikonv2",), "h_optimus_0": ("saillard2024hoptimus0",),
    "h_optimus_1": ("bioptimus2025hoptimus1",), "h0_mini": ("filiot2025h0mini",), "h0_mini_cls": ("filiot2025h0mini",),
    "virchow": ("vorontsov2024virchow",), "virchow2": ("zimmermann2024virchow2",), "gigapath": ("xu2024gigapath",),
    "hibou_l": ("nechaev2024hibou",), "hibou_b": ("nechaev2024hibou",), "midnight": ("karasikov2025midnight",),
    "pluto_4s": ("padigela2025pluto4",), "pluto_4g": ("padigela2025pluto4",), "conch": ("lu2024conch",),
    **{f"kaiko_vit{size}": ("kaiko2024towards",) for size in ("s8", "s16", "b8", "b16", "l14")},
    **{f"lunit_vits{patch}": ("kang2023lunit",) for patch in (8, 16)},
    **{f"dinov3_{size}": ("simeoni2025dinov3",) for size in "sbl"},
}  # fmt: skip
LAYOUTS: dict[str, Keys] = {
    "auto": (), "plain": (), "trident": ("zhang2025trident",), "clam": ("lu2021clam",), "stamp": ("elnahhas2025stamp",),
    "atlaspatch": ("alagha2026atlaspatch",),
}  # fmt: skip
CONTINUAL: dict[str, Keys] = {
    "finetune": (), "joint": (), "replay": (), "conslide": ("huang2023conslide",), "comel": ("lee2025comel",),
}  # fmt: skip
CLASSIFIERS: dict[str, Keys] = {
    "linear_probe": ("chen2024uni",), "knn": ("chen2024uni",), "prototypes": ("wang2019simpleshot", "chen2024uni"),
    "finetune": (), "dct_histotransformer": ("ranjbar2024dct",),
}  # fmt: skip
SEGMENTERS: dict[str, Keys] = {
    "unet": ("ronneberger2015unet", "pettersen2022nocodeseg", "milletari2016vnet"),
    "h2g": ("pedersen2022h2g", "sandler2018mobilenetv2", "milletari2016vnet"),
}  # fmt: skip
LOSSES: dict[str, Keys] = {"nll": ("zadeh2020bias",), "cox": ("cox1972regression",), "rank": ("luck2018rank",)}
#: Statistics that every task of a kind is scored by.
STATISTICS: dict[str, Keys] = {
    "classification": ("naeini2015calibration", "guo2017calibration", "vickers2006decision"),
    "tile_classification": ("naeini2015calibration", "guo2017calibration"),
    "survival": (
        "harrell1996multivariable", "uno2011cstatistics", "uno2007tyear", "graf1999brier", "kaplan1958nonparametric",
        "cox1972regression", "grambsch1994proportional", "schoenfeld1981asymptotic", "schemper1996followup",
    ),
    "regression": (), "expression": (), "segmentation": (),
}  # fmt: skip
#: Packages of `histostudy.provenance.versions`: reference and licence, which the packages' own metadata state.
LIBRARIES: dict[str, tuple[Keys, str]] = {
    "histostudy": (("histostudy",), "Apache-2.0"),
    "snakemake": (("molder2021snakemake",), "MIT"),
    "dvc": (("dvc",), "Apache-2.0"),
    "torch": (("paszke2019pytorch",), "BSD-3-Clause"),
    "timm": (("wightman2019timm",), "Apache-2.0"),
    "transformers": (("wolf2020transformers",), "Apache-2.0"),
    "openslide-python": (("goode2013openslide",), "LGPL-2.1-only"),
    "openslide-bin": (("goode2013openslide",), "LGPL-2.1-only"),
    "numpy": (("harris2020numpy",), "BSD-3-Clause"),
    "pandas": (("mckinney2010pandas",), "BSD-3-Clause"),
    "scipy": (("virtanen2020scipy",), "BSD-3-Clause"),
    "scikit-image": (("vanderwalt2014skimage",), "BSD-3-Clause"),
    "scikit-learn": (("pedregosa2011sklearn",), "BSD-3-Clause"),
    "scikit-survival": (("polsterl2020sksurv",), "GPL-3.0-or-later"),
    "statsmodels": (("seabold2010statsmodels",), "BSD-3-Clause"),
    "matplotlib": (("hunter2007matplotlib",), "Matplotlib licence (PSF-based)"),
    "tableone": (("pollard2018tableone",), "MIT"),
    "rocrate": (("soilandreyes2022rocrate", "leo2024rocrate"), "Apache-2.0"),
}
#: Libraries that only some studies use.
_OF_PIXELS = frozenset({"openslide-python", "openslide-bin", "scikit-image"})
_OF_ENCODERS = frozenset({"timm", "transformers"})


def cited_keys(study: Spec, stated: Sequence[str] = (), layouts: Sequence[str] = ()) -> list[str]:
    """Keys of what a study is to cite: methods in the order data flow, then statistics, reporting and libraries.

    Parameters
    ----------
    study : mapping
        The resolved study.
    stated : sequence of str
        Encoders that precomputed features name.
    layouts : sequence of str
        Whose layouts they have, where the study says ``auto``.

    Returns
    -------
    list of str
        Without repeats.
    """
    parts = [*_images(study, stated, layouts), *_models(study), *_statistics(study), *_libraries(study)]
    return list(dict.fromkeys(key for keys in parts for key in keys))


def cited(study: Spec, stated: Sequence[str] = (), layouts: Sequence[str] = ()) -> list[Entry]:
    """The references of `cited_keys`."""
    known = references()
    return [known[key] for key in cited_keys(study, stated, layouts)]


def _images(study: Spec, stated: Sequence[str], layouts: Sequence[str]) -> Iterable[Keys]:
    features = study.get("features") or {}
    cohort = study.get("cohort") or {}
    if reads_pixels(study):
        yield TISSUE.get((study.get("tissue") or {}).get("method", ""), ())
    for layout in [*layouts, features.get("layout", "auto")] if features.get("precomputed") else []:
        yield LAYOUTS.get(layout, ())
    if features.get("stain"):
        yield STAINS.get(features["stain"]["method"], ())
    if "stain" in (study.get("audit") or []):
        yield from [*STAINS.values(), ("ochi2024plism", "ruifrok2001deconvolution")]
    for encoder in encoder_names(study, stated):
        yield ENCODERS.get(encoder, ())
    if pretrain := study.get("pretrain"):
        yield PRETRAINING.get(pretrain["method"], ())
        yield ("sablayrolles2019koleo",) if pretrain.get("koleo") else ()
    if cohort.get("simulate") and _kinds(study) & {"survival"}:
        yield ("bender2005survival",)


def _models(study: Spec) -> Iterable[Keys]:
    stepped = False
    for model in (study.get("models") or {}).values():
        training = model.get("training") or {}
        yield AGGREGATORS.get(model.get("aggregator") or "", ())
        yield CLASSIFIERS.get(model.get("classifier") or "", ())
        yield SEGMENTERS.get(model.get("segmenter") or "", ())
        yield CONTINUAL.get((model.get("continual") or {}).get("method", ""), ())
        for recipe in model.get("recipe") or {}:
            yield RECIPES.get(recipe, ())
        if model.get("modalities") and model.get("fusion") == "bilinear":
            yield ("chen2022pathomic",)
        if model.get("aggregator") and "survival" in _kinds(study):
            yield LOSSES.get(training.get("loss") or "nll", ())
        stepped = stepped or bool(training.get("epochs")) and not model.get("predictions")
    yield ("loshchilov2019adamw",) if stepped else ()


def _statistics(study: Spec) -> Iterable[Keys]:
    tasks = study.get("tasks") or []
    splits = study.get("splits") or {}
    for kind in sorted(_kinds(study)):
        yield STATISTICS.get(kind, ())
    if any(task.get("subtypes") for task in tasks):
        yield ("parker2009pam50",)
    if study.get("sequence"):
        yield ("chaudhry2018riemannian", "lopezpaz2017gem")
    if not tasks:
        return
    yield ("efron1993bootstrap",)
    if (study.get("compare") or {}).get("correction") == "holm":
        yield ("holm1979sequential",)
    if splits.get("stratify") and not splits.get("published") and not splits.get("column"):
        yield ("sechidis2011stratification",)
    if splits.get("preserve"):
        yield ("howard2021site",)
    if follows_tripod(study):
        yield ("collins2024tripodai",)
    if follows_remark(study):
        yield ("mcshane2005remark", "altman2012remark")


def _libraries(study: Spec) -> Iterable[Keys]:
    for name in libraries_used(study):
        yield LIBRARIES[name][0]


def libraries_used(study: Spec) -> list[str]:
    """Names of `LIBRARIES` that a study runs on."""
    left_out = set() if reads_pixels(study) else set(_OF_PIXELS)
    encoder = str((study.get("features") or {}).get("encoder") or "")
    if not reads_pixels(study) or encoder.split("@")[0] in ("", "builtin", "builtin_cnn"):
        left_out |= _OF_ENCODERS
    if "survival" not in _kinds(study):
        left_out.add("scikit-survival")
    return [name for name in LIBRARIES if name not in left_out]


def reads_pixels(study: Spec) -> bool:
    """Whether slides are read here, not features that another tool made or tables alone."""
    cohort = study.get("cohort") or {}
    simulate = cohort.get("simulate") or {}
    slides = bool(cohort.get("slides")) or bool(simulate and not simulate.get("features"))
    return slides and not (study.get("features") or {}).get("precomputed")


def _kinds(study: Spec) -> set[str]:
    return {str(task["kind"]) for task in study.get("tasks") or []}
