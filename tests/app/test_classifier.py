from __future__ import annotations

import random
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
PROOF = "Prove that the sum of two continuous functions is continuous; does the converse hold?"
LOOKED_UP = ("What day did the committee meet?", "Summarise this in one sentence.", "List the names in this text.")


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


@pytest.mark.parametrize(
    ("greeting", "proof"),
    [
        (
            "Hola, ¿qué tal?",
            "Demuestra que todo grupo finito de orden p^2 es abeliano, y da un contraejemplo para p^3.",
        ),
        ("Hallo, wie geht es dir?", "Beweise, dass jede Gruppe der Ordnung p^2 abelsch ist; Gegenbeispiel für p^3?"),
        (
            "Bonjour, comment ça va ?",
            "Démontre que tout groupe d'ordre p^2 est abélien, et un contre-exemple pour p^3.",
        ),
        ("你好", "证明任何 p^2 阶有限群都是阿贝尔群，并给出 p^3 的反例。"),
        ("こんにちは、お元気ですか？", "位数 p^2 の有限群はすべてアーベル群であることを証明し、p^3 の反例を挙げよ。"),
    ],
)
def test_in_other_languages_a_greeting_is_for_the_small_tier_and_a_proof_is_not(
    classifier: EncoderClassifier, greeting: str, proof: str
) -> None:
    easy, hard = classifier.scores([greeting, proof])
    assert easy < 0.3
    assert hard > 0.55


@pytest.mark.parametrize("last", [False, True])
def test_easy_questions_about_long_texts_are_seldom_for_the_top_tier_and_hard_ones_are(
    classifier: EncoderClassifier, last: bool
) -> None:
    easy, hard = [], []
    for text in long_texts():
        *scores, proof = classifier.scores(
            [f"{text}\n\n{q}" if last else f"{q}\n\n{text}" for q in (*LOOKED_UP, PROOF)]
        )
        assert max(scores) < proof
        easy += scores
        hard.append(proof)
    assert last or max(easy[: len(LOOKED_UP)]) < 0.6  # of the first text
    assert np.mean(easy) < 0.55
    assert np.mean(np.array(easy) >= 0.7) < 0.4
    assert min(hard) > 0.7


def long_texts() -> list[str]:
    """Return texts of some 10,000 characters: a sentence over and over, minutes, an invoice, code and a story."""
    rng = random.Random(5)
    who, what = ("Purchasing", "Logistics", "The night shift"), ("asked for two more desks", "reported a leaking roof")
    names, places = ("Anna", "Piet", "Ines"), ("the harbour", "the mill", "the old school", "the market")
    return [
        "The committee met on Tuesday to discuss the budget of the coming year. Two members were absent. " * 170,
        " ".join(f"{rng.choice(who)} {rng.choice(what)} on {rng.randint(1, 28)} May." for _ in range(220)),
        "\n".join(f"{rng.randint(10000, 99999)};{rng.choice(('bolts', 'paper'))};{i}.50 EUR" for i in range(450)),
        "\n".join(f"def step_{i}(value):\n    if value > {i}:\n        return value - 1\n" for i in range(200)),
        " ".join(f"{rng.choice(names)} walked to {rng.choice(places)}." for _ in range(400)),
    ]


def test_what_a_text_is_longer_than_the_window_by_hardly_matters(classifier: EncoderClassifier) -> None:
    text = "The committee met on Tuesday to discuss the budget of the coming year. Two members were absent. "
    short, long = classifier.scores([f"{text * 80}\n\n{LOOKED_UP[0]}", f"{text * 640}\n\n{LOOKED_UP[0]}"])
    assert long == pytest.approx(short, abs=0.05)


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
