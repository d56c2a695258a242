"""The figures of a study: which there are, and drawing them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histostudy.figures import FIGURES
from histostudy.study import Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from histostudy.features.bags import Bags
    from histostudy.verbs.tables import Tables

logger = logging.getLogger(__name__)

#: Aggregators whose attention is drawn, the first of them that a model of the study has.
ATTENDING = (
    "abmil", "clam_sb", "clam_mb", "dsmil", "self_vit_mil", "dtfd", "transmil", "rrt", "ilra", "wikg", "mambamil",
    "mamba2d", "lbmamba", "gnn_vitcap", "mixed_magnification", "weakstil", "otsurv", "token_merging", "max",
)  # fmt: skip
#: Tiles shown at either end of the attention.
TOP_TILES = 8
#: Kinds of task with one prediction a patient.
OF_PATIENTS = ("classification", "survival", "regression")
#: Sections of the report, by what a figure's registration says.
CATEGORIES = {"cohort": "Cohort", "results": "Results", "interpretation": "Interpretation"}


@dataclass(frozen=True)
class PlannedFigure:
    """A figure that a study has.

    Parameters
    ----------
    stem : str
        File name without suffix.
    figure : str
        Its name in `FIGURES`.
    task : str or None
        Its task.
    which : str
        For an attention map: ``high`` or ``low``, the patient's prediction.
    """

    stem: str
    figure: str
    task: str | None = None
    which: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def category(self) -> str:
        """Section it stands in."""
        return CATEGORIES[FIGURES[self.figure].spec.category]

    @property
    def caption(self) -> str:
        """Name of the caption file of Snakemake's report."""
        return self.figure

    @property
    def title(self) -> str:
        """A few words over it."""
        words = self.figure.replace("_", " ")
        return f"{self.task}: {words}" + (f", {self.which} prediction" if self.which else "") if self.task else words


def planned_figures(study: Study) -> list[PlannedFigure]:
    """Figures of a study, in the order of its report."""
    cohort = ["cohort_flow"]
    if study.uses_tissue:
        cohort += [] if study.features.precomputed else ["contact_sheet"]
        cohort += ["feature_pca"] if study.uses_bags else []
    if study.modalities:
        cohort.append("modalities")
    if "stain" in study.audit:
        cohort.append("stain_audit")
    planned = [PlannedFigure(name, name, labels={"figure": name}) for name in cohort]
    planned += [
        PlannedFigure(f"transfer_{model}", "transfer_matrix", which=model, labels={"figure": f"transfer {model}"})
        for model in study.compare.transfer
    ]
    if study.sequence:
        planned += [PlannedFigure(n, n, labels={"figure": n}) for n in ("continual_matrix", "continual_course")]
    if len(study.tasks) > 1 and len(study.models) - len(study.learners) > 2:
        planned.append(PlannedFigure("model_overview", "model_overview", labels={"figure": "model overview"}))
    for task in study.tasks:
        names = [name for name in FIGURES if task.kind in FIGURES[name].spec.kinds]
        left_out = set() if task.adjust else {"cox_forest", "added_value"}  # no covariates to be set beside
        if task.kind == "expression" and not task.subtypes:
            left_out |= {"subtypes", "subtype_survival"}
        if not any(other.kind == "survival" for other in study.tasks):
            left_out |= {"subtype_survival"}
        if not any(model.classifier == "prototypes" for model in study.models.values()):
            left_out |= {"few_shot"}
        names = [name for name in names if name not in left_out]
        if task.kind in OF_PATIENTS and any(model.training.trace for model in study.models.values()):
            names.append("epoch_choice")
        if task.kind == "expression" and task.level == "spot":
            names.append("spatial_gene")
        planned += [_of_task(task.name, name) for name in names]
        drawn_tiles = study.has_slides and not study.features.precomputed
        if attending_model(study) and task.kind in OF_PATIENTS and drawn_tiles:
            planned += [_of_task(task.name, "attention_map", which) for which in ("high", "low")]
            planned.append(_of_task(task.name, "top_tiles"))
    return planned


