"""Serve's autoscaling policies, named by `autoscaling_config.policy` in a file; what they decide is `app/scaling.py`.

Serve bounds what they return, delays it, and starts the first replica of a deployment at zero by itself. Ingress and
cache need none of these: Serve's own policy goes by the requests under way.
"""

from __future__ import annotations

from typing import Any

from ray.serve.autoscaling_policy import default_autoscaling_policy
from ray.serve.config import AutoscalingContext

from app.scaling import LoadLimits, by_limits, by_load

Decision = tuple[float, dict[str, Any]]


class ByLoad:
    """By what waits, here and at the callers, and by how much of each replica is in use: classifier and local tier.

    Args:
        limits: The fields of `LoadLimits`.
    """

    def __init__(self, **limits: Any) -> None:
        self._limits = LoadLimits(**limits)

    def __call__(self, ctx: AutoscalingContext) -> Decision:
        """Decide on the number of replicas."""
        uses = _reported(ctx, "use")
        if not uses:
            return _by_requests(ctx)
        waiting = sum(_reported(ctx, "waiting")) + ctx.total_queued_requests
        return by_load(waiting, uses, ctx.current_num_replicas, self._limits), {}


def limited(ctx: AutoscalingContext) -> Decision:
    """By requests under way, `target_ongoing_requests`, as far as the APIs' limits go: API tiers."""
    used = _reported(ctx, "limits_used")
    if not used:
        return _by_requests(ctx)
    target = ctx.config.get_target_ongoing_requests()
    return by_limits(ctx.total_num_requests, max(used), ctx.current_num_replicas, target), {}


def _reported(ctx: AutoscalingContext, name: str) -> list[float]:
    """Return what each replica that runs says of itself by `record_autoscaling_stats`, over the look-back period."""
    return list((ctx.aggregated_metrics or {}).get(name, {}).values())


def _by_requests(ctx: AutoscalingContext) -> Decision:
    """Decide as Serve does, as long as no replica has said how it is."""
    replicas, state = default_autoscaling_policy(ctx)
    return replicas, state
