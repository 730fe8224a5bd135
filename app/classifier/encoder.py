"""Difficulty from a fine-tuned sentence encoder and a few features of the text's form."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from app.bundled import resolve
from app.classifier.calibration import RouterCalibration
from app.embedding.onnx import GpuFraction, OnnxEncoder, open_graph
from app.errors import ConfigError
from app.section import Section

WEIGHTS = Path(__file__).with_name("weights")
MAX_TOKENS = 256

_WORD = re.compile(r"\w+")
_FORMULA = re.compile(r"[\\^=<>∑∫√≤≥±]|\d\s*[+*/-]\s*\d")
_CODE = re.compile(r"```|[{};]\s*$|\bdef |\bclass |\bSELECT\b|=>|\(\)", re.MULTILINE)
FEATURES = 6
CUTS = (0.3, 0.7)  # the customary cut points between three tiers
_TASK_WEIGHT = 3.0  # of what the task asks for, in the opinion on questions as benchmarks have them
# What the graph gives for a text, as logits.
OUTPUTS = ("beyond_small", "beyond_mid", "small_fails", "mid_fails", "gain", "benchmark")

Array = NDArray[np.float32]


class ClassifierConfig(Section):
    """A folder made by `tierwise train classifier`: `classifier.int8.onnx`, `tokenizer.json` and `card.json`.

    Attributes:
        model: The folder, or `bundled`.
        threads: Of a CPU, for one batch.
        gpu_fraction: Part of a GPU, and of its memory, that a replica runs it on; 0 is the CPU. It takes
            `onnxruntime-gpu` in place of `onnxruntime`.
        calibration: A file made by `tierwise calibrate router`: its cut points become the tiers' `max_score`.
    """

    kind: Literal["encoder"] = "encoder"
    model: str = "bundled"
    threads: PositiveInt = 1
    gpu_fraction: GpuFraction = 0
    calibration: Path | None = None

    def build(self) -> EncoderClassifier:
        """Load the graph; a replica does so once.

        Raises:
            ConfigError: The folder is missing or has other files, or the calibration is another classifier's.
        """
        folder = self.folder()
        graph, vocabulary, card = (folder / name for name in ("classifier.int8.onnx", "tokenizer.json", "card.json"))
        for file in (graph, vocabulary, card):
            if not file.is_file():
                raise ConfigError(
                    f"classifier.model: there is no `{file.name}` in `{folder}`; `tierwise train classifier` makes it"
                )
        try:
            scale = Scale.of(self.card()["scale"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"classifier.model: `{card}` has no readable `scale`") from error
        name = hashlib.blake2b(graph.read_bytes(), digest_size=4).hexdigest()
        encoder = open_graph(graph, vocabulary, self.threads, MAX_TOKENS, self.gpu_fraction)
        return EncoderClassifier(encoder, scale, name, self._calibrated(name))

    def promised(self) -> float | None:
        """Return the share of the top tier's quality that `CUTS` keep, by the card; None where it promises nothing."""
        try:
            return min(float(promise["quality"]) for promise in self.card()["promise"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # its rows could not support any, or it is of before there were promises

    def card(self) -> dict[str, Any]:
        """Read what the training wrote of the model.

        Raises:
            OSError: There is none, or ValueError: it is no JSON.
        """
        return dict(json.loads((self.folder() / "card.json").read_text("utf-8")))

    def folder(self) -> Path:
        """Return where the model is."""
        return WEIGHTS if self.model == "bundled" else Path(resolve(self.model)).expanduser()

    def _calibrated(self, name: str) -> RouterCalibration | None:
        if self.calibration is None:
            return None
        calibration = RouterCalibration.load(self.calibration.expanduser())
        if calibration.classifier != name:
            raise ConfigError(
                f"classifier.calibration: `{self.calibration}` was made with the classifier {calibration.classifier}, "
                f"not {name}; run `tierwise calibrate router` again"
            )
        return calibration


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps the graph's outputs to a difficulty in [0, 1].

    There are two opinions: what the task asks for, and whether weak models were seen to fail on questions like it,
    which is the one that counts for a question as benchmarks have them. Each is mapped piecewise linearly, so that 0.3
    and 0.7 separate the tiers best on held-out prompts of its kind.

    Attributes:
        task: `(2, points)`, mean logit of the task's two outputs and the score it stands for; both rising.
        outcome: The same for the outcomes' three outputs.
    """

    task: Array
    outcome: Array

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Scale:
        """Read a scale as the card has it."""
        return cls(np.array(fields["task"], np.float32), np.array(fields["outcome"], np.float32))

    def scores(self, outputs: Array) -> Array:
        """Return the difficulty of each row of `OUTPUTS`, `(n,)`."""
        asked = np.interp(task_logit(outputs), *self.task)
        seen = np.interp(outcome_logit(outputs), *self.outcome)
        share = 1 / (1 + np.exp(-np.clip(outputs[:, OUTPUTS.index("benchmark")], -30, 30)))
        return np.asarray((1 - share) * asked + share * seen, np.float32)


def task_logit(outputs: Array) -> Array:
    """Average what says how much the task asks for, `(n,)`."""
    return np.asarray(outputs[:, 0:2].mean(axis=1), np.float32)


def outcome_logit(outputs: Array) -> Array:
    """Average what says whether weak models fail, and strong ones do better; with what the task asks for, `(n,)`.

    Outcomes alone order the questions of unlike benchmarks worse: they were learnt within each.
    """
    return np.asarray(outputs[:, 2:5].mean(axis=1) + _TASK_WEIGHT * task_logit(outputs), np.float32)


class EncoderClassifier:
    """Scores prompts; `name` changes with the weights."""

    def __init__(
        self, encoder: OnnxEncoder, scale: Scale, name: str, calibration: RouterCalibration | None = None
    ) -> None:
        self.name = name
        self._encoder = encoder
        self._scale = scale
        self._calibration = calibration

    def scores(self, prompts: Sequence[str]) -> Array:
        """Score prompts; blocks the calling thread.

        Returns:
            `(len(prompts),)`, difficulty in [0, 1].
        """
        features = np.array([text_features(prompt) for prompt in prompts], np.float32)
        scores = self._scale.scores(self._encoder.run(prompts, features=features))
        return scores if self._calibration is None else self._calibration.mapped(scores)


def text_features(prompt: str) -> list[float]:
    """Describe the form of a prompt in `FEATURES` numbers: length, sentence shape, formulas and code."""
    words = _WORD.findall(prompt)
    letters = sum(map(len, words)) or 1
    return [
        float(np.log1p(len(words))),
        letters / (len(words) or 1),
        float(np.log1p(len(_FORMULA.findall(prompt)))),
        float(np.log1p(len(_CODE.findall(prompt)))),
        float(np.log1p(prompt.count("\n"))),
        sum(map(str.isdigit, prompt)) / letters,
    ]
