from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.config import GatewayConfig
from app.errors import BudgetExceededError, InvalidRequestError, ModelNotFoundError
from app.local_model import LocalLLMConfig
from app.pricing import Price
from app.routing import Needs, Route, TierBounds, TierConfig, awake, needs_of, pinned, plan, route
from app.schema import Allowance
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
    assert pinned(model, TIERS).name == tier


def test_an_unknown_model_is_answered_with_those_there_are() -> None:
    with pytest.raises(ModelNotFoundError, match=r"`gpt-9` does not exist.*local, mid, top, small, medium, large"):
        pinned("gpt-9", TIERS)


def test_a_local_model_with_targets_beside_it_is_the_first_of_them() -> None:
    alone = TierConfig.model_validate({"name": "mid", "max_score": 0.5, "llm": LLM})
    mixed = TierConfig.model_validate({"name": "mid", "max_score": 0.5, "llm": LLM, "targets": [TARGET]})
    assert list(mixed.models()) == [*alone.models(), TARGET["model"]]
    assert (alone.llm_deployment, mixed.llm_deployment) == ("Tier-mid", "LLM-mid")
    assert "tools" in mixed.takes() - alone.takes()  # by the target; the model itself takes none
    assert mixed.llm_takes() == alone.takes()
    assert alone.window() < mixed.window()  # what is too long for the model goes to the target


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs an `llm` or `targets`"),
        ({"llm": {**LLM, "name": TARGET["model"]}, "targets": [TARGET]}, "needs another `model`"),
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


CUTS = [("score", (0.3, 0.7))]


def limited(**changes: dict[str, Any]) -> tuple[TierConfig, ...]:
    """The three tiers, some of them changed."""
    return tuple(tier.model_copy(update=changes.get(tier.name, {})) for tier in TIERS)


def names(found: Route) -> list[str]:
    return [tier.name for tier in found.tiers]


@given(st.floats(0, 1))
def test_without_a_reason_against_it_the_score_decides(score: float) -> None:
    assert route(score, Needs(), TIERS, CUTS) == Route(plan(score, TIERS), score, "score")


def test_without_a_score_the_best_tier_is_asked() -> None:
    found = route(None, Needs(), TIERS, CUTS)
    assert (names(found), found.reason) == (["top"], "unclassified")


@pytest.mark.parametrize(
    ("score", "bounds", "at_least", "wanted", "reason"),
    [
        (0.1, TierBounds(floor="mid"), None, ["mid", "top"], "floor"),
        (0.8, TierBounds(floor="mid"), None, ["top"], "score"),
        (0.8, TierBounds(ceiling="mid"), None, ["mid"], "ceiling"),
        (0.1, TierBounds(ceiling="mid"), None, ["local", "mid"], "score"),
        (None, TierBounds(ceiling="local"), None, ["local"], "ceiling"),
        (0.1, TierBounds(cuts=(0.0, 0.05)), None, ["top"], "score"),
        (0.1, TierBounds(), "mid", ["mid", "top"], "conversation"),
        (0.8, TierBounds(), "mid", ["top"], "score"),
        (0.1, TierBounds(ceiling="mid"), "top", ["mid"], "ceiling"),
        (0.1, TierBounds(floor="mid"), "top", ["top"], "conversation"),
        (0.1, TierBounds(), "a tier of last week", ["local", "mid", "top"], "score"),
    ],
)
def test_bounds_and_the_conversation_move_a_request(
    score: float | None, bounds: TierBounds, at_least: str | None, wanted: list[str], reason: str
) -> None:
    cuts = [("score", bounds.cuts or (0.3, 0.7))]
    found = route(score, Needs(), TIERS, cuts, bounds, at_least)
    assert (names(found), found.reason) == (wanted, reason)


@pytest.mark.parametrize(
    ("score", "wanted", "reason"),
    [(0.1, "local", "score"), (0.28, "mid", "quality"), (0.5, "mid", "score"), (0.65, "top", "share")],
)
def test_what_moved_the_cut_point_that_decides_is_the_reason(score: float, wanted: str, reason: str) -> None:
    cuts = [*CUTS, ("share", (0.3, 0.6)), ("quality", (0.26, 0.6))]
    found = route(score, Needs(), TIERS, cuts)
    assert (found.tiers[0].name, found.reason) == (wanted, reason)


