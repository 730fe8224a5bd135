"""`tierwise bench router`, and the baselines that it draws the comparison with."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from rich.console import Console

from app import bundled
from app.benchmark.router import OURS, SIXTY_TOKENS, DevFile, customary, measure
from app.benchmark.router_baselines import KEYWORD_CUTS, Baseline, keyword_score, logistic, neighbours
from app.benchmark.router_table import TABLE_WIDTH, table
from app.classifier.encoder import WEIGHTS
from app.config import GatewayConfig, read_serve_file
from app.errors import ConfigError
from tests.fakes import serve_file

ROUTING = Path(__file__).parents[3] / "shared" / "data" / "routing"
EASY = "Thanks, that is all! Say bye to number {}."
HARD = "Prove that every group of order {} squared is abelian, and design a proof checker for the argument."
EVERY = {OURS, "random", "length", "key words", "nearest neighbours", "logistic regression"}

needs_models = pytest.mark.skipif(bool(bundled.missing()), reason="needs the bundled models")


def write(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def config(folder: Path) -> GatewayConfig:
    return read_serve_file(serve_file(folder)).config


def outcomes(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Make easy prompts that every tier answers, and hard ones that only the large tier does, numbered from `first`."""
    easy = [
        {"prompt": EASY.format(i), "tier": "small", "solved": True, "small": 1, "mid": 1, "large": 1}
        for i in range(first, first + count)
    ]
    hard = [
        {"prompt": HARD.format(i), "tier": "large", "solved": True, "small": 0, "mid": 0, "large": 1}
        for i in range(first, first + count)
    ]
    return easy + hard


@pytest.mark.models
@needs_models
def test_each_file_has_the_figures_of_every_router_and_the_table_shows_them(tmp_path: Path) -> None:
    dev, train = write(tmp_path / "dev.jsonl", *outcomes(20)), write(tmp_path / "train.jsonl", *outcomes(30, first=20))
    wrong = [{"prompt": row["prompt"], "score": 1 - row["small"] * 0.5} for row in outcomes(20)]
    figures = measure(
        [dev], [train], [write(tmp_path / "theirs.jsonl", *wrong)], serve_file(tmp_path), lambda line: None
    )
    found = figures["files"]["dev"]
    assert (found["rows"], found["hard"], found["held_out_of_training"]) == (40, 20, False)
    assert found["routers"].keys() == EVERY | {"theirs"}
    ours, theirs = found["routers"][OURS], found["routers"]["theirs"]
    assert (ours["auc_small_suffices"], ours["apgr"], ours["hard_to_small"]) == (1.0, 0.75, 0)
    assert (theirs["apgr"], theirs["right_tier"]) == (0.75, 0.5)
    assert ours["saved"] > 0.4 > found["routers"]["random"]["saved"]
    assert found["routers"]["logistic regression"]["auc_large_needed"] == 1.0
    assert found["cascade"]["quality_kept"] == pytest.approx(1.0)
    assert figures["latency"]["p50_ms"] <= figures["latency"]["p95_ms"]
    screen = io.StringIO()
    Console(file=screen, width=TABLE_WIDTH).print(table(figures))
    assert [line for line in screen.getvalue().splitlines() if line.startswith("| theirs")] == [
        line for line in screen.getvalue().splitlines() if "0.750 (" in line and "theirs" in line
    ]


@pytest.mark.models
@needs_models
def test_of_a_file_that_the_classifier_was_trained_on_only_the_held_out_rows_count(tmp_path: Path) -> None:
    dev = write(tmp_path / "known.jsonl", *outcomes(50))
    folder = tmp_path / "weights"
    shutil.copytree(WEIGHTS, folder)
    card = json.loads((folder / "card.json").read_text())
    card["data"]["under another name.jsonl"] = hashlib.sha256(dev.read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))
    file = serve_file(tmp_path, classifier={"model": str(folder)})
    figures = measure([dev], [], [], file, lambda line: None)
    found = figures["files"]["known"]
    assert (found["rows"], found["held_out_of_training"], figures["learnt_from"]["known"]) == (15, True, 85)


