"""Is this a brightfield image? Stained tissue on lit glass, not signal on black."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from histostudy.errors import BadSlideError

#: Grey level below which a pixel is dark: haematoxylin at its densest stays above in a thumbnail.
DARK = 50
#: Share of the image that is dark in fluorescence (and in scans padded with black).
DARK_SHARE = 0.5
#: Lit glass: all three channels at least this.
LIT = 170
#: Share of the pixels that are not dark which is lit glass in a padded brightfield scan.
LIT_SHARE = 0.2


def check_brightfield(thumbnail: np.ndarray, properties: Mapping[str, str] | None = None) -> None:
    """Refuse an image that is mostly dark without a lit background.

    The pixels decide. Metadata only names what was found: scanners write the same fluorescence keys for
    every slide they make.

    Parameters
    ----------
    thumbnail : ndarray of uint8, (H, W, 3)
    properties : mapping, optional
        The slide's, for the message.

    Raises
    ------
    BadSlideError
        ``fluorescence``.
    """
    pixels = thumbnail.reshape(-1, 3)
    luminance = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    dark = luminance < DARK
    share = float(dark.mean())
    if share <= DARK_SHARE:
        return
    rest = pixels[~dark]
    lit = float((rest.min(axis=1) >= LIT).mean()) if len(rest) else 0.0
    if lit >= LIT_SHARE:
        return
    name = (properties or {}).get("hamamatsu.;NDP Shading Data;Version", "")
    filters = next((part[5:].strip() for part in name.split(";") if part.startswith("Name=")), "")
    named = f" (filter {filters})" if filters else ""
    raise BadSlideError("fluorescence", f"{share:.0%} of the image is dark and no glass is lit{named}")
