"""The canary: who is on it, what differs there, and what the two sides share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.api import build_api
from app.api_ledger import Books
from app.cache import cache_key
from app.canary import CanaryConfig, arm_of
from app.config import GatewayConfig, read_serve_file
from app.ledger.record import Record, answered
from app.schema import Outcome, PartStatus
from app.tenants import OpenTenants
from tests.fakes import CONFIG, FakeExactCache, FakeProvider, controller

RAW = CONFIG.model_dump(mode="json", exclude_defaults=True)
ROOT = Path(__file__).parents[2]
SERVED = [*sorted((ROOT / "configs").glob("*.yaml")), ROOT / "configs" / "compose" / "gateway.yaml"]
callers = st.text(min_size=1)


def canary(share: float, *tenants: str, **changes: Any) -> CanaryConfig:
    return CanaryConfig(share=share, tenants=tenants, changes=changes)


def config(changes: dict[str, Any], **section: Any) -> GatewayConfig:
    return GatewayConfig.model_validate({**RAW, "canary": {"share": 1.0, **section, "changes": changes}})


def asked(user: str | None = None, *texts: str) -> dict[str, Any]:
    """A conversation, a turn of the user first; each second text is an answer."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts or ("hello",))]
    return {"model": "auto", "messages": messages, **({"user": user} if user else {})}


@given(callers, st.lists(st.text(), min_size=1), st.floats(0, 1))
def test_all_requests_of_a_user_are_on_one_side(user: str, texts: list[str], share: float) -> None:
    arms = {arm_of(canary(share), "acme", asked(user, text)) for text in texts}
    assert len(arms) == 1


@given(st.lists(st.text(), min_size=1, max_size=9), st.floats(0, 1))
def test_all_turns_of_a_conversation_are_on_one_side(texts: list[str], share: float) -> None:
    turns = [asked(None, *texts[:count]) for count in range(1, len(texts) + 1)]
    assert len({arm_of(canary(share), "acme", turn) for turn in turns}) == 1


@given(callers, st.floats(0, 1), st.floats(0, 1))
def test_who_is_on_the_canary_stays_there_when_its_share_grows(user: str, share: float, more: float) -> None:
    low, high = sorted((share, more))
    if arm_of(canary(low), "acme", asked(user)) == "canary":
        assert arm_of(canary(high), "acme", asked(user)) == "canary"


@given(callers)
def test_a_share_of_nothing_is_nobody_and_of_one_everybody(user: str) -> None:
    assert [arm_of(canary(share), "acme", asked(user)) for share in (0, 1)] == ["stable", "canary"]


def test_the_share_is_that_of_the_callers() -> None:
    arms = [arm_of(canary(0.2), "acme", asked(f"user {i}")) for i in range(5000)]
    assert arms.count("canary") == pytest.approx(1000, abs=4 * (5000 * 0.2 * 0.8) ** 0.5)


def test_of_named_tenants_alone() -> None:
    assert [arm_of(canary(1, "acme"), tenant, asked()) for tenant in ("acme", "globex")] == ["canary", "stable"]
    assert arm_of(None, "acme", asked()) == ""


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.name)
def test_a_canary_that_changes_nothing_is_the_same_configuration(path: Path) -> None:
    stable = read_serve_file(path).config
    given = {**stable.model_dump(mode="json", exclude_unset=True), "canary": {"share": 0.5, "changes": {}}}
    found = GatewayConfig.model_validate(given).canary_config()
    assert found == stable


def test_sections_are_merged_and_tiers_by_their_name() -> None:
    changes = {"tiers": [{"name": "local", "max_score": 0.6}], "routing": {"cascade": {"margin": 0.1}}}
    second = config(changes, tenants=["acme"]).canary_config()
    assert second is not None
    assert [tier.max_score for tier in second.tiers] == [0.6, 0.7, 1.0]
    assert [tier.targets for tier in second.tiers] == [tier.targets for tier in CONFIG.tiers]
    assert (second.routing.cascade.margin, second.canary) == (0.1, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"redis": {}}, "changes: `redis` is the same for both"),
        ({"tenants": {"kind": "open"}}, "changes: `tenants` is the same for both"),
        ({"cache": {"embedder": {"model": "other"}}}, "`cache.embedder` takes replicas of its own"),
        ({"tiers": [{"name": "local", "targets": [{"model": "other"}]}]}, "`tiers.local.targets` takes replicas"),
        ({"tiers": [{"name": "huge", "max_score": 1.0, "targets": [{"model": "x"}]}]}, "`tiers` takes replicas"),
        ({"cache": {"treshold": 1}}, r"canary\.changes\.cache\.treshold: Extra inputs"),
        ({"tiers": [{"name": "mid", "max_score": 0.1}]}, "canary.changes: .*`max_score` must rise"),
    ],
)
def test_what_cannot_differ_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(changes)


