"""What every API model has in common: its name, key, limits, weight and price; and what its API says of its limits."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
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
        """Read the `x-ratelimit-*` headers of an answer."""
        for kind in ("requests", "tokens"):
            if headers.get(f"x-ratelimit-remaining-{kind}") == "0":
                self.wait(seconds(headers.get(f"x-ratelimit-reset-{kind}")) or 1.0)

    def wait(self, pause_s: float) -> None:
        """Note that nothing is left for so long."""
        self.exhausted_until = max(self.exhausted_until, self._clock() + pause_s)

    def reset(self) -> None:
        """Note that something is left after all."""
        self.exhausted_until = 0.0


def named(*names: object) -> str:
    """Return the first that is a name, as the codes and types of errors are, and no sentence that quotes a request."""
    return next((name for name in names if isinstance(name, str) and _NAME.fullmatch(name)), "error")


def seconds(span: str | None) -> float | None:
    """Read a span of time as rate limit headers and `Retry-After` have it: `7`, `0.5`, `6m0s`, `120ms`."""
    if not span:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", span):
        return float(span)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", span)
    return sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else None


_NAME = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Provider(ChatProvider, Protocol):
    """A ChatProvider of one model behind an API."""

    quota: Quota

    async def aclose(self) -> None:
        """Close the connections."""
        ...
