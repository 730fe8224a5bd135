from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.classifier import ClassifierConfig
from app.classifier.encoder import CUTS, FEATURES, text_features
from app.classifier.train import (
    OWN,
    Example,
    _area,
    _benchmark,
    _drawn,
    _points,
    best_cuts,
    read_sources,
    split,
    train,
)
from app.errors import ConfigError


def test_the_cuts_separate_the_tiers_where_they_can_be_separated() -> None:
    tiers = np.repeat([0, 1, 2], 50)
    raw = (tiers * 10 + np.random.default_rng(0).random(150)).astype(np.float32)
    low, high = best_cuts(raw, tiers)
    assert 0 < low <= 10 < high <= 20


def test_the_cuts_would_rather_waste_an_easy_prompt_than_send_a_hard_one_to_the_small_tier() -> None:
    tiers = np.repeat([0, 1, 2], 100)
    raw = np.random.default_rng(0).normal(tiers, 0.8).astype(np.float32)
    low, _ = best_cuts(raw, tiers)
    assert np.mean(raw[tiers == 2] < low) < np.mean(raw[tiers == 0] >= low)


def examples(tiers: NDArray[Any]) -> list[Example]:
    """Make examples whose tier suffices from the given one on."""
    return [Example("p", (), int(tier), quality=(float(tier <= 0), float(tier <= 1), 1.0)) for tier in tiers]


def test_the_cut_points_keep_the_promised_share_of_the_top_tier_s_quality() -> None:
    tiers = np.repeat([0, 1, 2], 300)
    raw = np.random.default_rng(0).normal(tiers, 0.5).astype(np.float32)
    points, promise = _points(examples(tiers), raw, 0.9)
    assert promise is not None
    assert (promise["quality"], promise["rows"]) == (0.9, 900)
    scores = np.interp(raw, *points)
    assigned = (scores >= CUTS[0]).astype(int) + (scores >= CUTS[1])
    assert np.mean(assigned >= tiers) >= 0.9
    assert promise["shares"][2] < 0.5


def test_cut_points_that_no_rows_can_vouch_for_separate_the_tiers_and_promise_nothing() -> None:
    tiers = np.random.default_rng(0).integers(0, 3, 300)
    raw = np.random.default_rng(1).normal(size=300).astype(np.float32)
    points, promise = _points(examples(tiers), raw, 0.95)
    assert promise is None
    assert points[0, 1:3].tolist() == pytest.approx(best_cuts(raw, tiers))


def test_too_few_rows_promise_nothing() -> None:
    tiers = np.repeat([0, 1, 2], 10)
    points, promise = _points(examples(tiers), tiers.astype(np.float32), 0.9)
    assert promise is None
    assert (np.diff(points) > 0).all()


def test_long_texts_with_a_question_are_learnt_from_and_never_held_out() -> None:
    taught, held_out = split(read_sources([]), 0)
    assert len(taught["long"]) == len(OWN["long"].read_text("utf-8").splitlines())
    assert held_out.keys() == {"product"}
    assert len(held_out["product"]) == int(0.3 * (len(held_out["product"]) + len(taught["product"])))


def test_features_of_any_text_are_finite() -> None:
    for text in ("", "x", "2 + 2 = 4\n```py\ndef f(): pass\n```", "数学の問題", "9" * 100):
        assert len(text_features(text)) == FEATURES
        assert np.isfinite(text_features(text)).all()


@pytest.mark.parametrize(
    ("row", "target", "tier", "gain"),
    [
        ({"small": 0, "mid": 0.5, "large": 1, "tier": "mid"}, (None, None, 1.0, 0.5, 1.0, 1.0), 1, 1.0),
        ({"small": 1, "mid": 1, "large": 0, "tier": "small"}, (None, None, 0.0, 0.0, 0.0, 1.0), 0, -1.0),
        (
            {"small": 0, "mid": 0, "large": 0, "tier": "large", "solved": False},
            (None, None, 1.0, 1.0, 0.5, 1.0),
            None,
            0.0,
        ),
        (
            {"small": None, "mid": 0, "weak_score": 0, "strong_score": 1},
            (None, None, None, 1.0, 1.0, 1.0),
            None,
            1.0,
        ),
        ({"difficulty": 0.25}, (None, None, 0.25, None, 0.25, 1.0), None, None),
        ({"label": "selected as hard"}, (1.0, 0.9, None, None, None, 0.0), None, None),
    ],
)
def test_rows_say_what_is_known_of_them(
    tmp_path: Path, row: dict[str, Any], target: tuple[float | None, ...], tier: int | None, gain: float | None
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "p", **row}) + "\n" + json.dumps({"prompt": "no more"}))
    (example,) = _benchmark(tmp_path / "rows.jsonl")
    assert (example.target, example.tier, example.gain) == (target, tier, gain)


