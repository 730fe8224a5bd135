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
    """

    usd_per_1m_input_tokens: NonNegativeFloat = 0.0
    usd_per_1m_output_tokens: NonNegativeFloat = 0.0


def cost_usd(usage: Usage, price: Price) -> float:
    """Return the price of a completion's tokens in USD."""
    return (
        usage.prompt_tokens * price.usd_per_1m_input_tokens + usage.completion_tokens * price.usd_per_1m_output_tokens
    ) / 1e6
