"""What every API model has in common: its name, key, limits, weight and price; and what its API says of its limits."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

from pydantic import PositiveFloat, PositiveInt

from app.pricing import GivenPrice
from app.protocols import ChatProvider
from app.section import Section


class TargetConfig(Section):
    """A model behind an API.

    Attributes:
        model: The API's name for it, which clients may ask for.
        region: Tells targets of the same model apart.
        weight: Its share of the tier's requests, beside the other targets' weights. Targets without one are asked in
            their order when no target with a weight answers.
        api_key_env: The environment variable that holds the key; null means the API needs none.
        timeout_s: Longest wait for the API to send anything.
        connect_timeout_s: Longest wait for a connection.
        requests_per_minute: How many it is asked at most; another target is asked in its place.
        tokens_per_minute: How many tokens, of prompts and answers.
        price: What its tokens cost; by default the list price of the model.
    """

    model: str
    region: str | None = None
    weight: PositiveFloat | None = None
    api_key_env: str | None = None
    timeout_s: PositiveFloat = 60
    connect_timeout_s: PositiveFloat = 5
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    price: GivenPrice | None = None

    @property
    def label(self) -> str:
        """Its name among the targets of its tier."""
        return f"{self.model}@{self.region}" if self.region else self.model

    def available(self) -> bool:
        """Whether the key is in the environment, or none is needed."""
        return self.api_key_env is None or bool(os.environ.get(self.api_key_env))


class Quota:
    """Until when an API has nothing left of its rate limits, by its own word.

    Attributes:
        exhausted_until: By the clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.exhausted_until = 0.0

    def seen(self, headers: Mapping[str, str]) -> None:
        """Read what the headers of an answer say of its API's rate limits."""
        for remaining, reset in _limits(headers):
            if _none_left(remaining):
                self.wait(seconds(reset) or 1.0)

    def wait(self, pause_s: float) -> None:
        """Note that nothing is left for so long."""
        self.exhausted_until = max(self.exhausted_until, self._clock() + pause_s)

    def reset(self) -> None:
        """Note that something is left after all."""
        self.exhausted_until = 0.0


def named(*names: object) -> str:
    """Return the first that is a name, as the codes and types of errors are, and no sentence that quotes a request."""
    return next((name for name in names if isinstance(name, str) and _NAME.fullmatch(name)), "error")


def pause_asked_for(headers: Mapping[str, str]) -> float | None:
    """Return the pause in seconds that a refusal asks for, by `Retry-After` or until its rate limits are reset."""
    milliseconds = seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    asked_s = seconds(headers.get("retry-after"))
    if asked_s is not None:
        return asked_s
    spent = [reset for remaining, reset in _limits(headers) if remaining is None or _none_left(remaining)]
    return max(filter(None, map(seconds, spent)), default=None)


def _limits(headers: Mapping[str, str]) -> list[tuple[str | None, str | None]]:
    """Return what remains of each rate limit, and when it is reset, as OpenAI and Anthropic say it."""
    names = [(f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}") for kind in ("requests", "tokens")]
    of_anthropic = [f"anthropic-ratelimit-{kind}" for kind in ("requests", "tokens", "input-tokens", "output-tokens")]
    names += [(f"{limit}-remaining", f"{limit}-reset") for limit in of_anthropic]
    return [(headers.get(remaining), headers.get(reset)) for remaining, reset in names]


def _none_left(remaining: str | None) -> bool:
    try:
        return remaining is not None and float(remaining) <= 0
    except ValueError:
        return False


def seconds(span: str | None, now: Callable[[], float] = time.time) -> float | None:
    """Read a span of time as rate limit headers and `Retry-After` have it: `7`, `0.5`, `6m0s`, `120ms`, or a date.

    A date is that of HTTP or of RFC 3339; one that has passed is 0 seconds away.
    """
    if not span:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", span):
        return float(span)
    if re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h))+", span):
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", span)
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            return max(0.0, read(span).timestamp() - now())
        except ValueError:
            continue
    return None


_NAME = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Provider(ChatProvider, Protocol):
    """A ChatProvider of one model behind an API."""

    quota: Quota

    async def aclose(self) -> None:
        """Close the connections."""
        ...