def test_a_pass_draws_each_source_s_share_and_no_row_too_often(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "small": 0, "mid": 0, "large": 1, "tier": "large"} for i in range(1000)]
    (tmp_path / "many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "few.jsonl").write_text("\n".join(map(json.dumps, rows[:50])))
    sources = {name: _benchmark(tmp_path / f"{name}.jsonl") for name in ("many", "few")}
    taught, held_out = split({**sources, "product": sources["many"][:100]}, 0)
    assert len(held_out["product"]) == 30
    assert (len(taught["many"]), len(held_out["many"])) == (850, 150)
    drawn = _drawn({name: part for name, part in taught.items() if name != "product"}, 1000, 0)
    counts = [sum(example in part for example in drawn) for part in (taught["many"], taught["few"])]
    assert counts[0] >= 700
    assert len(drawn) - 700 == 43 * 4


def test_the_share_of_gain_is_half_by_chance_and_more_for_the_right_order() -> None:
    gains = np.array([1.0, 0.0, 0.0, 1.0], np.float32)
    assert _area(np.array([3, 1, 0, 2], np.float32), gains) == pytest.approx(0.875)
    many = np.random.default_rng(0).random(10_000).astype(np.float32)
    assert _area(np.random.default_rng(1).random(10_000).astype(np.float32), many) == pytest.approx(0.5, abs=0.01)


def test_a_folder_without_outcomes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p"}\n')
    with pytest.raises(ConfigError, match="no rows with outcomes"):
        train([tmp_path], tmp_path / "out")


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p"}\n{"question": "q"}\n')
    with pytest.raises(ConfigError, match="line 2 is not"):
        train([tmp_path], tmp_path / "out")


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")  # PyTorch's exporter gives several
def test_a_short_training_gives_a_model_that_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("TIERWISE_HOME", str(tmp_path))
    rows = [
        {"prompt": f"What is {i} plus {j}?", "small": j % 2, "mid": j % 3 > 0, "large": 1, "tier": tier}
        for i in range(20)
        for j, tier in enumerate(("mid", "small", "large"))
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    card = train([tmp_path / "rows.jsonl"], tmp_path / "model", passes=1, rows=200)
    assert {"rows", "right_tier", "hard_to_small"} <= card["held_out"]["product"].keys()
    scores = ClassifierConfig(model=str(tmp_path / "model")).build().scores(["hi", "Prove it.", "x " * 2000])
    assert ((scores >= 0) & (scores <= 1)).all()
    said: list[str] = []
    train([tmp_path / "rows.jsonl"], tmp_path / "model", passes=1, rows=200, say=said.append)
    assert "going on after pass 1" in said


def encoder_folder(folder: Path) -> Path:
    """Write a DistilBERT of one layer and random weights, that knows letters."""
    import transformers

    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789?.,"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words), "utf-8")
    config = transformers.DistilBertConfig(vocab_size=len(words), dim=16, hidden_dim=32, n_layers=1, n_heads=2)
    transformers.DistilBertModel(config).save_pretrained(folder)
    tokenizer = transformers.DistilBertTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")  # PyTorch's exporter gives several
def test_an_encoder_of_another_architecture_is_a_base_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("TIERWISE_HOME", str(tmp_path))
    rows = [
        {
            "prompt": f"what is {i}?",
            "small": i % 2,
            "mid": i % 3 > 0,
            "large": 1,
            "tier": ("mid", "small", "large")[i % 3],
        }
        for i in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    base = encoder_folder(tmp_path / "base")
    card = train([tmp_path / "rows.jsonl"], tmp_path / "model", str(base), passes=1, rows=64)
    assert card["base"] == str(base)
    assert card["minutes"] >= 0
    assert np.isfinite(ClassifierConfig(model=str(tmp_path / "model")).build().scores(["hi", "prove it"])).all()
