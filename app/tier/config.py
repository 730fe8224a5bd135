"""How an API tier goes about failures."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from app.section import Section


class RetryConfig(Section):
    """Asking again after what may pass: no connection, no answer in time, a status of 408, 409, 429 or 5xx.

    Attributes:
        rounds: How often all targets are gone through; 1 tries each once.
        base_s: Longest pause after the first round. It doubles with each, and its length is drawn at random. An
            API's `Retry-After` is waited for.
        max_s: Longest pause of all; what asks for a longer one is left to the next tier.
        budget: Second calls as a share of first ones, over the last some hundred: no storm is answered by another.
    """

    rounds: PositiveInt = 3
    base_s: NonNegativeFloat = 0.2
    max_s: NonNegativeFloat = 5
    budget: Annotated[float, Field(ge=0, le=10)] = 0.5


class BreakerConfig(Section):
    """When a target is left alone, and for how long.

    Attributes:
        failures: So many in a row open the breaker.
        open_s: How long it stays open. One request then tries, a stream to its end; if it fails, the time doubles, and
            if it takes longer than this, another tries too.
        max_open_s: Longest time.
        share_s: How often replicas tell one another by Redis, where there is one.
    """

    failures: PositiveInt = 5
    open_s: PositiveFloat = 5
    max_open_s: PositiveFloat = 60
    share_s: PositiveFloat = 1


class PolicyConfig(Section):
    """How a tier's targets are asked.

    Attributes:
        retry: Asking again.
        breaker: Leaving alone.
        hedge: Whether a second target is asked when the first takes longer than 95 % of its answers did. The first
            answer counts; the other call is cancelled and its prompt is paid for.
        first_token_s: Longest wait for the first part of a streamed answer; by default the target's `timeout_s`.
        between_tokens_s: Longest wait for each further part; likewise.
        total_s: Longest time for all that the tier tries, to the first part of a streamed answer; by default the sum of
            the targets' `timeout_s`.
        stream_s: Longest time from the first part of a streamed answer to its end.
    """

    retry: RetryConfig = RetryConfig()
    breaker: BreakerConfig = BreakerConfig()
    hedge: bool = False
    first_token_s: PositiveFloat | None = None
    between_tokens_s: PositiveFloat | None = None
    total_s: PositiveFloat | None = None
    stream_s: PositiveFloat = 600
