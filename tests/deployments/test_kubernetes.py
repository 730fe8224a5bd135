"""`configs/kubernetes`: what Kubernetes, KubeRay and Ray read in it, against their own schemas and our other files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from app import isolation, kuberay
from app.cache import RedisConfig
from app.config import GatewayConfig, read_serve_file
from app.isolation import SERVE_ENVIRONMENT
from app.tenants import KeyFileTenants

ROOT = Path(__file__).parents[2]
PRODUCTION = read_serve_file(ROOT / "configs" / "production.yaml")
KUBERNETES = "1.32"
OTHERS = ("RayService", "HTTPRoute")  # not of Kubernetes itself
CONFIG: GatewayConfig = PRODUCTION.config


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(kuberay.FILE.read_text("utf-8")))


def of_kind(kind: str, name: str = "") -> dict[str, Any]:
    (found,) = [d for d in documents() if d["kind"] == kind and name in ("", d["metadata"]["name"])]
    return found


def ray_cluster() -> dict[str, Any]:
    spec: dict[str, Any] = of_kind("RayService")["spec"]["rayClusterConfig"]
    return spec


def groups() -> dict[str, dict[str, Any]]:
    spec = ray_cluster()
    return {"head": spec["headGroupSpec"], **{group["groupName"]: group for group in spec["workerGroupSpecs"]}}


def container(group: str) -> dict[str, Any]:
    (found,) = groups()[group]["template"]["spec"]["containers"]
    made: dict[str, Any] = found
    return made


def pod_templates() -> Iterator[dict[str, Any]]:
    yield from (group["template"] for group in groups().values())
    yield of_kind("StatefulSet")["spec"]["template"]


def as_deployment(template: Mapping[str, Any]) -> dict[str, Any]:
    """Wrap a pod template of KubeRay's in what Kubernetes has a schema for."""
    spec = {"selector": {"matchLabels": template["metadata"]["labels"]}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "wrapped"}, "spec": spec}


def autoscaling() -> dict[str, Any]:
    """What Ray's autoscaler makes of the cluster."""
    metadata = {"name": "tierwise", "namespace": "default"}
    config: dict[str, Any] = _derive_autoscaling_config_from_ray_cr({"metadata": metadata, "spec": ray_cluster()})
    return config


