"""Configurations that running replicas take, by `reconfigure` as Serve calls it: what is in force, what stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from app.cache.bound import Bound
from app.cache.bounds import RedisBounds
from app.cache.store import RedisStore
from app.classifier import ClassifierConfig
from app.config import GatewayConfig
from app.errors import ConfigError
from app.schema import Completion
from app.tenants import key_hash
from deployments.ingress import Ingress
from deployments.reloading import Reloading
from deployments.servers import CacheServer, ClassifierServer
from deployments.telemetry import ReloadTelemetry, Telemetry
from tests.fakes import CONFIG, answer

ARGS = CONFIG.model_dump(mode="json", exclude_defaults=True)
MISSING = {"kind": "keys", "file": "/no/such/file"}


def user_config(applied_s: float = 0, **changed: Any) -> dict[str, Any]:
    """What Serve gives to `reconfigure`: the small gateway, changed."""
    return {"args": {**ARGS, **changed}, "applied_s": applied_s}


class Handle:
    """As much of a DeploymentHandle as the ingress asks of a classifier and of a tier."""

    _router = None

    def __init__(self, score: float = 0.5) -> None:
        self.score = SimpleNamespace(remote=self._score)
        self.complete = SimpleNamespace(remote=self._complete)
        self._value = score

    def options(self, **options: Any) -> Handle:
        return self

    async def _score(self, prompt: str, canary: bool) -> float:
        return self._value

    async def _complete(self, body: dict[str, Any], within_s: float) -> Completion:
        return answer(model="medium")


@pytest.fixture
def ingress() -> Ingress:
    """A replica of the ingress that has been started and not yet configured."""
    handle: Any = Handle()
    return Ingress(CONFIG, None, handle, {tier.name: handle for tier in CONFIG.tiers})


@pytest.fixture
async def client(ingress: Ingress) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=ingress.__serve_build_asgi_app__())
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def ask(client: httpx2.AsyncClient, **fields: Any) -> httpx2.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], **fields}
    return await client.post("/v1/chat/completions", json=body)


async def models(client: httpx2.AsyncClient, key: str = "none") -> set[str]:
    listed = await client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
    return {model["id"] for model in json.loads(listed.content).get("data", [])}


def reported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Note what replicas report of the configurations they get."""
    found: list[tuple[str, float]] = []
    for name in ("taken", "refused"):
        monkeypatch.setattr(
            ReloadTelemetry, f"record_{name}", lambda self, applied_s, name=name: found.append((name, applied_s))
        )
    return found


async def test_a_replica_that_starts_later_serves_what_was_applied_last_and_not_what_it_is_bound_to(
    ingress: Ingress, client: httpx2.AsyncClient
) -> None:
    await ingress.reconfigure(user_config(auto_models=["later"]))
    assert "later" in await models(client)
    assert "auto" not in await models(client)


async def test_what_a_replica_is_bound_to_need_not_be_there_any_more(tmp_path: Path) -> None:
    bound = CONFIG.model_copy(update={"tenants": GatewayConfig.model_validate({**ARGS, "tenants": MISSING}).tenants})
    handle: Any = Handle()
    ingress = Ingress(bound, None, handle, {tier.name: handle for tier in bound.tiers})
    await ingress.reconfigure(user_config())
    classifier = ClassifierServer()
    await classifier.reconfigure(user_config())
    assert (await classifier.status()).state == "up"


async def test_a_new_replica_does_not_start_with_a_configuration_that_cannot_be_served(ingress: Ingress) -> None:
    with pytest.raises(ConfigError, match="/no/such/file"):
        await ingress.reconfigure(user_config(tenants=MISSING))
    with pytest.raises(ConfigError, match=r"classifier\.model"):
        await ClassifierServer().reconfigure(user_config(classifier={"model": "/no/such/folder"}))


async def test_cut_points_and_prices_take_effect(ingress: Ingress, client: httpx2.AsyncClient) -> None:
    await ingress.reconfigure(user_config())
    before = await ask(client)
    local, mid, top = ARGS["tiers"]
    dearer = {**mid, "targets": [{**mid["targets"][0], "price": {"usd_per_1m_output_tokens": 40}}]}
    await ingress.reconfigure(user_config(tiers=[local, dearer, top]))
    after = await ask(client)
    assert [r.headers["x-tierwise-tier"] for r in (before, after)] == ["mid", "mid"]
    assert float(after.headers["x-tierwise-cost-usd"]) == pytest.approx(50 * 40e-6)
    assert float(before.headers["x-tierwise-cost-usd"]) < 0.001
    await ingress.reconfigure(user_config(tiers=[{**local, "max_score": 0.6}, mid, top]))
    assert (await ask(client)).headers["x-tierwise-tier"] == "local"


