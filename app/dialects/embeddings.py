"""OpenAI's embeddings, in and out."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from app.dialects.base import understood
from app.errors import InvalidRequestError
from app.schema import Vectors
from app.wire import decode

_ADVICE = {"input": "Send a text or a list of texts, not tokens."}


class _Body(msgspec.Struct):
    model: str
    input: str | Annotated[list[str], msgspec.Meta(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    user: str | None = None


class EmbeddingsRequest:
    """A request for vectors.

    Attributes:
        model: The encoder, by one of its names.
        texts: What to embed, at least one.
    """

    def __init__(self, raw: bytes, max_inputs: int) -> None:
        """Read a request.

        Raises:
            InvalidRequestError: It is malformed, or has more than `max_inputs` texts; `param` names the field.
        """
        self._asked = understood(decode(raw), _Body, (), _ADVICE)
        self.model = self._asked.model
        self.texts = [self._asked.input] if isinstance(self._asked.input, str) else self._asked.input
        if len(self.texts) > max_inputs:
            raise InvalidRequestError(
                f"`input` has {len(self.texts)} texts; send at most {max_inputs} in one request.", "input"
            )

    def answer(self, vectors: Vectors) -> dict[str, Any]:
        """Return the list of vectors, as numbers or as the base64 of little-endian float32.

        Raises:
            InvalidRequestError: They have another length than was asked for.
        """
        length = len(vectors.rows[0]) // 4
        if self._asked.dimensions not in (None, length):
            raise InvalidRequestError(
                f"The vectors of `{self.model}` have {length} dimensions; leave `dimensions` out.", "dimensions"
            )
        written = _base64 if self._asked.encoding_format == "base64" else _floats
        rows = [{"object": "embedding", "index": i, "embedding": written(row)} for i, row in enumerate(vectors.rows)]
        usage = {"prompt_tokens": vectors.tokens, "total_tokens": vectors.tokens}
        return {"object": "list", "data": rows, "model": vectors.space, "usage": usage}


def _base64(row: bytes) -> str:
    return base64.b64encode(row).decode()


def _floats(row: bytes) -> list[float]:
    floats: list[float] = np.frombuffer(row, "<f4").tolist()
    return floats
