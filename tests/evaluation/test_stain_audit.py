"""The audit's numbers against slow loops; a space of slides, a space of tissue, a space of one point."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from histostudy.evaluation.stain_audit import (
    COLUMNS,
    MEASURES,
    Encoded,
    audit_table,
    collapsed,
    nearest,
    retrieval,
    standardised,
    voted,
    without_units,
)

NAMES = tuple(product(("own", "blue", "red"), ("own", "soft", "crisp")))


def space(
    slide: float = 0.0, site: float = 0.0, noise: float = 0.0, *, sites: int = 4, same: bool = False, seed: int = 0
) -> Encoded:
    """16 slides of 10 tiles: how much of a vector is the slide's, the site's, and a version's noise."""
    rng = np.random.default_rng(seed)
    slides = np.repeat(np.arange(16), 10)
    of_slide, of_site = rng.normal(size=(16, 24)), rng.normal(size=(sites, 24))
    vectors = rng.normal(size=(160, 24)) + slide * of_slide[slides] + site * of_site[slides % sites]
    picked = np.arange(0, 160, 2)
    versions = np.stack([vectors[picked] + noise * rng.normal(size=(80, 24)) for _ in NAMES])
    versions[0] = vectors[picked]
    if same:
        versions = np.ones_like(versions)
    names = np.array([f"s{i:02d}" for i in slides])
    return Encoded(names, names, np.array([f"site{i % sites}" for i in slides]), vectors, versions, picked, NAMES)


def values(one: Encoded) -> dict[str, dict]:
    table = audit_table({"none": one}, "none", resamples=100)
    assert list(table.columns) == COLUMNS
    return table.set_index("measure").to_dict("index")


def test_neighbours_and_votes_are_those_of_scikit_learn() -> None:
    one = space(slide=0.6)
    vectors = standardised(one.vectors)
    codes = np.unique(one.slides, return_inverse=True)[1]
    found = nearest(vectors, np.zeros((160, 160), bool))
    for i in range(0, 160, 7):
        others = np.arange(160) != i
        knn = KNeighborsClassifier(5).fit(vectors[others], codes[others])
        order = np.flatnonzero(others)[knn.kneighbors(vectors[i : i + 1])[1][0]]
        np.testing.assert_array_equal(found[i], order)
    # two of 7, two of 9, one of 3: the nearer two
    labels = np.array([9, 7, 9, 7, 3, 0])
    assert voted(np.array([[0, 1, 2, 3, 4]]), labels)[0] == 9 and voted(np.array([[1, 0, 3, 2, 4]]), labels)[0] == 7
    assert voted(np.array([[-1, -1, -1, -1, -1]]), labels)[0] == -1


def test_retrieval_is_that_of_a_slow_loop() -> None:
    one = space(noise=1.5)
    units = (one.versions[k] / np.linalg.norm(one.versions[k], axis=1, keepdims=True) for k in (1, 2))
    a, b = (unit.astype(np.float16).astype(float) for unit in units)
    cosine, found = retrieval(one.versions[1], one.versions[2])
    pool = np.concatenate([a, b])
    for i in range(len(a)):
        hits = 0
        for query, wanted in ((i, len(a) + i), (len(a) + i, i)):
            alike = [
                pool[query] @ other / np.linalg.norm(pool[query]) / np.linalg.norm(other) if j != query else -9
                for j, other in enumerate(pool)
            ]
            hits += wanted in np.argsort(alike)[-10:]
        assert found[i] == hits / 2
        assert cosine[i] == pytest.approx(a[i] @ b[i] / np.linalg.norm(a[i]) / np.linalg.norm(b[i]))
    assert 0.05 < found.mean() < 0.95


def test_retrieval_neither_overflows_nor_finds_what_is_not_finite() -> None:
    one = space(noise=0.2)
    same, large = (retrieval(one.versions[1] * s, one.versions[2] * s) for s in (1.0, 1e6))
    np.testing.assert_allclose(large[0], same[0], atol=1e-12)
    assert (large[1] == same[1]).all() and large[1].mean() > 0.9
    broken = one.versions[1].copy()
    broken[3] = np.nan
    assert retrieval(broken, one.versions[2])[1][3] == 0


def test_a_planted_slide_is_told_and_none_is_not() -> None:
    told, blind = values(space(slide=2.0)), values(space())
    assert told["slide_knn"]["estimate"] > 0.9 and told["slide_variance"]["low"] > 0.5
    assert blind["slide_knn"]["low"] <= blind["slide_knn"]["chance"] + 0.05
    assert blind["slide_knn"]["chance"] == pytest.approx(1 / 16)
    # what a space without slides has of variance between them is its chance
    assert blind["slide_variance"]["estimate"] == pytest.approx(blind["slide_variance"]["chance"], abs=0.02)
    # without the site, neighbours of other patients tell none, however well slides are told
    assert abs(told["site_knn"]["estimate"] - told["site_knn"]["chance"]) < 0.12
    assert values(space(site=1.5))["site_knn"]["low"] > 0.6


def test_the_share_of_variance_is_that_of_an_analysis_of_variance() -> None:
    one = space(slide=0.7)
    z = standardised(one.vectors)
    means = np.stack([z[one.slides == s].mean(0) for s in one.slides])
    share = (means**2).sum() / (z**2).sum()
    assert values(one)["slide_variance"]["estimate"] == pytest.approx(share)


def test_a_robust_space_is_found_robust_and_a_collapsed_one_is_marked() -> None:
    robust, frail = values(space(noise=0.2)), values(space(noise=3.0))
    for measure in ("top10_scanner", "top10_stain", "top10_both"):
        assert robust[measure]["estimate"] > 0.95 > 0.6 > frail[measure]["estimate"]
        assert robust[measure]["chance"] == pytest.approx(10 / 159)
    assert [robust[f"top10_{kind}"]["pairs"] for kind in ("scanner", "stain", "both")] == [9, 9, 18]
    assert robust["cosine"]["pairs"] == 36 and robust["cosine"]["warning"] == ""
    one_point = values(space(same=True))
    assert one_point["cosine"]["estimate"] == pytest.approx(1)
    assert one_point["top10_both"]["estimate"] == 0 and one_point["cosine"]["warning"] == "collapsed"
    assert collapsed(0.878, 0.6, 0.03) and not collapsed(0.8, 0.3, 0.45) and collapsed(0.99, 0.95, 0.9)


def test_intervals_hold_the_estimate_and_sites_need_patients() -> None:
    for row in values(space(slide=1.0, site=1.0, noise=1.0)).values():
        assert row["low"] - 0.02 <= row["estimate"] <= row["high"] + 0.02
    lone = space(slide=1.0, sites=16)  # a site a patient: nobody else could tell it
    assert set(values(lone)) == set(MEASURES) - {"site_knn"}


def test_statistics_lose_their_units() -> None:
    one = space(noise=1.0)
    scale = np.geomspace(1e-3, 1e4, 24)
    shifted = without_units(one.versions * scale + 100 * scale, one.vectors * scale + 100 * scale)
    np.testing.assert_allclose(shifted, without_units(one.versions, one.vectors), atol=1e-4)
    assert without_units(one.versions, np.zeros((5, 24))).shape == (9, 80, 0)
    nearly = one.vectors * np.r_[1e-6, np.ones(23)]  # it hardly varies as it is, and does under another stain
    far = without_units(one.versions, nearly)
    assert np.abs(far).max() == 50 and np.abs(far[..., 1:]).max() < 10
