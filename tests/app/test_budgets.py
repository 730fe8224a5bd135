"""Budgets: where a tenant stands, and what that leaves its requests, through the real API."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Sequence
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from app.api import build_api
from app.api_ledger import Books
from app.config import GatewayConfig
from app.errors import BudgetExceededError, CacheUnavailableError, UpstreamTimeoutError
from app.ledger import BudgetConfig
from app.ledger.budgets import Budgets, Spent, standing
from app.ledger.record import Record
from app.schema import Outcome, PartStatus
from app.tenants import OpenTenants
from tests.fakes import CONFIG, FakeEmbedder, FakeExactCache, FakeProvider, controller
from tests.waiting import until

Providers = dict[str, FakeProvider]
NOON = 1_780_000_000.0 - 1_780_000_000.0 % 86400 + 12 * 3600  # of 28 May 2026
UPSTREAM_DOWN = UpstreamTimeoutError("no answer in 30 s", "fake")
BUDGET = BudgetConfig(usd_per_day=10, warn_at=0.5, step_down_at=0.8, step_down_to="local", refuse_at=1.0)


class FakeSpending:
    """Says what was spent, for every tenant the same."""

    def __init__(self, day_usd: float = 0.0, month_usd: float = 0.0) -> None:
        self.day_usd, self.month_usd = day_usd, month_usd
        self.error: CacheUnavailableError | None = None
        self.reads = 0

    async def spent(self, tenants: Collection[str], time: float) -> dict[str, tuple[int, int]]:
        self.reads += 1
        if self.error:
            raise self.error
        return dict.fromkeys(tenants, (round(self.day_usd * 1e9), round(self.month_usd * 1e9)))


@pytest.mark.parametrize(
    ("spent", "state", "ceiling"),
    [(4.9, "ok", None), (5.0, "warn", None), (8.0, "step-down", "local"), (10.0, "refuse", None)],
)
def test_a_budget_warns_then_steps_down_then_refuses(spent: float, state: str, ceiling: str | None) -> None:
    found = standing(BUDGET, "acme", Spent(spent, spent, NOON), NOON)
    assert (found.state, found.used) == (state, spent / 10)
    assert found.left_usd == pytest.approx(10 - spent)
    assert (found.allowance.ceiling if found.allowance else None) == ceiling
    assert (found.allowance is None) == (state in ("ok", "warn"))


@pytest.mark.parametrize(("day", "month", "retry_after_s"), [(10, 10, 12 * 3600), (1, 100, 3 * 86400 + 12 * 3600)])
def test_who_is_refused_is_told_when_the_period_ends(day: float, month: float, retry_after_s: int) -> None:
    budget = BudgetConfig(usd_per_day=10, usd_per_month=100)
    found = standing(budget, "acme", Spent(day, month, NOON), NOON)
    assert found.allowance is not None
    assert found.allowance.refusal.retry_after_s == retry_after_s


def test_a_new_day_and_a_new_month_begin_at_nothing() -> None:
    budget = BudgetConfig(usd_per_day=10, usd_per_month=100)
    spent = Spent(10, 50, NOON)
    assert standing(budget, "acme", spent, NOON + 86400).used == 0.5
    assert standing(budget, "acme", spent, NOON + 5 * 86400).used == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs `usd_per_day` or `usd_per_month`"),
        ({"usd_per_day": 1, "step_down_at": 0.9}, "go together"),
        ({"usd_per_day": 1, "warn_at": 1.5}, "must rise"),
    ],
)
def test_a_budget_that_cannot_be_kept_says_why(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BudgetConfig(**fields)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"redis": None}, "known with `redis` and `ledger.enabled` alone"),
        ({"ledger": {"enabled": False}}, "known with `redis` and `ledger.enabled` alone"),
        ({"budgets": {"acme": BUDGET.model_dump() | {"step_down_to": "tiny"}}}, "there is no tier `tiny`"),
    ],
)
def test_a_configuration_whose_budgets_cannot_be_kept_names_the_key(changes: dict[str, Any], message: str) -> None:
    given = CONFIG.model_dump() | {"redis": {"embedded": True}, "budgets": {"acme": BUDGET.model_dump()}}
    GatewayConfig.model_validate(given)
    with pytest.raises(ValidationError, match=message):
        GatewayConfig.model_validate(given | changes)


def test_the_refusal_travels_between_replicas() -> None:
    error = pickle.loads(pickle.dumps(BudgetExceededError("spent", 60)))
    assert (error.message, error.retry_after_s, error.code, error.status_code) == ("spent", 60, "budget_exceeded", 429)


async def test_what_was_spent_is_read_at_once_for_the_first_request_and_then_off_the_path() -> None:
    clock, spending = [NOON], FakeSpending(9.0)
    budgets = Budgets({"*": BUDGET}, spending, lambda: clock[0])
    first = await budgets.of("acme")
    assert first is not None
    assert first.state == "step-down"
    spending.day_usd = 11.0
    clock[0] += 0.5
    await budgets.of("acme")
    assert spending.reads == 1
    clock[0] += 0.6
    stale = await budgets.of("acme")
    await until(lambda: spending.reads == 2)
    fresh = await budgets.of("acme")
    assert [found.state for found in (stale, fresh) if found] == ["step-down", "refuse"]


async def test_a_store_that_is_away_leaves_what_was_read_last_in_force() -> None:
    clock, spending = [NOON], FakeSpending(9.0)
    budgets = Budgets({"acme": BUDGET}, spending, lambda: clock[0])
    await budgets.of("acme")
    spending.error = CacheUnavailableError("gone")
    clock[0] += 5
    found = await budgets.of("acme")
    assert found is not None
    assert found.state == "step-down"
    assert await budgets.of("globex") is None


class Gateway:
    """The small gateway with a budget: its client, and what it accounted for."""

    def __init__(self, cache: FakeExactCache | None, providers: Providers, spent: float, score: float = 0.9) -> None:
        self.outcomes: list[Outcome] = []
        self.refused: list[Record] = []
        self.controller = controller(cache, providers, score=score, on_end=self.outcomes.append)
        books = Books(None, Budgets({"acme": BUDGET}, FakeSpending(spent)), self.outcomes.append, self.refused.append)

        async def parts() -> Sequence[PartStatus]:
            return ()

        async def metrics() -> bytes:
            return b""

        tenants = OpenTenants(tenant="acme").build()
        api = build_api(self.controller, CONFIG, tenants, parts, metrics, embedder=FakeEmbedder(), books=books)
        transport = httpx2.ASGITransport(app=api, raise_app_exceptions=False)
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://gateway")

    async def ask(self, path: str = "/v1/chat/completions", **fields: Any) -> httpx2.Response:
        body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9, **fields}
        response = await self.client.post(path, json=body, headers={"x-request-id": "r1"})
        await self.controller.drain()
        return response


async def test_a_warning_is_a_header(providers: Providers) -> None:
    response = await Gateway(None, providers, 5.0).ask()
    assert response.headers["x-tierwise-budget-state"] == "warn"
    assert (response.headers["x-tierwise-budget-used"], response.headers["x-tierwise-budget-left-usd"]) == (
        "0.5000",
        "5.000000",
    )
    assert response.headers["x-tierwise-tier"] == "top"


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
async def test_stepping_down_routes_to_the_cheaper_tier_and_says_so(
    providers: Providers, fields: dict[str, Any]
) -> None:
    response = await Gateway(None, providers, 8.0).ask(**fields)
    told = {name: response.headers[f"x-tierwise-{name}"] for name in ("budget-state", "route", "tier")}
    assert told == {"budget-state": "step-down", "route": "budget", "tier": "local"}


async def test_a_failing_tier_does_not_step_up_past_the_budget(providers: Providers) -> None:
    providers["local"].error = UPSTREAM_DOWN
    response = await Gateway(None, providers, 8.0).ask()
    assert (response.status_code, len(providers["mid"].bodies)) == (503, 0)


async def test_a_model_above_the_budget_is_refused_with_what_to_ask_for(providers: Providers) -> None:
    gateway = Gateway(None, providers, 8.0)
    response = await gateway.ask(model="large")
    assert (response.status_code, response.json()["error"]["code"]) == (429, "budget_exceeded")
    assert "`auto` and models up to the tier `local`" in response.json()["error"]["message"]
    assert (await gateway.ask(model="small")).status_code == 200


async def test_a_spent_budget_is_a_429_in_openais_shape_that_says_when_to_come_back(providers: Providers) -> None:
    gateway = Gateway(None, providers, 10.0)
    response = await gateway.ask()
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (429, "insufficient_quota", "budget_exceeded")
    assert "raise `budgets.acme.usd_per_day`" in error["message"]
    assert 0 < int(response.headers["retry-after"]) <= 86400
    assert (response.headers["x-should-retry"], response.headers["x-tierwise-budget-state"]) == ("false", "refuse")
    (record,) = gateway.refused
    assert (record.tenant, record.status, record.error, record.request_id) == ("acme", 429, "budget_exceeded", "r1")
    assert not any(provider.bodies for provider in providers.values())


async def test_stored_answers_cost_nothing_and_are_still_given(cache: FakeExactCache, providers: Providers) -> None:
    await Gateway(cache, providers, 0.0).ask()
    gateway = Gateway(cache, providers, 10.0)
    response = await gateway.ask()
    assert (response.status_code, response.headers["x-tierwise-cache"]) == (200, "hit")
    assert gateway.refused == []


async def test_anthropics_clients_get_a_rate_limit_error(providers: Providers) -> None:
    response = await Gateway(None, providers, 10.0).ask("/v1/messages")
    assert (response.status_code, response.json()["error"]["type"]) == (429, "rate_limit_error")


@pytest.mark.parametrize("fields", [{"model": "gpt-17"}, {"temperature": "hot"}])
async def test_a_bad_request_is_recorded_once_with_its_endpoint(providers: Providers, fields: dict[str, Any]) -> None:
    gateway = Gateway(None, providers, 0.0)
    response = await gateway.ask(**fields)
    (record,) = gateway.refused
    assert (record.status, record.endpoint) == (response.status_code, "/v1/chat/completions")
    assert gateway.outcomes == []


async def test_a_stream_that_breaks_is_accounted_for_once(providers: Providers) -> None:
    providers["top"].breaks_after = 2
    gateway = Gateway(None, providers, 0.0)
    await gateway.ask(stream=True)
    assert ([outcome.error for outcome in gateway.outcomes], gateway.refused) == (["upstream_error"], [])


async def test_embeddings_are_accounted_for(providers: Providers) -> None:
    gateway = Gateway(None, providers, 0.0)
    await gateway.client.post("/v1/embeddings", json={"model": "minilm", "input": "three words long"})
    (outcome,) = gateway.outcomes
    assert (outcome.tier, outcome.tenant, outcome.endpoint) == ("embeddings", "acme", "/v1/embeddings")
    assert (outcome.completion.target, outcome.completion.usage.prompt_tokens) == ("minilm", 3)
