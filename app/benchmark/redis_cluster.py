"""A Redis Cluster of embedded servers: three masters, and if asked for a replica of each that takes its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError

from app.embedded_redis import EmbeddedRedis
from app.errors import ConfigError
from app.ports import free_port

SLOTS = 16384
_MASTERS = 3
_PATIENCE_S = 30.0
_NODE_TIMEOUT_MS = 2000  # a master that is silent for so long is replaced


@dataclass(frozen=True)
class RedisCluster:
    """A cluster that runs.

    Attributes:
        servers: The masters of the first, second and last third of the slots, then the replicas in the same order.
    """

    servers: list[EmbeddedRedis]

    @property
    def url(self) -> str:
        """The URL of one of its nodes."""
        return self.servers[0].url

    def master_of(self, key: bytes) -> EmbeddedRedis:
        """Return the first master of a key."""
        return self.servers[key_slot(key) * _MASTERS // SLOTS]


@contextmanager
def redis_cluster(folder: Path, *, replicas: bool = False) -> Iterator[RedisCluster]:
    """Run a cluster.

    Raises:
        ConfigError: It did not come together.
    """
    with ExitStack() as stack:
        bus = [free_port() for _ in range(_MASTERS * (2 if replicas else 1))]
        servers = [stack.enter_context(_server(folder / str(i), port)) for i, port in enumerate(bus)]
        nodes: list[Any] = [stack.enter_context(Redis.from_url(server.url)) for server in servers]
        for node, port in zip(nodes, bus, strict=True):
            own = node.connection_pool.connection_kwargs["port"]
            nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", own, port)
        for i, node in enumerate(nodes[:_MASTERS]):
            first, last = SLOTS * i // _MASTERS, SLOTS * (i + 1) // _MASTERS - 1
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        _wait(lambda: all(map(_agrees, nodes)))
        for master, replica in zip(nodes, nodes[_MASTERS:], strict=False):
            name = master.execute_command("CLUSTER", "MYID")
            _wait(partial(_follows, replica, name))
        yield RedisCluster(servers)


def _server(folder: Path, bus: int) -> EmbeddedRedis:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", str(_NODE_TIMEOUT_MS))
    return EmbeddedRedis(folder, persistent=False, options=options)


def _agrees(node: Any) -> bool:
    return bool(node.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


def _follows(replica: Any, master: Any) -> bool:
    """Whether a node has become the replica of a master, and has its data; tells it to, until it knows the master."""
    role = replica.execute_command("ROLE")
    if role[0] == b"master":
        with suppress(RedisError):
            replica.execute_command("CLUSTER", "REPLICATE", master)
        return False
    return bool(role[3] == b"connected")


def _wait(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not check():
        if time.monotonic() > deadline:
            raise ConfigError(f"the Redis Cluster did not come together in {_PATIENCE_S:g} s")
        time.sleep(0.05)
