"""Which tiers to try, in order, for a score or for a model asked for by name: pure functions, and what they read."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self, get_args

import msgspec
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from app.cascade import CascadeConfig
from app.errors import InvalidRequestError, ModelNotFoundError
from app.local_model import LocalLLMConfig
from app.pricing import ListedPrice, Tariff
from app.providers import ProviderConfig
from app.quality import QualityConfig
from app.schema import Ability, Allowance, Form
from app.section import Section
from app.shaping.tokens import count_tokens
from app.tier import PolicyConfig

Tiers = tuple["TierConfig", ...]
_FORMS: frozenset[Ability | Form] = frozenset(get_args(Form))
_CHARS_A_TOKEN = 4
SCORED = frozenset({"score", "share", "quality"})  # the reasons of routes that score and cut points alone decided


class TierConfig(Section):
    """A level of price and quality.

    Attributes:
        name: What clients may pin, and the `Tier-NAME` of its deployment.
        max_score: Prompts scored below it may be served here; the last tier's is 1.0.
        llm: A local model, and
        targets: API models, by weight, then in the order they are listed; at least one of both. A local model with
            targets beside it is one of them, the first: what it cannot take or answer, they do.
        policy: How the targets are asked.
        stand_in: The tier with a local model that answers while no target has its key in the environment.
        abilities: What it takes beside text: `tools`, `vision`, `audio`, `files`. By default all that the APIs of its
            targets take (Anthropic's takes no `audio`), and of a local model none: its `engine` needs arguments that
            turn on the parsing of tools. In a tier with both they are its local model's.
        context_tokens: Longest prompt and answer together; by default a local model's `max_model_len`, if it has no
            targets beside it.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    max_score: Annotated[float, Field(gt=0, le=1)]
    llm: LocalLLMConfig | None = None
    targets: tuple[ProviderConfig, ...] = ()
    policy: PolicyConfig = PolicyConfig()
    stand_in: str | None = None
    abilities: frozenset[Ability] | None = None
    context_tokens: PositiveInt | None = None

    @model_validator(mode="after")
    def _served(self) -> Self:
        if self.llm is None and not self.targets:
            raise ValueError(f"tier `{self.name}` needs an `llm` or `targets`")
        if self.llm and self.stand_in:
            raise ValueError(f"tier `{self.name}` has an `llm` and needs no `stand_in`")
        names = [*([self.llm.target] if self.llm else []), *(target.label for target in self.targets)]
        if len(set(names)) != len(names):
            raise ValueError(f"tier `{self.name}`: each of its `targets` needs another `model` or `region`")
        return self

    def models(self) -> dict[str, Tariff]:
        """Name the models of the tier, with what they cost: their own price, or the list price."""
        own: dict[str, Tariff] = {self.llm.target: self.llm.price} if self.llm else {}
        return own | {target.model: target.price or ListedPrice(model=target.model) for target in self.targets}

    def providers(self) -> dict[str, str]:
        """Name who serves each model of the tier, in the words of OpenTelemetry: `vllm`, or the kind of its API."""
        own = {self.llm.target: "vllm"} if self.llm else {}
        return own | {target.model: target.kind for target in self.targets}

    def takes(self) -> frozenset[Ability | Form]:
        """Name what it takes beside text, and what it gives beside one: what any of its targets does."""
        taken = frozenset[Ability | Form]().union(*(target.takes for target in self.targets))
        if self.llm:
            return taken | self.llm_takes()
        return taken if self.abilities is None else (taken & _FORMS) | self.abilities

    def llm_takes(self) -> frozenset[Ability | Form]:
        """Name what its local model takes and gives so."""
        return _FORMS | (self.abilities or frozenset())

    def window(self) -> float:
        """Return the tokens of the longest prompt and answer together; infinite where that is not known."""
        return self.context_tokens or (self.llm.context_tokens if self.llm and not self.targets else float("inf"))

    @property
    def llm_deployment(self) -> str:
        """Name the deployment of its local model: the tier itself, unless that asks other targets too."""
        return f"LLM-{self.name}" if self.targets else f"Tier-{self.name}"

    def missing_keys(self) -> list[str]:
        """Name the environment variables without which no target can be asked; empty when one can."""
        if self.llm or any(target.available() for target in self.targets):
            return []
        return sorted({target.api_key_env for target in self.targets if target.api_key_env})


class TierBounds(Section):
    """Where a tenant's routed requests may go.

    Attributes:
        floor: The least tier.
        ceiling: The best tier; those above it do not exist for the tenant.
        cuts: Its own cut points, in place of the `max_score` of every tier but the last.
    """

    floor: str | None = None
    ceiling: str | None = None
    cuts: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = None

    def permitted(self, tiers: Tiers) -> Tiers:
        """Leave out the tiers above the ceiling."""
        return tiers[: _position(self.ceiling, tiers, len(tiers) - 1) + 1]

    def check(self, names: Sequence[str]) -> str | None:
        """Return what is wrong with it for tiers of these names, if anything is."""
        for key, name in (("floor", self.floor), ("ceiling", self.ceiling)):
            if name is not None and name not in names:
                return f"{key}: there is no tier `{name}`"
        if self.floor and self.ceiling and names.index(self.floor) > names.index(self.ceiling):
            return "floor: is above the ceiling"
        if self.cuts is not None and (len(self.cuts) != len(names) - 1 or list(self.cuts) != sorted(self.cuts)):
            return f"cuts: must be {len(names) - 1} rising numbers, one for each tier but the last"
        return None


ANYWHERE = TierBounds()


class RoutingConfig(Section):
    """The policy around the score.

    Attributes:
        tenants: Bounds by tenant.
        top_share: Share that the best tier is to get of the routed requests that may reach it, held by moving the last
            cut point. Those below a ceiling, of a budget or profile that leaves it out, or of tenants with `cuts` of
            their own do not count. Quality comes first: its checks may still lower the cut.
        conversation_ttl_s: How long a conversation's tier is remembered, so that its next turn does not fall below it;
            0 lets every turn stand for itself. It takes Redis.
        quality: How the quality kept is watched.
        cascade: Whether the cheaper tier is tried first near a cut point.
    """

    tenants: Mapping[str, TierBounds] = {}
    top_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    conversation_ttl_s: NonNegativeInt = 24 * 3600
    quality: QualityConfig = QualityConfig()
    cascade: CascadeConfig = CascadeConfig()


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request asks of the tier that answers it.

    Attributes:
        tokens: Of its prompt with its tools, their calls and the schema of the answer, without what a chat template
            adds; and of the longest answer that it asks for.
        abilities: What it takes beside text, and gives beside one.
        tiers: The only ones that its profile lets answer; empty for all.
    """

    tokens: int = 0
    abilities: frozenset[Ability | Form] = frozenset()
    tiers: frozenset[str] = frozenset()

    def allows(self, tier: str) -> bool:
        """Whether the profile lets a tier answer."""
        return not self.tiers or tier in self.tiers

    def unmet(self, tier: TierConfig) -> str | None:
        """Name a need that the tier does not meet: an ability, the `profile`, or `context`."""
        lacking = sorted(self.abilities - tier.takes())
        if lacking:
            return lacking[0]
        if not self.allows(tier.name):
            return "profile"
        return "context" if self.tokens > tier.window() else None


@dataclass(frozen=True, slots=True)
class Route:
    """The tiers to try, in order, and why.

    Attributes:
        tiers: At least one.
        score: Difficulty in [0, 1], or None when nothing was scored.
        reason: What decided on the first tier: `score`, `pinned`, or `unclassified` when the classifier was down; else
            what moved it from where the score alone would have it: `share` (`routing.top_share`), `quality` (checks
            found too many bad answers), `floor`, `conversation`, `ceiling`, an ability that the tier lacks, `profile`,
            `context`, `budget` (it is nearly spent), `starting` (no replica of the tier is up yet).
        cheaper: The tier below the first, where the score is so near its cut point that it may be tried before.
    """

    tiers: Tiers
    score: float | None
    reason: str
    cheaper: TierConfig | None = None


def needs_of(body: Mapping[str, Any], narrowest: TierConfig | None = None, tiers: Sequence[str] = ()) -> Needs:
    """Read off a chat request what a tier must take to answer it.

    Args:
        narrowest: The tier of the shortest context: a prompt that may pass it is counted by its tokenizer, others are
            estimated.
        tiers: The only ones that its profile lets answer; empty for all.
    """
    abilities = {ability for ability, asked in _ASKED.items() if asked(body)}
    schema = (body.get("response_format") or {}).get("json_schema")
    texts = [_written(part) for part in (body.get("tools"), body.get("functions"), schema) if part]
    for message in body["messages"]:
        if calls := message.get("tool_calls"):
            texts.append(_written(calls))
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        for part in content if isinstance(content, list) else ():
            texts.append(part.get("text") or "")
            if ability := _PARTS.get(part.get("type")):
                abilities.add(ability)
    answer = body.get("max_completion_tokens") or body.get("max_tokens") or 0
    chars = sum(map(len, texts))
    prompt = chars // _CHARS_A_TOKEN
    if narrowest is not None and chars + answer > narrowest.window():  # hardly any text has more tokens than letters
        model = next(iter(narrowest.models()))
        prompt = sum(count_tokens(text, model) for text in texts)
    return Needs(prompt + answer, frozenset(abilities), frozenset(tiers))


def _written(part: Any) -> str:
    return msgspec.json.encode(part).decode()


_ASKED: Mapping[Ability | Form, Callable[[Mapping[str, Any]], Any]] = {
    "tools": lambda body: body.get("tools") or body.get("functions"),
    "audio": lambda body: "audio" in (body.get("modalities") or ()),
    "choices": lambda body: (body.get("n") or 1) > 1,
    "logprobs": lambda body: body.get("logprobs") or body.get("top_logprobs"),
}
_PARTS: Mapping[Any, Ability] = {"image_url": "vision", "input_audio": "audio", "file": "files"}


def cut_points(tiers: Tiers) -> tuple[float, ...]:
    """Return the scores from which the next tier is asked: one fewer than the tiers, rising."""
    return tuple(tier.max_score for tier in tiers[:-1])


def plan(score: float, tiers: Tiers) -> Tiers:
    """Order the tiers to try for a prompt of difficulty `score`.

    The cheapest tier whose ceiling is above the score comes first, then the stronger
    ones, so that a fallback only ever raises quality.

    Args:
        score: Difficulty in [0, 1].
        tiers: Tiers by rising `max_score`, the last at 1.0.

    Returns:
        A non-empty suffix of `tiers`.
    """
    return tiers[bisect_right(cut_points(tiers), score) :]


def route(
    score: float | None,
    needs: Needs,
    tiers: Tiers,
    cuts: Sequence[tuple[str, Sequence[float]]],
    bounds: TierBounds = ANYWHERE,
    at_least: str | None = None,
    margin: float = 0.0,
    allowance: Allowance | None = None,
) -> Route:
    """Decide where a request goes.

    Args:
        score: Difficulty in [0, 1]; None asks the best tier.
        tiers: By rising `max_score`.
        cuts: Cut points as configured and then as each reason moved them, with its name.
        bounds: The tenant's.
        at_least: The tier of the conversation so far.
        margin: So little above a cut point the cheaper tier may be tried first.
        allowance: What the tenant's budget leaves it.

    Raises:
        InvalidRequestError: No tier that the tenant and the profile may use takes what the request needs.
        BudgetExceededError: The tenant's budget is spent, or leaves none of its profile's tiers.
    """
    index, reason = len(tiers) - 1, "unclassified"
    near = False
    if score is not None:
        index, reason = bisect_right(cuts[0][1], score), cuts[0][0]
        for why, points in cuts[1:]:
            found = bisect_right(points, score)
            index, reason = found, reason if found == index else why
        near = index > 0 and score - cuts[-1][1][index - 1] < margin
    low, held = _position(bounds.floor, tiers, 0), _position(at_least, tiers, 0)
    high = len(bounds.permitted(tiers)) - 1
    left = len(affordable(allowance, tiers)) - 1
    scored = index
    if index < low:
        index, reason = low, "floor"
    if index < held:
        index, reason = held, "conversation"
    if index > high:
        index, reason = high, "ceiling"
    if index > left:
        index, reason = left, "budget"
    high = min(high, left)
    if allowance is not None and needs.tiers and needs.tiers.isdisjoint(tier.name for tier in tiers[: left + 1]):
        raise allowance.refusal
    cheaper = tiers[index - 1] if near and index == scored > max(low, held) else None
    return _met(Route(tiers[index : high + 1], score, reason, cheaper), needs, tiers[low:index])


def affordable(allowance: Allowance | None, tiers: Tiers) -> Tiers:
    """Leave out the tiers that a budget no longer allows.

    Raises:
        BudgetExceededError: That is all of them.
    """
    if allowance is None:
        return tiers
    if allowance.ceiling is None:
        raise allowance.refusal
    return tiers[: _position(allowance.ceiling, tiers, len(tiers) - 1) + 1]


def awake(wanted: Route, wake: Callable[[str], bool]) -> Route:
    """Put the tiers at the front that sleep behind the others, so that no request waits for one while another is up.

    Args:
        wake: Says whether the tier of a name runs, and wakes one that does not.
    """
    ready = next(
        (i for i, tier in enumerate(wanted.tiers) if wake(tier.name)), 0
    )  # all asleep: the first is waited for
    cheaper = wanted.cheaper if wanted.cheaper and wake(wanted.cheaper.name) else None
    tiers = wanted.tiers[ready:] + wanted.tiers[:ready]
    return replace(wanted, tiers=tiers, reason="starting" if ready else wanted.reason, cheaper=cheaper)


def _met(wanted: Route, needs: Needs, weaker: Tiers) -> Route:
    """Leave out the tiers that do not meet the needs; if none is left, take the best of the weaker ones that does."""
    lacking = needs.unmet(wanted.tiers[0])
    able = tuple(tier for tier in wanted.tiers if needs.unmet(tier) is None)
    able = able or tuple(tier for tier in weaker[::-1] if needs.unmet(tier) is None)[:1]
    if not able:
        able = (_roomiest(weaker + wanted.tiers, needs),)
    cheaper = None if lacking or (wanted.cheaper and needs.unmet(wanted.cheaper)) else wanted.cheaper
    return replace(wanted, tiers=able, reason=lacking or wanted.reason, cheaper=cheaper)


def _roomiest(tiers: Tiers, needs: Needs) -> TierConfig:
    """Return the able tier of the longest context: the estimate of the tokens may be wrong, and the tier knows."""
    allowed = tuple(tier for tier in tiers if needs.allows(tier.name))
    if not allowed:
        raise InvalidRequestError(
            f"The request's profile lets only these tiers answer: {', '.join(sorted(needs.tiers))}. None of them is "
            f"open to it; it may go to: {', '.join(tier.name for tier in tiers)}. Use another profile, or name a model."
        )
    able = [tier for tier in allowed if needs.abilities <= tier.takes()]
    if not able:
        raise unsupported(needs, allowed[-1], allowed)
    return max(able, key=TierConfig.window)


def unsupported(needs: Needs, tier: TierConfig, tiers: Tiers) -> InvalidRequestError:
    """Say what of a request a tier does not take, and which of `tiers` do."""
    ability = min(needs.abilities - tier.takes())
    name, param = _NAMED[ability]
    able = ", ".join(tier.name for tier in tiers if ability in tier.takes())
    able = able or "none that is configured; set the API key of one"
    return InvalidRequestError(f"{name} not supported here. Tiers that support them: {able}.", param)


_NAMED: Mapping[Ability | Form, tuple[str, str]] = {
    "tools": ("`tools` are", "tools"),
    "vision": ("Images are", "messages"),
    "audio": ("Recordings are", "messages"),
    "files": ("Files are", "messages"),
    "choices": ("Several answers to one request, `n` over 1, are", "n"),
    "logprobs": ("`logprobs` are", "logprobs"),
}


def _position(name: str | None, tiers: Tiers, default: int) -> int:
    return next((i for i, tier in enumerate(tiers) if tier.name == name), default)


def pinned(model: str, tiers: Tiers) -> TierConfig:
    """Return the tier that `model` names, by its own name or by one of its models'.

    It is the only one: who names a model wants no other.

    Raises:
        ModelNotFoundError: Nothing has that name; the message lists what does.
    """
    for tier in tiers:
        if model == tier.name or model in tier.models():
            return tier
    names = [tier.name for tier in tiers] + [name for tier in tiers for name in tier.models()]
    raise ModelNotFoundError(f"The model `{model}` does not exist. Use `auto`, or one of: {', '.join(names)}.")
