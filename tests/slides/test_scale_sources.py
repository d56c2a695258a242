"""Which scale is believed, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histostudy.errors import BadSlideError, TableError
from histostudy.slides.brightfield import check_brightfield
from histostudy.slides.reader import open_slide
from histostudy.slides.scale import resolve_mpp


def test_order_of_sources() -> None:
    assert resolve_mpp(0.3, (0.5, 0.5), 40) == (0.3, "table")
    assert resolve_mpp(math.nan, (0.5, 0.502), 40) == (pytest.approx(0.501), "metadata")
    assert resolve_mpp(None, None, 20) == (0.5, "objective")
    assert resolve_mpp(0.3, (264.0, 264.0), None) == (0.3, "table")


@pytest.mark.parametrize("dpi", [72, 96, 100, 150, 300, 25.4])
def test_print_resolutions_are_nonsense(dpi: float) -> None:
    mpp = 25400 / dpi
    with pytest.raises(BadSlideError) as bad:
        resolve_mpp(None, (mpp, mpp), 20)  # a wrong value is not replaced by a guess
    assert bad.value.reason == "implausible_mpp"


@pytest.mark.parametrize("mpp", [0.0, -1.0, 1e-3, math.inf])
def test_other_nonsense(mpp: float) -> None:
    with pytest.raises(BadSlideError, match="implausible_mpp"):
        resolve_mpp(None, (mpp, mpp), None)


def test_uneven_scale_is_refused() -> None:
    with pytest.raises(BadSlideError, match="0.25 by 0.5"):
        resolve_mpp(None, (0.25, 0.5), None)


@given(st.floats(0.1, 32))
def test_scanner_scales_pass(mpp: float) -> None:
    assert resolve_mpp(None, (mpp, mpp), None).source == "metadata"


def test_nothing_said() -> None:
    for power in (None, 0.0, -5.0):
        with pytest.raises(BadSlideError, match="no_mpp"):
            resolve_mpp(None, None, power)


@pytest.mark.parametrize("wrong", [0.0, -0.5, 264.0, math.inf])
def test_a_wrong_table_is_the_users(wrong: float) -> None:
    with pytest.raises(TableError, match="micrometres per pixel"):
        resolve_mpp(wrong, (0.5, 0.5), None)


@pytest.mark.parametrize("mpp", [264.5833, 1000.0])
def test_nonsense_in_a_tiff_and_its_rescue(make_slide, mpp: float) -> None:
    path = make_slide(mpp=mpp)
    with pytest.raises(BadSlideError, match="implausible_mpp"):
        open_slide(path)
    with open_slide(path, mpp=0.25) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "table")
        assert slide.mpp_metadata == pytest.approx(mpp, rel=1e-3)


def test_dark_is_fluorescence() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[50:60, 50:60, 2] = 255
    with pytest.raises(BadSlideError, match="fluorescence"):
        check_brightfield(image, {"hamamatsu.;NDP Shading Data;Version": "0004\r;ID=4\r;Name=DAPI 2 (387) \r"})
    grey = np.zeros((200, 200, 3), np.uint8)
    grey[:20] = 140
    with pytest.raises(BadSlideError, match="fluorescence"):
        check_brightfield(grey)


def test_glass_with_black_padding_is_brightfield() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[:60] = 240
    image[10:50, 10:150] = (150, 80, 160)
    check_brightfield(image)
    check_brightfield(np.full((20, 20, 3), (120, 70, 140), np.uint8))
