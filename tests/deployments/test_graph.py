"""The composition, in Ray Serve's local testing mode: real handles, one process, no cluster."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from ray import serve

from app import bundled
from app.config import GatewayConfig
from app.errors import ConfigError
from app.local_model import LocalLLMConfig
from app.routing import TierConfig
from deployments.graph import bind_tier, build_app
from tests.upstream import Upstream


def config(upstream: Upstream | None = None, **fields: object) -> GatewayConfig:
    url = upstream.url if upstream else "http://127.0.0.1:1/v1"
    target = {"base_url": url, "api_key_env": None}
    tiers = [
        {"name": "local", "max_score": 0.3, "targets": [{"model": "small", **target}]},
        {"name": "top", "max_score": 1.0, "targets": [{"model": "large", **target}]},
    ]
    return GatewayConfig.model_validate({"tiers": tiers, **fields})


def test_the_graph_binds_one_deployment_for_each_part() -> None:
    app = build_app(config())
    classifier, tiers = app._bound_deployment.init_args[2], app._bound_deployment.init_args[3]
    names = [app._bound_deployment.name, classifier._bound_deployment.name]
    names += [tier._bound_deployment.name for tier in tiers.values()]
    assert names == ["Ingress", "Classifier", "Tier-local", "Tier-top"]


def test_what_may_change_while_they_run_comes_to_replicas_by_their_user_config() -> None:
    bound = config(auto_models=["mine"])
    ingress = build_app(bound)._bound_deployment
    for deployment in (ingress, ingress.init_args[2]._bound_deployment):
        assert GatewayConfig.model_validate(deployment._deployment_config.user_config["args"]) == bound


def test_a_local_model_beside_targets_is_a_deployment_that_its_tier_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind_local_llm(llm: LocalLLMConfig, deployment: str) -> serve.Application:
        return serve.deployment(type(llm), name=deployment).bind()

    module = SimpleNamespace(bind_local_llm=bind_local_llm)  # the real one imports vLLM
    monkeypatch.setitem(sys.modules, "deployments.local_llm", module)
    llm = {"model": "models/own", "device": "cpu"}
    target = {"model": "small", "api_key_env": None}
    names: list[list[str]] = []
    for targets in ([], [target]):
        tier = TierConfig.model_validate({"name": "local", "max_score": 1.0, "llm": llm, "targets": targets})
        bound = bind_tier(tier, None)._bound_deployment
        inner = [one._bound_deployment.name for one in bound.init_args if isinstance(one, serve.Application)]
        names.append([bound.name, *inner])
    assert names == [["Tier-local"], ["Tier-local", "LLM-local"]]


def test_a_tier_without_its_key_or_a_stand_in_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    tiers = [{"name": "top", "max_score": 1.0, "targets": [{"model": "large", "api_key_env": "NO_SUCH_KEY"}]}]
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        build_app(GatewayConfig.model_validate({"tiers": tiers}))


def test_a_redis_without_its_url_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_URL", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_URL"):
        build_app(config(redis={"url_env": "NO_SUCH_URL"}))


def test_a_slice_of_a_gpu_is_set_aside_for_the_model_that_runs_on_it() -> None:
    for fraction in (0.0, 0.1):
        classifier = build_app(config(classifier={"gpu_fraction": fraction}))._bound_deployment.init_args[2]
        assert classifier._bound_deployment.ray_actor_options["num_gpus"] == fraction


@pytest.mark.skipif(bool(bundled.missing()), reason="needs the bundled models; `make setup` prepares them")
def test_every_part_reports_its_state_through_its_handle() -> None:
    ingress = serve.run(build_app(config()), _local_testing_mode=True)
    parts = {part.name: part.state for part in ingress.parts.remote().result(timeout_s=10)}
    assert parts == {"classifier": "up", "tier-local": "up", "tier-top": "up"}
