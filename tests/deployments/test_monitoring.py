"""The files of `configs/monitoring`: what they ask Prometheus for exists."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments import telemetry

FOLDER = Path(__file__).parents[2] / "configs" / "monitoring"
METRIC = re.compile(r"\bray_tierwise_\w+")


def exported() -> set[str]:
    """The names under which Prometheus sees the metrics that Telemetry makes."""
    kinds = re.findall(r'metrics\.(Counter|Gauge|Histogram)\(\s*"(tierwise_\w+)"', inspect.getsource(telemetry))
    endings = {"Counter": "_total", "Gauge": "", "Histogram": "_bucket"}
    return {f"ray_{name}{endings[kind]}" for kind, name in kinds}


def dashboard() -> dict[str, Any]:
    made: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text("utf-8"))
    return made


def test_the_dashboard_asks_for_metrics_that_exist_and_shows_each_of_them() -> None:
    asked = {name for p in dashboard()["panels"] for t in p["targets"] for name in METRIC.findall(t["expr"])}
    assert asked <= exported()
    assert exported() - asked <= {  # of interest where one looks for a cause
        "ray_tierwise_asyncio_tasks",
        "ray_tierwise_cache_feedback_total",
        "ray_tierwise_configuration_applied_s",
        "ray_tierwise_configuration_refused_s",
        "ray_tierwise_ledger_dropped_total",
        "ray_tierwise_cache_checks_total",
        "ray_tierwise_cascade_saved_usd",
        "ray_tierwise_quality_checks_total",
        "ray_tierwise_similarity_bucket",
    }


def test_no_panel_of_the_dashboard_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


@pytest.mark.parametrize("rule", yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"][0]["rules"])
def test_an_alert_asks_for_metrics_that_exist_and_says_what_to_do(rule: dict[str, Any]) -> None:
    asked = set(METRIC.findall(rule["expr"]))
    assert asked
    assert asked <= exported()
    assert rule["expr"].count("(") == rule["expr"].count(")")
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert len(rule["annotations"]["description"]) > 40


def test_prometheus_loads_the_alerts() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text("utf-8"))
    assert all((FOLDER / file).is_file() for file in config["rule_files"])
    assert config["scrape_configs"][0]["job_name"] == "tierwise"