@pytest.mark.parametrize(
    ("needs", "wanted", "reason"),
    [
        (Needs(50), ["local", "mid", "top"], "score"),
        (Needs(150), ["mid", "top"], "context"),
        (Needs(50, frozenset({"tools"})), ["mid", "top"], "tools"),
        (Needs(50, frozenset({"vision"})), ["top"], "vision"),
        (Needs(150, frozenset({"tools", "vision"})), ["top"], "tools"),
        (Needs(50, tiers=frozenset({"mid"})), ["mid"], "profile"),
        (Needs(50, tiers=frozenset({"local", "top"})), ["local", "top"], "score"),
    ],
)
def test_a_tier_that_lacks_what_a_request_needs_is_left_out(needs: Needs, wanted: list[str], reason: str) -> None:
    tiers = limited(local={"abilities": frozenset(), "context_tokens": 100}, mid={"abilities": frozenset({"tools"})})
    found = route(0.1, needs, tiers, CUTS)
    assert (names(found), found.reason) == (wanted, reason)


def test_a_request_that_only_a_weaker_tier_can_take_goes_there() -> None:
    found = route(0.9, Needs(50, frozenset({"audio"})), limited(top={"abilities": frozenset()}), CUTS)
    assert (names(found), found.reason) == (["mid"], "audio")


@pytest.mark.parametrize(
    ("fields", "ability"),
    [({"n": 2}, "choices"), ({"logprobs": True}, "logprobs"), ({"modalities": ["text", "audio"]}, "audio")],
)
def test_what_an_api_does_not_give_is_asked_of_a_tier_that_does(fields: dict[str, Any], ability: str) -> None:
    claude = TierConfig.model_validate(
        {"name": "top", "max_score": 1.0, "targets": [{"kind": "anthropic", "model": "claude-opus-4-8"}]}
    )
    needs = needs_of({"messages": [{"role": "user", "content": "hi"}], **fields})
    found = route(0.9, needs, (*TIERS[:2], claude), CUTS)
    assert (names(found), found.reason) == (["mid"], ability)
    with pytest.raises(InvalidRequestError, match="none that is configured"):
        route(0.9, needs, (claude,), [("score", ())])


def test_a_local_model_gives_several_answers_and_the_odds_whatever_its_abilities() -> None:
    local = TierConfig.model_validate({"name": "local", "max_score": 1.0, "llm": LLM})
    assert local.takes() == {"choices", "logprobs"}
    assert local.model_copy(update={"abilities": frozenset({"tools"})}).takes() == {"tools", "choices", "logprobs"}


def test_a_prompt_that_seems_too_long_for_every_tier_is_left_to_the_one_that_holds_most() -> None:
    tiers = limited(local={"context_tokens": 10}, mid={"context_tokens": 30}, top={"context_tokens": 20})
    assert names(route(0.1, Needs(99), tiers, CUTS)) == ["mid"]


@pytest.mark.parametrize("score", [0.1, 0.9])
def test_a_prompt_too_long_for_the_tiers_of_its_profile_goes_to_no_other(score: float) -> None:
    tiers = limited(local={"context_tokens": 10}, mid={"context_tokens": 100})
    needs = Needs(50, tiers=frozenset({"local"}))
    assert names(route(score, needs, tiers, CUTS)) == ["local"]


def test_a_request_that_the_tiers_of_its_profile_cannot_serve_is_refused() -> None:
    tiers = limited(local={"abilities": frozenset()})
    with pytest.raises(InvalidRequestError, match="Images are not supported here"):
        route(0.1, Needs(5, frozenset({"vision"}), frozenset({"local"})), tiers, CUTS)
    with pytest.raises(InvalidRequestError, match=r"only these tiers answer: local.*it may go to: mid, top"):
        route(0.1, Needs(5, tiers=frozenset({"local"})), tiers, CUTS, TierBounds(floor="mid"))
    allowance = Allowance("mid", BudgetExceededError("spent", 60))
    with pytest.raises(BudgetExceededError):
        route(0.1, Needs(5, tiers=frozenset({"top"})), tiers, CUTS, allowance=allowance)


def test_what_no_permitted_tier_takes_is_refused_with_those_that_do() -> None:
    tiers = limited(local={"abilities": frozenset()}, mid={"abilities": frozenset({"tools"})})
    needs = Needs(0, frozenset({"vision"}))
    with pytest.raises(InvalidRequestError, match=r"Images are not supported here.*none that is configured") as refused:
        route(0.1, needs, tiers, CUTS, TierBounds(ceiling="mid"))
    assert refused.value.param == "messages"


