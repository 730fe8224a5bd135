"""How many replicas a load calls for: pure functions, the limits that a file may give them, and what is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field, PositiveFloat

from app.section import Section

_MOST = 2.0  # times as many replicas in one step: what a new one takes over is seen only once it runs


class LoadLimits(Section):
    """What a replica is to bear: `policy_kwargs` of `deployments.autoscaling:ByLoad`.

    Attributes:
        max_waiting: Requests that may wait for each replica; with more there will be more replicas.
        target_use: Share of a replica that is to be in use. Of the local model that is its KV cache, or its places for
            requests, whichever is fuller; of the classifier, its time.
    """

    max_waiting: PositiveFloat = 8
    target_use: Annotated[float, Field(gt=0, le=1)] = 0.7


def by_load(waiting: float, uses: Sequence[float], replicas: int, limits: LoadLimits) -> float:
    """Return so many replicas that each is in use as intended; up to twice as many while too much waits.

    Args:
        waiting: Requests that no replica works on.
        uses: Share in use of each replica that has said so, in [0, 1]; at least one.
        replicas: That run, at least one.
    """
    used = replicas * (sum(uses) / len(uses)) / limits.target_use
    crowding = waiting / replicas / limits.max_waiting
    return used if crowding <= 1 else max(used, replicas * min(crowding, _MOST))


def by_limits(ongoing: float, limits_used: float, replicas: int, target_ongoing: float) -> float:
    """Return a replica for every `target_ongoing` requests under way, but none that the APIs' limits leave idle.

    Args:
        limits_used: Share of this minute's limits that `replicas` use, in [0, 1]: so many more can only use the rest.
    """
    wanted = ongoing / target_ongoing
    return min(wanted, replicas / limits_used) if limits_used else wanted


class Meter:
    """What waits for a replica and how busy that is, since it was last asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._here = 0
        self._working = 0
        self._worked_s = 0.0
        self._since = self._asked = clock()

    @contextmanager
    def here(self) -> Iterator[None]:
        """Count a request inside the block."""
        self._here += 1
        try:
            yield
        finally:
            self._here -= 1

    @contextmanager
    def working(self, requests: int) -> Iterator[None]:
        """Count the time inside the block as work on so many requests; one block at a time."""
        self._working, self._since = requests, self._clock()
        try:
            yield
        finally:
            self._worked_s += self._clock() - self._since
            self._working = 0

    def read(self) -> dict[str, float]:
        """Return how many wait now, `waiting`, and the share of the time that was work, `use`."""
        now = self._clock()
        if self._working:
            self._worked_s += now - self._since
            self._since = now
        passed_s, worked_s = now - self._asked, self._worked_s
        self._asked, self._worked_s = now, 0.0
        waiting = max(self._here - self._working, 0)
        return {"waiting": float(waiting), "use": min(worked_s / passed_s, 1.0) if passed_s else 0.0}
