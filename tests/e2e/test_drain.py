"""A gateway of its own, redeployed and stopped while requests are on their way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import yaml

from app.config import read_serve_file
from app.embedded_redis import free_port
from app.launch import Launcher
from app.serve_api import ServeAPI
from tests.upstream import Script, Upstream
from tests.waiting import eventually

pytestmark = pytest.mark.serve
BENCH = Path(__file__).parents[2] / "configs" / "bench.yaml"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An upstream that takes two seconds for an answer."""
    with Upstream(Script(hang_s=2.0)) as running:
        yield running


def test_neither_a_redeploy_nor_a_stop_loses_a_request(tmp_path: Path, upstream: Upstream) -> None:
    raw = yaml.safe_load(BENCH.read_text("utf-8"))
    raw["http_options"]["port"] = free_port()
    arguments = raw["applications"][0]["args"]
    for tier in arguments["tiers"]:
        tier["targets"][0]["base_url"] = upstream.url
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(raw))
    launcher = Launcher(read_serve_file(path), print, tmp_path / "state")
    try:
        launcher.start()
        api = launcher.serve_api()
        assert api is not None
        with Clients(f"http://127.0.0.1:{raw['http_options']['port']}/v1") as clients:
            before = _replicas(api)
            arguments["tiers"][0]["max_score"] = 0.25
            api.deploy(raw)
            assert eventually(lambda: (now := _replicas(api)) != set() and not before & now, 90), "the old ones stayed"
        last = threading.Thread(target=clients.ask, args=("the last one",))
        last.start()
        assert eventually(lambda: "the last one" in str(upstream.requests[-1]), 10)
        launcher.stop()
        last.join()
    finally:
        launcher.stop()
    assert clients.fates.keys() == {"answered"}, clients.fates


class Clients:
    """Ten clients that ask one question after the other inside the `with` block.

    Attributes:
        fates: How many requests were answered, and how many failed by which error.
    """

    def __init__(self, url: str) -> None:
        self.fates: Counter[str] = Counter()
        self._client = openai.OpenAI(base_url=url, api_key="x", max_retries=0)
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, args=(i,)) for i in range(10)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def ask(self, text: str) -> None:
        """Ask what the cache does not know, and note what comes."""
        try:
            self._client.chat.completions.create(
                model="mid", messages=[{"role": "user", "content": text}], extra_headers={"cache-control": "no-store"}
            )
        except openai.OpenAIError as error:
            self.fates[f"{type(error).__name__}: {error}"] += 1
        else:
            self.fates["answered"] += 1

    def _ask_on(self, number: int) -> None:
        while not self._stopping.is_set():
            self.ask(f"question of client {number}")


def _replicas(api: ServeAPI) -> set[str]:
    """Return the ids of all replicas there are."""
    deployments = [d for application in api.applications().values() for d in application["deployments"].values()]
    return {replica["replica_id"] for deployment in deployments for replica in deployment["replicas"]}