@pytest.mark.parametrize(
    ("score", "needs", "bounds", "cheaper"),
    [
        (0.35, Needs(), TierBounds(), "local"),
        (0.41, Needs(), TierBounds(), None),
        (0.29, Needs(), TierBounds(), None),
        (0.75, Needs(), TierBounds(), "mid"),
        (0.75, Needs(), TierBounds(floor="top"), None),
        (0.75, Needs(), TierBounds(ceiling="mid"), None),
        (0.35, Needs(200), TierBounds(), None),
    ],
)
def test_just_above_a_cut_point_the_cheaper_tier_may_be_tried(
    score: float, needs: Needs, bounds: TierBounds, cheaper: str | None
) -> None:
    found = route(score, needs, limited(local={"context_tokens": 100}), CUTS, bounds, margin=0.1)
    assert (found.cheaper and found.cheaper.name) == cheaper


@pytest.mark.parametrize(
    ("asleep", "wanted", "reason", "woken"),
    [
        (set(), ["local", "mid", "top"], "score", set()),
        ({"local"}, ["mid", "top", "local"], "starting", {"local"}),
        ({"local", "mid"}, ["top", "local", "mid"], "starting", {"local", "mid"}),
        ({"mid"}, ["local", "mid", "top"], "score", set()),  # nobody has asked for it
        ({"local", "mid", "top"}, ["local", "mid", "top"], "score", {"local", "mid", "top"}),
    ],
)
def test_a_request_goes_up_past_the_tiers_that_sleep_and_wakes_them(
    asleep: set[str], wanted: list[str], reason: str, woken: set[str]
) -> None:
    called = []

    def wake(tier: str) -> bool:
        called.append(tier)
        return tier not in asleep

    found = awake(Route(CONFIG.tiers, 0.1, "score"), wake)
    assert (names(found), found.reason, asleep & set(called)) == (wanted, reason, woken)


def test_a_cheaper_tier_that_sleeps_is_not_tried_first() -> None:
    found = awake(Route(CONFIG.tiers[1:], 0.3, "score", CONFIG.tiers[0]), lambda tier: tier != "local")
    assert (names(found), found.cheaper) == (["mid", "top"], None)


def test_what_a_request_needs_is_read_off_its_body() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    recording = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    content = [{"type": "text", "text": "x" * 40}, picture, recording, {"type": "file", "file": {}}]
    messages = [{"role": "system", "content": "y" * 40}, {"role": "user", "content": content}]
    body = {"messages": messages, "tools": [{}], "max_tokens": 30}
    assert needs_of(body) == Needs(51, frozenset({"tools", "vision", "audio", "files"}))
    assert needs_of({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}) == Needs()


@pytest.mark.parametrize("where", ["tools", "functions", "tool_calls", "response_format"])
def test_tools_their_calls_and_schemas_take_up_context_too(where: str) -> None:
    long = [{"name": "x" * 4000}]
    asked: dict[str, Any] = {"role": "user", "content": "hi"}
    fields: dict[str, dict[str, Any]] = {
        "tools": {"messages": [asked], "tools": long},
        "functions": {"messages": [asked], "functions": long},
        "tool_calls": {"messages": [asked, {"role": "assistant", "content": None, "tool_calls": long}]},
        "response_format": {
            "messages": [asked],
            "response_format": {"type": "json_schema", "json_schema": {"schema": {"description": "x" * 4000}}},
        },
    }
    assert 1000 <= needs_of(fields[where]).tokens <= 1020


def test_a_prompt_that_may_pass_the_narrowest_tier_is_counted() -> None:
    narrow = TIERS[0].model_copy(update={"context_tokens": 50})
    body = {"messages": [{"role": "user", "content": "你好，世界！" * 10}]}
    assert needs_of(body).tokens == 15
    assert needs_of(body, narrow).tokens == 40
    assert needs_of(body, TIERS[0]).tokens == 15


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"floor": "best"}, "acme.floor: there is no tier `best`"),
        ({"floor": "top", "ceiling": "mid"}, "acme.floor: is above the ceiling"),
        ({"cuts": [0.5]}, "acme.cuts: must be 2 rising numbers"),
        ({"cuts": [0.5, 0.4]}, "acme.cuts: must be 2 rising numbers"),
    ],
)
def test_bounds_that_cannot_be_stop_the_start(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GatewayConfig.model_validate({**CONFIG.model_dump(), "routing": {"tenants": {"acme": fields}}})
