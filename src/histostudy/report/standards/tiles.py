"""What a run knows of the tiles that its models see: items of TRIPOD+AI and REMARK on predictors and their origin."""

from __future__ import annotations

from histostudy.report.licences import UNNAMED, registered_name
from histostudy.report.methods import drawn
from histostudy.report.numbers import listed, number
from histostudy.report.standards.facts import Facts

#: The encoder that a study makes.
OWN = "pretrained"
#: Encoders whose weights, if they have any, come of natural images.
NOT_OF_SLIDES = ("builtin", "builtin_cnn", "mobilenet_v1", "mobilenet_v1_depths", "resnet50")


def preparation(f: Facts) -> str:
    if not f.slides:
        return ""
    images = f.methods[1] if len(f.methods) > 1 else ""
    return images if f.precomputed or drawn(f.study) == "features" else f"{images} The same settings for all patients."


def predictors(f: Facts) -> str:
    text = _tiles(f)
    if covariates := f.covariates():
        text += f"Covariates of the clinical control, named in the study file: {covariates}. "
    seen = {table for m in f.models.values() for table in m.get("modalities") or []}
    tables = [table for table in f.study.get("modalities") or {} if table in seen]
    return text + (f"Tables{' beside the slides' if f.slides else ''}: {listed(tables)}." if tables else "")


def _tiles(f: Facts) -> str:
    """Which tiles the models see."""
    tiles = f.study.get("tiles") or {}
    if not f.slides:
        return ""
    if drawn(f.study) == "features":
        text = "Drawn vectors of tiles, all of each slide. "
    elif f.precomputed:
        text = "Vectors of tiles that another tool made; how it chose the tiles the study cannot tell. "
    elif tiles.get("spots"):
        text = "One tile around each spot of a table, where it lies in the slide. "
    else:
        share = number(100 * float(tiles.get("min_tissue", 0)), 0)
        text = (
            f"The tiles of each patient's slides of which at least {share}% was found to be tissue, pen marks left "
            "out, of the slides that the tables do not exclude. "
        )
    trainings = {n: (m.get("training") or {}, m.get("recipe") or {}) for n, m in f.models.items() if n in f.own}
    some = [n for n, (training, recipe) in trainings.items() if training.get("max_tiles") or recipe]
    return text + (f"In training {listed(some)} may have seen a part of them at a step (12c). " if some else "")


def measurement(f: Facts) -> str:
    if not f.slides:
        return ""
    if drawn(f.study) == "features":
        return "Tiles as vectors that were drawn together with the outcomes."
    encoders = listed([use.name for use in f.encoders if use.name != UNNAMED]) or "no encoder that names itself"
    if f.precomputed:
        return f"Tiles as vectors ({encoders}), made before the study; whether without the outcomes it cannot tell."
    text = f"Tiles as vectors ({encoders}), computed without reading the outcomes."
    if f.simulated:
        text += " The slides were drawn together with the outcomes."
    features = f.study.get("features") or {}
    given = features.get("checkpoint") or registered_name(str(features.get("encoder"))) not in (*NOT_OF_SLIDES, OWN)
    return text + " Whether the encoder's weights were made without them their makers must say." * bool(given)


def judged(f: Facts) -> str:
    return "The vectors of tiles are computed; nobody judges them." if f.slides else ""


def encoder_saw(f: Facts) -> str:
    """Whether the encoder may have seen images of tested patients."""
    pretrain, features = f.study.get("pretrain"), f.study.get("features") or {}
    if not f.slides or f.simulated and not pretrain:
        return ""
    if pretrain:
        return "an encoder that may have seen images of tested patients" if pretrain.get("epochs") != 0 else ""
    if f.precomputed:
        return "features made elsewhere, by an encoder that may have seen images of tested patients"
    if registered_name(str(features.get("encoder"))) in NOT_OF_SLIDES:
        return ""
    return "an encoder of which the run cannot tell whether it had seen images of tested patients"


def poor_input(f: Facts) -> str:
    if not f.slides:
        return ""
    if f.precomputed or drawn(f.study) == "features":
        return "Vectors that are NaN or infinite stop the run."
    return (
        "A slide that cannot be read, has no scale or no tissue is left out with its reason; vectors that are NaN or "
        "infinite stop the run."
    )
