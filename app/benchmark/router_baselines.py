"""What the classifier is measured against: chance, length, key words, and learning on frozen embeddings."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.classifier.calibration import Array
from app.classifier.train import Example, best_cuts
from app.embedding.onnx import OnnxEmbedderConfig

_NEIGHBOURS = 40
_BLOCK = 256  # prompts embedded at once
_PENALTY = 1.0  # on the regression's squared weights, against the mean loss of `_PENALTY_ROWS` rows
_PENALTY_ROWS = 1000

Texts = Sequence[str]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A router to compare with.

    Attributes:
        score: Prompts to difficulties, on any scale.
        cuts: From which score on the middle and the large tier are asked.
        draws: How often it is asked, for the mean of what comes out.
    """

    score: Callable[[Texts], Array]
    cuts: tuple[float, float]
    draws: int = 1


def baselines(
    taught: Mapping[str, Sequence[Example]], held_out: Mapping[str, Sequence[Example]], say: Callable[[str], None]
) -> dict[str, Baseline]:
    """Make every baseline.

    Args:
        taught: Examples by source, to learn from; those without a tier teach nothing.
        held_out: To place the cut points on, as many from each source.
    """
    lesson = [(example, 1 / len(part)) for part in map(_known, taught.values()) for example in part]
    examples = [example for example, _ in lesson]
    embed = OnnxEmbedderConfig(threads=os.cpu_count() or 1).build().embed
    say(f"embedding {len(examples)} prompts that the baselines learn from")
    vectors = embedded(embed, [example.prompt for example in examples])
    tiers = np.array([example.tier for example in examples])
    nearest = neighbours(vectors, tiers)
    linear = logistic(vectors, tiers, np.array([weight for _, weight in lesson]))
    learnt: dict[str, Callable[[Texts], Array]] = {
        "length": lambda prompts: np.array([len(prompt) for prompt in prompts], float),
        "nearest neighbours": lambda prompts: nearest(embedded(embed, prompts)),
        "logistic regression": lambda prompts: linear(embedded(embed, prompts)),
    }
    known = [part for part in map(_known, held_out.values()) if part]
    least = min(map(len, known))
    sample = [example for part in known for example in part[:least]]
    needed = np.array([example.tier for example in sample])
    prompts = [example.prompt for example in sample]
    chance = np.random.default_rng(0)
    return {
        "random": Baseline(lambda prompts: chance.random(len(prompts)), (1 / 3, 2 / 3), draws=20),
        "key words": Baseline(lambda prompts: np.array([keyword_score(prompt) for prompt in prompts]), KEYWORD_CUTS),
        **{
            name: Baseline(score, best_cuts(score(prompts).astype(np.float32), needed))
            for name, score in learnt.items()
        },
    }


def embedded(embed: Callable[[Texts], NDArray[np.float32]], prompts: Texts) -> Array:
    """Embed prompts a block at a time, `(n, dim)`."""
    return np.concatenate([embed(prompts[i : i + _BLOCK]) for i in range(0, len(prompts), _BLOCK)]).astype(float)


def neighbours(vectors: Array, tiers: NDArray[np.int64], k: int = _NEIGHBOURS) -> Callable[[Array], Array]:
    """Learn to score by the mean tier of the `k` nearest by cosine."""
    count = min(k, len(vectors))

    def score(others: Array) -> Array:
        found = np.argpartition(-(others @ vectors.T), count - 1, axis=1)[:, :count]
        return np.asarray(tiers[found].mean(axis=1) / 2, float)

    return score


def logistic(vectors: Array, tiers: NDArray[np.int64], weights: Array) -> Callable[[Array], Array]:
    """Learn to score by the mean of two regressions: that the small tier does not suffice, nor the middle one.

    Args:
        weights: `(n,)`, how much each row counts.
    """
    planes = np.stack([_plane(vectors, tiers > tier, weights / weights.sum()) for tier in range(2)])

    def score(others: Array) -> Array:
        return np.asarray((1 / (1 + np.exp(-(others @ planes[:, :-1].T + planes[:, -1])))).mean(axis=1), float)

    return score


