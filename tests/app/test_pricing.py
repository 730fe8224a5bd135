from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from app.config import GatewayConfig
from app.pricing import GpuPrice, ListedPrice, Price, PriceHistory, cost_usd, listed_price
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


def priced(price: Any = None, model: str = "gpt-4o", **fields: Any) -> GatewayConfig:
    """Make a gateway of one model."""
    tier = {"name": "top", "max_score": 1.0, "targets": [{"model": model, "price": price}]}
    return GatewayConfig.model_validate({"tiers": [tier], **fields})


def test_prompt_tokens_that_the_provider_had_cached_have_a_price_of_their_own() -> None:
    price = Price(usd_per_1m_input_tokens=2, usd_per_1m_cached_input_tokens=1, usd_per_1m_output_tokens=10)
    assert cost_usd(Usage(1_000_000, 0, cached_tokens=400_000), price) == pytest.approx(0.6 * 2 + 0.4 * 1)
    without = Price(usd_per_1m_input_tokens=2)
    assert cost_usd(Usage(1_000_000, 0, cached_tokens=400_000), without) == pytest.approx(2)


def test_a_request_in_a_batch_costs_half() -> None:
    price = Price(usd_per_1m_input_tokens=2)
    assert cost_usd(Usage(1_000_000, 0, batch=True), price) == pytest.approx(1)


def test_prompt_tokens_that_the_provider_puts_into_its_cache_have_a_price_of_their_own() -> None:
    price = Price(usd_per_1m_input_tokens=3, usd_per_1m_cached_input_tokens=0.3, usd_per_1m_cache_write_tokens=3.75)
    usage = Usage(1_000_000, 0, cached_tokens=500_000, cache_write_tokens=400_000)
    assert cost_usd(usage, price) == pytest.approx(0.5 * 0.3 + 0.4 * 3.75 + 0.1 * 3)
    without = price.model_copy(update={"usd_per_1m_cache_write_tokens": None})
    assert cost_usd(usage, without) == pytest.approx(0.5 * 0.3 + 0.5 * 3)


def test_a_list_price_knows_what_writing_to_a_providers_cache_costs() -> None:
    price = listed_price("claude-sonnet-4-5", date(2026, 1, 1))
    assert price is not None
    assert price.usd_per_1m_cache_write_tokens == 1.25 * price.usd_per_1m_input_tokens


def test_the_provider_says_what_it_had_cached_and_what_was_a_batch() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 64}}
    assert Completion({"usage": usage, "service_tier": "flex"}, "small").usage == Usage(100, 5, 64, batch=True)
    assert Completion({"usage": usage, "service_tier": "default"}, "small").usage == Usage(100, 5, 64)


def test_a_rented_gpu_costs_its_hour_by_its_tokens() -> None:
    rent = GpuPrice(usd_per_gpu_hour=3.6, output_tokens_per_s=1000)
    assert cost_usd(Usage(5_000, 1_000_000), rent) == pytest.approx(1.0)
    assert cost_usd(Usage(0, 1_000_000), rent.model_copy(update={"gpus": 0.5})) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("day", "usd"),
    [
        (date(2023, 5, 1), 8),
        (date(2024, 6, 30), 8),
        (date(2024, 7, 1), 4),
        (date(2025, 3, 1), 4),
        (date(2026, 1, 1), 4),
    ],
)
def test_a_price_with_dates_holds_on_its_days_and_the_nearest_one_on_others(day: date, usd: float) -> None:
    dated = [
        {"from": "2024-01-01", "until": "2024-06-30", "usd_per_1m_output_tokens": 8},
        {"from": "2024-07-01", "until": "2025-06-30", "usd_per_1m_output_tokens": 4},
    ]
    assert cost_usd(Usage(0, 1_000_000), priced(dated).prices()["gpt-4o"], day) == pytest.approx(usd)


def test_of_two_prices_for_a_day_the_later_in_the_list_counts() -> None:
    both = PriceHistory.model_validate([{"usd_per_1m_input_tokens": 1}, {"usd_per_1m_input_tokens": 2}])
    assert both.at(date(2025, 1, 1)).usd_per_1m_input_tokens == 2


@pytest.mark.parametrize(
    ("model", "day", "prompt_usd", "answer_usd"),
    [
        ("gpt-4-32k", date(2023, 7, 1), 60, 120),
        ("gpt-4", date(2023, 7, 1), 30, 60),
        ("gpt-3.5-turbo", date(2023, 5, 1), 2, 2),
        ("gpt-3.5-turbo", date(2023, 7, 1), 1.5, 2),
        ("gpt-3.5-turbo", date(2024, 7, 1), 0.5, 1.5),
        ("azure/gpt-35-turbo", date(2023, 7, 1), 1.5, 2),
        ("openai/gpt-4o-mini", date(2025, 1, 1), 0.15, 0.6),
        ("claude-instant-1.2", date(2023, 9, 1), 1.63, 5.51),
        ("anthropic/claude-instant-1.2", date(2024, 1, 1), 0.8, 2.4),
        ("bedrock/anthropic.claude-instant-v1", date(2024, 1, 1), 0.8, 2.4),
        ("o3", date(2025, 6, 1), 10, 40),
        ("o3", date(2025, 6, 20), 2, 8),
    ],
)
def test_a_model_without_a_price_has_the_list_price_of_the_day(
    model: str, day: date, prompt_usd: float, answer_usd: float
) -> None:
    price = ListedPrice(model=model).at(day)
    assert (price.usd_per_1m_input_tokens, price.usd_per_1m_output_tokens) == (prompt_usd, answer_usd)


def test_a_list_price_knows_what_cached_tokens_cost() -> None:
    price = listed_price("gpt-4o", date(2025, 6, 1))
    assert price is not None
    assert price.usd_per_1m_cached_input_tokens == 1.25


def test_a_model_that_nobody_lists_is_free_and_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    assert listed_price("our-own-model", date(2025, 1, 1)) is None
    assert cost_usd(Usage(1_000, 1_000), ListedPrice(model="our-own-model")) == 0
    assert "no price is known for `our-own-model`" in caplog.text


def test_a_price_list_overrides_the_library_and_a_price_of_its_own_the_list() -> None:
    listed = {"gpt-4o": {"usd_per_1m_input_tokens": 7}, "gpt-4": {"usd_per_1m_input_tokens": 9}}
    day = date(2025, 1, 1)
    assert priced(price_list=listed).prices()["gpt-4o"].at(day).usd_per_1m_input_tokens == 7
    own = priced({"usd_per_1m_input_tokens": 5}, price_list=listed)
    assert own.baseline_price().at(day).usd_per_1m_input_tokens == 5
    assert own.price_of("gpt-4").at(day).usd_per_1m_input_tokens == 9
    assert own.price_of("gpt-4-32k").at(day).usd_per_1m_input_tokens == 60


@pytest.mark.parametrize(
    ("price", "named"),
    [
        ({"usd_per_1m_input_token": 1}, "usd_per_1m_input_token"),
        ({"usd_per_gpu_hour": 2}, "output_tokens_per_s"),
        ([{"from": "2025-02-01", "until": "2025-01-01"}], "before `from`"),
        ([], "at least 1 item"),
        (3, "price"),
    ],
)
def test_a_price_that_cannot_be_read_names_its_key(price: Any, named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        priced(price)