@pytest.mark.models
@needs_models
def test_a_prompt_that_was_learnt_from_is_not_measured_however_it_is_spaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.classifier.train._HELD_OUT", 0)  # every row is learnt from, but of the product prompts
    monkeypatch.setattr("app.benchmark.router.baselines", lambda *_: {})
    train = write(tmp_path / "train.jsonl", *outcomes(20))
    known = {**outcomes(1)[0], "prompt": EASY.format(0).replace(" ", "\n").upper()}
    dev = write(tmp_path / "dev.jsonl", known, *outcomes(5, first=20))
    found = measure([dev], [train], [], serve_file(tmp_path), lambda line: None)["files"]["dev"]
    assert found["rows"] == 10
    only = write(tmp_path / "only.jsonl", known)
    with pytest.raises(ConfigError, match=r"only.jsonl` has no prompt that was not learnt from"):
        measure([only], [train], [], serve_file(tmp_path), lambda line: None)


@pytest.mark.models
@needs_models
def test_every_router_s_scores_go_to_other_scorers_cut_at_the_customary_points(tmp_path: Path) -> None:
    dev, train = write(tmp_path / "dev.jsonl", *outcomes(5)), write(tmp_path / "train.jsonl", *outcomes(30, first=5))
    out = tmp_path / "out"
    figures = measure([dev], [train], [], serve_file(tmp_path), lambda line: None, out)["files"]["dev"]
    rows = [json.loads(line) for line in (out / "rows" / "dev.jsonl").read_text("utf-8").splitlines()]
    assert [(row["weak_score"], row["strong_score"]) for row in rows] == [(1, 1)] * 5 + [(0, 1)] * 5
    for name in EVERY - {"random"}:
        lines = (out / f"{name.lower().replace(' ', '_')}.jsonl").read_text("utf-8").splitlines()
        scores = {row["prompt"]: row["score"] for row in map(json.loads, lines)}
        got = np.searchsorted([0.3, 0.7], [scores[row["prompt"]] for row in rows], side="right")
        needed = np.array([["small", "mid", "large"].index(row["tier"]) for row in rows])
        assert figures["routers"][name]["right_tier"] == pytest.approx(np.mean(got == needed))


def test_stretched_scores_keep_their_order_and_meet_the_customary_cuts() -> None:
    scores = np.array([5.0, 12.0, 7.0, 30.0, 12.0, 400.0])
    found = customary(scores, (7.0, 12.0))
    assert np.argsort(found, kind="stable").tolist() == np.argsort(scores, kind="stable").tolist()
    assert found[[2, 1, 4]].tolist() == [0.3, 0.7, 0.7]
    assert ((found > 0) & (found < 1)).all()


def oracle(rows: list[dict[str, Any]]) -> Baseline:
    """Score by the tier that a prompt needs."""
    scores = {row["prompt"]: 0.5 * ["small", "mid", "large"].index(row["tier"]) for row in rows}
    return Baseline(lambda prompts: np.array([scores[prompt] for prompt in prompts]), (0.3, 0.7))


def test_a_router_that_knows_the_tiers_has_no_fault_and_the_mean_of_chance_is_chance(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    routers = {
        OURS: oracle(outcomes(50)),
        "random": Baseline(lambda prompts: chance.random(len(prompts)), (1 / 3, 2 / 3), draws=20),
    }
    figures = DevFile(tmp_path / "dev.jsonl", outcomes(50), config(tmp_path)).figures(routers)
    ours, random = figures["routers"][OURS], figures["routers"]["random"]
    assert (ours["right_tier"], ours["hard_to_small"], ours["auc_large_needed"], ours["apgr"]) == (1.0, 0, 1.0, 0.75)
    assert random["apgr"] == pytest.approx(0.5, abs=0.03)
    assert random["hard_to_small"] == pytest.approx(50 / 3, abs=2)
    assert figures["cascade"]["quality_kept"] == 1.0


def test_rows_without_every_outcome_are_measured_by_what_they_have(tmp_path: Path) -> None:
    """The gap is between the models that are named, prompts that no tier solves have no tier."""
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "tier": "mid", "small": None, "mid": 1, "large": 1, "weak_score": 1, "strong_score": 1},
        {"prompt": "b", "tier": "large", "small": None, "mid": 0, "large": 1, "weak_score": 0, "strong_score": 1},
        {"prompt": "c", "tier": "large", "solved": False, "small": None, "mid": 0, "large": 0}
        | {"weak_score": 0, "strong_score": 0},
    ]
    figures = DevFile(tmp_path / "dev.jsonl", rows, config(tmp_path)).figures({OURS: oracle(rows)})
    assert (figures["rows"], figures["with_tier"], figures["hard"]) == (3, 2, 1)
    assert "cascade" not in figures
    # the one prompt that gains and the one that nobody solves have the same score
    assert figures["routers"][OURS]["apgr"] == pytest.approx(2 / 3, abs=0.001)


