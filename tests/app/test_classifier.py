from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from app.classifier import ClassifierConfig, EncoderClassifier
from app.classifier.encoder import FEATURES, Scale, text_features
from app.errors import ConfigError

EASY = ["hi", "What is the capital of France?", "Thanks, that helps!", "What time is it in Tokyo?"]
HARD = [
    "Prove that every finite group of order p^2 is abelian, and give a counterexample for p^3.",
    "Derive the closed form of the variance of the maximum likelihood estimator under misspecification.",
    "Design a lock-free queue in C++20, prove that it is linearizable and discuss the memory orders.",
]


@pytest.fixture(scope="module")
def classifier() -> EncoderClassifier:
    return ClassifierConfig().build()


def test_a_hard_prompt_scores_above_an_easy_one(classifier: EncoderClassifier) -> None:
    scores = classifier.scores([*EASY, *HARD])
    assert max(scores[: len(EASY)]) < min(scores[len(EASY) :])


def test_scores_are_between_zero_and_one_for_any_text(classifier: EncoderClassifier) -> None:
    scores = classifier.scores(["", " ", "\n" * 500, "9" * 5000, "∑" * 100, "{};\n" * 500, "日本語"])
    assert scores.shape == (7,)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()


def test_each_opinion_counts_for_prompts_of_its_kind() -> None:
    scale = Scale.of({"task": [[-1, 0, 1], [0, 0.5, 1]], "outcome": [[-2, 2], [0, 1]]})
    outputs = np.array(
        [
            [0.5, -0.5, 9, 9, 9, -50],  # a task: between the first two points
            [9, 9, 2, 2, 2, 50],  # a question of a benchmark
            [0, 0, 0, 0, 0, 0],
            [99, 99, 0, 0, 0, -50],  # above the last point
        ],
        np.float32,
    )
    np.testing.assert_allclose(scale.scores(outputs), [0.5, 1.0, 0.5, 1.0], atol=1e-6)


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


def test_a_folder_without_the_model_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`tierwise train classifier` makes it"):
        ClassifierConfig(model=str(tmp_path)).build()


def test_a_card_without_a_scale_does_not_start(tmp_path: Path) -> None:
    for name in ("classifier.int8.onnx", "tokenizer.json", "card.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match="has no readable `scale`"):
        ClassifierConfig(model=str(tmp_path)).build()


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this one knows CUDA")
def test_a_slice_of_a_gpu_takes_an_onnxruntime_that_knows_cuda() -> None:
    with pytest.raises(ConfigError, match=r"gpu_fraction: onnxruntime .* install `onnxruntime-gpu`"):
        ClassifierConfig(gpu_fraction=0.1).build()