def _of_task(task: str, figure: str, which: str = "") -> PlannedFigure:
    stem = "_".join(part for part in (task, figure, which) if part)
    return PlannedFigure(stem, figure, task, which, {"task": task, "figure": f"{figure} {which}".strip()})


def attending_model(study: Study) -> str | None:
    """The model whose attention is drawn: the reference if it has one, else the first that has."""
    names = [study.compare.reference or "", *study.models]
    plain = {n: spec for n in names if (spec := study.models.get(n)) and not spec.modalities and not spec.continual}
    attending = [n for n, spec in plain.items() if spec.aggregator in ATTENDING]
    if study.compare.reference in attending:
        return study.compare.reference
    return min(attending, key=lambda n: ATTENDING.index(str(plain[n].aggregator)), default=None)


def draw_figures(study_file: Path) -> None:
    """Draw every figure of a study as SVG, PDF and PNG."""
    from histostudy.figures.style import save_figure
    from histostudy.log import progress
    from histostudy.verbs.bags import load_bags
    from histostudy.verbs.tables import load_tables

    tables = load_tables(study_file)
    artist = _Artist(tables, load_bags(tables) if tables.study.uses_bags else None)
    for planned in progress(planned_figures(tables.study), "figures"):
        save_figure(artist.draw(planned), tables.layout.home / "figures" / planned.stem)


