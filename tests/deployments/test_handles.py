"""Handles whose replicas are lost: Ray's failures, and gRPC's own, as ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import RayActorError

from app.errors import CacheUnavailableError, UpstreamError
from app.schema import CacheKey
from deployments.handles import RemoteCache, RemoteProvider, ask_status, asleep

BODY = {"model": "mid", "messages": [{"role": "user", "content": "hi"}]}


class Handle:
    """A DeploymentHandle whose calls all fail by one error, and that knows of so many replicas."""

    def __init__(self, error: Exception, replicas: int = 1, min_replicas: int = 1) -> None:
        scaling = SimpleNamespace(min_replicas=min_replicas)
        known = SimpleNamespace(curr_replicas=["one"] * replicas)
        router = SimpleNamespace(_request_router=known, _metrics_manager=SimpleNamespace(autoscaling_config=scaling))
        self._router = SimpleNamespace(_asyncio_router=router)
        self._error = error
        for method in ("complete", "stream", "status", "lookup"):
            setattr(self, method, self)

    def options(self, **options: Any) -> Handle:
        return self

    def remote(self, *arguments: Any) -> Handle:
        return self

    def __await__(self) -> Any:
        raise self._error
        yield

    def __aiter__(self) -> Handle:
        return self

    async def __anext__(self) -> Any:
        raise self._error

    def cancel(self) -> None:
        """Nothing runs."""


def handle(error: Exception, **known: Any) -> Any:
    return Handle(error, **known)


def broken() -> AioRpcError:
    return AioRpcError(StatusCode.INTERNAL, Metadata(), Metadata(), "stream removed")


@pytest.mark.parametrize("error", [broken(), RayActorError()], ids=["gRPC", "Ray"])
async def test_a_call_that_breaks_between_replicas_is_an_upstreams_error(error: Exception) -> None:
    tier = RemoteProvider(handle(error), "mid", 5, {"medium": "openai"})
    with pytest.raises(UpstreamError, match="the replica was lost"):
        await tier.complete(BODY)
    with pytest.raises(UpstreamError, match="the replica was lost"):
        await anext(tier.stream(BODY))


async def test_a_lookup_that_breaks_between_replicas_costs_a_miss() -> None:
    cache = RemoteCache(handle(broken()))
    with pytest.raises(CacheUnavailableError):
        await cache.lookup(CacheKey("scope", "entry", "text", True))
    assert (await ask_status(handle(broken()), "cache")).state == "down"


@pytest.mark.parametrize(
    ("replicas", "min_replicas", "runs", "sleeps"), [(1, 1, True, False), (0, 0, False, True), (0, 1, False, False)]
)
async def test_a_tier_whose_replicas_were_lost_is_passed_by_as_one_that_sleeps(
    replicas: int, min_replicas: int, runs: bool, sleeps: bool
) -> None:
    found = handle(broken(), replicas=replicas, min_replicas=min_replicas)
    assert (RemoteProvider(found, "local", 5, {"small": "vllm"}).wake(), asleep(found)) == (runs, sleeps)