def _plane(vectors: Array, positive: NDArray[np.bool_], weights: Array) -> Array:
    """Fit weights and an intercept, `(dim + 1,)`."""
    from scipy.optimize import minimize

    ones = np.column_stack([vectors, np.ones(len(vectors))])
    sign = np.where(positive, 1.0, -1.0)
    penalty = np.append(np.full(vectors.shape[1], _PENALTY / _PENALTY_ROWS), 0.0)

    def loss(plane: Array) -> tuple[float, Array]:
        margin = sign * (ones @ plane)
        slope = -weights * sign / (1 + np.exp(np.clip(margin, -50, 50)))
        value = float(weights @ np.logaddexp(0, -margin) + penalty @ plane**2 / 2)
        return value, ones.T @ slope + penalty * plane

    return np.asarray(minimize(loss, np.zeros(ones.shape[1]), jac=True, method="L-BFGS-B").x, float)


# The rules that LiteLLM documents for its complexity router: seven signs with their weights, a promotion for two marks
# of reasoning, and the bounds of its tiers, of which the upper two are one tier here. The lists of words are our own.
KEYWORD_CUTS = (0.15, 0.35)
_SHORT, _LONG = 15, 400  # tokens
_CHARS_A_TOKEN = 4


def _words(*lines: str) -> re.Pattern[str]:
    words = "|".join(re.escape(word) for line in lines for word in line.split(", "))
    return re.compile(rf"\b(?:{words})s?\b", re.IGNORECASE)


_CODE = _words(
    "function, class, def, async, await, import, return, variable, method, code, script, regex, python, javascript",
    "typescript, java, rust, sql, html, css, bash, api, endpoint, database, query, schema, json, git, docker, debug",
    "bug, compile, unit test, refactor, exception, stack trace",
)
_REASONING = _words(
    "step by step, think through, reason, reasoning, explain why, analyze, analyse, evaluate, prove, derive, deduce",
    "pros and cons, trade-off, compare and contrast, justify, critique, show your work, root cause",
)
_TECHNICAL = _words(
    "architecture, distributed, scalable, microservice, concurrency, latency, throughput, optimization, algorithm",
    "complexity, encryption, authentication, kubernetes, cluster, machine learning, neural network, gradient, tensor",
    "protocol, consensus, replication, index, partition, compiler, kernel, quantum, theorem, eigenvalue, integral",
)
_SIMPLE = _words(
    "what is, what's, who is, who was, when was, when did, where is, define, definition of, meaning of, capital of",
    "how many, translate, spell, hello, hi, hey, thanks, thank you, good morning, goodbye, yes, no, ok",
)
_STEPS = re.compile(r"\bfirst\b.+\bthen\b|\bstep \d|^\s*\d+[.)]\s", re.IGNORECASE | re.MULTILINE | re.DOTALL)


def keyword_score(prompt: str) -> float:
    """Score a prompt by its words, from -0.15 to 0.95."""
    tokens = len(prompt) / _CHARS_A_TOKEN
    reasoning = _found(_REASONING, prompt)
    score = (
        0.10 * (-1.0 if tokens < _SHORT else float(tokens > _LONG))
        + 0.30 * _found(_CODE, prompt) / 2
        + 0.25 * reasoning / 2
        + 0.25 * _found(_TECHNICAL, prompt) / 2
        - 0.05 * bool(_SIMPLE.search(prompt))
        + 0.03 * bool(_STEPS.search(prompt))
        + 0.02 * (prompt.count("?") > 1)
    )
    middle, large = KEYWORD_CUTS
    return max(score, large) if reasoning > 1 and score >= middle else score


def _found(words: re.Pattern[str], prompt: str) -> int:
    """Return how many different words there are, 2 at most."""
    return min(len({word.lower() for word in words.findall(prompt)}), 2)


def _known(examples: Sequence[Example]) -> list[Example]:
    return [example for example in examples if example.tier is not None]
