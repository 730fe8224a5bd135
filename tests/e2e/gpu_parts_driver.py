"""Places a local model and a classifier on a Ray with one logical GPU; prints what came where, as JSON."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from app.config import GatewayConfig
from app.local_model import LocalLLMConfig
from deployments.graph import build_app
from deployments.local_llm import bind_local_llm

_PART, _SLICE = 0.45, 0.1


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
def _gpus() -> list[int]:
    return [int(name) for name in ray.get_gpu_ids()]


class Model:
    """In the place of LLMServer: asks for a worker as vLLM does, in the replica's bundle."""

    async def place(self) -> tuple[int, list[int]]:
        """Return this process, and the GPUs that its worker sees."""
        strategy = PlacementGroupSchedulingStrategy(get_current_placement_group())
        part = float(os.environ["VLLM_RAY_PER_WORKER_GPUS"])
        return os.getpid(), await _gpus.options(num_gpus=part, scheduling_strategy=strategy).remote()


class Scorer:
    """In the place of ClassifierServer."""

    async def place(self) -> tuple[int, list[int]]:
        """Return this process, and the GPUs that it sees."""
        return os.getpid(), [int(name) for name in ray.get_gpu_ids()]


def placed_as(application: Application, server: type, **size: Any) -> Application:
    """Put a small server where another's replica would be, with the options that Tierwise gives that one."""
    made = application._bound_deployment
    replica = made._replica_config
    actor = {key: value for key, value in replica.ray_actor_options.items() if key in ("num_cpus", "num_gpus")}
    environment = replica.ray_actor_options.get("runtime_env", {}).get("env_vars", {})
    deployment = serve.deployment(server, name=made.name).options(
        ray_actor_options={**actor, "runtime_env": {"env_vars": environment}},
        placement_group_bundles=replica.placement_group_bundles,
        placement_group_strategy=replica.placement_group_strategy,
        **size,
    )
    return deployment.bind()


def main() -> None:
    """Place two replicas and a slice, then ask for a third replica."""
    ray.init(num_cpus=3, num_gpus=1, include_dashboard=False, log_to_driver=False)  # else the first line below does it
    model = bind_local_llm(LocalLLMConfig(model="mistralai/Mistral-7B-Instruct-v0.3", gpu_fraction=_PART), "Tier-local")
    target = {"model": "m", "api_key_env": None}
    tiers = [{"name": "top", "max_score": 1.0, "targets": [target]}]
    graph = build_app(GatewayConfig.model_validate({"tiers": tiers, "classifier": {"gpu_fraction": _SLICE}}))
    classifier = graph._bound_deployment.init_args[2]

    serve.start(proxy_location="Disabled")
    handle = serve.run(placed_as(model, Model, num_replicas=2), name="local", route_prefix=None)
    scorer = serve.run(placed_as(classifier, Scorer), name="classifier", route_prefix=None)
    places: dict[int, list[int]] = {}
    while len(places) < 2:
        pid, gpus = handle.place.remote().result(timeout_s=30)
        places[pid] = gpus
    slice_gpus = scorer.place.remote().result(timeout_s=30)[1]
    left = ray.available_resources().get("GPU", 0.0)

    serve._run(placed_as(model, Model, num_replicas=3), name="local", route_prefix=None, _blocking=False)
    states: dict[str, int] = {}
    while states.get("STARTING", 0) + states.get("PENDING_ALLOCATION", 0) < 1 or states.get("RUNNING") != 2:
        time.sleep(0.2)
        states = dict(serve.status().applications["local"].deployments["Tier-local"].replica_states)
    time.sleep(3)  # long enough to start, if there were room
    running = serve.status().applications["local"].deployments["Tier-local"].replica_states.get("RUNNING")
    report = {"models": list(places.values()), "slice": slice_gpus, "left": left, "running_of_three": running}
    print(json.dumps(report), flush=True)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
