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


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    providers = {tier.name: FakeProvider(tier.targets[0].model) for tier in CONFIG.tiers}
    CLOCK[0] = 1000.0
    controller = TrafficController(CONFIG, FakeExactCache(), None, FakeClassifier(), providers, now=lambda: CLOCK[0])
    keys = Tenants({key_hash("a"): "acme", key_hash("g"): "globex"}, None)

    async def nothing() -> Any:
        return []

    api = build_api(controller, CONFIG, keys, nothing, nothing)
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
