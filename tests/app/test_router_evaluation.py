"""`tierwise calibrate router` with the bundled classifier on made-up outcomes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.classifier import ClassifierConfig
from app.classifier.calibration import RouterCalibration
from app.config import read_serve_file
from app.errors import ConfigError
from app.router_evaluation import calibrate
from app.routing import plan
from tests.fakes import serve_file

EASY = "Thanks, that is all! Say bye to {}."
HARD = "Prove that every group of order {} squared is abelian, and design a proof checker for the argument."


@pytest.fixture
def outcomes(tmp_path: Path) -> Path:
    """Easy prompts that every tier answers, and hard ones that only the top tier does."""
    rows = []
    for i in range(300):
        rows.append({"prompt": EASY.format(i), "local": 1, "mid": 1, "top": 1})
        rows.append({"prompt": HARD.format(i), "small": 0, "mid": 0, "large": 1, "answer_tokens": 900})
    rows.append({"prompt": "nobody knows", "small": None, "mid": 0, "large": 1})
    file = tmp_path / "outcomes.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_cut_points_keep_the_promise_and_are_served(outcomes: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "router.json", tmp_path / "curve.png"
    figures = calibrate(outcomes, 0.95, None, 0.95, out, plot, serve_file(tmp_path))
    assert figures["quality_kept"] >= 0.95
    assert figures["usd_per_1k"] < 0.8 * figures["usd_per_1k_top"]
    assert figures["curve"][0]["shares"] == (0.0, 0.0, 1.0)
    assert all(p["interval"][0] <= p["quality_kept"] <= p["interval"][1] for p in figures["curve"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    file = serve_file(tmp_path, classifier={"calibration": str(out)})
    classifier = read_serve_file(file).config.classifier.build()
    easy, hard = classifier.scores([EASY.format("all"), HARD.format("p")])
    assert easy < 0.7 <= hard


def test_a_budget_is_kept(outcomes: Path, tmp_path: Path) -> None:
    figures = calibrate(outcomes, 0.95, 3.0, 0.95, tmp_path / "router.json", None, serve_file(tmp_path))
    assert (figures["quality"], figures["usd_per_1k"] <= 3.0) == (None, True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "small": 2, "mid": 1, "large": 1}, "line 1: outcomes must be between 0 and 1"),
        ({"small": 1, "mid": 1, "large": 1}, 'line 1 is not a JSON object with "prompt"'),
        ({"prompt": "p", "small": 1}, "no rows with an outcome for each of: local, mid, top"),
    ],
)
def test_rows_that_cannot_be_used_say_why(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "outcomes.jsonl").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match=message):
        calibrate(tmp_path / "outcomes.jsonl", 0.9, None, 0.95, tmp_path / "out.json", None, serve_file(tmp_path))


def test_one_row_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "outcomes.jsonl").write_text(json.dumps({"prompt": "p", "small": 1, "mid": 1, "large": 1}))
    with pytest.raises(ConfigError, match="takes 100 rows or more"):
        calibrate(tmp_path / "outcomes.jsonl", 0.9, None, 0.95, tmp_path / "out.json", None, serve_file(tmp_path))
    assert not (tmp_path / "out.json").exists()


def test_a_calibration_of_another_classifier_or_of_other_tiers_does_not_start(tmp_path: Path) -> None:
    name = ClassifierConfig().build().name
    file = tmp_path / "router.json"
    made = RouterCalibration((0.2, 0.5), (0.3, 0.7, 1.0), 0.9, 0.95, 10, 0.9, 1.0, 2.0, (0.3, 0.3, 0.4), "another", "")
    made.save(file)
    with pytest.raises(ConfigError, match=f"was made with the classifier another, not {name}"):
        ClassifierConfig(calibration=file).build()
    replace(made, max_scores=(0.5, 0.7, 1.0)).save(file)
    with pytest.raises(ConfigError, match="was made for tiers with"):
        read_serve_file(serve_file(tmp_path, classifier={"calibration": str(file)}))


def test_scores_at_a_cut_point_go_up_and_those_below_it_do_not(tmp_path: Path) -> None:
    made = RouterCalibration((0.2, 0.5), (0.3, 0.7, 1.0), 0.9, 0.95, 10, 0.9, 1.0, 2.0, (0.3, 0.3, 0.4), "c", "")
    below = [float(np.nextafter(np.float32(cut), np.float32(0))) for cut in (0.2, 0.5)]
    scores = np.array([0.0, below[0], 0.2, below[1], 0.5, 1.0], np.float32)
    tiers = read_serve_file(serve_file(tmp_path)).config.tiers
    assert tuple(tier.max_score for tier in tiers) == made.max_scores
    names = [plan(float(score), tiers)[0].name for score in made.mapped(scores)]
    assert names == ["local", "local", "mid", "mid", "top", "top"]
