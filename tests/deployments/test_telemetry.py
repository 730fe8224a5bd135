from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from app.cache.bound import Tally
from app.quality.audit import QualityCheck
from app.quality.bound import Kept
from deployments import telemetry
from deployments.telemetry import Telemetry, merged

NODE_A = """# HELP ray_tierwise_requests Requests answered.
# TYPE ray_tierwise_requests counter
ray_tierwise_requests{node="a"} 1
# HELP ray_other Something of Ray's.
# TYPE ray_other gauge
ray_other{node="a"} 5
"""
NODE_B = NODE_A.replace('"a"', '"b"')


def test_families_of_two_nodes_are_merged_under_one_heading() -> None:
    lines = merged([NODE_A, NODE_B]).splitlines()
    assert lines == [
        "# HELP ray_tierwise_requests Requests answered.",
        "# TYPE ray_tierwise_requests counter",
        'ray_tierwise_requests{node="a"} 1',
        'ray_tierwise_requests{node="b"} 1',
    ]


class Metric:
    """A metric that keeps what it was last set to, by name and tier."""

    values: dict[tuple[str, str], float]

    def __init__(self, name: str, *_: Any, **__: Any) -> None:
        self._name = name

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        self.values[self._name, tags["tier"]] = value

    def inc(self, value: float, tags: Mapping[str, str]) -> None: ...


def test_a_moved_cut_point_shows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Metric, "values", {}, raising=False)
    monkeypatch.setattr(telemetry, "metrics", SimpleNamespace(Counter=Metric, Gauge=Metric, Histogram=Metric))
    counted = Telemetry()
    for check, steps in (
        (QualityCheck("local", False, 0.0, Kept({"local": Tally(9, 9)}), None), 0),
        (QualityCheck("local", False, 0.0, Kept({}, {"local": 1}), ("local", 1)), 1),
        (QualityCheck("mid", True, 0.0, Kept(), ("local", -1)), 0),
    ):
        counted.record_check(check)
        assert Metric.values["tierwise_quality_steps", "local"] == steps
