"""LedgerWriter: records written off the path, in batches."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Protocol

from app.errors import CacheUnavailableError
from app.ledger.record import Record, answered
from app.schema import Outcome

log = logging.getLogger(__name__)
_FLUSH_S = 0.5  # so that a replica that is killed takes less than a second with it
_FULL = 500  # records that do not wait for that
_BATCH = 100  # records that are encoded and sent at once: about a millisecond of the event loop


class Ledger(Protocol):
    """Takes batches. `app/ledger/store.py` has it in Redis."""

    async def write(self, writer: str, number: int, records: Sequence[Record]) -> bool:
        """Take a batch of a writer; one of a number that was taken before is not taken again.

        Raises:
            CacheUnavailableError: The store did not answer; the batch may have been taken.
        """
        ...


class LedgerWriter:
    """Holds what has ended until it is written. While the store is away, as much of it as may wait.

    Args:
        texts: Whether records hold what was said.
        max_pending: Records that may wait; the next ones are dropped.
        on_dropped: Called with how many were.
    """

    def __init__(
        self,
        ledger: Ledger,
        texts: bool,
        max_pending: int,
        on_dropped: Callable[[int], None] = lambda count: None,
        flush_s: float = _FLUSH_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._texts = texts
        self._max_pending = max_pending
        self._on_dropped = on_dropped
        self._flush_s = flush_s
        self._now = now
        self._name = uuid.uuid4().hex
        self._number = 1  # of the next batch
        self._batch: list[Record] = []  # the one on its way: sent again as it is until it was taken
        self._records: list[Record] = []
        self._ended: list[tuple[float, Outcome]] = []
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    def add(self, outcome: Outcome) -> None:
        """Take note of an answered request. On its path: what takes time comes later."""
        if self._has_room():
            self._ended.append((self._now(), outcome))
            self._flush_later()

    def put(self, record: Record) -> None:
        """Take note of anything else."""
        if self._has_room():
            self._records.append(record)
            self._flush_later()

    async def flush(self) -> bool:
        """Write all that waits; False if the store does not answer."""
        async with self._lock:
            if self._dropped:
                log.error("the ledger lost %d records while Redis was away", self._dropped)
                self._dropped = 0
            while self._batch or self._records or self._ended:
                if not self._batch:
                    self._batch = self._next()
                try:
                    await self._ledger.write(self._name, self._number, self._batch)
                except CacheUnavailableError as error:
                    log.warning("the ledger was not written: %s", error.message)
                    self._settle(len(self._ended))  # records are smaller than the answers that they tell of
                    return False
                self._batch = []
                self._number += 1
            return True

    async def close(self, patience_s: float = 5.0) -> None:
        """Write all that waits before the end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while not await self.flush():
            if loop.time() > deadline:
                log.error("the ledger lost %d records: Redis did not answer before the end", self._waiting())
                break
            await asyncio.sleep(self._flush_s)
        if self._timer is not None:
            self._timer.cancel()

    def _next(self) -> list[Record]:
        if len(self._records) < _BATCH:
            self._settle(_BATCH)
        batch = self._records[:_BATCH]
        del self._records[:_BATCH]
        return batch

    def _settle(self, count: int) -> None:
        self._records += [answered(at, outcome, self._texts) for at, outcome in self._ended[:count]]
        del self._ended[:count]

    def _waiting(self) -> int:
        return len(self._ended) + len(self._records) + len(self._batch)

    def _has_room(self) -> bool:
        if self._waiting() < self._max_pending:
            return True
        self._dropped += 1
        self._on_dropped(1)
        return False

    def _flush_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._start)
        elif len(self._ended) == _FULL:
            self._timer.cancel()
            self._start()

    def _start(self) -> None:
        self._timer = None
        if self._flushing is None or self._flushing.done():
            # in a context of its own: in that of a request, Serve would cancel it with that
            self._flushing = asyncio.create_task(self._flush_or_wait(), context=contextvars.Context())
        else:
            self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._start)

    async def _flush_or_wait(self) -> None:
        if not await self.flush() and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._flush_s, self._start)
