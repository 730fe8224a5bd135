"""Parts of a cluster of three nodes are killed while requests are in flight."""

from __future__ import annotations

import pytest

from app.benchmark.survive import measure

pytestmark = pytest.mark.serve


def test_a_killed_node_controller_replica_or_redis_costs_no_request_but_streams_that_were_cut() -> None:
    found = measure(60, print)
    assert len(found) == 5
    for part, counts in found.items():
        assert counts["whole"]["in_flight"] > 20, part
        assert (counts["whole"]["lost"], counts["stream not begun"]["lost"], counts["wrong"]) == (0, 0, 0), (
            part,
            counts,
        )
    # HAProxy asks the other replica of the ingress: not even a client without retries loses one
    assert [found["ingress replica"][kind]["failed"] for kind in ("whole", "stream not begun")] == [0, 0]
