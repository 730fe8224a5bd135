"""How a replica takes configurations while it runs: by Serve's `user_config`, which new replicas get as well.

A `user_config` is `{"args": ..., "applied_s": ...}`: the `args` of a file of `configs/`, and when `tierwise apply` gave
them; without the time they are those of the start.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from deployments.telemetry import ReloadTelemetry

log = logging.getLogger("ray.serve")


class Reloading:
    """A replica's configurations: the first must be right, and one that cannot be taken later leaves the last one."""

    def __init__(self) -> None:
        self._telemetry = ReloadTelemetry()
        self._ready = False

    @contextlib.contextmanager
    def taking(self, user_config: Mapping[str, Any]) -> Iterator[None]:
        """Report whether the block could take a configuration, and raise what it raises only the first time.

        Serve ends a replica whose `reconfigure` raises: right for one that has nothing to serve by, and else worse than
        any error there may be.
        """
        applied_s = float(user_config.get("applied_s", 0))
        try:
            yield
        except Exception as error:
            if not self._ready:
                raise
            log.error("the new configuration cannot be served, the old one stays: %s", error)
            self._telemetry.record_refused(applied_s)
        else:
            self._ready = True
            self._telemetry.record_taken(applied_s)
