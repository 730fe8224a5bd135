from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest

from app.api_ledger import embedded
from app.cache.bound import Tally
from app.errors import UnavailableError
from app.ledger.record import answered, refused, usd
from app.ledger.rollup import rolled_up
from app.quality.audit import QualityCheck
from app.quality.bound import Kept
from app.schema import NOBODY, CacheLookup, Completion, Outcome, Vectors
from deployments import telemetry
from deployments.telemetry import Telemetry, merged
from tests.fakes import answer

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


class Counts:
    """As much of `ray.serve.metrics` as it takes to read what was counted: sums by name and tags."""

    def __init__(self) -> None:
        self.sums: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
        self.Counter = self.Gauge = self.Histogram = self._metric

    def _metric(self, name: str, *_: Any, **__: Any) -> Any:
        sums = self.sums

        class Metric:
            def inc(self, value: float, tags: dict[str, str] | None = None) -> None:
                sums[name, frozenset((tags or {}).items())] += value  # type: ignore[assignment]

            def set(self, value: float, tags: dict[str, str] | None = None) -> None:
                sums[name, frozenset((tags or {}).items())] = value  # type: ignore[assignment]

            def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
                pass

        return Metric()

    def of(self, name: str, **tags: str) -> float:
        return sum(value for (its, all_of), value in self.sums.items() if its == name and tags.items() <= set(all_of))


def test_a_moved_cut_point_shows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts()
    monkeypatch.setattr(telemetry, "metrics", counts)
    counted = Telemetry()
    for check, steps in (
        (QualityCheck("local", False, 0.0, Kept({"local": Tally(9, 9)}), None), 0),
        (QualityCheck("local", False, 0.0, Kept({}, {"local": 1}), ("local", 1)), 1),
        (QualityCheck("mid", True, 0.0, Kept(), ("local", -1)), 0),
    ):
        counted.record_check(check)
        assert counts.of("tierwise_quality_steps", tier="local") == steps


def test_the_sums_of_the_metrics_equal_those_of_the_ledger_by_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counts()
    monkeypatch.setattr(telemetry, "metrics", counts)
    miss = Outcome(answer(), "mid", CacheLookup("miss", "no candidate"), 0.5, 1, 0.0002, 0.0018, 0.1, "score")
    hit = dataclasses.replace(miss, tier="cache", cache=CacheLookup("hit", "exact"), cost_usd=0.0, saved_usd=0.002)
    left = dataclasses.replace(
        miss, completion=Completion({}, ""), tier=NOBODY, cost_usd=0.0003, saved_usd=-0.0003, finished=False
    )
    vectors = embedded("minilm", Vectors("fake", [b""], 3), 0.1, "acme", "a", "/v1/embeddings")
    failure = UnavailableError("No model answered.")
    failure.spent_usd = 0.0004

    counted, outcomes = Telemetry(), [miss, miss, hit, hit, hit, left, vectors]
    for outcome in outcomes:
        counted.record(outcome)
    counted.record_error(failure)
    records = [answered(0.0, outcome) for outcome in outcomes]
    records.append(refused(0.0, failure, request_id="r", tenant="acme", endpoint="/v1/messages", latency_s=0.1))
    ledger: dict[str, Counter[str]] = {}
    for (_, group), sums in rolled_up(records).items():
        ledger.setdefault(group.tier, Counter()).update(sums)

    assert ledger.keys() == {"mid", "cache", "none", "embeddings"}
    for tier, sums in ledger.items():
        for kind in ("prompt", "completion"):
            assert counts.of("tierwise_tokens", tier=tier, kind=kind) == sums[kind]
        assert counts.of("tierwise_cost_usd", tier=tier) == pytest.approx(usd(sums["cost"]))
        assert counts.of("tierwise_saved_usd", tier=tier) == pytest.approx(usd(sums["without"] - sums["cost"]))
    assert counts.of("tierwise_tokens", tier="cache") == 3 * 150
    assert counts.of("tierwise_cost_usd", tier="none") == pytest.approx(0.0007)
    assert counts.of("tierwise_requests") + counts.of("tierwise_errors") == len(records)
