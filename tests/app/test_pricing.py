from __future__ import annotations

import pytest
from pydantic import ValidationError

from app.pricing import Price, cost_usd
from app.schema import Completion, Usage


def test_input_and_output_tokens_have_a_price_each_per_million() -> None:
    price = Price(usd_per_1m_input_tokens=2.5, usd_per_1m_output_tokens=10)
    assert cost_usd(Usage(1_000_000, 0), price) == pytest.approx(2.5)
    assert cost_usd(Usage(0, 1_000), price) == pytest.approx(0.01)
    assert cost_usd(Usage(400, 50), price) == pytest.approx(0.0015)


def test_tokens_of_the_providers_own_cache_have_a_price_of_their_own_if_one_is_given() -> None:
    usage = Completion(
        {"usage": {"prompt_tokens": 100, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 80}}}, "m"
    ).usage
    price = Price(usd_per_1m_input_tokens=10, usd_per_1m_cached_input_tokens=1)
    assert cost_usd(usage, price) == pytest.approx(280e-6)
    assert cost_usd(usage, Price(usd_per_1m_input_tokens=10)) == pytest.approx(1000e-6)


def test_a_model_without_a_price_is_free() -> None:
    assert cost_usd(Usage(1_000, 1_000), Price()) == 0.0


def test_a_price_is_not_negative() -> None:
    with pytest.raises(ValidationError, match="usd_per_1m_input_tokens"):
        Price(usd_per_1m_input_tokens=-1)


@pytest.mark.parametrize("body", [{}, {"usage": None}, {"usage": {"prompt_tokens": None}}])
def test_a_provider_that_does_not_count_costs_nothing(body: dict[str, object]) -> None:
    assert Completion(body, "small").usage == Usage(0, 0)
