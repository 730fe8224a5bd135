"""Sentence embeddings from an API that speaks OpenAI's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from app.errors import CacheUnavailableError, ConfigError, InvalidRequestError
from app.section import Section

if TYPE_CHECKING:
    import openai


class OpenAIEmbedderConfig(Section):
    """A model of OpenAI's embeddings endpoint, or of anything that speaks it. Every lookup then waits for that API.

    Attributes:
        model: The API's name for it.
        dimensions: Ask for shorter vectors; by default the model's own length.
        base_url: Of the API; null is OpenAI's.
        api_key_env: The environment variable that holds the key; null where none is needed.
        timeout_s: Longest wait for the vectors; a lookup without them is a miss.
    """

    kind: Literal["openai"]
    model: str = "text-embedding-3-small"
    dimensions: PositiveInt | None = None
    base_url: str | None = None
    api_key_env: str | None = "OPENAI_API_KEY"
    timeout_s: PositiveFloat = 1.0

    def build(self) -> OpenAIEmbedder:
        """Make the client.

        Raises:
            ConfigError: The key is not in the environment.
        """
        import openai

        key = os.environ.get(self.api_key_env) if self.api_key_env else "unused"
        if not key:
            raise ConfigError(f"embedder.api_key_env: {self.api_key_env} is not set")
        client = openai.OpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout_s, max_retries=0)
        return OpenAIEmbedder(client, self.model, self.dimensions)


class OpenAIEmbedder:
    """An embeddings endpoint. One that fails costs a miss, like a Redis that is down."""

    def __init__(self, client: openai.OpenAI, model: str, dimensions: int | None) -> None:
        self.space = f"{model}-{dimensions}" if dimensions else model
        self._client = client
        self._model = model
        self._dimensions = dimensions

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts; blocks the calling thread.

        Returns:
            `(len(texts), dim)`, rows of L2 norm 1.

        Raises:
            CacheUnavailableError: The API did not answer.
        """
        try:
            return self.measure(texts)[0]
        except InvalidRequestError as error:  # of a lookup, not of the client
            raise CacheUnavailableError("embedder: the API refuses the text") from error

    def measure(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Embed texts, and return the tokens that the API counted; blocks the calling thread.

        Raises:
            InvalidRequestError: The API refuses the texts.
            CacheUnavailableError: The API did not answer.
        """
        import openai

        try:
            answer = self._client.embeddings.create(
                model=self._model, input=list(texts), dimensions=self._dimensions or openai.omit
            )
        except openai.BadRequestError as error:
            raise InvalidRequestError(f"embedder: {error.message}", "input") from error
        except openai.OpenAIError as error:
            raise CacheUnavailableError(f"embedder: {type(error).__name__}") from error
        rows = np.array([row.embedding for row in sorted(answer.data, key=lambda row: row.index)], np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32), answer.usage.prompt_tokens
