from __future__ import annotations

import numpy as np

from app.classifier.encoder import FEATURES, text_features
from app.classifier.train import Examples, best_cuts, fit


def test_the_head_learns_a_separable_difficulty() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 8)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.float32)
    weights = fit([Examples(x, y, np.ones(400, np.float32))], seed=0, epochs=300)
    raw = np.tanh((x - weights["mean"]) / weights["scale"] @ weights["w1"] + weights["b1"]) @ weights["w2"]
    assert np.mean((raw[:, 0] > 0) == (y > 0.5)) > 0.95


def test_the_same_seed_gives_the_same_head() -> None:
    x = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
    data = [Examples(x, np.linspace(0, 1, 64, dtype=np.float32), np.ones(64, np.float32))]
    first, second = fit(data, seed=7, epochs=2), fit(data, seed=7, epochs=2)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_cuts_separate_the_tiers_where_they_can_be_separated() -> None:
    tiers = np.repeat([0, 1, 2], 50)
    raw = (tiers * 10 + np.random.default_rng(0).random(150)).astype(np.float32)
    low, high = best_cuts(raw, tiers)
    assert 0 < low <= 10 < high <= 20


def test_features_of_any_text_are_finite() -> None:
    for text in ("", "x", "2 + 2 = 4\n```py\ndef f(): pass\n```", "数学の問題", "9" * 100):
        assert len(text_features(text)) == FEATURES
        assert np.isfinite(text_features(text)).all()
