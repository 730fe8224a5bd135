"""Holds the share that the best tier gets of the routed requests that may reach it, by moving its cut point."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

_WINDOW = 2000  # requests whose share is held: long enough for 5 % to be a hundred of them
_LEAST = 100  # before, the configured cut point stands


class TopShare:
    """One replica's controller: each replica sees a random part of the traffic, so each holds the share by itself.

    Over a window of requests, those that went to the best tier whatever their score (its only tool, a conversation it
    began) come first; what is left of the share goes to the highest scores. A request that cannot reach it, such as one
    of a tenant with a lower ceiling, must not be counted: its score would take up room that it leaves empty.

    Args:
        share: Of the requests that are counted, in (0, 1).
        cut: Where it starts.
    """

    def __init__(self, share: float, cut: float) -> None:
        self._share = share
        self._window: deque[float | None] = deque(maxlen=_WINDOW)
        self.cut = cut

    def add(self, score: float, forced: bool) -> None:
        """Take note of a request that may reach the best tier; `forced`: it went there, whatever its score."""
        self._window.append(None if forced else score)
        if len(self._window) >= _LEAST and len(self._window) % 10 == 0:
            self.cut = self._found()

    def moved(self, points: Sequence[float]) -> tuple[float, ...]:
        """Return cut points with the last one where it is now, and none above it."""
        return (*(min(self.cut, lower) for lower in points[:-1]), self.cut)

    def _found(self) -> float:
        free = sorted(score for score in self._window if score is not None)
        room = round(self._share * len(self._window)) - (len(self._window) - len(free))
        if room <= 0 or not free:
            return 1.0 + 1e-9  # nobody's score reaches it
        return free[-room] if room <= len(free) else 0.0
