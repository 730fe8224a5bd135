from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config import read_serve_file
from app.errors import ConfigError
from app.launch import Launcher
from app.ports import free_port

LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"


def written(folder: Path, **changes: Any) -> Path:
    """The local configuration with other `args`, `http_options` or whole keys."""
    raw = yaml.safe_load(LOCAL.read_text("utf-8"))
    raw["applications"][0]["args"] |= changes.pop("args", {})
    raw["http_options"] |= changes.pop("http_options", {})
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(raw | changes), "utf-8")
    return path


def test_the_local_file_listens_on_loopback_alone() -> None:
    assert read_serve_file(LOCAL).url == "http://127.0.0.1:8000"


def test_a_typo_is_refused_by_its_full_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"args\.cache\.treshold: Extra inputs"):
        read_serve_file(written(tmp_path, args={"cache": {"treshold": 0.9}}))


def test_an_open_gateway_on_another_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0"):
        read_serve_file(written(tmp_path, http_options={"host": "0.0.0.0"}))


def test_an_open_gateway_on_rays_default_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind: open"):
        read_serve_file(written(tmp_path, http_options={"host": None}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_serve_file(tmp_path / "none.yaml")


def test_a_file_that_is_no_serve_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("just: text", "utf-8")
    with pytest.raises(ConfigError, match="applications"):
        read_serve_file(tmp_path / "x.yaml")


def test_a_port_in_use_stops_the_start_before_anything_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file = read_serve_file(written(tmp_path, http_options={"port": taken.getsockname()[1]}))
        with pytest.raises(ConfigError, match="in use"):
            Launcher(file, print, tmp_path / "state").start()
    assert not (tmp_path / "state").exists()


def test_replicas_that_the_gpus_of_the_machine_cannot_hold_stop_the_start_with_their_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = {"name": "local", "max_score": 1.0, "llm": {"model": "a/b", "gpu_fraction": 0.5}}
    size = {"name": "Tier-local", "num_replicas": 3}
    path = written(tmp_path, args={"tiers": [halves]}, http_options={"port": free_port()})
    raw = yaml.safe_load(path.read_text("utf-8"))
    raw["applications"][0]["deployments"] = [size]
    path.write_text(yaml.safe_dump(raw), "utf-8")
    monkeypatch.setattr("app.launch.gpus", lambda: ["NVIDIA L4, 23034 MiB, 570.1"])
    with pytest.raises(ConfigError, match=r"3 x 0.5 \(`tiers.local.llm.gpu_fraction`\) = 1.5 GPUs do not fit on 1"):
        Launcher(read_serve_file(path), print, tmp_path / "state").start()
