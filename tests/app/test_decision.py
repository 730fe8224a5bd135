from __future__ import annotations

import pytest

from app.cache.decision import Candidate, Decision, decide

NEAR, FAR = Candidate("near", 0.93), Candidate("far", 0.92)


@pytest.mark.parametrize(
    ("candidates", "threshold", "decision"),
    [
        ([], 0.0, Decision(None, "no candidate")),
        ([NEAR, FAR], 0.92, Decision(NEAR, "similar")),
        ([NEAR, FAR], 0.93, Decision(NEAR, "similar")),
        ([NEAR, FAR], 0.931, Decision(None, "below threshold")),
    ],
)
def test_the_nearest_at_or_above_the_threshold_serves(
    candidates: list[Candidate], threshold: float, decision: Decision
) -> None:
    assert decide(candidates, threshold) == decision