@pytest.mark.parametrize("document", [d for d in documents() if d["kind"] not in OTHERS], ids=lambda d: str(d["kind"]))
def test_a_document_follows_the_schema_of_kubernetes(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("group", ["head", "cpu", "gpu"])
def test_a_pod_of_ray_follows_the_schema_of_kubernetes(group: str) -> None:
    kubernetes_validate.validate(as_deployment(groups()[group]["template"]), KUBERNETES, strict=True)


def test_a_misspelt_key_of_a_pod_is_found() -> None:
    template = groups()["cpu"]["template"]
    template["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="redinessProbe"):
        kubernetes_validate.validate(as_deployment(template), KUBERNETES, strict=True)


@pytest.mark.parametrize("key", ["serveConfigV2", "redis.conf"])
def test_a_block_is_the_file_it_comes_from(key: str) -> None:
    block = of_kind("RayService")["spec"][key] if key == "serveConfigV2" else of_kind("ConfigMap")["data"][key]
    assert block == kuberay.BLOCKS[key].read_text("utf-8"), "run `make kuberay`"


def test_make_kuberay_writes_what_the_files_hold_and_nothing_else() -> None:
    manifest = kuberay.FILE.read_text("utf-8")
    old = manifest.replace("max_replicas: 8", "max_replicas: 80").replace("maxmemory 3gb", "maxmemory 9gb")
    assert old.count("80") > manifest.count("80")
    assert kuberay.filled(old) == kuberay.filled(manifest) == manifest
    with pytest.raises(ValueError, match="serveConfigV2"):
        kuberay.filled(manifest.replace("serveConfigV2:", "serveConfig:"))


@pytest.mark.parametrize("group", ["head", "cpu", "gpu"])
def test_every_ray_container_has_the_settings_of_tierwise_serve_and_what_the_configuration_names(group: str) -> None:
    entries = container(group)["env"]
    values = {entry["name"]: entry["value"] for entry in entries if "value" in entry}
    assert {name: values.get(name) for name in SERVE_ENVIRONMENT} == SERVE_ENVIRONMENT
    written = re.search(r"TIERWISE_HOME=(\S+)", (ROOT / "Dockerfile").read_text("utf-8"))
    assert written is not None
    assert values["RAY_SERVE_HAPROXY_BINARY_PATH"] == f"{written[1]}/haproxy"  # by `tierwise prepare`
    assert {name for name in values if name.startswith("RAY_")} - set(SERVE_ENVIRONMENT) == {
        "RAY_SERVE_HAPROXY_BINARY_PATH"
    }
    keys = {target.api_key_env for tier in CONFIG.tiers for target in tier.targets if target.api_key_env}
    assert isinstance(CONFIG.redis, RedisConfig)
    assert {*keys, CONFIG.redis.url_env, "HF_TOKEN"} <= {entry["name"] for entry in entries}


def test_secrets_are_read_from_secrets_alone() -> None:
    assert "Secret" not in {document["kind"] for document in documents()}
    for template in pod_templates():
        for entry in template["spec"]["containers"][0]["env"]:
            if re.search(r"KEY|TOKEN|PASSWORD|AUTH", entry["name"]) and entry.get("value") != "$(REDIS_PASSWORD)":
                assert entry["valueFrom"]["secretKeyRef"]["name"] == "tierwise-keys"


@pytest.mark.parametrize("group", ["head", "cpu", "gpu"])
def test_the_file_of_keys_is_where_the_configuration_looks_for_it(group: str) -> None:
    assert isinstance(CONFIG.tenants, KeyFileTenants)
    (mounted,) = [mount for mount in container(group)["volumeMounts"] if mount["name"] == "tenants"]
    assert mounted["mountPath"] == str(CONFIG.tenants.file.parent)


def test_ray_sees_the_resources_of_each_group() -> None:
    types = autoscaling()["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["cpu"]["resources"]["CPU"] == 7
    assert (types["gpu"]["resources"]["CPU"], types["gpu"]["resources"]["GPU"]) == (2, 1)
    assert ray_cluster()["enableInTreeAutoscaling"] is True
    assert autoscaling()["idle_timeout_minutes"] == 10


def test_every_deployment_fits_at_its_largest() -> None:
    types = autoscaling()["available_node_types"]
    sizes = {entry["name"]: entry for entry in PRODUCTION.raw["applications"][0]["deployments"]}
    (llm,) = [tier.llm for tier in CONFIG.tiers if tier.llm]
    local = sizes.pop("Tier-local")["autoscaling_config"]["max_replicas"]
    each = min(types["gpu"]["resources"]["GPU"] // llm.gpu_fraction, types["gpu"]["resources"]["CPU"] // llm.cpus)
    assert each * types["gpu"]["max_workers"] >= local
    cpus = sum(e["autoscaling_config"]["max_replicas"] * e["ray_actor_options"]["num_cpus"] for e in sizes.values())
    assert types["cpu"]["resources"]["CPU"] * types["cpu"]["max_workers"] >= cpus


def test_the_version_of_ray_is_the_one_that_is_installed() -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert pinned is not None
    assert ray_cluster()["rayVersion"] == pinned[1]


@pytest.mark.parametrize("kind", ["PodDisruptionBudget", "NetworkPolicy", "Service", "StatefulSet"])
def test_what_selects_pods_selects_some_that_there_are(kind: str) -> None:
    labels = [template["metadata"]["labels"] for template in pod_templates()]
    for document in documents():
        if document["kind"] == kind:
            spec = document["spec"]
            selector = spec.get("selector") or spec["podSelector"]
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= given.items() for given in labels), document["metadata"]["name"]


def test_pods_run_without_root_and_without_rights() -> None:
    for template in pod_templates():
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        (inside,) = template["spec"]["containers"]
        assert inside["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"readinessProbe", "livenessProbe"} <= set(inside)


def test_a_pod_has_the_time_that_a_replica_takes_to_end_what_it_has_begun() -> None:
    from deployments.graph import _INGRESS

    for name in ("cpu", "gpu"):
        grace = groups()[name]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace > _INGRESS["graceful_shutdown_timeout_s"]


def test_the_gateway_before_it_deletes_the_headers_that_haproxy_deletes_elsewhere() -> None:
    (rule,) = of_kind("HTTPRoute")["spec"]["rules"]
    (modifier,) = [f["requestHeaderModifier"] for f in rule["filters"] if f["type"] == "RequestHeaderModifier"]
    assert set(modifier["remove"]) == set(re.findall(r"del-header (\S+?)\\?\n", isolation._HAPROXY.replace("/'", "\n")))
    assert {match["path"]["value"] for match in rule["matches"]} == {"/v1", "/healthz"}


def test_only_the_gateway_and_the_dashboard_can_be_reached_from_elsewhere() -> None:
    open_to_all, among_themselves = of_kind("NetworkPolicy", "tierwise")["spec"]["ingress"]
    assert [entry["port"] for entry in open_to_all["ports"]] == [PRODUCTION.port, 8265]
    assert set(among_themselves) == {"from"}


def test_redis_has_more_memory_than_it_may_fill() -> None:
    inside = of_kind("StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    limit = int(inside["resources"]["limits"]["memory"].removesuffix("Gi"))
    conf = of_kind("ConfigMap")["data"]["redis.conf"]
    (allowed,) = re.findall(r"^maxmemory (\d+)gb$", conf, re.MULTILINE)
    assert limit >= 1.5 * int(allowed)
