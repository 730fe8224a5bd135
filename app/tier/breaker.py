"""A circuit breaker: a target that fails again and again is left alone for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from app.tier.config import BreakerConfig

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Opens after some failures in a row, then lets one request try, and another if that takes longer than `open_s`.

    Our own and not a library's, since those that share their state by Redis ask it at every call.

    Attributes:
        open_until: By the clock; 0 while closed.
    """

    def __init__(self, config: BreakerConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._failures = 0
        self._opened = 0
        self._trying_until = 0.0
        self.open_until = 0.0

    @property
    def state(self) -> State:
        """Closed lets all pass, open none, half-open one."""
        if not self.open_until:
            return "closed"
        return "open" if self._clock() < self.open_until else "half-open"

    def allows(self) -> bool:
        """Whether a request may be sent; one that is must be followed by `succeeded`, `failed` or `released`."""
        state = self.state
        if state == "half-open" and self._clock() >= self._trying_until:
            self._trying_until = self._clock() + self._config.open_s
            return True
        return state == "closed"

    def succeeded(self) -> None:
        """Close."""
        self._failures = self._opened = 0
        self._trying_until = 0.0
        self.open_until = 0.0

    def failed(self) -> None:
        """Count a failure; open if there were enough, or if it was the one that tried."""
        self._failures += 1
        if self._trying_until or (not self.open_until and self._failures >= self._config.failures):
            length_s = min(self._config.open_s * 2**self._opened, self._config.max_open_s)
            self.open_until = self._clock() + length_s
            self._opened += 1
        self._trying_until = 0.0

    def released(self) -> None:
        """Note that a request ended without a word on the target: cancelled, or refused for its own sake."""
        self._trying_until = 0.0

    def heard(self, open_until: float) -> None:
        """Take another replica's word that the target fails; also while it is not known here whether it does still."""
        if self.state != "open" and open_until > self._clock():
            self.open_until = open_until
