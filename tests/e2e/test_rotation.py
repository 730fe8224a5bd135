"""A tenant's key is replaced while the gateway runs, as docs/operations.md says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from app.cli import key
from app.config import read_serve_file
from app.launch import Launcher
from app.ports import free_port
from app.serve_api import ServeAPI
from tests.upstream import Script, Upstream
from tests.waiting import eventually

pytestmark = pytest.mark.serve
BENCH = Path(__file__).parents[2] / "configs" / "bench.yaml"


def test_a_new_key_is_read_while_replicas_run_and_the_old_one_works_until_its_line_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "tenants.keys"

    def made() -> str:
        key("acme", keys)
        return capsys.readouterr().out.split()[-1]  # after what the launcher says

    old = made()
    with Upstream(Script()) as upstream:
        raw = configuration(keys, upstream.url)
        path = tmp_path / "gateway.yaml"
        path.write_text(yaml.safe_dump(raw))
        launcher = Launcher(read_serve_file(path), print, tmp_path / "state")
        try:
            launcher.start()
            api = launcher.serve_api()
            assert api is not None
            url = f"http://127.0.0.1:{raw['http_options']['port']}/v1"
            before = replicas(api)
            new = made()
            fates = [asked(url, old), asked(url, new)]
            assert eventually(lambda: asked(url, new) == 200, 30)
            assert (fates, asked(url, old)) == ([200, 401], 200)
            keys.write_text(keys.read_text().splitlines()[-1])
            assert eventually(lambda: [asked(url, old) for _ in range(10)] == [401] * 10, 60)  # by each replica
            assert eventually(lambda: [asked(url, new) for _ in range(10)] == [200] * 10, 30)
            assert replicas(api) == before
        finally:
            launcher.stop()


def configuration(keys: Path, upstream: str) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load(BENCH.read_text("utf-8"))
    raw["http_options"]["port"] = free_port()
    arguments = raw["applications"][0]["args"]
    arguments["tenants"] = {"kind": "keys", "file": str(keys)}
    for tier in arguments["tiers"]:
        tier["targets"][0]["base_url"] = upstream
    return raw


def asked(url: str, secret: str) -> int:
    """Return the status of a request with a key."""
    with openai.OpenAI(base_url=url, api_key=secret, max_retries=0) as client:
        try:
            client.chat.completions.create(model="mid", messages=[{"role": "user", "content": "hello"}])
        except openai.APIStatusError as error:
            return error.status_code
    return 200


def replicas(api: ServeAPI) -> dict[str, set[str]]:
    """Return the ids of each deployment's replicas."""
    (application,) = api.applications().values()
    return {
        name: {replica["replica_id"] for replica in deployment["replicas"]}
        for name, deployment in application["deployments"].items()
    }
