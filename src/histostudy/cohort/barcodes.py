"""TCGA barcodes.

``TCGA-3C-AALI-01Z-00-DX1.F6E9A5DF-...``: project, tissue source site (3C), participant, sample type and vial
(01Z), portion, slide (DX: diagnostic, formalin-fixed; TS, MS, BS: top, middle, bottom frozen section), UUID.
Source: https://docs.gdc.cancer.gov/Encyclopedia/pages/TCGA_Barcode/
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BARCODE = re.compile(
    r"^TCGA-(?P<site>[0-9A-Z]{2})-(?P<participant>[0-9A-Z]{4})"
    r"(?:-(?P<sample>\d{2})(?P<vial>[A-Z])?(?:-(?P<portion>\d{2})[A-Z]?(?:-(?P<slide>[A-Z0-9]{2,4}))?)?)?"
    r"(?:[._].*)?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Barcode:
    """Parts of a barcode; those that are not in it are empty.

    Attributes
    ----------
    site : str
        Tissue source site, text: ``05``.
    participant, sample, vial, portion, slide : str
        `sample` is the type: ``01`` primary tumour, ``06`` metastasis, ``11`` normal tissue.
    """

    site: str
    participant: str
    sample: str = ""
    vial: str = ""
    portion: str = ""
    slide: str = ""

    @property
    def patient(self) -> str:
        """``TCGA-<site>-<participant>``."""
        return f"TCGA-{self.site}-{self.participant}"

    @property
    def diagnostic(self) -> bool:
        """Whether it is a diagnostic slide (formalin-fixed), not a frozen section."""
        return self.slide.startswith("DX")

    @property
    def normal(self) -> bool:
        """Whether the sample is normal tissue (types 10 to 19)."""
        return self.sample.startswith("1")


def parse_barcode(text: str) -> Barcode | None:
    """Parse a barcode of a patient, sample or slide, with or without UUID; None if it is none."""
    match = _BARCODE.match(text.strip())
    if match is None:
        return None
    return Barcode(**{k: (v or "").upper() for k, v in match.groupdict().items()})
