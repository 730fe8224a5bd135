from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.bundled import missing
from app.classifier import ClassifierConfig, EncoderClassifier
from app.classifier.encoder import FEATURES, text_features
from app.embedding import OnnxEmbedder
from app.errors import ConfigError

EASY = ["hi", "What is the capital of France?", "Thanks, that helps!", "What time is it in Tokyo?"]
HARD = [
    "Prove that every finite group of order p^2 is abelian, and give a counterexample for p^3.",
    "Derive the closed form of the variance of the maximum likelihood estimator under misspecification.",
    "Design a lock-free queue in C++20, prove that it is linearizable and discuss the memory orders.",
]


class OneNumber(OnnxEmbedder):
    """An embedder of one dimension: the length of the text."""

    def __init__(self) -> None: ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[len(text)] for text in texts], np.float32)


@pytest.fixture(scope="module")
def classifier() -> EncoderClassifier:
    if "minilm" in missing():
        pytest.skip("the bundled encoder is not prepared; `tierwise prepare` does")
    return ClassifierConfig().build()


def test_a_hard_prompt_scores_above_an_easy_one(classifier: EncoderClassifier) -> None:
    scores = classifier.scores([*EASY, *HARD])
    assert max(scores[: len(EASY)]) < min(scores[len(EASY) :])


def test_scores_are_between_zero_and_one_for_any_text(classifier: EncoderClassifier) -> None:
    scores = classifier.scores(["", " ", "\n" * 500, "9" * 5000, "∑" * 100, "{};\n" * 500, "日本語"])
    assert scores.shape == (7,)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()


def test_the_head_is_two_layers_and_a_calibration() -> None:
    w1 = np.zeros((1 + FEATURES, 1), np.float32)
    w1[0] = 1  # of the length alone, in tens above five
    weights = {
        "mean": np.array([5] + [0] * FEATURES, np.float32),
        "scale": np.array([10] + [1] * FEATURES, np.float32),
        "w1": w1,
        "b1": np.zeros(1, np.float32),
        "w2": np.array([[2]], np.float32),
        "b2": np.array([0.5], np.float32),
        "raw": np.array([0.0, 2.0], np.float32),
        "score": np.array([0.2, 1.0], np.float32),
    }
    scores = EncoderClassifier(OneNumber(), weights).scores(["", "x" * 5, "x" * 1000])
    expected = [0.2, 0.2 + 0.8 * 0.25, 1.0]  # below the first breakpoint, between, above the last
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("feature", "plain", "marked"),
    [
        (0, "word", "many more words"),
        (1, "a an", "extraordinarily"),
        (2, "x is y", "x = y^2"),
        (3, "define f", "def f():\n    return 1;"),
        (4, "a b", "a\nb"),
        (5, "two", "22"),
    ],
)
def test_features_describe_the_form_of_a_text(feature: int, plain: str, marked: str) -> None:
    assert len(text_features(plain)) == FEATURES
    assert text_features(marked)[feature] > text_features(plain)[feature]


def test_a_missing_head_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make one with `tierwise train classifier`"):
        ClassifierConfig(head=str(tmp_path / "head.npz")).build()


def test_a_head_of_another_encoder_does_not_start(classifier: EncoderClassifier, tmp_path: Path) -> None:
    np.savez(tmp_path / "head.npz", mean=np.zeros(3, np.float32))
    with pytest.raises(ConfigError, match="was not trained on the encoder `bundled:minilm`"):
        ClassifierConfig(head=str(tmp_path / "head.npz")).build()
