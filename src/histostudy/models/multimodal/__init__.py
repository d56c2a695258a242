"""Models of slides and tables together, one file each; importing this package registers them all."""

from __future__ import annotations

from histostudy.models.multimodal import mcat, motcat, pibd, snn, survpath

__all__ = ["mcat", "motcat", "pibd", "snn", "survpath"]
