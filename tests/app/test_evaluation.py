from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app import bundled
from app.cache.calibration import Calibration
from app.errors import ConfigError
from app.evaluation import calibrate_cache, evaluate_cache, evaluate_routing
from app.pair_evaluation import evaluate_pairs
from tests.fakes import serve_file

LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"
SCORER = Path(__file__).parents[3] / "shared" / "data" / "routing" / "route_eval.py"


pytestmark = pytest.mark.skipif(bool(bundled.missing()), reason="needs the bundled models; `make setup` prepares them")


def rows(file: Path, *prompts: str) -> Path:
    lines = [json.dumps({"id": f"q{i}", "prompt": prompt, "class": "ignored"}) for i, prompt in enumerate(prompts)]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.mark.redis
def test_cache_eval_says_which_earlier_request_served_each(tmp_path: Path) -> None:
    stream = rows(
        tmp_path / "in.jsonl",
        "What is the capital of France?",
        "How do I bake bread?",
        "What is the capital of France?",
        "What's the capital of France?",
    )
    figures = evaluate_cache(stream, tmp_path / "out.jsonl", LOCAL)
    decisions = read(tmp_path / "out.jsonl")
    assert [row["served_from"] for row in decisions] == [None, None, "q0", "q0"]
    assert [row["hit"] for row in decisions] == [False, False, True, True]
    assert [row["reason"] for row in decisions[2:]] == ["exact", "surface"]
    assert decisions[2]["similarity"] == 1 > decisions[3]["similarity"] >= 0.6
    assert all(row["ms"] > 0 for row in decisions)
    assert (figures["requests"], figures["hits"], figures["hit_rate"]) == (4, 2, 0.5)


@pytest.mark.redis
def test_cache_eval_says_what_each_stage_of_a_lookup_took(tmp_path: Path) -> None:
    stream = rows(
        tmp_path / "in.jsonl",
        "How do I bake bread?",
        "How do I bake bread?",
        "how do i bake bread",
        "In what way do I bake bread?",
        "Bake me a cake right now, what time is it?",
    )
    stages = evaluate_cache(stream, tmp_path / "out.jsonl", LOCAL)["stages"]
    reached = {stage: figures["lookups"] for stage, figures in stages.items()}
    assert reached == {"exact": 4, "embed": 3, "search": 3, "fetch": 3, "rules": 3, "verify": 1}
    assert all(0 < figures["p50_ms"] <= figures["p95_ms"] < 1000 for figures in stages.values())


@pytest.mark.redis
def test_cache_eval_says_how_many_prompts_it_refused_and_why(tmp_path: Path) -> None:
    stream = rows(tmp_path / "in.jsonl", "bitcoin price", "What time is it?", "Where is my parcel?", "What is bitcoin?")
    figures = evaluate_cache(stream, tmp_path / "out.jsonl", LOCAL)
    assert (figures["refused"], figures["refused_share"]) == (3, 0.75)
    assert figures["refused_for"] == {"volatile": 2, "personal": 1}


def pairs_file(file: Path, *pairs: tuple[str, str, int, str]) -> Path:
    lines = [json.dumps({"a": a, "b": b, "same": same, "kind": kind}) for a, b, same, kind in pairs]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


@pytest.mark.redis
def test_cache_pairs_counts_what_is_served_and_refused_by_kind_and_by_reason(tmp_path: Path) -> None:
    file = pairs_file(
        tmp_path / "in.jsonl",
        ("How do I bake bread?", "how do I bake bread", 1, "surface"),
        ("How do I bake bread?", "How do I bake bread?", 1, "surface"),
        ("Who founded the club?", "Name three rivers of Peru.", 1, "label noise"),
        ("How many grams are in 5 pounds?", "How many grams are in 6 pounds?", 0, "number"),
        ("How do I bake bread?", "how do I bake bread", 0, "label noise"),
        ("Where is my parcel?", "Where is my parcel?", 0, "personal"),
    )
    figures = evaluate_pairs(file, LOCAL)
    assert figures["same"] == {"pairs": 3, "served": 2, "share": 0.6667, "share_95": [0.0943, 0.9916]}
    assert figures["different"] == {"pairs": 3, "refused": 2, "share": 0.6667, "share_95": [0.0943, 0.9916]}
    assert {kind: counts.keys() for kind, counts in figures["kinds"].items()} == {
        "label noise": {"same", "different"},
        "number": {"different"},
        "personal": {"different"},
        "surface": {"same"},
    }
    assert figures["kinds"]["surface"]["same"]["share"] == 1
    assert figures["reasons"] == {
        "exact": {"same": 1, "different": 0},
        "guard: number": {"same": 0, "different": 1},
        "no candidate": {"same": 1, "different": 0},
        "personal": {"same": 0, "different": 1},
        "surface": {"same": 1, "different": 1},
    }