class _Artist:
    """Gathers what each figure is drawn from."""

    def __init__(self, tables: Tables, bags: Bags | None) -> None:
        self.tables, self._bags = tables, bags
        self.study, self.layout = tables.study, tables.layout
        self._looked: dict[str, dict[str, Any]] = {}

    @property
    def bags(self) -> Bags:
        """Features of the patients; only figures of studies with slides ask for them."""
        assert self._bags is not None
        return self._bags

    def draw(self, planned: PlannedFigure) -> Figure:
        """Draw one figure."""
        import pandas as pd

        from histostudy.files import frame_from_json, read_json

        draw = FIGURES[planned.figure].draw
        table = FIGURES[planned.figure].spec.table
        if planned.figure == "transfer_matrix":
            return draw(pd.read_csv(self.layout.transfer(planned.which)))
        if planned.task is None:
            return getattr(self, planned.figure)(draw)
        if planned.figure == "attention_map":
            return self.attention_map(draw, planned)
        if planned.figure == "top_tiles":
            return self.top_tiles(draw, planned)
        task = self.study.task(planned.task)
        noun = {"noun": "spots"} if task.kind == "expression" and task.level == "spot" else {}
        if task.kind == "tile_classification":
            scored = pd.read_csv(self.layout.home / "metrics" / f"{planned.task}.csv")
            noun = {"noun": f"tiles of {int(scored['patients'].max())} patients"}
        if table in ("metrics", "comparison"):
            return draw(pd.read_csv(self.layout.home / table / f"{planned.task}.csv"), **noun)
        curves = read_json(self.layout.curves(planned.task))
        mine = frame_from_json(curves[table]) if table in curves else pd.DataFrame()
        if planned.figure == "segmentation_overlay":
            return self.segmentation_overlay(draw, mine, task)
        if planned.figure == "spatial_gene":
            return self.spatial_gene(draw, mine, planned.task)
        if planned.figure == "epoch_choice":
            return draw(mine, choice=frame_from_json(curves["epoch_choice"]) if len(mine) else None)
        more: dict[str, Any] = noun if planned.figure in ("genes", "within_patient") else {}
        if planned.figure == "cox_forest":
            more = {"reference": self.study.reference_of(planned.task), "confidence": self.study.compare.confidence}
        elif planned.figure == "subtype_survival":
            more = {"scores": frame_from_json(curves["subtype_scores"])}
        elif planned.figure == "few_shot":
            more = {"classes": len(self.tables.outcomes[planned.task].classes)}
        elif planned.figure in ("td_auc", "brier"):
            more = {"horizons": self.study.task(planned.task).horizons}  # type: ignore[union-attr]
        return draw(mine, **more)

    def segmentation_overlay(self, draw: Any, table: pd.DataFrame, task: Any) -> Figure:
        """The worst, the middle and the best test slide of the reference model."""
        from histostudy.verbs.segmentation import overlay_parts

        parts = overlay_parts(self.tables, task, table) if len(table) else []
        return draw(table, parts=parts, classes=task.labels)

    def spatial_gene(self, draw: Any, table: pd.DataFrame, task: str) -> Figure:
        """The best gene of the reference model over a section."""
        shown = self.study.reference_of(task)
        mine = table[table["model"] == shown] if len(table) else table
        slide = str(mine["slide_id"].iloc[0]) if len(mine) else ""
        return draw(mine, slide_mpp=float(self._facts(slide)["mpp"]) if slide else 1.0)

    def continual_matrix(self, draw: Any) -> Figure:
        """The accuracy matrix of each model that learned the sequence."""
        import pandas as pd

        return draw(pd.read_csv(self.layout.sequence("matrix")))

    def continual_course(self, draw: Any) -> Figure:
        """Their accuracy over the sequence."""
        import pandas as pd

        return draw(pd.read_csv(self.layout.sequence("course")))

    def cohort_flow(self, draw: Any) -> Figure:
        """The flow that the cohort stage wrote."""
        from histostudy.files import read_json

        return draw(read_json(self.layout.home / "cohort_flow.json"))

    def model_overview(self, draw: Any) -> Figure:
        """All models over all tasks."""
        import pandas as pd

        return draw(pd.read_csv(self.layout.overview("models")), ranks=pd.read_csv(self.layout.overview("ranks")))

    def modalities(self, draw: Any) -> Figure:
        """Who has each modality, as the cohort stage counted."""
        import pandas as pd

        return draw(pd.read_csv(self.layout.home / "tables" / "modalities.csv"))

    def stain_audit(self, draw: Any) -> Figure:
        """What features know of the slide, and how they hold under another stain."""
        import pandas as pd

        return draw(pd.read_csv(self.layout.audit("audit"), keep_default_na=True))

    def contact_sheet(self, draw: Any) -> Figure:
        """Thumbnails with the outlines of tissue and pen."""
        from histostudy.figures.contact_sheet import shown_of
        from histostudy.tissue.geojson import read_geojson

        index = self.tables.features
        shown = shown_of(index)
        outlines = {}
        for slide in shown.loc[shown["tissue_area_um2"].notna(), "slide_id"]:
            path = self.layout.tissue / f"{slide}.geojson"
            outlines[slide] = [
                (kind, np.asarray(ring.coords))
                for kind in ("tissue", "pen")
                for polygon in read_geojson(path, kind)
                for ring in (polygon.exterior, *polygon.interiors)
            ]
        thumbnails = {s: image for s in shown["slide_id"] if (image := self._thumbnail(s)) is not None}
        return draw(index, thumbnails=thumbnails, outlines=outlines)

    def feature_pca(self, draw: Any) -> Figure:
        """Means of the patients' tiles, coloured by site and by the first label."""
        import pandas as pd

        from histostudy.figures.feature_pca import pca_table

        ids = self.bags.patient_ids
        patients = self.tables.patients.set_index("patient_id").loc[ids]
        label = next((task.target for task in self.study.tasks if task.kind == "classification"), None)
        groups = patients[[c for c in ("site", label) if c and c in patients]].reset_index(drop=True)
        means = np.stack([self.bags.bag(patient).mean(axis=0) for patient in ids])
        return draw(pca_table(means, pd.DataFrame(groups), ids))

    def attention_map(self, draw: Any, planned: PlannedFigure) -> Figure:
        """The tiles of one slide of the patient with the highest or lowest prediction."""
        import pandas as pd

        look = self._look(str(planned.task))[planned.which]
        rows = self.bags.slide_rows(look["slide"])
        coords = self.bags.coords[rows]
        facts = self._facts(look["slide"])
        table = pd.DataFrame({"x_px0": coords[:, 0], "y_px0": coords[:, 1], "attention": look["attention"]})
        title = f"{look['slide']}, {look['says']}"
        return draw(
            table, thumbnail=self._thumbnail(look["slide"]), width_px0=int(facts["width_px0"]),
            slide_mpp=float(facts["mpp"]), size_px0=float(facts["size_px0"]), title=title,
        )  # fmt: skip

    def top_tiles(self, draw: Any, planned: PlannedFigure) -> Figure:
        """Tiles of highest and lowest attention of the slide with the highest prediction."""
        import pandas as pd

        from histostudy.slides.reader import open_indexed

        look = self._look(str(planned.task))["high"]
        order = np.argsort(-look["attention"], kind="stable")
        most = min(TOP_TILES, len(order) // 2) or 1
        picked = np.concatenate([order[:most], order[-most:]])
        facts = self._facts(look["slide"])
        coords = self.bags.coords[self.bags.slide_rows(look["slide"])][picked]
        with open_indexed(facts | {"path": self._path(look["slide"])}) as slide:
            images = np.stack(list(slide.read_tiles(coords, self.study.tiles.size, self.study.tiles.mpp)))
        ranks = np.concatenate([np.arange(1, most + 1), np.arange(len(order) - most + 1, len(order) + 1)])
        groups = ["highest"] * most + ["lowest"] * most
        table = pd.DataFrame({"group": groups, "rank": ranks[: len(groups)], "label": look["slide"]})
        return draw(table, images=images, mpp=self.study.tiles.mpp, title=look["says"])

    def _look(self, task: str) -> dict[str, Any]:
        """For the test patients of highest and lowest prediction: a slide and its tiles' attention."""
        import pandas as pd

        from histostudy.training.attention import attention_of

        if task in self._looked:
            return self._looked[task]
        model = str(attending_model(self.study))
        index = pd.read_parquet(self.layout.runs(task, model) / "runs.parquet").sort_values(["repeat", "fold"])
        first = index.iloc[0]
        run = self.layout.runs(task, model) / f"r{first['repeat']}f{first['fold']}"
        predictions = pd.read_parquet(run / "predictions.parquet")
        score = self._score(task, predictions)
        order = predictions.assign(score=score).sort_values(["score", "patient_id"])
        looked = {}
        for which, row in (("high", order.iloc[-1]), ("low", order.iloc[0])):
            patient = str(row["patient_id"])
            slide = self.bags.slides(patient)[0]  # whose tiles are the first rows of the bag
            rows = self.bags.slide_rows(slide)
            attention = attention_of(run, self.bags, patient)[: rows.stop - rows.start]
            looked[which] = {
                "slide": slide,
                "attention": attention,
                "says": f"{model}, fold {first['fold']}: {score.name} {row['score']:.2f}",
            }
        self._looked[task] = looked
        return looked

    def _score(self, task: str, predictions: pd.DataFrame) -> pd.Series:
        """What a task's model predicts, as one number a patient, named for the reader."""
        kind = self.study.task(task).kind
        if kind == "survival":
            return predictions["risk"].rename("risk")
        if kind == "regression":
            return predictions["prediction"].rename("prediction")
        positive = self.tables.outcomes[task].classes[-1]
        return predictions[f"prob_{positive}"].rename(f"probability of {positive}")

    def _facts(self, slide: str) -> dict[str, Any]:
        index = self.tables.features
        return index[index["slide_id"] == slide].iloc[0].to_dict()

    def _path(self, slide: str) -> str:
        slides = self.tables.cohort.slides
        return str(slides.loc[slides["slide_id"] == slide, "path"].iloc[0])

    def _thumbnail(self, slide: str) -> np.ndarray | None:
        from PIL import Image

        name = self._facts(slide).get("thumbnail")
        path = self.layout.slides / str(name)
        if not isinstance(name, str) or not name or not path.is_file():
            return None
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
