"""Difficulty from a sentence encoder, a few features of the text's form, and a trained head."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.bundled import resolve
from app.embedding import OnnxEmbedder, OnnxEmbedderConfig
from app.errors import ConfigError
from app.section import Section

WEIGHTS = Path(__file__).with_name("weights") / "head.npz"

_WORD = re.compile(r"\w+")
_FORMULA = re.compile(r"[\\^=<>∑∫√≤≥±]|\d\s*[+*/-]\s*\d")
_CODE = re.compile(r"```|[{};]\s*$|\bdef |\bclass |\bSELECT\b|=>|\(\)", re.MULTILINE)
FEATURES = 6


class ClassifierConfig(Section):
    """A head trained by `tierwise train classifier` and the encoder it was trained on."""

    kind: Literal["encoder"] = "encoder"
    head: str = "bundled"
    encoder: OnnxEmbedderConfig = OnnxEmbedderConfig()

    def build(self) -> EncoderClassifier:
        """Load the encoder and the head.

        Raises:
            ConfigError: The head is missing, or was trained on another encoder.
        """
        path = WEIGHTS if self.head == "bundled" else Path(resolve(self.head)).expanduser()
        if not path.is_file():
            raise ConfigError(f"classifier.head: there is no file `{path}`; make one with `tierwise train classifier`")
        with np.load(path, allow_pickle=False) as file:
            weights = {name: file[name] for name in file.files}
        encoder = self.encoder.build()
        if inputs(encoder, [""]).shape[1:] != weights["mean"].shape:
            raise ConfigError(f"classifier.head: `{self.head}` was not trained on the encoder `{self.encoder.model}`")
        return EncoderClassifier(encoder, weights)


class EncoderClassifier:
    """Scores prompts; two layers over the encoder's embedding and the features of `text_features`.

    Args:
        weights: `mean` and `scale` `(inputs,)`, `w1` `(inputs, hidden)`, `b1` `(hidden,)`, `w2` `(hidden, 1)`,
            `b2` `(1,)`, and the rising breakpoints `raw` and `score` `(points,)` that map the head's output to [0, 1].
    """

    def __init__(self, encoder: OnnxEmbedder, weights: dict[str, NDArray[np.float32]]) -> None:
        self._encoder = encoder
        self._weights = weights

    def scores(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Score prompts; blocks the calling thread.

        Returns:
            `(len(prompts),)`, difficulty in [0, 1].
        """
        return self.head(inputs(self._encoder, prompts))

    def head(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Apply the trained head to rows of `inputs`."""
        w = self._weights
        hidden = np.tanh((rows - w["mean"]) / w["scale"] @ w["w1"] + w["b1"])
        raw = (hidden @ w["w2"] + w["b2"])[:, 0]
        return np.asarray(np.interp(raw, w["raw"], w["score"]), np.float32)


def inputs(encoder: OnnxEmbedder, prompts: Sequence[str]) -> NDArray[np.float32]:
    """Return what the head sees, `(len(prompts), dim + FEATURES)`."""
    return np.hstack([encoder.embed(prompts), np.array([text_features(p) for p in prompts], np.float32)])


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
