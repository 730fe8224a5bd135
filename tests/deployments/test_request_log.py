"""The line of each request, through the real API: what it says, what it leaves out, and that it can be switched off."""

from __future__ import annotations

import asyncio
import builtins
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from ray.serve._private.logging_utils import configure_component_logger
from ray.serve.schema import LoggingConfig

from app.api import build_api, caller
from app.config import read_serve_file
from app.errors import UpstreamError
from app.schema import CacheLookup, Outcome, PartStatus
from app.tenants import OpenTenants
from deployments.ingress import Ingress
from deployments.request_log import RequestLog
from tests.fakes import CONFIG, FakeExactCache, FakeProvider, answer, controller

LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"
BODY: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "my secret words"}]}
OUTCOME = Outcome(answer(), "cache", CacheLookup("hit", "exact", 1.0), None, 0, 0.0, 0.0018, 0.0011, "cache")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Catch the lines themselves: Serve's logger passes nothing on to the root."""
    logger = logging.getLogger("ray.serve.requests")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger=logger.name):
        yield caplog
    logger.removeHandler(caplog.handler)


def lines(log: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    messages = dict.fromkeys(record.getMessage() for record in log.records if record.name == "ray.serve.requests")
    return [json.loads(message) for message in messages]


@pytest.fixture
def replica_log(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """The lines in the log of a replica, which Serve has set up as a file of `configs/` says."""
    serve = logging.getLogger("ray.serve")
    before = (serve.handlers[:], serve.propagate, serve.level, builtins.print, sys.stdout, sys.stderr)
    settings = {"logs_dir": str(tmp_path), **read_serve_file(LOCAL).raw["logging_config"]}
    sizes: dict[str, Any] = {"max_bytes": 10**6, "backup_count": 1}
    configure_component_logger(
        component_name="Ingress", component_id="a", logging_config=LoggingConfig(**settings), **sizes
    )

    def written() -> list[str]:
        for handler in serve.handlers:
            handler.flush()
        return (tmp_path / "Ingress_a.log").read_text("utf-8").splitlines()

    yield written
    for handler in serve.handlers:
        file = getattr(handler, "target", handler)
        handler.close()
        file.close()
    serve.setLevel(before[2])
    serve.handlers, serve.propagate, _, builtins.print, sys.stdout, sys.stderr = before


@pytest.fixture
def api(cache: FakeExactCache, providers: dict[str, FakeProvider]) -> httpx2.AsyncClient:
    async def parts() -> Sequence[PartStatus]:
        return ()

    async def metrics() -> bytes:
        return b""

    written = RequestLog()
    gateway = controller(cache, providers, score=0.5, on_end=written.record)
    tenants = OpenTenants(tenant="acme").build()
    app = build_api(gateway, CONFIG, tenants, parts, metrics, written.record_error)

    async def stored(response: httpx2.Response) -> None:
        await gateway.drain()

    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway", event_hooks={"response": [stored]})


async def test_a_line_says_who_asked_what_was_decided_and_what_it_cost(
    api: httpx2.AsyncClient, log: pytest.LogCaptureFixture
) -> None:
    responses = [await api.post("/v1/chat/completions", json=BODY, headers={"x-request-id": i}) for i in ("a", "b")]
    miss, hit = lines(log)
    assert miss.pop("latency_ms") > 0
    assert miss == {
        "request_id": "a",
        "tenant": "acme",
        "tier": "mid",
        "model": "medium",
        "route": "score",
        "cache": "miss",
        "reason": "exact only",
        "score": 0.5,
        "attempts": 1,
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "cost_usd": 0.0002,
        "saved_usd": 0.0018,
        "finished": True,
    }
    assert (hit["request_id"], hit["cache"], hit["reason"], hit["similarity"]) == ("b", "hit", "exact", 1.0)
    assert hit["entry"] == responses[1].headers["x-tierwise-cache-entry"]


async def test_in_the_log_of_a_replica_a_request_is_a_json_object_with_its_facts_as_fields(
    replica_log: Callable[[], list[str]],
) -> None:
    RequestLog().record(replace(OUTCOME, request_id="a", tenant="acme"))
    caller.set(("b", "acme"))
    RequestLog().record_error(UpstreamError("my secret words", "fake"))
    hit, failure = map(json.loads, replica_log())
    assert (hit["message"], hit["levelname"]) == ("request", "INFO")
    assert (hit["request_id"], hit["tenant"], hit["route"], hit["cache"]) == ("a", "acme", "cache", "hit")
    assert (failure["levelname"], failure["request_id"], failure["status"]) == ("WARNING", "b", 502)
    assert "secret" not in str(replica_log())


async def test_a_streams_line_is_written_at_its_end_under_the_id_of_its_header(
    api: httpx2.AsyncClient, log: pytest.LogCaptureFixture
) -> None:
    response = await api.post("/v1/chat/completions", json={**BODY, "stream": True})
    (line,) = lines(log)
    assert (line["request_id"], line["tenant"]) == (response.headers["x-request-id"], "acme")
    assert (line["finished"], line["completion_tokens"]) == (True, 50)


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"model": "gpt-17"}, {"temperature": "hot"}])
async def test_nothing_that_was_said_is_logged(
    api: httpx2.AsyncClient, log: pytest.LogCaptureFixture, fields: dict[str, Any]
) -> None:
    await api.post("/v1/chat/completions", json={**BODY, **fields})
    assert len(lines(log)) == 1
    assert not any(word in log.text for word in ("secret", "friend", "gpt-17", "hot"))


async def test_a_failure_is_a_line_with_its_status_and_a_warning_if_it_is_not_the_clients(
    api: httpx2.AsyncClient, providers: dict[str, FakeProvider], log: pytest.LogCaptureFixture
) -> None:
    for provider in providers.values():
        provider.error = UpstreamError("you said: my secret words", "fake")
    response = await api.post("/v1/chat/completions", json=BODY)
    await api.post("/v1/chat/completions", json={**BODY, "model": "gpt-17"}, headers={"x-request-id": "b"})
    assert lines(log) == [
        {
            "request_id": response.headers["x-request-id"],
            "tenant": "acme",
            "status": 503,
            "type": "service_unavailable",
        },
        {
            "request_id": "b",
            "tenant": "acme",
            "status": 404,
            "type": "invalid_request_error",
            "code": "model_not_found",
            "param": "model",
        },
    ]
    levels = [record.levelname for record in log.records if record.name == "ray.serve.requests"]
    assert list(dict.fromkeys(levels)) == ["WARNING", "INFO"]


class Handle:
    """As much of a DeploymentHandle as it takes to be held."""

    def options(self, **options: Any) -> Handle:
        return self


@pytest.mark.parametrize("log_requests", [True, False])
async def test_the_lines_can_be_switched_off(log: pytest.LogCaptureFixture, log_requests: bool) -> None:
    config = CONFIG.model_copy(update={"log_requests": log_requests})
    handle: Any = Handle()
    ingress = Ingress(config, None, handle, {tier.name: handle for tier in config.tiers})
    await ingress.reconfigure({"args": config.model_dump(mode="json", exclude_defaults=True)})
    ingress.record(OUTCOME)
    ingress.record_error(UpstreamError("no answer", "fake"))
    assert lines(log) == ([{"status": 502, "type": "upstream_error"}] if log_requests else [])
    await asyncio.sleep(0)  # the answer's own line comes after the answer
    assert len(lines(log)) == 2 * log_requests
