"""The local tier: `ray.serve.llm`'s LLMServer on vLLM, spoken to in plain dictionaries.

Imported only where a tier has an `llm`, since it imports vLLM.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from math import inf
from typing import Any

import msgspec
import pydantic
from ray.serve import Application
from ray.serve.llm import LLMConfig, LLMServer, build_llm_deployment
from ray.serve.llm.openai_api_models import ChatCompletionRequest
from vllm.v1.metrics.loggers import StatLoggerBase

from app.bundled import resolve
from app.errors import ContextLengthError, GatewayError, InvalidRequestError, UpstreamError
from app.local_model import LocalLLMConfig
from app.providers.base import named
from app.schema import Completion, PartStatus, StreamPart
from deployments.wordless import log_without_words


class EngineLoad(StatLoggerBase):  # type: ignore[misc]
    """What vLLM says of its scheduler after each step.

    Args:
        places: Requests that it works on at the same time, at most: `max_num_seqs`.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._last: dict[int, Any] = {}

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        """Take the figures of a step."""
        if scheduler_stats is not None:
            self._last[engine_idx] = scheduler_stats

    def log_engine_initialized(self) -> None:
        """Nothing is logged."""

    def read(self) -> dict[str, float]:
        """Return the requests that wait, those that run, and the share in use of the KV cache and of the places."""
        last = list(self._last.values())
        waiting = sum(stats.num_waiting_reqs + stats.num_skipped_waiting_reqs for stats in last)
        running = sum(stats.num_running_reqs for stats in last)
        kv_cache = max((float(stats.kv_cache_usage) for stats in last), default=0.0)
        use = max(kv_cache, running / (self._places * max(len(last), 1)))
        return {"waiting": float(waiting), "running": float(running), "kv_cache": kv_cache, "use": min(use, 1.0)}


class LocalLLMServer(LLMServer):  # type: ignore[misc]
    """An LLMServer that takes and gives OpenAI's JSON, so that its callers need not import vLLM."""

    _load: EngineLoad | None = None

    async def start(self) -> None:
        """Start the engine and warm it up: the first request compiles kernels, and no client should wait for that."""
        log_without_words()
        await super().start()
        engine = self.engine._engine_client
        if engine.logger_manager is not None:  # `disable_log_stats`
            self._load = EngineLoad(engine.vllm_config.scheduler_config.max_num_seqs)
            engine.logger_manager.stat_loggers.append(self._load)
        await self.complete({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2})

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Serve how loaded the engine is; nothing where `disable_log_stats` keeps it from saying so."""
        return self._load.read() if self._load else {}

    async def complete(self, body: Mapping[str, Any], within_s: float = inf) -> Completion:
        """Answer a request in one piece."""
        async for answer in await self.chat(self._request(body, stream=False)):
            if hasattr(answer, "error"):
                raise _translated(answer.error.model_dump())
            return Completion(answer.model_dump(exclude_none=True), self._llm_config.model_id)
        raise UpstreamError("vLLM gave no answer", "vllm")

    async def stream(self, body: Mapping[str, Any], within_s: float = inf) -> AsyncGenerator[StreamPart, None]:
        """Answer a request piece by piece; Ray batches the chunks of some milliseconds."""
        async for batch in await self.chat(self._request(body, stream=True)):
            chunks = []
            for item in batch:
                if hasattr(item, "error"):
                    raise _translated(item.error.model_dump())
                chunks += [_chunk(event) for event in item.split("\n\n") if event and event != "data: [DONE]"]
            if chunks:
                yield StreamPart(chunks, self._llm_config.model_id)

    async def status(self) -> PartStatus:
        """Raise unless the engine is healthy."""
        await self.check_health()
        return PartStatus("tier", "up", {"model": self._llm_config.model_id, "engine": self.record_autoscaling_stats()})

    def _request(self, body: Mapping[str, Any], *, stream: bool) -> ChatCompletionRequest:
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {"stream": False}
        fields = {key: value for key, value in body.items() if key != "stream_options"}
        try:
            return ChatCompletionRequest(**{**fields, **options, "model": self._llm_config.model_id})
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            param = ".".join(map(str, first["loc"])) or None
            raise InvalidRequestError(f"{first['msg']}{f' (in `{param}`)' if param else ''}.", param) from error


def bind_local_llm(llm: LocalLLMConfig, deployment: str) -> Application:
    """Bind a local model as the deployment of that name."""
    env = {"HF_HUB_OFFLINE": "1"} if llm.model.startswith(("bundled:", "/", ".")) else {}
    engine = {"max_model_len": llm.context_tokens, **llm.engine}
    bundles: list[dict[str, float]] = [{"CPU": llm.cpus}]
    if llm.device == "cuda":
        part = min(llm.gpu_fraction, 1)
        bundles = [{"CPU": llm.cpus, "GPU": part}, *([{"GPU": part}] * (llm.gpus - 1))]
        env["VLLM_RAY_PER_WORKER_GPUS"] = f"{part:g}"
        engine |= {"gpu_memory_utilization": llm.gpu_memory}
        engine.setdefault("tensor_parallel_size", llm.gpus // int(engine.get("pipeline_parallel_size", 1)))
    config = LLMConfig(
        model_loading_config={"model_id": llm.target, "model_source": resolve(llm.model)},
        # the engine's worker has the bundle; the replica around it asks for nothing more
        deployment_config={
            "num_replicas": 1,
            "ray_actor_options": {"num_cpus": 0},
            "max_queued_requests": 128,  # better a stronger tier than a long wait
            "graceful_shutdown_timeout_s": 150,
        },
        placement_group_config={"bundles": bundles},
        accelerator_config={"kind": "cpu" if llm.device == "cpu" else "gpu"},
        engine_kwargs=engine,
        runtime_env={"env_vars": {**env, **llm.env}},
    )
    return build_llm_deployment(config, override_serve_options={"name": deployment}, deployment_cls=LocalLLMServer)


def _chunk(event: str) -> dict[str, Any]:
    chunk: dict[str, Any] = msgspec.json.decode(event.removeprefix("data: "))
    if "error" in chunk:
        raise _translated(chunk["error"])
    return chunk


def _translated(error: Mapping[str, Any]) -> GatewayError:
    """vLLM's error object as one of ours."""
    message, status = str(error.get("message")), int(error.get("code") or 500)
    if status not in (400, 422):
        return UpstreamError(f"status {status}: {named(error.get('type'))}", "vllm")
    if "context length" in message or "max_model_len" in message:
        return ContextLengthError(message)
    return InvalidRequestError(message, error.get("param"))
