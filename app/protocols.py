"""The seams: each has an implementation in `app`, a handle in `deployments/handles.py`, a fake in `tests/fakes.py`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from math import inf
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.schema import CacheEntry, CacheKey, CacheLookup, Completion, Embedding, StreamPart, Vectors


class Embedder(Protocol):
    """Texts to vectors."""

    space: str  # names the model and its precision; vectors of two spaces never meet

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts; blocks the calling thread.

        Returns:
            `(len(texts), dim)`, rows of L2 norm 1.
        """
        ...

    def measure(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Embed whole texts, and count their tokens; blocks the calling thread.

        Raises:
            InvalidRequestError: A text is longer than the encoder reads.
        """
        ...


class TextEmbedder(Protocol):
    """Texts to vectors, for clients."""

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """Embed whole texts.

        Raises:
            ModelNotFoundError: The encoder has no such name.
            InvalidRequestError: A text is longer than the encoder reads.
            CacheUnavailableError: The encoder did not answer.
        """
        ...


class ExactCache(Protocol):
    """Completions by the request's own text; answers in one round trip."""

    async def get(self, key: CacheKey) -> CacheEntry | None:
        """Return the live entry of exactly this key.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...

    async def put(self, key: CacheKey, entry: CacheEntry, embedding: Embedding | None) -> None:
        """Store an entry; with an embedding it can be found by meaning too.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...

    async def forget(self, key: CacheKey, tenant: str | None) -> bool:
        """Evict an entry if it is the tenant's; None evicts anybody's. Say whether it was there.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...


class CacheClearer(Protocol):
    """Evicts much at once."""

    async def clear_tenant(self, tenant: str) -> int:
        """Evict all that a tenant has; return how many entries that were.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...

    async def clear_scope(self, scope: str) -> int:
        """Evict all of a scope; return how many entries that were.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...


class SemanticCache(Protocol):
    """Completions found by meaning."""

    async def lookup(self, key: CacheKey, since: float = 0.0) -> CacheLookup:
        """Decide whether an answer of the key's scope, stored at `since` (of the epoch) or later, answers its text.

        Raises:
            CacheUnavailableError: The store or the embedder did not answer.
        """
        ...

    async def embedding(self, text: str) -> Embedding:
        """Embed a text, to store its answer where no lookup has.

        Raises:
            CacheUnavailableError: The embedder did not answer.
        """
        ...

    async def agree(self, a: str, b: str) -> bool | None:
        """Whether two answers in free text say the same; None where that cannot be told.

        Raises:
            CacheUnavailableError: The embedder or the verifier did not answer.
        """
        ...


class Conversations(Protocol):
    """Which tiers each conversation has reached."""

    async def tiers(self, name: str) -> Collection[str]:
        """Return the tiers that a conversation has reached, in no order; none if it is not known.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...

    async def remember(self, name: str, tier: str) -> None:
        """Note a tier that a conversation has reached.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...


class FlightRelay(Protocol):
    """Tells the replicas of the ingress of calls under way. Each leader of a key has a token and a log of lines."""

    async def claim(self, key: CacheKey, token: str) -> tuple[str | None, bool]:
        """Take the lead if nobody has it.

        Returns:
            The token of the replica that leads, or None for us; and whether an answer of the key is stored.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...

    async def publish(self, key: CacheKey, token: str, offset: int, lines: bytes, over: bool) -> bool:
        """Write lines of the leader's log at a byte offset, and renew the lead or, when it is over, give it up.

        Returns:
            Whether another replica follows.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...

    async def read(self, key: CacheKey, token: str, offset: int) -> tuple[bool, bytes]:
        """Follow a leader: read its log from a byte offset.

        Returns:
            Whether it led still before the log was read, and whole lines.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...


class ComplexityClassifier(Protocol):
    """Prompts to difficulty."""

    async def score(self, prompt: str) -> float:
        """Return the difficulty in [0, 1]: how likely a cheap model's answer is not good enough.

        Raises:
            ClassifierUnavailableError: No score could be had.
        """
        ...


class ChatProvider(Protocol):
    """Something that completes chats: a tier's targets, or the local model."""

    async def complete(self, body: Mapping[str, Any]) -> Completion:
        """Answer a request in one piece.

        Args:
            body: An OpenAI chat request; its `model` names one target of the provider, or the tier for any of them.

        Raises:
            InvalidRequestError: The provider refuses the request itself.
            UpstreamError: The provider failed.
        """
        ...

    def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[StreamPart, None]:
        """Answer a request piece by piece, the last chunk with the usage. Raises as `complete` does."""
        ...


class TierProvider(ChatProvider, Protocol):
    """A ChatProvider that is a whole tier, and is told how long the client waits still: `within_s`, in seconds.

    It pauses for nothing that would come too late; to end a call that takes longer is for the caller.
    """

    async def complete(self, body: Mapping[str, Any], within_s: float = inf) -> Completion:
        """Answer a request in one piece. Raises as any ChatProvider does."""
        ...

    def stream(self, body: Mapping[str, Any], within_s: float = inf) -> AsyncGenerator[StreamPart, None]:
        """Answer a request piece by piece; `within_s` is to its first part."""
        ...
