"""`tierwise apply` beside a scripted Ray Serve: what it deploys, what it says, and when it fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from app import apply as applying
from app.apply import Applied, apply
from app.cli import app
from app.errors import ConfigError
from tests.fakes import CONFIG, serve_file


class Cluster:
    """Ray Serve's interface and the gateway's metrics on one port.

    Attributes:
        deployed: The application that runs.
        puts: All that were asked for.
        refusing: The replicas that keep what they have.
        silent: Whether the gateway has no metrics.
        status: Of the application.
    """

    def __init__(self) -> None:
        self.deployed: dict[str, Any] = {}
        self.puts: list[dict[str, Any]] = []
        self.refusing: set[str] = set()
        self.silent = False
        self.status = "RUNNING"
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._answer(cluster.metrics(), 503 if cluster.silent else 200)
                else:
                    self._answer(json.dumps(cluster.state()))

            def do_PUT(self) -> None:
                (application,) = json.loads(self.rfile.read(int(self.headers["content-length"])))["applications"]
                cluster.puts.append(application)
                cluster.deployed = application
                self._answer("{}")

            def _answer(self, text: str, status: int = 200) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Cluster:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def state(self) -> dict[str, Any]:
        """Two replicas of a deployment that takes configurations, and two of one that does not."""
        replicas = [{"replica_id": name, "state": "RUNNING", "node_ip": "10.0.0.3"} for name in ("one", "two")]
        deployments = {name: {"replicas": replicas} for name in ("Ingress", "Tier-mid")}
        application = {"status": self.status, "message": "why", "deployed_app_config": self.deployed}
        return {"applications": {"tierwise": application | {"deployments": deployments}}}

    def metrics(self) -> str:
        """What the replicas of the ingress say of the configuration that they were given last."""
        given: dict[str, Any] = next((d for d in self.deployed.get("deployments", ()) if d["name"] == "Ingress"), {})
        applied_s = given.get("user_config", {}).get("applied_s", 0)
        return "\n".join(
            f"ray_tierwise_configuration_{'refused' if name in self.refusing else 'applied'}_s"
            f'{{application="tierwise",deployment="Ingress",replica="{name}"}} {applied_s!r}'
            for name in ("one", "two")
        )


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with Cluster() as running:
        yield running


def file_of(cluster: Cluster, folder: Path, deployments: list[dict[str, Any]] | None = None, **arguments: Any) -> Path:
    path = serve_file(folder, cluster.port, **arguments)
    raw = yaml.safe_load(path.read_text("utf-8"))
    raw["applications"][0]["deployments"] = deployments or []
    path.write_text(yaml.safe_dump(raw))
    return path


def running(cluster: Cluster, folder: Path, deployments: list[dict[str, Any]] | None = None, **arguments: Any) -> None:
    """Let a file be what runs."""
    raw = yaml.safe_load(file_of(cluster, folder, deployments, **arguments).read_text("utf-8"))
    (cluster.deployed,) = raw["applications"]


def test_a_gateway_without_redis_is_changed_without_naming_a_deployment_that_it_has_not(
    cluster: Cluster, tmp_path: Path
) -> None:
    running(cluster, tmp_path)
    path = file_of(cluster, tmp_path, auto_models=["mine"])
    assert apply(path, cluster.address, print) == Applied(["auto_models"], [])
    (put,) = cluster.puts
    assert put["args"]["auto_models"] == list(CONFIG.auto_models)
    assert [one["name"] for one in put["deployments"]] == ["Ingress", "Classifier"]
    assert {tuple(one["user_config"]["args"]["auto_models"]) for one in put["deployments"]} == {("mine",)}


def test_a_second_change_is_compared_with_the_first_and_not_with_the_start(cluster: Cluster, tmp_path: Path) -> None:
    running(cluster, tmp_path)
    path = file_of(cluster, tmp_path, auto_models=["mine"])
    assert apply(path, cluster.address, print).changed == ["auto_models"]
    assert apply(path, cluster.address, print).changed == []


def test_replicas_that_refuse_it_are_named_and_what_ran_is_deployed_again(cluster: Cluster, tmp_path: Path) -> None:
    running(cluster, tmp_path)
    before, cluster.refusing = cluster.deployed, {"two"}
    path = file_of(cluster, tmp_path, auto_models=["mine"])
    with pytest.raises(ConfigError, match=r"refused by Ingress two on 10\.0\.0\.3; .*\nwhat ran before is deployed"):
        apply(path, cluster.address, print)
    assert cluster.deployed == before
    done = CliRunner().invoke(app, ["apply", str(path), "--address", cluster.address])
    assert done.exit_code != 0


def test_a_deployment_that_fails_is_undone(cluster: Cluster, tmp_path: Path) -> None:
    running(cluster, tmp_path)
    before, cluster.status = cluster.deployed, "DEPLOY_FAILED"
    with pytest.raises(ConfigError, match="the deployment failed: why"):
        apply(file_of(cluster, tmp_path, auto_models=["mine"]), cluster.address, print)
    assert cluster.deployed == before


def test_replicas_that_cannot_be_asked_are_no_success(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "_EXPORTED_S", 0.1)
    running(cluster, tmp_path)
    cluster.silent = True
    path = file_of(cluster, tmp_path, auto_models=["mine"])
    with pytest.raises(ConfigError, match=r"Ingress one .*, Ingress two .*/metrics cannot be read .*--url"):
        apply(path, cluster.address, print)


@pytest.mark.parametrize(
    ("option", "value", "restarted"),
    [
        ("num_replicas", 3, []),
        ("ray_actor_options", {"num_cpus": 1}, ["deployments.Ingress.ray_actor_options"]),
    ],
)
def test_a_changed_size_is_said_with_the_replicas_that_it_replaces(
    cluster: Cluster, tmp_path: Path, option: str, value: Any, restarted: list[str]
) -> None:
    running(cluster, tmp_path, [{"name": "Ingress", "num_replicas": 2}])
    said: list[str] = []
    path = file_of(cluster, tmp_path, [{"name": "Ingress", "num_replicas": 2, option: value}])
    assert apply(path, cluster.address, said.append) == Applied(["deployments.Ingress"], restarted)
    assert cluster.puts[0]["args"] == cluster.deployed["args"]
    assert [line.split()[0] for line in said] == restarted
    assert apply(path, cluster.address, print) == Applied([], [])


def test_what_a_replica_holds_from_its_start_makes_new_ones_that_are_asked_too(
    cluster: Cluster, tmp_path: Path
) -> None:
    running(cluster, tmp_path)
    path = file_of(cluster, tmp_path, tiers=CONFIG.model_dump(mode="json", exclude_defaults=True)["tiers"][1:])
    assert apply(path, cluster.address, print) == Applied(["tiers"], ["tiers"])
    assert len(cluster.puts[0]["args"]["tiers"]) == 2
    assert {one["name"]: one["user_config"]["args"] for one in cluster.puts[0]["deployments"]} == dict.fromkeys(
        ("Ingress", "Classifier"), cluster.puts[0]["args"]
    )
