from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.errors import ModelNotFoundError
from app.pricing import Price
from app.routing import LocalLLMConfig, TierConfig, pinned, plan
from tests.fakes import CONFIG

TIERS = CONFIG.tiers
LLM = {"model": "bundled:smollm2-135m"}
TARGET = {"model": "gpt-4o", "api_key_env": "A_KEY"}


@pytest.mark.parametrize(
    ("score", "names"),
    [
        (0.0, ["local", "mid", "top"]),
        (0.29, ["local", "mid", "top"]),
        (0.3, ["mid", "top"]),
        (0.69, ["mid", "top"]),
        (0.7, ["top"]),
        (1.0, ["top"]),
    ],
)
def test_a_score_picks_the_cheapest_tier_whose_ceiling_is_above_it_and_then_the_stronger_ones(
    score: float, names: list[str]
) -> None:
    assert [tier.name for tier in plan(score, TIERS)] == names


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_harder_prompt_never_starts_lower(one: float, other: float) -> None:
    easier, harder = sorted([one, other])
    assert len(plan(easier, TIERS)) >= len(plan(harder, TIERS)) >= 1


@pytest.mark.parametrize(("model", "tier"), [("mid", "mid"), ("medium", "mid"), ("top", "top"), ("small", "local")])
def test_a_tier_is_pinned_by_its_name_or_by_its_models(model: str, tier: str) -> None:
    assert [found.name for found in pinned(model, TIERS)] == [tier]


def test_an_unknown_model_is_answered_with_those_there_are() -> None:
    with pytest.raises(ModelNotFoundError, match=r"`gpt-9` does not exist.*local, mid, top, small, medium, large"):
        pinned("gpt-9", TIERS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs either `llm` or `targets`"),
        ({"llm": LLM, "targets": [TARGET]}, "needs either `llm` or `targets`"),
        ({"llm": LLM, "stand_in": "other"}, "needs no `stand_in`"),
        ({"targets": [TARGET, TARGET]}, "needs another `model`"),
        ({"targets": [TARGET], "name": "Mid"}, "name"),
        ({"targets": [TARGET], "max_score": 0}, "greater than 0"),
        ({"targets": [TARGET], "max_score": 1.1}, "less than or equal to 1"),
        ({"llm": {**LLM, "device": "tpu"}}, "llm.device"),
        ({"llm": {**LLM, "gpu_fraction": 0}}, "llm.gpu_fraction"),
    ],
)
def test_a_tier_that_cannot_be_says_why(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TierConfig.model_validate({"name": "mid", "max_score": 0.5, **fields})


@pytest.mark.parametrize(
    ("model", "name", "target"),
    [
        ("mistralai/Mistral-7B", "", "Mistral-7B"),
        ("bundled:smollm2-135m", "", "smollm2-135m"),
        ("/models/mine", "", "mine"),
        ("mistralai/Mistral-7B", "mistral", "mistral"),
    ],
)
def test_a_local_model_is_called_by_its_name_or_by_the_last_part_of_its_path(
    model: str, name: str, target: str
) -> None:
    assert LocalLLMConfig(model=model, name=name).target == target


def test_a_local_tier_offers_its_model_at_its_price() -> None:
    price = Price(usd_per_1m_output_tokens=3)
    tier = TierConfig(name="local", max_score=1, llm=LocalLLMConfig(model="a/b", price=price))
    assert tier.models() == {"b": price}
    assert tier.missing_keys() == []


def test_a_tier_misses_its_keys_while_no_target_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    monkeypatch.delenv("B_KEY", raising=False)
    targets = [{"model": "b", "api_key_env": "B_KEY"}, {"model": "a", "api_key_env": "A_KEY"}]
    tier = TierConfig.model_validate({"name": "mid", "max_score": 1, "targets": targets})
    assert tier.missing_keys() == ["A_KEY", "B_KEY"]
    monkeypatch.setenv("B_KEY", "secret")
    assert tier.missing_keys() == []


def test_a_target_without_a_key_in_its_configuration_misses_none() -> None:
    tier = TierConfig.model_validate({"name": "mid", "max_score": 1, "targets": [{"model": "a", "api_key_env": None}]})
    assert tier.missing_keys() == []
