"""Waiting for what happens on its own time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def eventually(check: Callable[[], bool], within_s: float) -> bool:
    """Whether a check passes in time."""
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


async def until(check: Callable[[], object]) -> None:
    """Wait for a check to pass while the event loop goes on."""
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
