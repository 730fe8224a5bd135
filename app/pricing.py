"""Tokens to US dollars."""

from __future__ import annotations

from pydantic import NonNegativeFloat

from app.schema import Usage
from app.section import Section


class Price(Section):
    """What a model costs.

    Attributes:
        usd_per_1m_input_tokens: US dollars for a million tokens that it reads,
        usd_per_1m_output_tokens: and for a million that it writes.
        usd_per_1m_cached_input_tokens: Of prompt tokens that the provider had in its own cache; by default as others.
    """

    usd_per_1m_input_tokens: NonNegativeFloat = 0.0
    usd_per_1m_output_tokens: NonNegativeFloat = 0.0
    usd_per_1m_cached_input_tokens: NonNegativeFloat | None = None


def cost_usd(usage: Usage, price: Price) -> float:
    """Return the price of a completion's tokens in USD."""
    cached_price = price.usd_per_1m_cached_input_tokens
    if cached_price is None:
        cached_price = price.usd_per_1m_input_tokens
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    return (
        (usage.prompt_tokens - cached) * price.usd_per_1m_input_tokens
        + cached * cached_price
        + usage.completion_tokens * price.usd_per_1m_output_tokens
    ) / 1e6
