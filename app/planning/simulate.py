"""How long requests wait: a discrete-event simulation of queues in a row, each with so many servers."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Mapping, Sequence

import numpy as np

from app.planning.model import KINDS, Plan, Traffic

_SPREAD = 0.35  # sigma of the logarithm of a service time: what is measured has p95 at 1.8 times the median
_IN_ORDER = ("HAProxy", "Ingress", "Redis", "Cache", "Classifier", "Tier")


def waits(
    times: Mapping[str, Mapping[str, float]], found: Plan, traffic: Traffic, requests: int = 40_000, seed: int = 0
) -> dict[str, float]:
    """Return `p50_ms`, `p95_ms` and `p99_ms` that the gateway adds at a plan's size: service and waiting.

    Requests arrive at random (a Poisson process) and take the parts in order, first come first served; a part's service
    times are log-normal around what was measured. A part has its replicas, or the cores that the plan gives it.
    """
    draw = random.Random(seed)
    kinds, arrivals = _arriving(found.requests_s, traffic, requests, draw)
    ready = arrivals
    for part in (part for part in _IN_ORDER if part in found.cores):
        # a miss that the local tier answers passes no API tier's replica
        share = 1 - traffic.local if part == "Tier" else 1.0
        served = [times[kind].get(part, 0.0) / 1e3 if draw.random() < share else 0.0 for kind in kinds]
        ready = _through(ready, served, _servers(found, part), draw)
    added = 1e3 * (np.array(ready) - np.array(arrivals))
    added = added[requests // 10 :]  # the queues fill first
    return {f"p{p}_ms": round(float(np.percentile(added, p)), 2) for p in (50, 95, 99)}


def shared(
    times: Mapping[str, Mapping[str, float]], rate: float, traffic: Traffic, cores: int, requests: int = 20_000
) -> dict[str, float]:
    """Return the same where all parts, client and upstream included, share the cores of one machine."""
    draw = random.Random(0)
    kinds, arrivals = _arriving(rate, traffic, requests, draw)
    ended = _through(arrivals, [sum(times[kind].values()) / 1e3 for kind in kinds], cores, draw)
    added = 1e3 * (np.array(ended) - np.array(arrivals))
    return {f"p{p}_ms": round(float(np.percentile(added, p)), 2) for p in (50, 95)}


def _arriving(rate: float, traffic: Traffic, requests: int, draw: random.Random) -> tuple[list[str], list[float]]:
    shares = traffic.shares()
    kinds = draw.choices(KINDS, [shares[kind] for kind in KINDS], k=requests)
    return kinds, list(itertools.accumulate(draw.expovariate(rate) for _ in kinds))


def _servers(found: Plan, part: str) -> int:
    if part in found.replicas:
        return found.replicas[part]
    return max(1, found.shards if part == "Redis" else found.nodes)


def _through(ready: Sequence[float], served: Sequence[float], servers: int, draw: random.Random) -> list[float]:
    """Pass requests through a queue with so many servers; return when each leaves it."""
    free = [0.0] * servers
    left = [0.0] * len(ready)
    for i in sorted(range(len(ready)), key=lambda i: ready[i]):
        start = max(ready[i], free[0])
        left[i] = start + served[i] * draw.lognormvariate(-(_SPREAD**2) / 2, _SPREAD) if served[i] else ready[i]
        if served[i]:
            heapq.heapreplace(free, left[i])
    return left
