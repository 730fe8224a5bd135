"""The `Dockerfile` and `configs/compose`: by a linter, and against what they name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cache import RedisConfig
from app.config import read_serve_file
from app.tenants import KeyFileTenants

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
FOLDER = ROOT / "configs" / "compose"
GATEWAY = read_serve_file(FOLDER / "gateway.yaml")


def compose() -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
    return made


def instructions() -> list[str]:
    """The instructions of the Dockerfile, each on one line, without comments."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    return [" ".join(line.split()) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def copied() -> list[str]:
    """What the image takes from the checkout."""
    copies = [line.split()[1:-1] for line in instructions() if line.startswith("COPY ") and "--from" not in line]
    return [source for sources in copies for source in sources]


def linted(dockerfile: str) -> str:
    hadolint = Path(sys.executable).with_name("hadolint")
    return subprocess.run([hadolint, "-"], input=dockerfile, capture_output=True, text=True, check=False).stdout


def bound(service: str) -> dict[str, str]:
    """The files and folders of a service's bind mounts, to where it sees them."""
    mounts = [mount.split(":") for mount in compose()["services"][service]["volumes"]]
    return {source: target for source, target, *_ in mounts if source.startswith(".")}


def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    assert linted(DOCKERFILE) == ""


def test_the_linter_would_find_a_mistake() -> None:
    assert "DL3003" in linted(DOCKERFILE + "RUN cd /tmp && touch here\n")


def test_what_the_image_copies_is_there_and_goes_to_the_builder() -> None:
    everything, *rules = [
        line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")
    ]
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    assert everything == "*"
    assert {source.partition("/")[0] for source in copied()} == let_in
    assert all((ROOT / source).exists() for source in copied())
    assert {"**/.env", "**/*.keys"} <= set(rules[len(let_in) :])  # after what lets folders in


@pytest.mark.parametrize("hardware", ["cpu", "gpu"])
def test_the_makefile_installs_for_the_hardware_that_the_image_is_built_for(hardware: str) -> None:
    assert f"$(VENV)/.{hardware}:" in (ROOT / "Makefile").read_text("utf-8")
    assert "ARG HARDWARE=cpu" in instructions()


def test_the_image_runs_as_a_user_with_few_rights_and_says_whether_it_is_healthy() -> None:
    final = instructions()[max(at for at, line in enumerate(instructions()) if line.startswith("FROM ")) :]
    (user,) = [line.split()[1] for line in final if line.startswith("USER ")]
    (health,) = [line for line in final if line.startswith("HEALTHCHECK ")]
    assert user == "1000:1000"
    assert f"http://127.0.0.1:{GATEWAY.port}/healthz" in health
    assert f"EXPOSE {GATEWAY.port}" in final


def test_the_health_check_passes_and_fails_as_the_gateway_does() -> None:
    (code,) = re.findall(r'CMD \["python", "-c", "(.+?)"\]', DOCKERFILE)
    compile(code, "healthcheck", "exec")
    nobody = code.replace(f":{GATEWAY.port}/", ":1/")
    assert subprocess.run([sys.executable, "-c", nobody], capture_output=True, check=False).returncode == 1


def test_the_image_runs_a_configuration_that_it_holds() -> None:
    (command,) = [line for line in instructions() if line.startswith('CMD ["tierwise"')]
    (config,) = re.findall(r'"(configs/.+?)"', command)
    assert (ROOT / config).samefile(GATEWAY.path)
    assert "configs" in copied()


def test_the_gateway_in_a_container_is_the_local_one_with_keys_and_a_redis_by_url() -> None:
    local = read_serve_file(ROOT / "configs" / "local.yaml")
    changed = {"tenants": GATEWAY.config.tenants, "redis": GATEWAY.config.redis}
    assert local.config.model_copy(update=changed) == GATEWAY.config
    assert local.raw["applications"][0]["deployments"] == GATEWAY.raw["applications"][0]["deployments"]
    assert GATEWAY.host == "0.0.0.0"


def test_the_composed_gateway_has_what_its_configuration_names() -> None:
    assert isinstance(GATEWAY.config.redis, RedisConfig)
    assert isinstance(GATEWAY.config.tenants, KeyFileTenants)
    named = {t.api_key_env for tier in GATEWAY.config.tiers for t in tier.targets if t.api_key_env}
    gateway = compose()["services"]["gateway"]
    assert {GATEWAY.config.redis.url_env, *named} == set(gateway["environment"])
    assert bound("gateway")["./tenants.keys"] == str(GATEWAY.config.tenants.file)
    assert gateway["build"]["context"] == "../.."


def test_every_file_that_is_mounted_is_there() -> None:
    sources = [source for service in ("gateway", "redis", "prometheus", "grafana") for source in bound(service)]
    assert [source for source in sources if not (FOLDER / source).is_file()] == ["./tenants.keys"]  # the operator's


def test_services_are_published_on_loopback_alone_and_redis_not_at_all() -> None:
    services = compose()["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert "ports" not in services["redis"]


def test_what_services_name_is_declared() -> None:
    made = compose()
    for service in made["services"].values():
        named = [mount.partition(":")[0] for mount in service.get("volumes", []) if not mount.startswith(".")]
        assert set(named) <= set(made["volumes"])
        assert {entry["source"] for entry in service.get("configs", [])} <= set(made["configs"])
        assert set(service.get("depends_on", {})) <= set(made["services"])


def test_passwords_come_from_the_environment() -> None:
    text = (FOLDER / "compose.yaml").read_text("utf-8")
    for value in re.findall(r"(?:PASSWORD|KEY|AUTH): (\S+)", text):
        assert value.strip('"').startswith("${")


def test_prometheus_scrapes_the_gateway_as_outside_of_containers() -> None:
    inside = yaml.safe_load(compose()["configs"]["prometheus"]["content"])
    outside = yaml.safe_load((FOLDER.parent / "monitoring" / "prometheus.yaml").read_text("utf-8"))
    assert inside["scrape_configs"][0]["static_configs"][0]["targets"] == [f"gateway:{GATEWAY.port}"]
    inside["scrape_configs"][0]["static_configs"] = outside["scrape_configs"][0]["static_configs"]
    assert inside == outside


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    made = compose()
    (source,) = yaml.safe_load(made["configs"]["datasource"]["content"])["datasources"]
    (provider,) = yaml.safe_load(made["configs"]["dashboards"]["content"])["providers"]
    assert source["url"] == "http://prometheus:9090"
    assert Path(bound("grafana")["../monitoring/grafana.json"]).parent == Path(provider["options"]["path"])


def test_redis_has_more_memory_than_it_may_fill() -> None:
    (allowed,) = re.findall(r"^maxmemory (\d+)gb$", (ROOT / "configs" / "redis.conf").read_text("utf-8"), re.MULTILINE)
    assert int(compose()["services"]["redis"]["mem_limit"].removesuffix("gb")) >= 1.5 * int(allowed)
