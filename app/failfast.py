"""A pause after a failure, so that a part that hangs costs one request its timeout, not all of them."""

from __future__ import annotations

import time
from collections.abc import Callable


class FailFast:
    """Tripped for `pause_s` after each failure; the first call after that tries again."""

    def __init__(self, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause_s = pause_s
        self._clock = clock
        self._until = 0.0

    @property
    def tripped(self) -> bool:
        """Whether to fail without trying."""
        return self._clock() < self._until

    def trip(self) -> None:
        """Note a failure."""
        self._until = self._clock() + self._pause_s

    def reset(self) -> None:
        """Try again at once."""
        self._until = 0.0