def test_a_calibration_goes_where_the_configuration_has_it_unless_told_otherwise(tmp_path: Path) -> None:
    pairs = pairs_file(tmp_path / "in.jsonl", *[("How do I bake bread?", "how do i bake bread", 1, "surface")] * 20)
    config = serve_file(tmp_path, cache={"calibration": str(tmp_path / "mine.json")})
    calibrate_cache(pairs, 0.5, 0.95, None, config)
    calibrate_cache(pairs, 0.4, 0.95, tmp_path / "other.json", config)
    limits = [Calibration.load(tmp_path / name).max_error_rate for name in ("mine.json", "other.json")]
    assert limits == [0.5, 0.4]


def test_cache_pairs_refuses_a_file_without_pairs(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n", "utf-8")
    with pytest.raises(ConfigError, match="has no rows"):
        evaluate_pairs(tmp_path / "in.jsonl", LOCAL)


def test_route_eval_scores_each_prompt_and_names_its_tier(tmp_path: Path) -> None:
    prompts = rows(tmp_path / "in.jsonl", "hello there", "Prove Fermat's little theorem by induction and by groups.")
    figures = evaluate_routing(prompts, tmp_path / "out.jsonl", LOCAL)
    easy, hard = read(tmp_path / "out.jsonl")
    assert (easy["id"], easy["prompt"], easy["tier"]) == ("q0", "hello there", "local")
    assert 0 <= easy["score"] < hard["score"] <= 1
    assert sum(figures["tiers"].values()) == pytest.approx(1)


def test_route_eval_compares_the_tiers_with_those_that_the_rows_need(tmp_path: Path) -> None:
    needs = {"thanks, bye!": "small", "Hi there": "small", "Prove that there are infinitely many primes.": "large"}
    lines = [
        json.dumps({"id": f"q{i}", "prompt": prompt, "tier": tier}) for i, (prompt, tier) in enumerate(needs.items())
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    figures = evaluate_routing(tmp_path / "in.jsonl", tmp_path / "out.jsonl", LOCAL)
    assert (figures["right_tier"], figures["hard_to_small"]) == (1.0, 0.0)
    assert figures["confusion"] == [[2, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert figures["auc"] == {"score": {"small": 1.0, "large": 1.0}, "length": {"small": 1.0, "large": 1.0}}


@pytest.mark.skipif(not SCORER.is_file(), reason="the shared evaluation data is not here")
def test_what_route_eval_writes_can_be_scored_by_other_means_as_it_is(tmp_path: Path) -> None:
    needs = {"thanks, bye!": "small", "Prove that there are infinitely many primes.": "large"}
    lines = [json.dumps({"id": tier, "prompt": prompt, "tier": tier}) for prompt, tier in needs.items()]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    evaluate_routing(tmp_path / "in.jsonl", tmp_path / "out.jsonl", LOCAL)
    command = [sys.executable, str(SCORER), str(tmp_path / "out.jsonl"), "--data", str(tmp_path / "in.jsonl")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "accuracy 1.000" in said


def test_a_row_without_an_id_has_the_number_of_its_line_and_one_without_a_prompt_is_refused_by_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "a", "prompt": "hello"}\n{"prompt": "thanks"}\n', "utf-8")
    evaluate_routing(tmp_path / "in.jsonl", tmp_path / "out.jsonl", LOCAL)
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == ["a", 2]
    (tmp_path / "in.jsonl").write_text('{"id": 1, "prompt": "a"}\n{"id": 2}\n', "utf-8")
    with pytest.raises(ConfigError, match="line 2"):
        evaluate_routing(tmp_path / "in.jsonl", tmp_path / "out.jsonl", LOCAL)
