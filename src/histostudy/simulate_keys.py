"""Keys of the study file that draw a synthetic cohort (`cohort.simulate`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from histostudy.tasks import Keys


class SimulateFeatures(Keys):
    """Features of a synthetic cohort: bags of tiles from three latents of morphology and two of the genome."""

    dim: int = Field(32, ge=12, le=4096, description="Width of a tile's vector.")
    tiles: tuple[int, int] = Field((40, 120), description="Smallest and largest number of tiles a slide.")
    junk: tuple[float, float] = Field((0.2, 0.4), description="Smallest and largest share of junk among the tiles.")
    noise: float = Field(1.0, gt=0, description="Standard deviation of tiles about their component (centre of norm 3).")
    site_shift: float = Field(0.0, ge=0, description="Norm of what a site adds to all its tiles, as its stain would.")
    site_hazard: float = Field(0.0, ge=0, description="Standard deviation over patients of their site's log hazard.")
    hazard_ratios: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict,
        description="Other hazard ratios than the default ones: age (ten years), stage (one), high_grade, male, "
        "morphology and genome (one s.d. of their first latent), synergy (one s.d. of the product of their second).",
    )
    events: float = Field(0.6, gt=0, lt=1, description="Share of patients with an event; the others are censored.")
    gene_r: float = Field(0.75, ge=0, lt=1, description="Correlation of log2 expression with the latent it follows.")
    rna_genes: int = Field(300, ge=20, description="Genes of rna.csv, a table beside the slides.")
    pathways: int = Field(20, ge=4, description="Groups of the genes of rna.csv.")
    rna_missing: float = Field(0.15, ge=0, lt=1, description="Share of patients without a row in rna.csv.")

    @model_validator(mode="after")
    def _known_and_in_order(self) -> SimulateFeatures:
        default = {
            "age": 1.35, "stage": 1.5, "high_grade": 2.0, "male": 1.0, "morphology": 2.0, "genome": 1.6, "synergy": 1.3,
        }  # fmt: skip
        if unknown := sorted(set(self.hazard_ratios) - set(default)):
            raise ValueError(f"hazard_ratios: unknown {unknown[0]!r}, it knows {', '.join(default)}")
        self.hazard_ratios = default | self.hazard_ratios
        if not 1 <= self.tiles[0] <= self.tiles[1]:
            raise ValueError("tiles: smallest, then largest, at least 1")
        if not 0 <= self.junk[0] <= self.junk[1] < 1:
            raise ValueError("junk: smallest, then largest share, below 1")
        if self.pathways > self.rna_genes:
            raise ValueError("pathways: at most one a gene")
        return self


class SimulateTiles(Keys):
    """Tiles of a synthetic cohort's slides whose tissue is known: a table for a task of labelled tiles."""

    each: int = Field(3, ge=1, description="Tiles of each tissue a slide, at most.")
    side_um: float = Field(112.0, gt=0, description="Side of a tile, micrometres.")
    purity: float = Field(0.9, gt=0, le=1, description="Smallest share of its tissue in a tile.")


class Simulate(Keys):
    """A synthetic cohort with planted, known effects."""

    patients: int = Field(48, ge=12, description="Number of patients.")
    slides_extra: float = Field(0.2, ge=0, le=1, description="Share of patients with a second slide.")
    size_px: tuple[int, int] = Field((3000, 4000), description="Smallest and largest side of a slide, level-0 px.")
    mpp: float = Field(0.5, gt=0, description="Micrometres per pixel at level 0.")
    sites: int = Field(4, ge=1, description="Number of sites; each has its own stain.")
    pen_share: float = Field(0.15, ge=0, le=1, description="Share of slides with a pen mark.")
    genes: int = Field(12, ge=2, description="Genes; a third of them follow the share of glands.")
    features: SimulateFeatures | None = Field(
        None, description="Draw features of tiles rather than pixels: a cohort for the statistics, in seconds."
    )
    labelled_tiles: SimulateTiles | None = Field(
        None, description="Write tiles.csv too: tiles of known tissue, for a task of kind tile_classification."
    )
