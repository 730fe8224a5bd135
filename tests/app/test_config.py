from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from app.config import GatewayConfig
from tests.fakes import CONFIG

LOCAL = {"name": "local", "max_score": 0.3, "llm": {"model": "bundled:smollm2-135m", "timeout_s": 100}}
TARGETS = [
    {"model": "a", "api_key_env": "A_KEY", "timeout_s": 20},
    {"model": "b", "api_key_env": "A_KEY", "timeout_s": 30},
]


def tier(**fields: Any) -> dict[str, Any]:
    return {"name": "top", "max_score": 1.0, "targets": TARGETS, **fields}


def gateway(*tiers: dict[str, Any], **fields: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({"tiers": tiers or (LOCAL, tier()), **fields})


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"tires": []}, "tires"),
        ({"cache": {"treshold": 0.9}}, "cache.treshold"),
        ({"redis": {"ur1_env": "X"}}, "redis.ur1_env"),
        ({"cache": {"embedder": {"modle": "x"}}}, "cache.embedder.onnx.modle"),
        ({"classifier": {"heda": "x"}}, "classifier.heda"),
        ({"tenants": {"kind": "open", "tenat": "x"}}, "tenants.open.tenat"),
    ],
)
def test_an_unknown_key_names_itself(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ValidationError) as raised:
        gateway(**fields)
    (error,) = raised.value.errors()
    assert (".".join(map(str, error["loc"])), error["type"]) == (path, "extra_forbidden")


@pytest.mark.parametrize(
    "scores", [(0.3, 0.9), (0.7, 0.3, 1.0), (0.3, 0.3, 1.0), (1.0, 0.5)], ids=["short of 1", "falling", "equal", "last"]
)
def test_max_score_must_rise_and_end_at_one(scores: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match=r"`max_score` must rise and end at 1\.0"):
        gateway(*(tier(name=f"t{i}", max_score=score) for i, score in enumerate(scores)))


def test_two_tiers_cannot_have_one_name() -> None:
    with pytest.raises(ValidationError, match="each needs another `name`"):
        gateway(tier(max_score=0.5), tier())


def test_there_must_be_a_tier() -> None:
    with pytest.raises(ValidationError, match="tiers"):
        GatewayConfig(tiers=())


@pytest.mark.parametrize("stand_in", ["nobody", "mid"])
def test_a_stand_in_must_be_a_local_tier(stand_in: str) -> None:
    with pytest.raises(ValidationError, match="the `stand_in` of `top` must name a tier with an `llm`"):
        gateway(LOCAL, tier(name="mid", max_score=0.7), tier(stand_in=stand_in))


def test_a_stand_in_answers_while_no_key_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    config = gateway(LOCAL, tier(stand_in="local"))
    monkeypatch.delenv("A_KEY", raising=False)
    assert (config.stand_ins(), config.timeout_s("top")) == ({"top": "local"}, 105)
    monkeypatch.setenv("A_KEY", "secret")
    assert (config.stand_ins(), config.timeout_s("top")) == ({}, 55)


def test_a_tier_without_stand_in_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    assert gateway().stand_ins() == {}


def test_tools_go_to_api_tiers_and_to_local_models_set_up_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    able = {**LOCAL, "name": "able", "max_score": 0.5, "llm": {"model": "a/able"}, "abilities": ["tools"]}
    config = gateway(LOCAL, able, tier(stand_in="local"))
    monkeypatch.setenv("A_KEY", "secret")
    assert [tier.name for tier in config.routable_tiers() if "tools" in tier.takes()] == ["able", "top"]
    monkeypatch.delenv("A_KEY")
    assert [tier.name for tier in config.routable_tiers() if "tools" in tier.takes()] == ["able"]


def test_the_baseline_is_the_first_model_of_the_last_tier_unless_it_is_named() -> None:
    assert CONFIG.baseline_price() == CONFIG.prices()["large"]
    named = GatewayConfig.model_validate({**CONFIG.model_dump(), "baseline": "medium"})
    assert named.baseline_price() == CONFIG.prices()["medium"]


def test_a_baseline_that_is_no_model_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValidationError, match="`gpt-9` is none of the models: smollm2-135m, a, b"):
        gateway(baseline="gpt-9")


def test_every_model_of_every_tier_has_its_price() -> None:
    assert list(CONFIG.prices()) == ["small", "medium", "large"]
    assert CONFIG.prices()["medium"].at(date(2026, 1, 1)).usd_per_1m_output_tokens == 2


@pytest.mark.parametrize(
    ("cuts", "fields", "promised"),
    [
        ((0.3, 0.7), {}, 0.9),  # by the card of the bundled classifier
        ((0.3, 0.7), {"routing": {"quality": {"kept": 0.97}}}, 0.97),
        ((0.3, 0.7), {"classifier": {"model": "/no/such/folder"}}, 0.95),
        ((0.3, 0.6), {}, 0.95),
        ((0.3,), {}, 0.95),
    ],
)
def test_the_customary_cut_points_keep_what_the_classifier_s_card_promises(
    cuts: tuple[float, ...], fields: dict[str, Any], promised: float
) -> None:
    tiers = [tier(name=f"t{i}", max_score=score) for i, score in enumerate([*cuts, 1.0])]
    assert gateway(*tiers, **fields).quality_kept() == promised


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CONFIG.max_body_bytes = 1