def test_a_canary_of_everybody_must_be_meant() -> None:
    with pytest.raises(ValidationError, match="needs a `share`, `tenants`, or both"):
        GatewayConfig.model_validate({**RAW, "canary": {"changes": {}}})


@given(st.text(), st.text())
def test_the_sides_share_no_entry(text: str, tenant: str) -> None:
    stable, second = (cache_key(asked(None, text), tenant, space) for space in ("", "canary"))
    assert stable.scope != second.scope
    assert stable == cache_key(asked(None, text), tenant)


class Gateway:
    """The API over both sides: the stable one asks `small`, the canary `medium`; one cache."""

    def __init__(self, **section: Any) -> None:
        cuts = {"tiers": [{"name": "local", "max_score": 0.1}]}
        whole = GatewayConfig.model_validate({**RAW, "canary": {**section, "changes": cuts}})
        second = whole.canary_config()
        assert second is not None
        self.outcomes: list[Outcome] = []
        self.refused: list[Record] = []
        cache, end = FakeExactCache(), self.outcomes.append
        models = (("local", "small"), ("mid", "medium"), ("top", "large"))
        providers = {name: FakeProvider(model) for name, model in models}
        self.sides = [controller(cache, providers, score=0.2, config=one, on_end=end) for one in (whole, second)]
        books = Books(on_refused=self.refused.append)
        tenants = OpenTenants(tenant="acme").build()
        api = build_api(self.sides[0], whole, tenants, self._parts, self._metrics, books=books, canary=self.sides[1])
        transport = httpx2.ASGITransport(app=api, raise_app_exceptions=False)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://gateway")

    async def ask(self, body: dict[str, Any]) -> httpx2.Response:
        response = await self.http.post("/v1/chat/completions", json=body)
        for side in self.sides:
            await side.drain()
        return response

    @staticmethod
    async def _parts() -> Sequence[PartStatus]:
        return ()

    @staticmethod
    async def _metrics() -> bytes:
        return b""


@pytest.mark.parametrize(("share", "arm", "tier"), [(0.0, "stable", "local"), (1.0, "canary", "mid")])
@pytest.mark.parametrize("stream", [False, True])
async def test_each_side_answers_by_its_own_configuration(share: float, arm: str, tier: str, stream: bool) -> None:
    gateway = Gateway(share=share)
    response = await gateway.ask({**asked(), "stream": stream})
    assert (response.headers["x-tierwise-canary"], response.headers["x-tierwise-tier"]) == (arm, tier)
    (outcome,) = gateway.outcomes
    assert answered(1.0, outcome).arm == arm


async def test_a_user_of_one_side_is_served_no_answer_of_the_other() -> None:
    gateway = Gateway(share=0.5)
    names = [f"user {i}" for i in range(20)]
    first = {name: await gateway.ask(asked(name)) for name in names}
    again = [(await gateway.ask(asked(name))).headers for name in names]
    tiers = {(found.headers["x-tierwise-canary"], found.headers["x-tierwise-tier"]) for found in first.values()}
    assert tiers == {("stable", "local"), ("stable", "cache"), ("canary", "mid"), ("canary", "cache")}
    assert {found["x-tierwise-cache"] for found in again} == {"hit"}
    models = {(found["x-tierwise-canary"], found["x-tierwise-model"]) for found in again}
    assert models == {("stable", "small"), ("canary", "medium")}


async def test_a_failure_is_on_the_side_that_it_came_from() -> None:
    gateway = Gateway(share=1.0)
    response = await gateway.ask({**asked(), "model": "gpt-17"})
    assert (response.status_code, response.headers["x-tierwise-canary"]) == (404, "canary")
    assert [record.arm for record in gateway.refused] == ["canary"]
