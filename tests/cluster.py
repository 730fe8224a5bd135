"""A Redis Cluster of three masters from the embedded server, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis

from app.embedded_redis import EmbeddedRedis, free_port
from tests.waiting import eventually

SLOTS = 16384


@contextmanager
def redis_cluster(folder: Path) -> Iterator[str]:
    """Run the cluster; yield the URL of one of its nodes."""
    with ExitStack() as stack:
        urls, bus = [], [free_port() for _ in range(3)]
        for i, port in enumerate(bus):
            options = ("--cluster-enabled", "yes", "--cluster-port", str(port))
            node = EmbeddedRedis(folder / str(i), persistent=False, options=options)
            urls.append(stack.enter_context(node).url)
        nodes = [stack.enter_context(Redis.from_url(url)) for url in urls]
        for i, node in enumerate(nodes):
            first, last = SLOTS * i // 3, SLOTS * (i + 1) // 3 - 1
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            own = node.connection_pool.connection_kwargs["port"]
            nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", own, bus[i])
        assert eventually(lambda: all(map(_agrees, nodes)), 30)
        yield urls[0]


def _agrees(node: Any) -> bool:
    return bool(node.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
