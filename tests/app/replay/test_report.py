"""The configuration that a replay writes."""

from __future__ import annotations

from pathlib import Path

from app.config import read_serve_file
from app.replay.report import write_config
from tests.app.replay.made import replayed, simulation
from tests.fakes import serve_file


def test_the_models_of_a_profile_stay_its_own(tmp_path: Path) -> None:
    file = read_serve_file(serve_file(tmp_path, profiles={"tickets": {"models": ["ticket-model"]}}))
    write_config(simulation(replayed(2, models=["ticket-model", "other"]), file.config), file, tmp_path / "best.yaml")
    config = read_serve_file(tmp_path / "best.yaml").config
    assert "other" in config.auto_models
    assert "ticket-model" not in config.auto_models
