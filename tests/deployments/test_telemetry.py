from __future__ import annotations

from deployments.telemetry import merged

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
