"""A gateway of its own, changed, redeployed and stopped while requests are on their way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import yaml

from app.apply import Applied, apply
from app.config import read_serve_file
from app.errors import ConfigError
from app.launch import Launcher
from app.ports import free_port
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


def test_neither_a_change_nor_a_redeploy_nor_a_stop_loses_a_request(tmp_path: Path, upstream: Upstream) -> None:
    raw = yaml.safe_load(BENCH.read_text("utf-8"))
    raw["http_options"]["port"] = free_port()
    arguments = raw["applications"][0]["args"]
    for tier in arguments["tiers"]:
        tier["targets"][0]["base_url"] = upstream.url
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(raw))
    launcher = Launcher(read_serve_file(path), print, tmp_path / "state")

    def changed() -> Applied:
        path.write_text(yaml.safe_dump(raw))
        return apply(path, api.address if api else None, print)

    try:
        launcher.start()
        api = launcher.serve_api()
        assert api is not None
        with Clients(f"http://127.0.0.1:{raw['http_options']['port']}/v1") as clients:
            before = _replicas(api)
            arguments |= {"auto_models": ["auto", "gpt-4o"], "cache": {"ttl_s": 60}}
            assert changed() == Applied(["cache", "auto_models"], [])
            assert eventually(lambda: {"auto", "gpt-4o"} <= clients.models(), 10)
            assert _replicas(api) == before

            assert clients.arm() is None
            arguments["canary"] = {"tenants": ["default"], "changes": {"auto_models": ["auto", "gpt-4o", "next"]}}
            assert changed() == Applied(["canary"], [])
            assert eventually(lambda: clients.arm("next") == "canary", 10)
            arguments["canary"]["share"] = 0.0
            assert changed() == Applied(["canary"], [])
            assert eventually(lambda: clients.arm() == "stable", 10)
            del arguments["canary"]
            assert changed() == Applied(["canary"], [])
            assert eventually(lambda: clients.arm() is None, 10)
            assert _replicas(api) == before

            arguments["tiers"][0]["max_score"] = 0.9
            with pytest.raises(ConfigError, match="max_score"):
                changed()
            arguments["tiers"][0]["max_score"] = 0.25
            arguments["tiers"][1]["targets"][0]["timeout_s"] = 50
            assert changed() == Applied(["tiers"], ["tiers.mid.targets"])
            assert eventually(lambda: (now := _replicas(api)) != set() and not before & now, 90), "the old ones stayed"
            assert "gpt-4o" in clients.models()
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

    def models(self) -> set[str]:
        """List what may be asked for."""
        return {model.id for model in self._client.models.list()}

    def arm(self, model: str = "auto") -> str | None:
        """Ask, and say which side of a canary answered; None where there is none, or no such model."""
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": "which side?"}]
            )
        except openai.NotFoundError:
            return None
        return raw.headers.get("x-tierwise-canary")

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
