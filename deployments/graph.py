"""The composition. Ray Serve reads the type of `config` at run time, so no `annotations` import here."""

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.context import _get_global_client

from app.cache import RedisConfig
from app.config import GatewayConfig
from app.errors import ConfigError
from app.routing import TierConfig
from app.tenants import check_address
from deployments.ingress import Ingress
from deployments.servers import CacheServer, ClassifierServer, TierServer

# Waiting for a network needs no core of its own; a configuration's `deployments` overrides each of these.
# A replica that is to stop answers what it has begun; Ray's 20 s are too short for a long answer.
_DRAIN = {"graceful_shutdown_timeout_s": 150}
# Who finds `max_queued_requests` in front of it tries the next tier, or does without cache or classifier.
_BOUNDED = {"max_queued_requests": 512, **_DRAIN}
_LIGHT = {"ray_actor_options": {"num_cpus": 0.1}, "max_ongoing_requests": 512, **_BOUNDED}
_MODEL = {"max_ongoing_requests": 256, **_BOUNDED}
# The ingress has a queue of its own, `overload`, that exact hits pass by; this is the last resort.
_INGRESS = {**_LIGHT, "max_ongoing_requests": 4096}


def build_app(config: GatewayConfig) -> Application:
    """Compose the gateway: an ingress over a cache, a classifier and one tier per price level.

    Raises:
        ConfigError: The gateway would be open to others than this machine, or a key has nowhere to come from.
    """
    check_address(config.tenants, _listening_address())
    stand_ins = config.stand_ins()
    bound = {tier.name: bind_tier(tier, config.redis) for tier in config.tiers if tier.name not in stand_ins}
    tiers = {tier.name: bound[stand_ins.get(tier.name, tier.name)] for tier in config.tiers}
    cache, slices = None, config.gpu_slices()
    # replaced by `tierwise apply`, so that a replica that starts later has what was applied last
    args = {"user_config": {"args": config.model_dump(mode="json", exclude_unset=True)}}
    if config.redis is not None:
        config.redis.url()  # missing: stop here, not in a replica
        searcher = serve.deployment(CacheServer, name="Cache", **args, **_model(slices["Cache"]))
        cache = searcher.bind(config.cache, config.redis)
    classifier = serve.deployment(ClassifierServer, name="Classifier", **args, **_model(slices["Classifier"])).bind()
    ingress = serve.deployment(serve.ingress()(Ingress), name="Ingress", **args, **_INGRESS)
    return ingress.bind(config, cache, classifier, tiers)


def bind_tier(tier: TierConfig, redis: RedisConfig | None) -> Application:
    """Bind one tier as `Tier-NAME`: a local model, or the API clients of its targets, a local model among them."""
    local = None
    if tier.llm:
        from deployments.local_llm import bind_local_llm

        local = bind_local_llm(tier.llm, tier.llm_deployment)
        if not tier.targets:
            return local
    if missing := tier.missing_keys():
        raise ConfigError(f"tiers: `{tier.name}` has no target with a key; set {' or '.join(missing)}")
    return serve.deployment(TierServer, name=f"Tier-{tier.name}", **_LIGHT).bind(tier, redis, local)


def _model(gpu_fraction: float) -> dict[str, Any]:
    """Return the size of a deployment with a model of our own, on its slice of a GPU if it has one."""
    return {**_MODEL, "ray_actor_options": {"num_cpus": 0.5, "num_gpus": gpu_fraction}}


def _listening_address() -> str | None:
    """Return the address that Serve's proxies listen on, or None where none run."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else str(client.http_config.host or "0.0.0.0")
