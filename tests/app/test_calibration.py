"""The threshold and its evidence: the bound, the choice, what is refused, and that the claim holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.cache.calibration import Calibration, calibrate, evidences, interval, upper_bound
from app.cache.decision import SURFACE, evidence
from app.cache.pairs import Pair
from app.errors import ConfigError


def calibrated(
    found: NDArray[np.float64] | Sequence[float], same: Sequence[bool] | NDArray[np.bool_], limit: float = 0.01
) -> Calibration:
    return calibrate(np.array(found, float), np.array(same, bool), "e/v", b"pairs", limit, 0.95)


# The bound


@pytest.mark.parametrize(
    ("wrong", "hits", "confidence", "bound"),
    [
        (0, 10, 0.95, 0.2589),
        (0, 59, 0.95, 0.0495),
        (1, 10, 0.95, 0.3942),
        (5, 10, 0.95, 0.7776),
        (0, 100, 0.99, 0.0450),
        (0, 22, 0.90, 0.0994),
        (0, 0, 0.95, 1.0),
        (7, 7, 0.95, 1.0),
    ],
)
def test_the_bound_is_that_of_clopper_and_pearson(wrong: int, hits: int, confidence: float, bound: float) -> None:
    assert upper_bound(wrong, hits, confidence) == pytest.approx(bound, abs=1e-4)


@pytest.mark.parametrize(
    ("found", "among", "low", "high"), [(0, 10, 0, 0.3085), (10, 10, 0.6915, 1), (5, 10, 0.1871, 0.8129), (0, 0, 0, 1)]
)
def test_the_interval_is_that_of_clopper_and_pearson(found: int, among: int, low: float, high: float) -> None:
    assert interval(found, among) == [low, high]


def test_299_hits_with_none_wrong_are_the_fewest_that_show_less_than_one_percent() -> None:
    assert upper_bound(0, 299, 0.95) < 0.01 < upper_bound(0, 298, 0.95)


@given(hits=st.integers(1, 300), share=st.floats(0, 0.99), confidence=st.floats(0.5, 0.999))
def test_at_the_bound_so_few_wrong_are_just_as_unlikely_as_the_confidence_says(
    hits: int, share: float, confidence: float
) -> None:
    wrong = int(share * hits)
    bound = upper_bound(wrong, hits, confidence)
    chance = sum(comb(hits, k) * bound**k * (1 - bound) ** (hits - k) for k in range(wrong + 1))
    assert chance == pytest.approx(1 - confidence, rel=1e-4)


# The choice


def test_the_loosest_threshold_within_the_limit_is_chosen() -> None:
    chosen = calibrated([0.9] * 300 + [0.8] * 200 + [0.7] * 100, [True] * 500 + [False] * 100)
    assert (chosen.threshold, chosen.hits, chosen.wrong) == (0.7025, 500, 0)
    assert chosen.upper_bound == upper_bound(0, 500, 0.95) <= chosen.max_error_rate == 0.01


def test_a_few_wrong_hits_are_within_a_limit_that_many_right_ones_support() -> None:
    chosen = calibrated([0.9] * 2000 + [0.8] * 5, [True] * 2000 + [False] * 5)
    assert (chosen.hits, chosen.wrong) == (2005, 5)
    assert chosen.upper_bound <= 0.01


def test_it_stops_at_the_first_threshold_that_fails_although_a_looser_one_would_pass() -> None:
    found, same = [0.9] * 300 + [0.8] * 20 + [0.7] * 9000, [True] * 300 + [False] * 20 + [True] * 9000
    assert upper_bound(20, len(found), 0.95) < 0.01 < upper_bound(20, 320, 0.95)
    assert calibrated(found, same).threshold == 0.8025


def test_a_threshold_is_never_stricter_than_the_surface() -> None:
    chosen = calibrated([SURFACE] * 400 + [1.0] * 10, [True] * 400 + [False] * 10)
    assert (chosen.hits, chosen.wrong) == (400, 0)
    assert 1.0 < chosen.threshold <= SURFACE


def test_a_pair_that_can_be_no_hit_does_not_count() -> None:
    chosen = calibrated([0.9] * 300 + [-1.0] * 500, [True] * 300 + [False] * 500)
    assert (chosen.hits, chosen.wrong) == (300, 0)


def test_too_few_hits_are_refused_with_how_many_it_takes() -> None:
    with pytest.raises(
        ConfigError, match=r"at most 1\.00% wrong hits at 95% .* takes at least 299 hits with none wrong"
    ):
        calibrated([0.9] * 298, [True] * 298)
    with pytest.raises(ConfigError, match="at least 59 hits"):
        calibrated([0.9] * 58, [True] * 58, limit=0.05)


def test_one_wrong_pair_at_the_top_does_not_end_the_search_before_it_has_begun() -> None:
    chosen = calibrated([SURFACE] + [0.9] * 298 + [0.8] * 400, [False] + [True] * 698, limit=0.02)
    assert (chosen.hits, chosen.wrong) == (699, 1)


def test_the_first_threshold_tested_does_not_hang_on_the_labels() -> None:
    found = [0.95] * 10 + [0.9] * 289 + [0.8] * 2000
    with pytest.raises(ConfigError, match=r"of the 299 hits at 0\.9, .* 3 are wrong, and the bound is 2\.57%"):
        calibrated(found, [False] * 3 + [True] * 2296)  # at 0.8 the bound would hold
    assert upper_bound(3, len(found), 0.95) < 0.01


def test_wrong_hits_at_the_top_are_refused_with_a_rate_that_would_pass() -> None:
    found, same = [0.95] * 200 + [0.9] * 1000, [False] * 5 + [True] * 1195
    with pytest.raises(
        ConfigError, match=r"higher --max-error-rate \(these pairs would pass at 0\.052: a hint"
    ) as error:
        calibrated(found, same, limit=0.02)
    assert "of the 200 hits at 0.95, " in error.value.message
    assert calibrated(found, same, limit=0.052).hits == 1200
    with pytest.raises(ConfigError):
        calibrated(found, same, limit=0.051)


def test_without_any_hit_no_rate_is_hinted_at() -> None:
    with pytest.raises(ConfigError, match=r"there are 0 hits in all; .* higher --max-error-rate$"):
        calibrated([-1.0] * 400, [True] * 400)


def test_the_models_and_the_digest_of_the_data_are_kept() -> None:
    chosen = calibrated([0.9] * 300, [True] * 300)
    assert chosen.models == "e/v"
    assert chosen.data == hashlib.sha256(b"pairs").hexdigest()


# The claim


@pytest.mark.parametrize(
    "rises", [False, True], ids=["the same rate everywhere", "a rate that rises as evidence falls"]
)
def test_the_true_rate_is_over_the_limit_in_at_most_one_of_twenty_calibrations(rises: bool) -> None:
    rng = np.random.default_rng(7)
    limit, simulations, too_loose = 0.05, 300, 0
    for _ in range(simulations):
        found = rng.uniform(0.6, 1.0, 500)
        # the share of wrong hits at or above a threshold: constant just over the limit, or 0.1 at the loosest one
        rate = 0.25 * (1.0 - found) * 2 if rises else np.full(500, limit + 1e-6)
        same = rng.uniform(size=500) >= rate
        try:
            threshold = calibrated(found, same, limit).threshold
        except ConfigError:
            continue
        true_rate = 0.25 * (1.0 - threshold) if rises else limit + 1e-6
        too_loose += true_rate > limit
    assert too_loose <= 0.06 * simulations


# The evidence of labelled pairs


def test_evidence_is_what_the_decision_would_see() -> None:
    cosines = {"surface": 0.99, "guard": 0.99, "grey": 0.9, "far": 0.5}
    pairs = [
        Pair("Who founded the club?", "who founded the club", True, "surface"),
        Pair("Who founded the 2 clubs?", "Who founded the 3 clubs?", False, "guard"),
        Pair("Who founded the club?", "The founder of the club is who?", True, "grey"),
        Pair("Who founded the club?", "The founder of the team is who?", True, "far"),
    ]
    angles = iter([[0.0] * len(pairs), [float(np.arccos(cosines[pair.kind])) for pair in pairs]])
    read: list[tuple[str, str]] = []

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[np.cos(angle), np.sin(angle)] for angle in next(angles)], np.float32)

    def verify(texts: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        read.extend(texts)
        return np.full(len(texts), 0.8, np.float32)

    found = evidences(pairs, embed, verify, floor=0.6)
    assert found == pytest.approx([SURFACE, -1, evidence(0.9, 0.8), -1], abs=1e-6)
    assert read == [(pairs[2].a, pairs[2].b)]


def test_each_pair_keeps_its_own_probability() -> None:
    pairs = [Pair("Who sang " + "so " * i + "well?", "Which singer " + "so " * i + "?", True, "") for i in (5, 1, 9, 3)]

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1, 0]] * len(texts), np.float32)

    def verify(texts: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        return np.array([a.count("so ") / 10 for a, _ in texts], np.float32)

    found = evidences(pairs, embed, verify, floor=0.6)
    assert found == pytest.approx([evidence(1.0, p) for p in (0.5, 0.1, 0.9, 0.3)], abs=1e-6)


# The file


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    chosen = calibrated([0.9] * 300, [True] * 300)
    chosen.save(tmp_path / "new" / "folder" / "c.json")
    assert Calibration.load(tmp_path / "new" / "folder" / "c.json") == chosen


@pytest.mark.parametrize("content", [None, "", "[]", "not json", '{"threshold": 0.9}', '"text"'])
def test_a_file_that_is_missing_or_holds_something_else_is_a_configuration_error(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "c.json"
    if content is not None:
        file.write_text(content, "utf-8")
    with pytest.raises(ConfigError, match=r"cannot read `.*c\.json`; make it with `tierwise calibrate cache"):
        Calibration.load(file)


def test_a_file_with_a_field_more_or_less_is_a_configuration_error(tmp_path: Path) -> None:
    fields = asdict(calibrated([0.9] * 300, [True] * 300))
    for other in ({**fields, "verifier": "v"}, {name: value for name, value in fields.items() if name != "models"}):
        (tmp_path / "c.json").write_text(json.dumps(other), "utf-8")
        with pytest.raises(ConfigError):
            Calibration.load(tmp_path / "c.json")
