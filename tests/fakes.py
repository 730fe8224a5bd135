"""Fakes behind the seams of `app/protocols.py`, and the small gateway that most tests are about."""

from __future__ import annotations

import asyncio
import re
import struct
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import yaml

from app.cache.bound import Tally
from app.config import GatewayConfig
from app.controller import TrafficController
from app.errors import (
    CacheUnavailableError,
    ClassifierUnavailableError,
    GatewayError,
    ModelNotFoundError,
    UpstreamError,
)
from app.protocols import FlightRelay, TierProvider
from app.quality.audit import Pair, Watch
from app.quality.bound import Kept
from app.schema import (
    CacheEntry,
    CacheKey,
    CacheLookup,
    ChatRequest,
    Completion,
    Embedding,
    Outcome,
    StreamPart,
    Vectors,
)
from app.wire import chunks_of, last_user_text

EMBEDDING = Embedding("fake", b"\x00\x00\x80?")
USAGE = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
CONFIG = GatewayConfig.model_validate(
    {
        "auto_models": ["auto", "gpt-4"],
        "tiers": [
            {
                "name": "local",
                "max_score": 0.3,
                "targets": [{"model": "small", "price": {"usd_per_1m_input_tokens": 0, "usd_per_1m_output_tokens": 0}}],
            },
            {
                "name": "mid",
                "max_score": 0.7,
                "targets": [
                    {"model": "medium", "price": {"usd_per_1m_input_tokens": 1, "usd_per_1m_output_tokens": 2}}
                ],
            },
            {
                "name": "top",
                "max_score": 1.0,
                "targets": [
                    {"model": "large", "price": {"usd_per_1m_input_tokens": 10, "usd_per_1m_output_tokens": 20}}
                ],
            },
        ],
    }
)


