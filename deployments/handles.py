"""The protocols over Ray Serve handles. Ray's failures become ours here, so that the controller never sees Ray."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from math import inf
from typing import Any

from grpc.aio import AioRpcError
from opentelemetry.trace import Span, use_span
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from app.background import Background
from app.errors import (
    CacheUnavailableError,
    ClassifierUnavailableError,
    GatewayError,
    UnfitError,
    UpstreamError,
    UpstreamTimeoutError,
)
from app.failfast import FailFast
from app.local_model import LocalLLMConfig
from app.providers.base import Quota
from app.routing import needs_of
from app.schema import Ability, CacheKey, CacheLookup, Completion, Embedding, Form, PartStatus, StreamPart, Vectors
from app.tier.resume import resuming
from deployments.tracing import Streamed, answered, call_span, ending

_PAUSE_S = 1.0
_LOST = (RayError, RayServeException, AioRpcError)  # Serve raises gRPC's own for what it does not know
log = logging.getLogger("ray.serve")


class RemoteCache:
    """A SemanticCache and a TextEmbedder behind a handle; too slow is as good as down.

    Args:
        canary: Whether lookups are decided by the canary's configuration.
        timeout_s: Longest wait for a lookup,
        embed_timeout_s: and for a client's texts, of which there may be many.
    """

    def __init__(
        self, handle: DeploymentHandle, canary: bool = False, timeout_s: float = 1.0, embed_timeout_s: float = 30.0
    ) -> None:
        self._handle = handle
        self._canary = canary
        self._timeout_s = timeout_s
        self._embed_timeout_s = embed_timeout_s
        self._failfast = FailFast(_PAUSE_S)
        self._embed_failfast = FailFast(_PAUSE_S)  # its own: many texts that take long are no reason to miss

    async def lookup(self, key: CacheKey, since: float = 0.0) -> CacheLookup:
        """Decide whether an answer stored since serves the key's text.

        Raises:
            CacheUnavailableError: No replica answered in time.
        """
        with _guarded(self._failfast, CacheUnavailableError, "the cache"):
            async with asyncio.timeout(self._timeout_s):
                lookup: CacheLookup = await self._handle.lookup.remote(key, self._canary, since)
                return lookup

    async def embedding(self, text: str) -> Embedding:
        """Embed a text, to store its answer where no lookup has.

        Raises:
            CacheUnavailableError: No replica answered in time.
        """
        with _guarded(self._failfast, CacheUnavailableError, "the cache"):
            async with asyncio.timeout(self._timeout_s):
                embedding: Embedding = await self._handle.embedding.remote(text)
                return embedding

    async def agree(self, a: str, b: str) -> bool | None:
        """Whether two answers in free text say the same; None where that cannot be told.

        Raises:
            CacheUnavailableError: No replica answered in time.
        """
        with _guarded(self._failfast, CacheUnavailableError, "the cache"):
            async with asyncio.timeout(self._timeout_s):
                same: bool | None = await self._handle.agree.remote(a, b)
                return same

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """Embed whole texts.

        Raises:
            ModelNotFoundError: The encoder has no such name.
            InvalidRequestError: A text is longer than the encoder reads.
            CacheUnavailableError: No replica answered in time.
        """
        with _guarded(self._embed_failfast, CacheUnavailableError, "the encoder"):
            async with asyncio.timeout(self._embed_timeout_s):
                vectors: Vectors = await self._handle.embed.remote(model, texts)
                return vectors


class RemoteClassifier:
    """A ComplexityClassifier behind a handle; too slow is as good as down.

    Args:
        canary: Whether the canary's model scores.
    """

    def __init__(self, handle: DeploymentHandle, canary: bool = False, timeout_s: float = 1.0) -> None:
        self._handle = handle
        self._canary = canary
        self._timeout_s = timeout_s
        self._failfast = FailFast(_PAUSE_S)

    async def score(self, prompt: str) -> float:
        """Return the difficulty in [0, 1].

        Raises:
            ClassifierUnavailableError: No replica answered in time.
        """
        with _guarded(self._failfast, ClassifierUnavailableError, "the classifier"):
            async with asyncio.timeout(self._timeout_s):
                return float(await self._handle.score.remote(prompt, self._canary))


class RemoteProvider:
    """A TierProvider behind the handle of a TierServer or of the local model.

    Args:
        providers: Who serves each of its models, for traces.
    """

    def __init__(self, handle: DeploymentHandle, name: str, timeout_s: float, providers: Mapping[str, str]) -> None:
        self._handle = handle
        self._waking = Background()
        self._streaming = handle.options(stream=True)  # resolved once: it costs as much as a call
        self._name = name
        self._timeout_s = timeout_s
        self._providers = providers

    def wake(self) -> bool:
        """Say whether a replica runs. Where none does, since it sleeps or was lost, a call waits for one.

        By that Serve sees that one is wanted.
        """
        if not _vacant(self._handle):
            return True
        if not self._waking:
            self._waking.start(self._call_replica())
        return False

    async def _call_replica(self) -> None:
        try:
            await self._handle.status.remote()
        except _LOST as error:
            log.warning("tier %s did not start: %s", self._name, type(error).__name__)

    async def complete(self, body: Mapping[str, Any], within_s: float = inf) -> Completion:
        """Answer a request in one piece.

        Raises:
            InvalidRequestError: The provider refuses the request itself.
            UpstreamError: The tier failed, or did not answer in time.
        """
        span = call_span(self._name, body, self._providers)
        with ending(span), self._translated():
            async with asyncio.timeout(self._timeout_s):
                completion: Completion
                try:
                    completion = await self._call(span, body, within_s)
                except RayActorError:  # the replica was lost; another may be there
                    completion = await self._call(span, body, within_s)
            answered(span, completion, self._providers)
            return completion

    async def _call(self, span: Span, body: Mapping[str, Any], within_s: float) -> Completion:
        with use_span(span):
            response = self._handle.complete.remote(dict(body), within_s)
        completion: Completion = await response
        return completion

    async def stream(self, body: Mapping[str, Any], within_s: float = inf) -> AsyncGenerator[StreamPart, None]:
        """Answer a request piece by piece; closing it cancels the request in the replica. Raises as `complete` does."""
        async with aclosing(resuming(body, lambda: self._stream(body, within_s))) as parts:
            async for part in parts:
                yield part

    async def _stream(self, body: Mapping[str, Any], within_s: float) -> AsyncGenerator[StreamPart, None]:
        span = call_span(self._name, body, self._providers)
        streamed = Streamed(span, self._providers)
        with use_span(span):
            response = self._streaming.stream.remote(dict(body), within_s)
        parts = aiter(response)
        try:
            with ending(span), self._translated():
                while True:
                    async with asyncio.timeout(self._timeout_s):
                        part = await anext(parts, None)
                    if part is None:
                        return
                    streamed.add(part)
                    yield part
        finally:
            response.cancel()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise UpstreamTimeoutError(f"no answer in {self._timeout_s:g} s", self._name) from error
        except RayTaskError as error:
            if isinstance(error.cause, GatewayError):
                raise error.cause from None
            raise UpstreamError(f"the replica failed: {type(error.cause).__name__}", self._name) from error
        except _LOST as error:
            raise UpstreamError(f"the replica was lost: {type(error).__name__}", self._name) from error


def asleep(handle: DeploymentHandle) -> bool:
    """Whether a deployment has scaled to zero, as far as its handle was told; Serve shows that nowhere else."""
    if not _vacant(handle):
        return False
    scaling = handle._router._asyncio_router._metrics_manager.autoscaling_config
    return scaling is not None and scaling.min_replicas == 0


def _vacant(handle: DeploymentHandle) -> bool:
    """Whether a deployment has no replica, as far as its handle was told."""
    router = getattr(handle._router, "_asyncio_router", None)
    if router is None or router._request_router is None:
        return False  # nothing was asked of it yet, or it is Serve's local testing mode
    return not router._request_router.curr_replicas


async def ask_status(handle: DeploymentHandle, name: str, timeout_s: float = 2.0) -> PartStatus:
    """Ask a deployment for its state; one that does not answer in time is down. One that sleeps is left asleep."""
    if asleep(handle):
        return PartStatus(name, "asleep", {})
    try:
        async with asyncio.timeout(timeout_s):
            status: PartStatus = await handle.status.remote()
            return PartStatus(name, status.state, status.detail)
    except TimeoutError:
        return PartStatus(name, "down", {"reason": f"no answer in {timeout_s:g} s"})
    except _LOST as error:
        return PartStatus(name, "down", {"reason": type(error).__name__})


class LocalModel:
    """A Provider of the local model of a tier that has other targets too.

    Args:
        takes: What the model takes beside text, and gives.
    """

    def __init__(
        self, handle: DeploymentHandle, llm: LocalLLMConfig, tier: str, takes: frozenset[Ability | Form]
    ) -> None:
        self.quota = Quota()
        self._model = llm.target
        self._remote = RemoteProvider(handle, tier, llm.timeout_s, {llm.target: "vllm"})
        self._takes = takes

    async def complete(self, body: Mapping[str, Any]) -> Completion:
        """Answer a request in one piece.

        Raises:
            UnfitError: The model does not take what the request needs, or is too small for it.
            InvalidRequestError: vLLM refuses the request itself.
            UpstreamError: No replica runs, or none answered in time.
        """
        self._check(body)
        return await self._remote.complete(body)

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[StreamPart, None]:
        """Answer a request piece by piece. Raises as `complete` does."""
        self._check(body)
        async with aclosing(self._remote.stream(body)) as parts:
            async for part in parts:
                yield part

    async def aclose(self) -> None:
        """Nothing is open."""

    def _check(self, body: Mapping[str, Any]) -> None:
        if lacking := needs_of(body).abilities - self._takes:
            raise UnfitError(f"`{self._model}` takes no {', '.join(sorted(lacking))}.", "messages")
        if not self._remote.wake():
            raise UpstreamError(f"{self._model}: no replica runs", "vllm", _PAUSE_S)


@contextlib.contextmanager
def _guarded(failfast: FailFast, failure: type[GatewayError], part: str) -> Iterator[None]:
    if failfast.tripped:
        raise failure(f"{part} did not answer a moment ago")
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, GatewayError):
            raise error.cause from None
        raise failure(f"{part} failed: {type(error.cause).__name__}") from error
    except (TimeoutError, *_LOST) as error:
        failfast.trip()
        raise failure(f"{part} did not answer: {type(error).__name__}") from error
