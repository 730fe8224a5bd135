"""The nouns: what a request is, what a cache and a tier give back, and everything known of it afterwards."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from app.errors import BudgetExceededError

CacheStatus = Literal["hit", "miss", "bypass"]
Ability = Literal["tools", "vision", "audio", "files"]  # what a model may take beside text
Form = Literal["choices", "logprobs"]  # what its answer may be beside one text: several, with the odds of its tokens
NOBODY = "none"  # the tier of a request that none answered


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a budget leaves a request.

    Attributes:
        ceiling: The best tier; None for none at all: what would cost anything is refused.
        refusal: Raised for what is above it.
    """

    ceiling: str | None
    refusal: BudgetExceededError


BATCH_TIERS = ("batch", "flex")  # a completion's `service_tier` that is billed as a batch


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat completion request, as sent and as the gateway reads it.

    Attributes:
        body: The request's JSON object, validated, otherwise untouched.
        tenant: Who asks; no answer is shared between tenants.
        prompt: The text of the last user turn, what the classifier scores.
        lookup: False when the client sent `Cache-Control: no-cache` or `no-store`.
        store: False when the client sent `Cache-Control: no-store`.
        max_age_s: Oldest stored answer that the client takes, by `Cache-Control: max-age`.
        request_id: The client's own name of it, or one made for it.
        profile: The profile that shaped it.
        tiers: The only ones that may answer; empty for all.
        raised_max_tokens: Where `max_tokens` is the profile's: the limit of a stream, and of a second try when it cut
            the answer.
        timeout_s: Longest wait for the answer, or for a stream's first part, by `x-request-timeout`.
        endpoint: The path that it came by.
        allowance: What the tenant's budget leaves it, where that is not everything.
        arm: Of a canary: `stable` or `canary`; empty where none runs.
    """

    body: Mapping[str, Any]
    tenant: str
    prompt: str
    lookup: bool = True
    store: bool = True
    max_age_s: float | None = None
    request_id: str = ""
    profile: str | None = None
    tiers: tuple[str, ...] = ()
    raised_max_tokens: int | None = None
    timeout_s: float = float("inf")
    endpoint: str = ""
    allowance: Allowance | None = None
    arm: str = ""

    @property
    def model(self) -> str:
        """The model, tier or alias that was asked for."""
        return str(self.body["model"])


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one completion, as its provider counted them.

    Attributes:
        cached_tokens: Those of the prompt that the provider had in its own cache.
        batch: Whether it was made at the price of a batch.
        cache_write_tokens: Those of the prompt that the provider has put into its cache for this request.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    batch: bool = False
    cache_write_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer in OpenAI's form, and the configured model that gave it.

    Attributes:
        also: Models that were asked beside it and cancelled; their prompts are paid for.
    """

    body: dict[str, Any]
    target: str
    also: tuple[str, ...] = ()

    @property
    def usage(self) -> Usage:
        """Tokens; zeros when the provider did not count."""
        usage = self.body.get("usage") or {}
        details = usage.get("prompt_tokens_details")
        names = ("cached_tokens", "cache_write_tokens")
        cached, stored = ((details.get(name) or 0) if isinstance(details, dict) else 0 for name in names)
        batch = self.body.get("service_tier") in BATCH_TIERS
        return Usage(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0, cached, batch, stored)


@dataclass(frozen=True, slots=True)
class StreamPart:
    """Chunks of a streamed answer in OpenAI's form, in order; batched, since each message between replicas costs.

    Attributes:
        target: The configured model that gives it.
        also: Of the first part: models that were asked beside it and cancelled.
    """

    chunks: list[dict[str, Any]]
    target: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Where a request's answer is kept.

    Attributes:
        scope: Hex digest of everything but the matched text that changes the answer, tenant included.
        entry: Hex digest of the matched text, normalised.
        text: The matched text: the last user turn.
        semantic: Whether a text of the same meaning may answer, or only the same text.
    """

    scope: str
    entry: str
    text: str
    semantic: bool

    @property
    def entry_id(self) -> str:
        """Name of the entry, as clients get it: `SCOPE.ENTRY`."""
        return f"{self.scope}.{self.entry}"

    @classmethod
    def named(cls, entry_id: str) -> CacheKey:
        """Return the key of an entry by its name; good for reading and evicting it, since the text is not known."""
        scope, _, entry = entry_id.partition(".")
        return cls(scope, entry, "", False)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A stored answer: the text it answered, the completion, the tier that made it, for whom and when (Unix time)."""

    text: str
    completion: Completion
    tier: str
    tenant: str = ""
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text's vector as little-endian float32 bytes, L2 norm 1, and the name of the space it lives in."""

    space: str
    vector: bytes


