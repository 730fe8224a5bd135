from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.cache import cache_key
from app.cache.audit import Audit, Kind
from app.cache.bound import Bound
from app.config import GatewayConfig
from app.controller import TrafficController
from app.errors import UpstreamError
from app.schema import CacheEntry, CacheKey, ChatRequest
from tests.fakes import CONFIG, FakeClassifier, FakeExactCache, FakeProvider, FakeSemanticCache, answer, chat

REQUEST = chat("Where is Bern?")
STORED = CacheEntry("Where's Bern?", answer("In Switzerland."), "local", "acme", 1.0)


@dataclass
class FakeBounds:
    """Remembers what was counted."""

    added: list[tuple[str, Kind, bool, bool]] = field(default_factory=list)

    async def add(
        self, scope: str, kind: Kind, correct: bool, everywhere: bool = True
    ) -> tuple[Bound, tuple[int, int]]:
        self.added.append((scope, kind, correct, everywhere))
        return Bound(), (0, 0)


@dataclass
class Gateway:
    """A controller that checks what its semantic cache serves, and all that is behind it."""

    controller: TrafficController
    exact: FakeExactCache
    semantic: FakeSemanticCache
    providers: Mapping[str, FakeProvider]
    bounds: FakeBounds
    audits: list[Audit]
    key: CacheKey

    async def ask(self, request: ChatRequest = REQUEST) -> str:
        outcome = await self.controller.handle(request)
        await self.controller.drain()
        return str(outcome.completion.body["choices"][0]["message"]["content"])


def gateway(providers: Mapping[str, FakeProvider], hit: bool = True, **audit: Any) -> Gateway:
    settings = {"share": 1.0, "near_share": 1.0, **audit}
    config = GatewayConfig.model_validate({**CONFIG.model_dump(), "cache": {"audit": settings}})
    exact, semantic, bounds = FakeExactCache(), FakeSemanticCache(STORED if hit else None), FakeBounds()
    key = cache_key(REQUEST.body, "acme")
    semantic.entry_id = f"{key.scope}.stored"
    exact.entries[key.scope, "stored"] = STORED
    audits: list[Audit] = []
    controller = TrafficController(
        config, exact, semantic, FakeClassifier(), providers, bounds=bounds, on_audit=audits.append
    )
    return Gateway(controller, exact, semantic, providers, bounds, audits, key)


async def test_a_hit_that_a_fresh_answer_confirms_is_counted_and_kept(providers: dict[str, FakeProvider]) -> None:
    providers["local"].completion = answer("in Switzerland")
    checked = gateway(providers)
    assert await checked.ask() == "In Switzerland."
    assert checked.bounds.added == [(checked.key.scope, "hits", True, True)]
    assert (checked.key.scope, "stored") in checked.exact.entries
    assert [(audit.kind, audit.correct) for audit in checked.audits] == [("hits", True)]


async def test_a_hit_that_a_fresh_answer_contradicts_is_evicted(providers: dict[str, FakeProvider]) -> None:
    providers["local"].completion = answer("In North Carolina.")
    checked = gateway(providers)
    assert await checked.ask() == "In Switzerland."
    assert checked.bounds.added == [(checked.key.scope, "hits", False, True)]
    assert (checked.key.scope, "stored") not in checked.exact.entries
    assert checked.semantic.compared == [("In Switzerland.", "In North Carolina.")]


async def test_a_check_costs_what_the_fresh_answer_costs(providers: dict[str, FakeProvider]) -> None:
    checked = gateway(providers)
    await checked.ask(chat("Where is Bern?", model="top"))
    assert [audit.cost_usd for audit in checked.audits] == [pytest.approx((100 * 10 + 50 * 20) / 1e6)]


async def test_a_streamed_hit_is_checked_by_a_whole_answer(providers: dict[str, FakeProvider]) -> None:
    checked = gateway(providers)
    await checked.controller.stream(chat("Where is Bern?", stream=True, stream_options={"include_usage": True}))
    await checked.controller.drain()
    assert [sorted(body) for body in providers["local"].bodies] == [["messages", "model"]]
    assert len(checked.bounds.added) == 1


async def test_no_share_checks_nothing(providers: dict[str, FakeProvider]) -> None:
    checked = gateway(providers, share=0.0)
    await checked.ask()
    assert (checked.bounds.added, providers["local"].bodies) == ([], [])