async def test_profiles_and_tenants_take_effect(ingress: Ingress, client: httpx2.AsyncClient, tmp_path: Path) -> None:
    await ingress.reconfigure(user_config())
    assert "short" not in await models(client)
    keys = tmp_path / "tenants.keys"
    keys.write_text(f"{key_hash('tw-acme')} acme\n")
    profiles = {"short": {"models": ["short"], "max_tokens": 7}}
    await ingress.reconfigure(user_config(profiles=profiles, tenants={"kind": "keys", "file": str(keys)}))
    assert "short" in await models(client, "tw-acme")
    assert await models(client, "tw-other") == set()


async def test_keys_are_read_again_while_a_replica_runs_and_stay_as_they_were_if_their_file_is_wrong(
    ingress: Ingress, client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    keys = tmp_path / "tenants.keys"

    async def known(written: str) -> list[bool]:
        keys.write_text(written)
        await ingress.check_health()
        return [bool(await models(client, key)) for key in ("tw-old", "tw-new")]

    old, new = f"{key_hash('tw-old')} acme\n", f"{key_hash('tw-new')} acme\n"
    keys.write_text(old)
    await ingress.reconfigure(user_config(tenants={"kind": "keys", "file": str(keys)}))
    assert await known(old) == [True, False]
    assert await known(old + new) == [True, True]
    assert await known("not a line of keys") == [True, True]
    assert await known(new) == [False, True]


async def test_the_tasks_of_a_replica_are_exported(ingress: Ingress, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(Telemetry, "record_tasks", lambda self, count: counts.append(count))
    await ingress.reconfigure(user_config())
    await ingress.check_health()
    idle = [asyncio.create_task(asyncio.sleep(60)) for _ in range(5)]
    await ingress.check_health()
    for task in idle:
        task.cancel()
    assert counts[1] - counts[0] == 5


async def test_what_cannot_be_served_leaves_the_last_that_could_and_is_reported(
    ingress: Ingress, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = reported(monkeypatch)
    await ingress.reconfigure(user_config(1, auto_models=["second"]))
    await ingress.reconfigure(user_config(2, auto_models=["third"], tenants=MISSING))
    await ingress.reconfigure(user_config(3, auto_models=[]))
    assert "second" in await models(client)
    assert found == [("taken", 1), ("refused", 2), ("refused", 3)]


async def test_whatever_goes_wrong_in_a_change_does_not_end_a_replica_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = reported(monkeypatch)
    classifier = ClassifierServer()
    await classifier.reconfigure(user_config())
    monkeypatch.setattr(ClassifierConfig, "build", lambda self: 1 // 0)
    await classifier.reconfigure(user_config(7, classifier={"threads": 2}))
    await classifier.reconfigure(user_config(8))
    assert found == [("taken", 0), ("refused", 7), ("taken", 8)]


async def test_a_threshold_takes_effect_and_a_wrong_one_leaves_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ping(store: RedisStore) -> None:
        return

    async def read(bounds: RedisBounds) -> Bound:
        return Bound()

    monkeypatch.setattr(RedisStore, "ping", ping)
    monkeypatch.setattr(RedisBounds, "read", read)
    monkeypatch.setenv("SOME_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("SOME_KEY", "none")
    embedder = {"kind": "openai", "model": "text-embedding-3-small", "api_key_env": "SOME_KEY"}
    given: dict[str, Any] = {"redis": {"url_env": "SOME_URL"}, "cache": {"embedder": embedder, "threshold": 0.8}}
    bound = GatewayConfig.model_validate({**ARGS, **given})
    assert bound.redis is not None
    server = CacheServer(bound.cache, bound.redis)
    for threshold, in_force in [(0.9, 0.9), (None, 0.9), (3.0, 0.9), (0.7, 0.7)]:
        # without one, the calibration is looked for, which was not made with this encoder
        server.reconfigure(user_config(**{**given, "cache": {"embedder": embedder, "threshold": threshold}}))
        assert (await server.status()).detail["threshold"] == in_force


async def test_a_replica_answers_the_messages_of_its_start_and_its_end(ingress: Ingress) -> None:
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup" if not sent else "lifespan.shutdown"}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    await ingress.__serve_build_asgi_app__()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_first_configuration_must_be_right_and_the_next_may_be_wrong() -> None:
    reloading = Reloading()
    with pytest.raises(ValueError, match="first"), reloading.taking({"args": {}}):
        raise ValueError("first")
    with reloading.taking({"args": {}}):
        pass
    with reloading.taking({"args": {}}):
        raise ValueError("second")
