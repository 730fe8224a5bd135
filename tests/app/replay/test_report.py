"""The configuration that a replay writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.config import read_serve_file
from app.replay.figures import figures
from app.replay.report import write_config
from app.replay.run import Replayed
from app.replay.work import DIFFERENT, SAME
from tests.app.replay.made import replayed, simulation
from tests.fakes import CONFIG, serve_file


def test_the_models_of_a_profile_stay_its_own(tmp_path: Path) -> None:
    file = read_serve_file(serve_file(tmp_path, profiles={"tickets": {"models": ["ticket-model"]}}))
    write_config(simulation(replayed(2, models=["ticket-model", "other"]), file.config), file, tmp_path / "best.yaml")
    config = read_serve_file(tmp_path / "best.yaml").config
    assert "other" in config.auto_models
    assert "ticket-model" not in config.auto_models


def test_a_new_threshold_carries_what_it_was_calibrated_for(tmp_path: Path) -> None:
    file = read_serve_file(serve_file(tmp_path, replay={"wrong_answer_usd": 1}))
    made = simulation(graded(0.06), file.config)
    best = made.best_cache()
    assert best is not None
    assert best.point.threshold != made.present
    write_config(made, file, tmp_path / "best.yaml")
    config = read_serve_file(tmp_path / "best.yaml").config
    assert config.cache.threshold is None
    assert config.cache.calibrated().threshold == best.point.threshold
    assert config.cache.max_error_rate() == best.max_error_rate
    expected = figures(simulation(graded(0.06), config))["cache"]["expected_false_hits"]
    assert expected["of_semantic_hits"][0] == pytest.approx(best.point.wrong, abs=1 / best.point.compared)


def test_a_threshold_that_is_best_already_stays_the_calibrations(tmp_path: Path) -> None:
    file = read_serve_file(serve_file(tmp_path, replay={"wrong_answer_usd": 0}))
    made = simulation(graded(-1), file.config)
    best = made.best_cache()
    assert best is not None
    assert best.point.threshold == round(made.present, 4)
    write_config(made, file, tmp_path / "best.yaml")
    config = read_serve_file(tmp_path / "best.yaml").config
    assert (config.cache.threshold, config.cache.calibration) == (None, "bundled")
    assert config.cache.audit.max_error_rate == best.max_error_rate


def test_the_quality_that_the_cut_points_were_chosen_for_is_the_one_promised(tmp_path: Path) -> None:
    file = read_serve_file(serve_file(tmp_path))
    made = simulation(replayed(1000, score=np.linspace(0, 0.999, 1000)), file.config)
    best = made.best_route()
    assert best is not None
    assert best.quality != file.config.quality_kept()
    write_config(made, file, tmp_path / "best.yaml")
    assert read_serve_file(tmp_path / "best.yaml").config.quality_kept() == best.quality


def graded(wrong_below: float, count: int = 1000) -> Replayed:
    """Make hits with evidence from the present threshold to 0.1 above it, wrong ones up to so much above it."""
    present = CONFIG.cache.calibrated().threshold
    evidence, rows = present + np.linspace(0.001, 0.1, count), np.arange(count)
    says = np.where(evidence >= present + wrong_below, SAME, DIFFERENT)
    compared = np.stack([rows, 0 * rows, says], 1)
    reasons = ["hit verified"] * count
    return replayed(count, reasons=reasons, evidence=evidence, served=0 * rows, compared=compared)
