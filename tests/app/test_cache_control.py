"""What a client may say about cached answers: how old, that one was wrong, that one must go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from app.api import build_api
from app.controller import TrafficController
from app.tenants import Tenants, key_hash
from tests.fakes import CONFIG, FakeClassifier, FakeExactCache, FakeProvider

CLOCK = [1000.0]
KEYS = {"a": "acme", "g": "globex", "admin": "ops"}


class FakeClearer:
    """A CacheClearer where every tenant has two entries and every scope one."""

    async def clear_tenant(self, tenant: str) -> int:
        return 2

    async def clear_scope(self, scope: str) -> int:
        return 1


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    providers = {tier.name: FakeProvider(tier.targets[0].model) for tier in CONFIG.tiers}
    CLOCK[0] = 1000.0
    controller = TrafficController(CONFIG, FakeExactCache(), None, FakeClassifier(), providers, now=lambda: CLOCK[0])
    keys = Tenants({key_hash(key): name for key, name in KEYS.items()}, None, {key_hash("admin")})

    async def nothing() -> Any:
        return []

    api = build_api(controller, CONFIG, keys, nothing, nothing, clearer=FakeClearer())
    transport = httpx2.ASGITransport(api)
    async with httpx2.AsyncClient(transport=transport, base_url="http://t", headers={"authorization": "Bearer a"}) as c:
        yield c
    await controller.drain()


async def ask(client: httpx2.AsyncClient, **headers: str) -> httpx2.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": "How tall is the tower?"}]}
    response = await client.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 200
    await asyncio.sleep(0)  # nothing here waits for a network: let the write have its turn
    return response


async def entry(client: httpx2.AsyncClient) -> str:
    await ask(client)
    return str((await ask(client)).headers["x-tierwise-cache-entry"])


async def test_max_age_takes_young_answers_and_no_older_ones(client: httpx2.AsyncClient) -> None:
    await ask(client)
    CLOCK[0] += 60
    assert (await ask(client, **{"cache-control": "max-age=61"})).headers["x-tierwise-cache"] == "hit"
    older = await ask(client, **{"cache-control": "max-age=59"})
    assert (older.headers["x-tierwise-cache"], older.headers["x-tierwise-cache-reason"]) == (
        "miss",
        "older than max-age",
    )


async def test_a_wrong_hit_is_evicted_by_feedback(client: httpx2.AsyncClient) -> None:
    name = await entry(client)
    verdict = await client.post("/v1/cache/feedback", json={"entry": name, "correct": False})
    assert verdict.json() == {"entry": name, "evicted": True}
    assert (await ask(client)).headers["x-tierwise-cache"] == "miss"


async def test_a_right_hit_stays(client: httpx2.AsyncClient) -> None:
    name = await entry(client)
    verdict = await client.post("/v1/cache/feedback", json={"entry": name, "correct": True})
    assert verdict.json() == {"entry": name, "evicted": False}
    assert (await ask(client)).headers["x-tierwise-cache"] == "hit"


async def test_an_answer_can_be_deleted_once(client: httpx2.AsyncClient) -> None:
    name = await entry(client)
    assert (await client.delete(f"/v1/cache/{name}")).status_code == 200
    assert (await client.delete(f"/v1/cache/{name}")).status_code == 404


async def test_another_tenants_answer_cannot_be_deleted(client: httpx2.AsyncClient) -> None:
    name = await entry(client)
    response = await client.delete(f"/v1/cache/{name}", headers={"authorization": "Bearer g"})
    assert response.status_code == 404
    assert (await ask(client)).headers["x-tierwise-cache"] == "hit"


async def test_malformed_feedback_says_what_to_send(client: httpx2.AsyncClient) -> None:
    response = await client.post("/v1/cache/feedback", json={"entry": "x"})
    assert response.status_code == 400
    assert "correct" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("key", "query", "status", "answer"),
    [
        ("admin", "tenant=globex", 200, {"tenant": "globex", "evicted": 2}),
        ("admin", "scope=0af1", 200, {"scope": "0af1", "evicted": 1}),
        ("a", "tenant=acme", 200, {"tenant": "acme", "evicted": 2}),
        ("a", "tenant=globex", 403, None),
        ("a", "scope=0af1", 403, None),
        ("admin", "", 400, None),
        ("admin", "tenant=acme&scope=0af1", 400, None),
        ("admin", "everything=yes", 400, None),
        ("nobody", "tenant=acme", 401, None),
    ],
)
async def test_clearing_is_for_admins_and_for_tenants_of_their_own(
    client: httpx2.AsyncClient, key: str, query: str, status: int, answer: dict[str, Any] | None
) -> None:
    response = await client.delete(f"/v1/cache?{query}", headers={"authorization": f"Bearer {key}"})
    assert response.status_code == status
    if answer is None:
        assert response.json()["error"]["message"]
    else:
        assert response.json() == answer


async def test_an_admin_may_delete_and_judge_what_is_not_its_own(client: httpx2.AsyncClient) -> None:
    admin = {"authorization": "Bearer admin"}
    name = await entry(client)
    verdict = await client.post("/v1/cache/feedback", json={"entry": name, "correct": True}, headers=admin)
    assert verdict.status_code == 200
    assert (await client.delete(f"/v1/cache/{name}", headers=admin)).status_code == 200
    assert (await ask(client)).headers["x-tierwise-cache"] == "miss"
