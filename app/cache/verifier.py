"""The verifier: a cross-encoder on CPU that reads both texts and says how likely one answer serves both."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from app.bundled import resolve
from app.embedding.onnx import open_session
from app.errors import ConfigError
from app.section import Section

if TYPE_CHECKING:
    import onnxruntime
    import tokenizers

BUNDLED = Path(__file__).with_name("weights")
MAX_TOKENS = 128


class VerifierConfig(Section):
    """A folder made by `tierwise train verifier`: `verifier.int8.onnx` and `tokenizer.json`.

    Attributes:
        model: The folder, or `bundled`.
        threads: Of a CPU, for one pair.
    """

    kind: Literal["onnx"] = "onnx"
    model: str = "bundled"
    threads: PositiveInt = 1

    def build(self) -> OnnxVerifier:
        """Load the graph; a replica does so once.

        Raises:
            ConfigError: The folder is missing or has other files.
        """
        folder = BUNDLED if self.model == "bundled" else Path(resolve(self.model)).expanduser()
        graph, vocabulary = folder / "verifier.int8.onnx", folder / "tokenizer.json"
        for file in (graph, vocabulary):
            if not file.is_file():
                raise ConfigError(f"verifier.model: there is no `{file.name}` in `{folder}`; `tierwise train verifier`")
        import tokenizers

        session = open_session(graph, self.threads)
        tokenizer = tokenizers.Tokenizer.from_file(str(vocabulary))
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.enable_padding()
        return OnnxVerifier(session, tokenizer, hashlib.blake2b(graph.read_bytes(), digest_size=4).hexdigest())


class OnnxVerifier:
    """A cross-encoder session; `name` changes with its weights, and what was calibrated with others does not apply."""

    def __init__(self, session: onnxruntime.InferenceSession, tokenizer: tokenizers.Tokenizer, name: str) -> None:
        self.name = name
        self._session = session
        self._tokenizer = tokenizer

    def verify(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Score pairs of texts; blocks the calling thread.

        Returns:
            `(len(pairs),)`, probability in [0, 1] that one answer serves both.
        """
        encodings = self._tokenizer.encode_batch(list(pairs))
        logits = self._session.run(
            None,
            {
                "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
                "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
                "token_type_ids": np.array([encoding.type_ids for encoding in encodings], np.int64),
            },
        )[0]
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