async def test_an_exact_hit_is_not_checked(providers: dict[str, FakeProvider]) -> None:
    checked = gateway(providers)
    checked.exact.entries[checked.key.scope, checked.key.entry] = STORED
    await checked.ask()
    assert (checked.bounds.added, providers["local"].bodies) == ([], [])


async def test_a_fresh_answer_that_is_none_counts_for_nothing(providers: dict[str, FakeProvider]) -> None:
    providers["local"].completion = answer("I'm sorry, I can't help with that.")
    checked = gateway(providers)
    await checked.ask()
    assert checked.bounds.added == []
    assert [audit.correct for audit in checked.audits] == [None]


async def test_a_fresh_answer_of_the_wrong_form_counts_for_nothing(providers: dict[str, FakeProvider]) -> None:
    for provider in providers.values():
        provider.completion = answer("In Switzerland, I think.")
    checked = gateway(providers)
    await checked.controller.handle(chat("Where is Bern?", response_format={"type": "json_object"}))
    await checked.controller.drain()
    assert (checked.bounds.added, [audit.correct for audit in checked.audits]) == ([], [None])


async def test_a_check_that_fails_harms_nobody(providers: dict[str, FakeProvider]) -> None:
    for provider in providers.values():
        provider.error = UpstreamError("down", "fake")
    checked = gateway(providers)
    assert await checked.ask() == "In Switzerland."
    assert checked.bounds.added == []


@pytest.mark.parametrize(("said", "correct"), [("Yes.", True), ("no", False), ("Perhaps", None)])
async def test_a_judge_reads_both_answers(providers: dict[str, FakeProvider], said: str, correct: bool | None) -> None:
    providers["local"].completion = answer("In North Carolina.")
    providers["top"].completion = answer(said, "large")
    checked = gateway(providers, judge="top")
    await checked.ask()
    assert [audit.correct for audit in checked.audits] == [correct]
    assert checked.audits[0].cost_usd == pytest.approx((100 * 10 + 50 * 20) / 1e6)
    shown = providers["top"].bodies[0]["messages"][1]["content"]
    assert all(text in shown for text in ("Where is Bern?", "In Switzerland.", "In North Carolina."))


@pytest.mark.parametrize(("said", "correct"), [("Yes.", None), ("no", False)])
async def test_a_judge_s_yes_to_answers_that_it_was_not_shown_whole_says_nothing(
    providers: dict[str, FakeProvider], said: str, correct: bool | None
) -> None:
    providers["local"].completion = answer("In North Carolina. " * 400)
    providers["top"].completion = answer(said, "large")
    checked = gateway(providers, judge="top")
    await checked.ask()
    assert [audit.correct for audit in checked.audits] == [correct]


async def test_a_check_whose_judge_fails_is_undecided_and_what_it_cost_is_counted(
    providers: dict[str, FakeProvider],
) -> None:
    providers["mid"].completion = answer("In North Carolina.", "medium")
    providers["top"].error = UpstreamError("down", "fake")
    checked = gateway(providers, judge="top")
    await checked.ask(chat("Where is Bern?", model="mid"))
    assert [audit.correct for audit in checked.audits] == [None]
    assert checked.audits[0].cost_usd == pytest.approx((100 + 50 * 2) / 1e6)


async def test_a_near_miss_is_compared_with_the_answer_it_got(providers: dict[str, FakeProvider]) -> None:
    providers["local"].completion = answer("In Switzerland.")
    checked = gateway(providers, hit=False)
    checked.semantic.near = STORED
    await checked.ask()
    assert checked.bounds.added == [(checked.key.scope, "near", True, True)]
    assert len(providers["local"].bodies) == 1


async def test_a_client_s_verdict_counts_for_its_own_scope_alone(providers: dict[str, FakeProvider]) -> None:
    checked = gateway(providers, share=0.0)
    name = checked.semantic.entry_id
    assert name is not None
    assert await checked.controller.report(name, True, "acme")
    assert not await checked.controller.report(name, False, "globex")
    assert await checked.controller.report(name, False, "acme")
    assert not await checked.controller.report(name, False, "acme")
    assert checked.bounds.added == [
        (checked.key.scope, "hits", True, False),
        (checked.key.scope, "hits", False, False),
    ]
