"""The encoder of the cache, for clients that ask for vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from pydantic import PositiveInt

from app.errors import ModelNotFoundError
from app.protocols import Embedder
from app.schema import Vectors
from app.section import Section


class EmbeddingsConfig(Section):
    """What `POST /v1/embeddings` takes.

    Attributes:
        models: Names that clients may call the cache's encoder by, beside its own.
        max_inputs: The most texts in one request.
    """

    models: tuple[str, ...] = ()
    max_inputs: PositiveInt = 256

    def names(self, model: str | Path) -> tuple[str, ...]:
        """Name the encoder as clients may call it.

        Args:
            model: The embedder's `model`; the last part of it is its own name.
        """
        own = Path(model).name.rpartition(":")[2]
        return (own, *(name for name in self.models if name != own))


class ServedEmbedder:
    """A TextEmbedder over an encoder.

    Args:
        names: What clients may call it; the name of its space is always one.
    """

    def __init__(self, embedder: Embedder, names: Sequence[str]) -> None:
        self._embedder = embedder
        self._names = tuple(dict.fromkeys([*names, embedder.space]))

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """Embed whole texts.

        Raises:
            ModelNotFoundError: The encoder has no such name.
            InvalidRequestError: A text is longer than the encoder reads.
            CacheUnavailableError: The encoder's API did not answer.
        """
        if model not in self._names:
            raise ModelNotFoundError(f"There is no encoder `{model}`. Use one of: {', '.join(self._names)}.")
        rows, tokens = await asyncio.to_thread(self._embedder.measure, texts)
        return Vectors(self._embedder.space, [row.astype("<f4").tobytes() for row in rows], tokens)
