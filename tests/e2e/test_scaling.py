"""Load up and down on a Ray cluster that grows and shrinks: replicas and nodes follow it, and no request is lost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import pytest
import yaml

from app.ports import free_port
from tests.e2e.fake_cluster import FakeCluster
from tests.upstream import Script, Upstream
from tests.waiting import eventually

pytestmark = pytest.mark.serve
GPU_NODES = 2
# Two replicas a GPU, as the local model's; seconds in place of minutes.
LOCAL = {"num_cpus": 0.1, "num_gpus": 0.5}
QUICK = {"upscale_delay_s": 0.5, "downscale_delay_s": 3, "look_back_period_s": 3, "metrics_interval_s": 0.5}


def configuration(upstream: str) -> dict[str, Any]:
    """Return three scripted tiers: the cheapest on GPU nodes, from zero; a classifier that scales by its load."""
    target: dict[str, Any] = {"base_url": upstream, "api_key_env": None, "price": {}}
    tiers = [
        {"name": name, "max_score": score, "targets": [{"model": f"{name}-model", **target}]}
        for name, score in {"local": 0.3, "mid": 0.7, "top": 1.0}.items()
    ]
    by_requests = {"policy_function": "deployments.autoscaling:limited"}
    by_load = {"policy_function": "deployments.autoscaling:ByLoad", "policy_kwargs": {"target_use": 0.01}}
    light = {"ray_actor_options": {"num_cpus": 0.1, "label_selector": {"pool": "cpu"}}}  # else they may keep a GPU node
    local = {"min_replicas": 0, "max_replicas": 2 * GPU_NODES, "target_ongoing_requests": 2, "policy": by_requests}
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": free_port()},
        "logging_config": {"enable_access_log": False},
        "applications": [
            {
                "name": "tierwise",
                "route_prefix": "/",
                "import_path": "deployments.graph:build_app",
                "args": {"tenants": {"kind": "open", "tenant": "default"}, "tiers": tiers},
                "deployments": [
                    {"name": "Ingress", **light},
                    {
                        "name": "Classifier",
                        "autoscaling_config": {"max_replicas": 2, "policy": by_load, **QUICK},
                        **light,
                    },
                    {"name": "Tier-local", "autoscaling_config": {**local, **QUICK}, "ray_actor_options": LOCAL},
                ],
            }
        ],
    }


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """An upstream that takes two seconds for an answer: many requests under way, and few to score."""
    with Upstream(Script(hang_s=2)) as running:
        yield running


class Clients:
    """Clients that ask easy questions, one after the other each, until the `with` block ends.

    Attributes:
        answered: How many requests were answered by which tier for which reason.
        lost: How the others failed.
    """

    def __init__(self, url: str) -> None:
        self.answered: Counter[str] = Counter()
        self.lost: list[str] = []
        self._url = url
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, number: int) -> None:
        """Start so many."""
        self._stopping.clear()
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait until each has its last answer."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def ask(self) -> str:
        """Ask once; return which tier answered and why."""
        body = {"model": "auto", "messages": [{"role": "user", "content": "Say hello."}]}
        headers = {"cache-control": "no-store"}
        try:
            response = httpx2.post(f"{self._url}/v1/chat/completions", json=body, headers=headers, timeout=60)
            response.raise_for_status()
        except httpx2.HTTPError as error:
            self.lost.append(repr(error))
            return "lost"
        fate = f"{response.headers['x-tierwise-tier']}: {response.headers['x-tierwise-route']}"
        self.answered[fate] += 1
        return fate

    def state(self, part: str) -> str | None:
        """Return what `/readyz` says of a part."""
        try:
            response = httpx2.get(f"{self._url}/readyz", timeout=5)
            return str(response.json()["parts"][part]["state"])
        except (httpx2.HTTPError, ValueError, KeyError):
            return None

    def _ask_on(self) -> None:
        while not self._stopping.is_set():
            self.ask()


def test_replicas_and_nodes_follow_the_load_from_zero_and_back_and_nothing_is_lost(
    tmp_path: Path, upstream: Upstream
) -> None:
    raw = configuration(upstream.url)
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(raw))
    url = f"http://127.0.0.1:{raw['http_options']['port']}"
    with FakeCluster(path, GPU_NODES) as cluster, Clients(url) as clients:
        assert eventually(lambda: clients.state("tier-mid") == "up", 120), "the gateway did not start"
        assert (clients.state("tier-local"), cluster.replicas("Tier-local"), cluster.nodes) == ("asleep", 0, 1)

        assert eventually(lambda: clients.ask() == "mid: starting", 30), "a request waited for a tier that sleeps"
        assert eventually(lambda: clients.ask() == "local: score", 60), "the request did not wake its tier"
        assert cluster.nodes == 2

        clients.start(16)
        assert eventually(lambda: cluster.replicas("Tier-local") == 2 * GPU_NODES, 60), "the load started no replicas"
        assert cluster.nodes == 1 + GPU_NODES
        assert eventually(lambda: cluster.replicas("Classifier") == 2, 30), "the classifier did not grow"
        clients.stop()

        clients.start(1)
        assert eventually(lambda: cluster.replicas("Tier-local") == 1, 60), "replicas stayed without load"
        assert eventually(lambda: cluster.nodes == 2, 60), "a node stayed without replicas"
        clients.stop()

        assert eventually(lambda: cluster.nodes == 1, 60), "the tier did not go to zero"
        assert (clients.state("tier-local"), cluster.replicas("Tier-local")) == ("asleep", 0)
        assert cluster.replicas("Classifier") == 1
    print(clients.answered)
    assert clients.lost == []
