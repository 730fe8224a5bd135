"""The real thing, started once: embedded Redis, Ray Serve with HAProxy, vLLM on the bundled model, three tenants."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest
import yaml

from app.config import read_serve_file
from app.errors import ConfigError
from app.launch import Launcher
from app.ports import free_port
from app.tenants import key_hash
from tests.collector import Collector
from tests.upstream import Upstream

KEYS = {"acme": "tw-acme-secret", "globex": "tw-globex-secret", "initech": "tw-initech-secret"}
# Of the one tenant that tries the local model first, however hard the prompt.
CASCADE = {"tenants": ["initech"], "margin": 1.0, "min_token_probability": 0.05}
# Only requests whose client traces them.
TRACED = {"enabled": True, "exporter_import_path": "deployments.tracing:exporter", "sampling_ratio": 0.0}
# One replica, whatever its policy wants, which Serve's metrics tell.
SCALED = {
    "min_replicas": 1,
    "max_replicas": 1,
    "upscale_delay_s": 0,
    "look_back_period_s": 12,
    "policy": {"policy_function": "deployments.autoscaling:ByLoad", "policy_kwargs": {"target_use": 0.001}},
}
LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"


@dataclass(frozen=True)
class Gateway:
    """A running gateway, the scripted upstream of its middle tier, the collector of its traces, and who may ask."""

    url: str
    upstream: Upstream
    collector: Collector
    clients: dict[str, openai.OpenAI]

    def client(self, tenant: str = "acme") -> openai.OpenAI:
        return self.clients[tenant]


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """`configs/local.yaml` with keys, another port, and a middle tier that has an upstream."""
    subprocess.run([sys.executable, "-m", "app.bundled"], check=True, capture_output=True)
    folder = tmp_path_factory.mktemp("gateway")
    with Upstream() as upstream, Collector() as collector, pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        raw = yaml.safe_load(LOCAL.read_text("utf-8"))
        raw["http_options"]["port"] = free_port()
        raw["tracing_config"] = TRACED
        arguments = raw["applications"][0]["args"]
        raw["applications"][0]["deployments"].append({"name": "Tier-local", "autoscaling_config": SCALED})
        arguments["cache"]["tool_calls"] = True
        arguments["tenants"] = {"kind": "keys", "file": str(folder / "tenants.keys")}
        arguments["cache"] = {**arguments.get("cache", {}), "audit": {"share": 1.0}}
        arguments["routing"] = {"cascade": CASCADE}
        arguments["tiers"][1]["targets"][0] |= {"base_url": upstream.url, "api_key_env": None}
        arguments["tiers"][2]["targets"][0] |= {"api_key_env": "TIERWISE_TEST_NO_SUCH_KEY"}
        (folder / "tenants.keys").write_text("".join(f"{key_hash(key)} {name}\n" for name, key in KEYS.items()))
        (folder / "gateway.yaml").write_text(yaml.safe_dump(raw))
        file = read_serve_file(folder / "gateway.yaml")
        launcher = Launcher(file, lambda line: print(f"gateway: {line}"), folder / "state")
        try:
            launcher.start()
            watch = threading.Thread(target=_watch, args=(launcher,), daemon=True)
            watch.start()
            with contextlib.ExitStack() as stack:
                clients = {
                    tenant: stack.enter_context(openai.OpenAI(base_url=f"{file.url}/v1", api_key=key, max_retries=0))
                    for tenant, key in KEYS.items()
                }
                yield Gateway(file.url, upstream, collector, clients)
        finally:
            children = psutil.Process().children(recursive=True)
            launcher.stop()
    left = [process for process in children if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"the launcher left {left}"


def _watch(launcher: Launcher) -> None:
    with contextlib.suppress(ConfigError):
        launcher.watch()
