"""Plans: what a load takes, and how long requests wait at that size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from app.cli import app
from app.errors import ConfigError
from app.planning.command import planned
from app.planning.model import KINDS, REPLICATED, Machines, Plan, Traffic, monthly_usd, plan
from app.planning.simulate import shared, waits

TIMES: dict[str, dict[str, float]] = {
    "exact_hit": {"HAProxy": 0.1, "Ingress": 1.0, "Redis": 0.1},
    "semantic_hit": {"HAProxy": 0.1, "Ingress": 3.0, "Cache": 6.0, "Redis": 0.5},
    "miss": {"HAProxy": 0.1, "Ingress": 6.0, "Cache": 6.0, "Classifier": 4.0, "Tier": 3.0, "Redis": 1.0},
}
PRODUCTION = Path(__file__).parents[3] / "configs" / "production.yaml"


def of(rate: float, **traffic: Any) -> Plan:
    return plan(rate, TIMES, Traffic(**traffic), Machines(), {"mid": 0.001, "top": 0.01})


@given(st.floats(1, 1e5), st.floats(1, 10))
def test_more_requests_never_take_less_and_no_core_is_busier_than_it_may_be(rate: float, factor: float) -> None:
    less, more = of(rate), of(rate * factor)
    for name in REPLICATED:
        assert more.replicas[name] >= less.replicas[name] >= 2
        assert more.cores[name] / more.replicas[name] <= Machines().utilization + 1e-9
    assert (more.nodes, more.shards, more.gpus, more.clusters) >= (less.nodes, less.shards, less.gpus, less.clusters)
    assert sum(more.cores.values()) / (more.nodes * Machines().node_cores) <= 1


def test_cores_are_cpu_time_by_rate() -> None:
    found = of(1000, exact_hit=0.5, semantic_hit=0.25)
    assert found.cores["Ingress"] == pytest.approx(0.5 * 1 + 0.25 * 3 + 0.25 * 6)
    assert found.cores["Classifier"] == pytest.approx(0.25 * 4)


def test_what_the_local_tier_answers_takes_gpus_with_two_replicas_each_and_no_replica_of_an_api_tier() -> None:
    found = of(10_000, exact_hit=0.0, semantic_hit=0.0, local=0.75, mid=0.2)
    assert found.cores["Tier"] == pytest.approx(0.25 * 10 * 3)
    assert found.replicas["Tier"] == 10 + 3  # 6 and 1.5 cores, each busy to 0.6
    assert found.gpus == 378
    assert found.nearness["GPUs"] == pytest.approx(378 / 32, rel=0.01)
    assert found.nearness["replicas of a cluster"] == (sum(found.replicas.values()) + 2 * 378) / 1000


def test_what_the_cache_answers_costs_no_gpu_and_no_api() -> None:
    found = of(100, exact_hit=1.0, semantic_hit=0.0)
    assert (found.gpus, found.usd_per_1m["api"], found.replicas["Tier"]) == (0, 0.0, 4)
    dearer = of(100, exact_hit=0.0, semantic_hit=0.0)
    assert monthly_usd(dearer) > monthly_usd(found) > 0


def test_what_runs_out_first_changes_with_the_traffic() -> None:
    assert of(100_000, exact_hit=0.9, semantic_hit=0.1, entries=0).bottlenecks[0] == "replicas of a cluster"
    assert of(10, entries=10**9).bottlenecks[0] == "shards of Redis"
    assert of(10, local=1.0, mid=0.0, answer_tokens=4000).bottlenecks[0] == "GPUs"


def test_waiting_is_the_service_where_there_is_room_and_grows_where_there_is_none() -> None:
    found = of(500)
    roomy = waits(TIMES, replace(found, replicas={name: 10 * n for name, n in found.replicas.items()}), Traffic())
    planned_for = waits(TIMES, found, Traffic())
    crowded = waits(TIMES, replace(found, replicas=dict.fromkeys(found.replicas, 1)), Traffic())
    assert roomy["p50_ms"] <= planned_for["p50_ms"] < crowded["p50_ms"] / 5
    assert roomy["p99_ms"] < 4 * sum(TIMES["miss"].values())


def test_a_machine_that_is_shared_is_slower_the_more_it_is_asked() -> None:
    times = [shared(TIMES, rate, Traffic(), 2)["p95_ms"] for rate in (10, 80, 120)]
    assert times == sorted(times)
    assert times[0] >= max(sum(TIMES[kind].values()) for kind in KINDS)


def measured(folder: Path, **other: Any) -> Path:
    beside = {kind: {"Client": 0.3, "Upstream": 0.1} for kind in KINDS}
    checks = [{"offered_rps": 40.0, "p50_ms": 20.0, "p95_ms": 60.0, "cores_used": 0.9}]
    file = folder / "times.json"
    file.write_text(
        json.dumps(
            {"cpu_ms": TIMES, "beside": beside, "cores": 2, "idle_cores": 0.2, "factor": 1.3, "checks": checks, **other}
        )
    )
    return file


def test_the_command_prints_a_column_for_each_load_and_the_check(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    arguments = ["plan", "--rps", "10", "--rps", "5000", "--config", str(PRODUCTION)]
    done = CliRunner().invoke(
        app, [*arguments, "--service-times", str(measured(tmp_path)), "--json", str(out)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "| requests a second | 10 | 5,000 |" in done.stdout
    assert "| 40 | " in done.stdout
    figures = json.loads(out.read_text())
    assert figures["plans"][1]["usd_per_1m"]["api"] > 0
    assert figures["checks"][0]["model"]["cores_used"] > 0


def test_the_shipped_service_times_are_whole() -> None:
    done = CliRunner().invoke(app, ["plan", "--config", str(PRODUCTION)], catch_exceptions=False)
    assert "| requests a second | 10 | 1,000 | 100,000 |" in done.stdout


def test_assumptions_are_overridden_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "assumptions.yaml"
    file.write_text("traffic: {exact_hit: 0.5}\nmachines: {node_cores: 4}\n")
    figures, _ = planned([100], PRODUCTION, measured(tmp_path), file)
    assert figures["assumptions"]["machines"]["node_cores"] == 4
    for text, named in [("machines: {cores: 4}", "cores"), ("trafic: {}", "trafic"), ("traffic: 3", "assumptions")]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=named):
            planned([100], PRODUCTION, measured(tmp_path), file)


def test_a_file_that_has_no_service_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bench service-times"):
        planned([100], PRODUCTION, measured(tmp_path, cpu_ms={}), None)