def test_where_only_the_tier_is_known_it_and_the_better_ones_are_right(tmp_path: Path) -> None:
    rows = [{"prompt": str(i), "tier": tier} for i, tier in enumerate(["small", "mid", "large"])]
    ours = DevFile(tmp_path / "dev.jsonl", rows, config(tmp_path)).figures({OURS: oracle(rows)})["routers"][OURS]
    assert "apgr" not in ours
    assert ours["saved"] > 0.5


@needs_models
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "p"}], "neither a `tier` nor the outcomes of tiers"),
        ([{"text": "p"}], 'line 1 is not a JSON object with "prompt"'),
    ],
)
def test_a_file_that_says_nothing_of_its_prompts_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        measure([write(tmp_path / "dev.jsonl", *rows)], [], [], serve_file(tmp_path), lambda line: None)


@needs_models
def test_scores_that_leave_prompts_out_are_refused(tmp_path: Path) -> None:
    dev = write(tmp_path / "dev.jsonl", *outcomes(2))
    theirs = write(tmp_path / "theirs.jsonl", {"prompt": EASY.format(0), "score": 0.1})
    with pytest.raises(ConfigError, match="has no score of 3 of 4 prompts"):
        measure([dev], [], [theirs], serve_file(tmp_path), lambda line: None)


@pytest.mark.models
@needs_models
@pytest.mark.skipif(not ROUTING.is_dir(), reason="the shared evaluation data is not here")
def test_on_product_prompts_the_classifier_beats_what_learns_from_the_same_prompts(tmp_path: Path) -> None:
    figures = measure([ROUTING / "dev" / "product.jsonl"], [], [], serve_file(tmp_path), lambda line: None)
    routers = figures["files"]["product"]["routers"]
    ours = routers.pop(OURS)
    assert ours["hard_to_small"] == 0
    assert all(ours["auc_small_suffices"] > other["auc_small_suffices"] for other in routers.values())


def test_neighbours_score_by_their_mean_tier() -> None:
    score = neighbours(np.eye(3), np.array([0, 1, 2]), k=1)
    assert score(np.eye(3)[[2, 0, 1]]).tolist() == [1.0, 0.0, 0.5]
    assert neighbours(np.eye(3), np.array([0, 1, 2]), k=9)(np.eye(3)).tolist() == [0.5, 0.5, 0.5]


def test_a_regression_orders_prompts_by_the_tier_that_their_direction_needs() -> None:
    draw = np.random.default_rng(0)
    tiers = np.repeat([0, 1, 2], 40)
    vectors = np.eye(4)[tiers] + draw.normal(0, 0.1, (120, 4))
    small, mid, large = logistic(vectors, tiers, np.ones(120))(np.eye(4)[:3])
    assert small < mid < large


def test_a_row_that_counts_more_moves_the_regression_more() -> None:
    vectors, tiers = np.array([[1.0], [1.0]]), np.array([0, 2])
    score = [logistic(vectors, tiers, np.array(weights))(np.array([[1.0]]))[0] for weights in ([1, 9], [9.0, 1])]
    assert score[0] == pytest.approx(0.9, abs=0.01)
    assert score[1] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("prompt", "tier"),
    [
        ("Hi there!", 0),
        ("What is the capital of France?", 0),
        ("Write a Python function that sorts a list of customers by the date of their last order, newest first.", 1),
        ("Think through it step by step, and prove that this distributed consensus algorithm is safe.", 2),
    ],
)
def test_key_words_decide_the_tier(prompt: str, tier: int) -> None:
    assert np.searchsorted(KEYWORD_CUTS, keyword_score(prompt), side="right") == tier


def test_the_prompt_of_the_latency_has_sixty_tokens() -> None:
    assert len(tokenizers.Tokenizer.from_file(str(WEIGHTS / "tokenizer.json")).encode(SIXTY_TOKENS).ids) == 60
