"""Ports that nobody else on this machine uses."""

from __future__ import annotations

import itertools
import socket
from contextlib import suppress
from dataclasses import dataclass
from random import SystemRandom

from app.errors import ConfigError

_FIRST, _LAST = 20_000, 32_000  # above the ports of Ray's workers, below those that Linux gives to clients
_BLOCK = 400
_SINGLE = range(_LAST, 32_768)  # beside the blocks, and still below those for clients
# in turn, so that one which is asked for soon after is another; a seeded order would be the same in every process
_turns = itertools.cycle(SystemRandom().sample(_SINGLE, len(_SINGLE)))


@dataclass(frozen=True, slots=True)
class PortBlock:
    """Ports from `first` on, claimed until `close`.

    Serve's proxies and its replicas of an ingress listen on ports that are the same in every Ray on a machine, and the
    proxy that stands in while there is no replica shares its port: HAProxy would ask another gateway.
    """

    first: int
    _claim: socket.socket

    @classmethod
    def claim(cls) -> PortBlock:
        """Claim a block by binding its last port; the system frees it if we die.

        Raises:
            ConfigError: All are taken.
        """
        for first in range(_FIRST, _LAST, _BLOCK):
            claim = socket.socket()
            try:
                claim.bind(("127.0.0.1", first + _BLOCK - 1))
            except OSError:
                claim.close()
            else:
                return cls(first, claim)
        raise ConfigError(f"every {_BLOCK}th port from {_FIRST + _BLOCK - 1} to {_LAST} is in use; stop other gateways")

    def environment(self) -> dict[str, str]:
        """Return the settings that keep Serve in the block."""
        half, last = self.first + _BLOCK // 2, self.first + _BLOCK - 1
        return {
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(self.first),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(half - 1),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(half),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(last - 5),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(last - 4),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(last - 3),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(last - 2),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(last - 1),
        }

    def close(self) -> None:
        """Give the block back."""
        self._claim.close()


def free_port() -> int:
    """Return a port that nobody listens on now, and that neither the system nor the next call gives to another.

    Raises:
        ConfigError: All are taken.
    """
    for port in itertools.islice(_turns, len(_SINGLE)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ConfigError(f"every port from {_SINGLE[0]} to {_SINGLE[-1]} is in use; stop what listens there")
