"""The files of `configs/` and `cluster.yaml`: what Serve and Ray would pass over in silence is found here."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from app.config import GatewayConfig, read_serve_file
from app.isolation import SERVE_ENVIRONMENT

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster.yaml"
FILES = [*sorted((ROOT / "configs").glob("*.yaml")), ROOT / "configs" / "compose" / "gateway.yaml"]
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)

SERVE_FILE: dict[str, Any] = {
    "http_options": {"host": "127.0.0.1"},
    "applications": [
        {
            "name": "tierwise",
            "import_path": "deployments.graph:build_app",
            "args": {
                "tiers": [
                    {"name": "local", "max_score": 0.3, "llm": {"model": "bundled:smollm2-135m"}},
                    {"name": "mid", "max_score": 0.7, "stand_in": "local", "targets": [{"model": "m"}]},
                    {"name": "top", "max_score": 1.0, "targets": [{"model": "l"}]},
                ]
            },
            "deployments": [
                {
                    "name": "Tier-top",
                    "autoscaling_config": {"min_replicas": 1, "max_replicas": 2},
                    "ray_actor_options": {"num_cpus": 0.1},
                }
            ],
        }
    ],
}


def read(path: Path) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return raw


def unknown_keys(raw: Mapping[str, Any]) -> list[str]:
    """Name the keys that Serve would ignore."""
    return sorted(_unknown(raw))


def _unknown(raw: Mapping[str, Any]) -> Iterator[str]:
    yield from _others("", raw, ServeDeploySchema)
    yield from _others("http_options.", raw.get("http_options", {}), HTTPOptionsSchema)
    for application in raw["applications"]:
        yield from _others(f"{application['name']}.", application, ServeApplicationSchema)
        for deployment in application.get("deployments", []):
            where = f"{deployment['name']}."
            yield from _others(where, deployment, DeploymentSchema)
            scaling, actor = deployment.get("autoscaling_config", {}), deployment.get("ray_actor_options", {})
            yield from _others(f"{where}autoscaling_config.", scaling, AutoscalingConfig)
            yield from _others(f"{where}ray_actor_options.", actor, RayActorOptionsSchema)


def _others(where: str, section: Mapping[str, Any], schema: Any) -> list[str]:
    return [f"{where}{key}" for key in section if key not in schema.model_fields]


def unbound(raw: Mapping[str, Any]) -> list[str]:
    """Name the deployments that the graph does not bind, or not always: a tier with a stand-in may have none."""
    (application,) = raw["applications"]
    config = GatewayConfig.model_validate(application["args"])
    bound = {"Ingress", "Classifier"} | ({"Cache"} if config.redis else set())
    bound |= {f"Tier-{tier.name}" for tier in config.tiers if tier.stand_in is None}
    return [entry["name"] for entry in application.get("deployments", []) if entry["name"] not in bound]


def start_commands(cluster: Mapping[str, Any]) -> list[str]:
    """Return the commands that start Ray on the head and on a worker."""
    commands = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


@pytest.fixture
def serve_file() -> dict[str, Any]:
    return copy.deepcopy(SERVE_FILE)


@pytest.fixture
def cluster() -> dict[str, Any]:
    return read(CLUSTER)


def test_there_is_a_file_for_one_machine_and_one_for_a_cluster() -> None:
    assert {"local.yaml", "production.yaml"} <= {path.name for path in FILES}


@every_file
def test_a_file_is_a_serve_configuration_of_one_application(path: Path) -> None:
    (application,) = ServeDeploySchema.model_validate(read(path)).applications
    assert (application.import_path, application.route_prefix) == ("deployments.graph:build_app", "/")


@every_file
def test_a_file_holds_a_gateway_that_may_listen_where_it_says(path: Path) -> None:
    assert read_serve_file(path).config.tiers[-1].max_score == 1.0


@every_file
def test_a_file_has_no_key_that_serve_would_ignore(path: Path) -> None:
    assert unknown_keys(read(path)) == []


@every_file
def test_a_file_has_serve_write_lines_of_json(path: Path) -> None:
    logging = ServeDeploySchema.model_validate(read(path)).logging_config
    assert logging is not None
    assert (logging.encoding, logging.enable_access_log) == ("JSON", False)


@every_file
def test_a_file_sizes_only_deployments_that_the_graph_binds(path: Path) -> None:
    assert unbound(read(path)) == []


@every_file
def test_autoscaling_settings_are_ones_that_serve_takes(path: Path) -> None:
    (application,) = read(path)["applications"]
    for deployment in application["deployments"]:
        AutoscalingConfig.model_validate(deployment.get("autoscaling_config", {}))


@every_file
def test_the_resources_of_a_local_model_come_from_args_alone(path: Path) -> None:
    (application,) = read(path)["applications"]
    local = {f"Tier-{tier['name']}" for tier in application["args"]["tiers"] if "llm" in tier}
    sized = {entry["name"] for entry in application["deployments"] if "ray_actor_options" in entry}
    assert not local & sized


def test_the_cluster_file_lets_every_deployment_grow() -> None:
    (application,) = read(ROOT / "configs" / "production.yaml")["applications"]
    replicas = {entry["name"]: entry["autoscaling_config"] for entry in application["deployments"]}
    tiers = {f"Tier-{tier['name']}" for tier in application["args"]["tiers"]}
    assert set(replicas) == {"Ingress", "Cache", "Classifier"} | tiers
    assert all(scaling["max_replicas"] > scaling["min_replicas"] for scaling in replicas.values())
    assert replicas["Ingress"]["min_replicas"] >= 2


def test_the_small_file_of_these_tests_is_sound(serve_file: dict[str, Any]) -> None:
    ServeDeploySchema.model_validate(serve_file)
    assert (unknown_keys(serve_file), unbound(serve_file)) == ([], [])


@pytest.mark.parametrize(
    ("section", "key", "path"),
    [
        ((), "proxy_locatoin", "proxy_locatoin"),
        (("http_options",), "prot", "http_options.prot"),
        (("applications", 0), "rout_prefix", "tierwise.rout_prefix"),
        (("applications", 0, "deployments", 0), "num_replica", "Tier-top.num_replica"),
        (
            ("applications", 0, "deployments", 0, "autoscaling_config"),
            "max_replica",
            "Tier-top.autoscaling_config.max_replica",
        ),
        (("applications", 0, "deployments", 0, "ray_actor_options"), "num_cpu", "Tier-top.ray_actor_options.num_cpu"),
    ],
)
def test_a_misspelt_key_that_serve_would_ignore_is_found(
    serve_file: dict[str, Any], section: tuple[str | int, ...], key: str, path: str
) -> None:
    part: Any = serve_file
    for step in section:
        part = part[step]
    part[key] = 1
    assert unknown_keys(serve_file) == [path]


@pytest.mark.parametrize("name", ["Tier-tpo", "ingress", "Cache", "Tier-mid"])
def test_a_deployment_that_the_graph_does_not_always_bind_is_found(serve_file: dict[str, Any], name: str) -> None:
    serve_file["applications"][0]["deployments"][0]["name"] = name
    assert unbound(serve_file) == [name]


def test_a_number_of_replicas_beside_autoscaling_is_refused(serve_file: dict[str, Any]) -> None:
    serve_file["applications"][0]["deployments"][0]["num_replicas"] = 2
    with pytest.raises(ValueError, match="num_replicas"):
        ServeDeploySchema.model_validate(serve_file)


def test_the_cluster_is_one_that_ray_can_launch(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_a_misspelt_key_of_the_cluster_is_refused(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["gpu_l4"]["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(cluster))


def test_the_cluster_has_gpus_for_every_replica_of_the_local_model(cluster: dict[str, Any]) -> None:
    (application,) = read(ROOT / "configs" / "production.yaml")["applications"]
    (llm,) = [tier.llm for tier in GatewayConfig.model_validate(application["args"]).tiers if tier.llm]
    (scaling,) = [d["autoscaling_config"] for d in application["deployments"] if d["name"] == "Tier-local"]
    group = cluster["available_node_types"]["gpu_l4"]
    each = min(group["resources"]["GPU"] // llm.gpu_fraction, group["resources"]["CPU"] // llm.cpus)
    assert group["node_config"]["InstanceType"] == "g6.2xlarge"
    assert each * group["max_workers"] >= scaling["max_replicas"]


def test_the_cluster_has_cpus_for_every_other_deployment_at_its_largest(cluster: dict[str, Any]) -> None:
    (application,) = read(ROOT / "configs" / "production.yaml")["applications"]
    sized = [entry for entry in application["deployments"] if "ray_actor_options" in entry]
    cpus = sum(e["autoscaling_config"]["max_replicas"] * e["ray_actor_options"]["num_cpus"] for e in sized)
    groups = cluster["available_node_types"]
    assert groups["cpu"]["node_config"]["InstanceType"] == "c7i.2xlarge"  # 8 CPUs
    assert 8 * groups["cpu"]["max_workers"] >= cpus
    assert cluster["max_workers"] >= sum(group.get("max_workers", 0) for group in groups.values())


def test_no_replica_runs_on_the_head(cluster: dict[str, Any]) -> None:
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"] == {"CPU": 0}


def test_ray_starts_with_the_settings_of_tierwise_serve_on_every_node(cluster: dict[str, Any]) -> None:
    head, worker = map(shlex.split, start_commands(cluster))
    settings = {f"{name}={value}" for name, value in SERVE_ENVIRONMENT.items()}
    settings.add("RAY_SERVE_HAPROXY_BINARY_PATH=$HOME/.cache/tierwise/haproxy")
    assert "~/venv/bin/tierwise prepare" in cluster["setup_commands"]  # which writes it
    assert settings <= set(head)
    assert settings <= set(worker)
