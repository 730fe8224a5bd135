"""A replay's work on Ray Data, on this machine or a cluster: the one module of `app` that imports Ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from app.config import GatewayConfig
from app.replay.work import Batch, Comparer, Decider, Encoder, Reader, Work

_STORE_BYTES = 256 * 2**20  # of Ray's object store: batches are small, and are taken as they come
_BLOCK_BYTES = 16 * 2**20  # that a worker gathers before it hands them on, several times in memory meanwhile


class Cluster:
    """Ray, for as long as it is used: that of `RAY_ADDRESS`, or one of its own on this machine."""

    def __init__(self, work: Work, config: GatewayConfig) -> None:
        self._work = work
        self._config = config

    def __enter__(self) -> Self:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a replay sends nothing anywhere
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray
        import ray.data

        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init("local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.target_max_block_size = _BLOCK_BYTES
        context.enable_progress_bars = False  # ours count requests
        context.print_on_execution_start = False
        self.cores = int(ray.cluster_resources().get("CPU", 1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        ray.shutdown()

    def read(self, files: Sequence[str], columns: Mapping[str, str]) -> Iterator[pa.Table]:
        """Read logs, each by a process, in pieces."""
        import ray.data

        reader = Reader(columns, self._config)
        items = ray.data.from_items([{"index": i, "file": file} for i, file in enumerate(files)])
        read = items.repartition(len(files)).map_batches(reader, batch_format="numpy", batch_size=1)
        yield from read.iter_batches(batch_format="pyarrow", batch_size=None)

    def encode(self, pieces: Sequence[Mapping[str, Any]]) -> Iterator[Batch]:
        """Embed and score the texts of pieces, from `start` to `stop` each."""
        return self._run(Encoder, pieces)

    def decide(self, scopes: Sequence[Mapping[str, Any]]) -> Iterator[Batch]:
        """Play scopes, `start` to `stop` of the order each, through the cache."""
        return self._run(Decider, scopes)

    def compare(self, pairs: Sequence[Mapping[str, Any]]) -> Iterator[Batch]:
        """Compare the answers of pairs of rows."""
        return self._run(Comparer, pairs, 16)

    def _run(self, worker: Callable[..., Any], items: Sequence[Mapping[str, Any]], size: int = 1) -> Iterator[Batch]:
        import ray.data

        if not items:
            return
        processes = min(self.cores, -(-len(items) // size))
        done = ray.data.from_items(list(items), override_num_blocks=min(len(items), 16 * processes)).map_batches(
            worker,
            fn_constructor_args=(self._work, self._config),
            compute=ray.data.ActorPoolStrategy(size=processes),
            batch_format="numpy",
            batch_size=size,
        )
        yield from done.iter_batches(batch_format="numpy", batch_size=None)