def serve_file(folder: Path, port: int = 8000, **arguments: Any) -> Path:
    """Write a file of `configs/` with the small gateway, changed by `arguments`."""
    given = {**CONFIG.model_dump(mode="json", exclude_defaults=True), **arguments}
    application = {"name": "tierwise", "import_path": "deployments.graph:build_app", "args": given}
    file = folder / "config.yaml"
    file.write_text(
        yaml.safe_dump({"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application]})
    )
    return file


def chat(
    text: str = "hello", *, tenant: str = "acme", lookup: bool = True, store: bool = True, **fields: Any
) -> ChatRequest:
    """Make a request for `auto`; `fields` are those of its body, `messages` included."""
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
    return ChatRequest(body, tenant, last_user_text(body["messages"]), lookup, store)


def answer(text: str | None = "Hello there, friend.", model: str = "small", **choice: Any) -> Completion:
    """Make a completion of one choice; `choice` may hold `message` fields and a `finish_reason`."""
    finish_reason = choice.pop("finish_reason", "stop")
    message = {"role": "assistant", "content": text, **choice}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": USAGE,
    }
    return Completion(body, model)


class FakeExactCache:
    """An ExactCache in a dictionary."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], CacheEntry] = {}
        self.embeddings: list[Embedding | None] = []
        self.gets = 0
        self.error: CacheUnavailableError | None = None

    async def get(self, key: CacheKey) -> CacheEntry | None:
        self.gets += 1
        if self.error:
            raise self.error
        return self.entries.get((key.scope, key.entry))

    async def put(self, key: CacheKey, entry: CacheEntry, embedding: Embedding | None) -> None:
        if self.error:
            raise self.error
        self.entries[key.scope, key.entry] = entry
        self.embeddings.append(embedding)

    async def forget(self, key: CacheKey, tenant: str | None) -> bool:
        entry = await self.get(key)
        if entry is None or tenant not in (None, entry.tenant):
            return False
        del self.entries[key.scope, key.entry]
        return True


class FakeSemanticCache:
    """A SemanticCache that finds `entry` for every text, or misses without one; answers agree if they are equal."""

    def __init__(self, entry: CacheEntry | None = None, similarity: float = 0.95) -> None:
        self.entry = entry
        self.similarity = similarity
        self.error: CacheUnavailableError | None = None
        self.entry_id: str | None = None
        self.near: CacheEntry | None = None
        self.keys: list[CacheKey] = []
        self.compared: list[tuple[str, str]] = []

    async def lookup(self, key: CacheKey, since: float = 0.0) -> CacheLookup:
        self.keys.append(key)
        if self.error:
            raise self.error
        if self.entry and self.entry.created >= since:
            return CacheLookup("hit", "verified", self.similarity, None, self.entry, EMBEDDING, self.entry_id)
        return CacheLookup("miss", "no candidate", None, None, None, EMBEDDING, None, self.near)

    async def embedding(self, text: str) -> Embedding:
        if self.error:
            raise self.error
        return EMBEDDING

    async def agree(self, a: str, b: str) -> bool:
        self.compared.append((a, b))
        return a == b


class FakeRelay:
    """A FlightRelay in dictionaries, for the replicas of one test; nothing of it expires but by the test's hand."""

    def __init__(self, cache: FakeExactCache) -> None:
        self.cache = cache
        self.leaders: dict[CacheKey, str] = {}
        self.logs: dict[str, bytes] = {}
        self.followed: set[str] = set()
        self.error: CacheUnavailableError | None = None

    async def claim(self, key: CacheKey, token: str) -> tuple[str | None, bool]:
        self._check()
        stored = (key.scope, key.entry.partition(":")[0]) in self.cache.entries
        leader = self.leaders.setdefault(key, token)
        return (None if leader == token else leader), stored

    async def publish(self, key: CacheKey, token: str, offset: int, lines: bytes, over: bool) -> bool:
        self._check()
        self.logs[token] = self.logs.get(token, b"")[:offset] + lines
        if over and self.leaders.get(key) == token:
            del self.leaders[key]
        was_followed = token in self.followed
        self.followed.discard(token)  # a follower that looks again says so again
        return was_followed

    async def read(self, key: CacheKey, token: str, offset: int) -> tuple[bool, bytes]:
        self._check()
        self.followed.add(token)
        return self.leaders.get(key) == token, self.logs.get(token, b"")[offset:]

    def _check(self) -> None:
        if self.error:
            raise self.error


class FakeConversations:
    """Conversations in a dictionary."""

    def __init__(self) -> None:
        self.reached: dict[str, set[str]] = {}
        self.error: CacheUnavailableError | None = None

    async def tiers(self, name: str) -> set[str]:
        if self.error:
            raise self.error
        return self.reached.get(name, set())

    async def remember(self, name: str, tier: str) -> None:
        if self.error:
            raise self.error
        self.reached.setdefault(name, set()).add(tier)


class FakeQuality:
    """A QualityBounds in memory that never moves a cut point by itself."""

    def __init__(self) -> None:
        self.drawn: list[bool] = []
        self.added: list[tuple[str, bool]] = []
        self.spent_usd = 0.0
        self.waiting: dict[str, Pair] = {}
        self.steps: dict[str, int] = {}
        self.error: CacheUnavailableError | None = None

    def now(self) -> Watch:
        tallies = {tier: Tally(1, int(not as_good)) for tier, as_good in self.added}
        kept = Kept(tallies, self.steps, len(self.drawn), sum(self.drawn))
        return Watch(kept, self.spent_usd, len(self.waiting))

    async def read(self) -> Watch:
        return self.now()

    async def draw(self, down: bool) -> None:
        if self.error:
            raise self.error
        self.drawn.append(down)

    async def add(
        self, tier: str, as_good: bool, drawn_at: Mapping[str, int]
    ) -> tuple[Kept | None, tuple[str, int] | None]:
        if drawn_at != self.steps:
            return None, None
        self.added.append((tier, as_good))
        return self.now().kept, None

    async def spend(self, cost_usd: float) -> None:
        self.spent_usd += cost_usd

    async def keep(self, pair: Pair) -> None:
        self.waiting[pair.id] = pair

    async def pairs(self) -> list[Pair]:
        return list(self.waiting.values())

    async def take(self, pair_id: str) -> Pair | None:
        return self.waiting.pop(pair_id, None)


class FakeEmbedder:
    """A TextEmbedder of one name, whose vectors are `(length of the text, 1)` and whose tokens are words."""

    def __init__(self, name: str = "minilm") -> None:
        self.name = name
        self.error: GatewayError | None = None
        self.texts: list[str] = []

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        if self.error:
            raise self.error
        if model != self.name:
            raise ModelNotFoundError(f"There is no encoder `{model}`.")
        self.texts += texts
        rows = [struct.pack("<2f", len(text), 1) for text in texts]
        return Vectors("fake", rows, sum(len(text.split()) for text in texts))


class FakeClassifier:
    """A ComplexityClassifier with one opinion, or one failure."""

    def __init__(self, score: float = 0.0, error: ClassifierUnavailableError | None = None) -> None:
        self.value = score
        self.error = error
        self.prompts: list[str] = []

    async def score(self, prompt: str) -> float:
        self.prompts.append(prompt)
        if self.error:
            raise self.error
        return self.value


class FakeProvider:
    """A TierProvider that gives `completion`, whole or word by word.

    Attributes:
        error: Raised in place of an answer.
        breaks_after: Chunks of a stream before it raises.
        bodies: What was asked.
        closed: Streams that ended, in whatever way.
    """

    def __init__(self, model: str, completion: Completion | None = None) -> None:
        self.completion = completion or answer(model=model)
        self.error: GatewayError | None = None
        self.breaks_after: int | None = None
        self.bodies: list[Mapping[str, Any]] = []
        self.closed = 0

    async def complete(self, body: Mapping[str, Any], within_s: float = inf) -> Completion:
        self.bodies.append(body)
        if self.error:
            raise self.error
        return self.completion

    async def stream(self, body: Mapping[str, Any], within_s: float = inf) -> AsyncGenerator[StreamPart, None]:
        self.bodies.append(body)
        try:
            if self.error:
                raise self.error
            for sent, chunk in enumerate(words_of(self.completion.body)):
                if sent == self.breaks_after:
                    raise UpstreamError("the connection broke", "fake")
                yield StreamPart([chunk], self.completion.target)
        finally:
            self.closed += 1


class GatedProvider(FakeProvider):
    """A FakeProvider that waits for `gate` before an answer, or after the first chunk of a stream.

    Attributes:
        failures: Raised in turn, one a call, in place of its answer; a stream has sent its first chunk then.
    """

    def __init__(self, model: str, completion: Completion | None = None) -> None:
        super().__init__(model, completion)
        self.gate = asyncio.Event()
        self.failures: list[GatewayError] = []

    async def complete(self, body: Mapping[str, Any], within_s: float = inf) -> Completion:
        self.bodies.append(body)
        try:
            await self.gate.wait()
        finally:
            self.closed += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.completion

    async def stream(self, body: Mapping[str, Any], within_s: float = inf) -> AsyncGenerator[StreamPart, None]:
        parts = super().stream(body)
        try:
            yield await anext(parts)
            await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
            async for part in parts:
                yield part
        finally:
            await parts.aclose()


def words_of(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Cut a completion of one choice into chunks of a word each, and the finish and the usage at the end."""
    first, *rest = chunks_of(body)
    piece = first["choices"][0]
    opening, *words = re.findall(r"\S+\s*", piece["delta"]["content"] or "") or [""]
    for delta in ({**piece["delta"], "content": opening}, *({"content": word} for word in words)):
        yield {**first, "choices": [{**piece, "delta": delta}]}
    yield from rest


def controller(
    cache: FakeExactCache | None,
    providers: Mapping[str, TierProvider],
    *,
    score: float = 0.0,
    semantic: FakeSemanticCache | None = None,
    classifier: FakeClassifier | None = None,
    config: GatewayConfig = CONFIG,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
    clock: Callable[[], float] = time.perf_counter,
    relay: FlightRelay | None = None,
    conversations: FakeConversations | None = None,
    quality: FakeQuality | None = None,
    wake: Callable[[str], bool] = lambda tier: True,
) -> TrafficController:
    """Make a controller over fakes; `score` is what its classifier says."""
    return TrafficController(
        config,
        cache,
        semantic,
        classifier or FakeClassifier(score),
        providers,
        on_end,
        clock,
        relay=relay,
        conversations=conversations,
        quality=quality,
        wake=wake,
    )