@dataclass(frozen=True, slots=True)
class Vectors:
    """Texts' vectors, for a client that asked for them.

    Attributes:
        space: Names the encoder.
        rows: A vector for each text, as little-endian float32 bytes, L2 norm 1.
        tokens: Tokens of all the texts together.
    """

    space: str
    rows: list[bytes]
    tokens: int


TOO_OLD = "older than max-age"  # the reason of a miss where all that was found is


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """What the cache decided, and why.

    Attributes:
        status: `hit`, `miss`, or `bypass` when the request must not be served from a cache.
        reason: The deciding rule, in words that fit a header.
        similarity: Cosine to the served text, or to the nearest, if one was compared.
        evidence: The cosine with the verifier's log-odds, what the threshold is compared with, if it was asked for.
        entry: The stored answer of a hit.
        entry_id: Names the stored answer to the tenant whose it is, for feedback and deletion.
        embedding: The text's embedding, kept so that the write after a miss need not compute it again.
        near: Of a miss, the stored answer that missed the threshold by less than a step.
    """

    status: CacheStatus
    reason: str
    similarity: float | None = None
    evidence: float | None = None
    entry: CacheEntry | None = None
    embedding: Embedding | None = None
    entry_id: str | None = None
    near: CacheEntry | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything known about a request that was answered.

    Attributes:
        completion: The answer; of a stream, as far as it came.
        tier: The tier that answered; `cache` for a hit, `none` for a request that was given up before its answer.
        cache: The cache's decision.
        score: Difficulty in [0, 1], or None when nothing was scored.
        attempts: Tiers asked; 0 for a hit.
        cost_usd: What the answer cost.
        saved_usd: The bill at the baseline's price, less `cost_usd`.
        latency_s: From the parsed request to the answer; of a stream, to its end.
        route: Why this tier: `cache`, or the reason of its Route in `app/routing.py`.
        finished: False for a stream that broke off.
        tenant: Who asked,
        request_id: and the request's name.
        cascade: What became of a cheaper tier's answer that was tried first: `kept`, or why it was not.
        cascade_saved_usd: What trying it saved; below 0 what it cost in vain.
        schema: Where JSON was asked for: `valid`, `repaired` (asked again, or freed of Markdown), `escalated` (to a
            better tier), or `invalid` (none of them could); None for a refusal, a tool's call, or what the client's own
            limit cut.
        endpoint: The path that the request came by,
        prompt: and the text of its last user turn.
        stages: Seconds by stage, that add up to `latency_s`: `exact`, `semantic`, `route`, `model` (to the answer or to
            its first part), `stream` (from there to the end), `wait` (for another request's call).
        error: What broke a stream off.
        arm: `stable` or `canary`, while a canary runs.
    """

    completion: Completion
    tier: str
    cache: CacheLookup
    score: float | None
    attempts: int
    cost_usd: float
    saved_usd: float
    latency_s: float
    route: str
    finished: bool = True
    tenant: str = ""
    request_id: str = ""
    cascade: str | None = None
    cascade_saved_usd: float = 0.0
    schema: str | None = None
    endpoint: str = ""
    prompt: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    arm: str = ""


@dataclass(frozen=True, slots=True)
class Streaming:
    """A streamed answer whose first chunk has come: what is known already, and the rest.

    `parts` yields the answer; once it is exhausted or closed, the controller's `on_end` has its Outcome.
    """

    tier: str
    target: str
    cache: CacheLookup
    score: float | None
    attempts: int
    route: str
    cascade: str | None
    parts: AsyncGenerator[StreamPart, None]


@dataclass(frozen=True, slots=True)
class PartStatus:
    """The state of one part of the gateway, as `/readyz` shows it; `asleep` is a tier that has scaled to zero."""

    name: str
    state: Literal["up", "asleep", "down"]
    detail: Mapping[str, Any]
