"""The policies as Serve's controller calls them: named in a file, pickled, wrapped, given what replicas report."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve._private.autoscaling_state import _resolve_policy_callable
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

NAME = DeploymentID("Tier-local", "tierwise")
BY_LOAD = {"policy_function": "deployments.autoscaling:ByLoad", "policy_kwargs": {"max_waiting": 4, "target_use": 0.8}}
LIMITED = {"policy_function": "deployments.autoscaling:limited"}


def decided(
    policy: dict[str, Any],
    reports: list[dict[str, float]],
    *,
    replicas: int | None = None,
    requests: float = 0.0,
    queued: float = 0.0,
) -> float:
    """Return the replicas that Serve would aim at, without delays; by default all that run have reported."""
    running = len(reports) if replicas is None else replicas
    names = [ReplicaID(str(i), NAME) for i in range(running)]
    metrics: dict[str, dict[ReplicaID, float]] = {}
    for name, report in zip(names, reports, strict=False):
        for key, value in report.items():
            metrics.setdefault(key, {})[name] = value
    config = AutoscalingConfig(
        min_replicas=0,
        max_replicas=10,
        target_ongoing_requests=10,
        upscale_delay_s=0,
        downscale_delay_s=0,
        policy=policy,
    )
    wrapped = _apply_autoscaling_config(_resolve_policy_callable(config.policy))
    context = AutoscalingContext(
        NAME, NAME.name, NAME.app_name, running, running, names, requests, queued, metrics, None, 0, 10, {}, None, None,
        0.0, config,
    )  # fmt: skip
    return float(wrapped(context)[0])


def test_a_full_engine_calls_for_more_replicas_though_no_request_waits() -> None:
    assert decided(BY_LOAD, [{"waiting": 0, "use": 1.0}] * 4) == 5


def test_requests_that_wait_at_the_callers_count_as_those_that_wait_in_the_engine() -> None:
    assert decided(BY_LOAD, [{"waiting": 6, "use": 0.5}]) == 2
    assert decided(BY_LOAD, [{"waiting": 0, "use": 0.5}], queued=6) == 2


def test_an_idle_engine_may_go_to_zero() -> None:
    assert decided(BY_LOAD, [{"waiting": 0, "use": 0.0}]) == 0


def test_a_request_for_a_tier_at_zero_starts_a_replica() -> None:
    assert decided(BY_LOAD, [], requests=1) == 1
    assert decided(BY_LOAD, []) == 0


def test_replicas_that_have_not_reported_yet_are_judged_by_requests() -> None:
    assert decided(BY_LOAD, [], replicas=2, requests=40) == 4
    assert decided(LIMITED, [], replicas=2, requests=40) == 4


def test_an_api_tier_whose_limits_are_used_up_does_not_grow() -> None:
    assert decided(LIMITED, [{"limits_used": 0.0}], requests=40) == 4
    assert decided(LIMITED, [{"limits_used": 1.0}], requests=40) == 1


def test_limits_that_mean_nothing_are_refused_where_the_policy_is_made() -> None:
    with pytest.raises(ValueError, match="max_waitin"):
        decided({**BY_LOAD, "policy_kwargs": {"max_waitin": 3}}, [])
