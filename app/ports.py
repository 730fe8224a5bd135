"""Ports that no other gateway of this machine uses."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from app.errors import ConfigError

_FIRST, _LAST = 20_000, 32_000  # above the ports of Ray's workers, below those that Linux gives to clients
_BLOCK = 400


@dataclass(frozen=True, slots=True)
class PortBlock:
    """Ports from `first` on, claimed until `close`.

    Replicas of an ingress listen on ports that Serve chooses, the same first ones in every Ray on a machine; one that
    is taken is seen only after HAProxy was told of it, which then asks the other gateway's replica. So each gateway
    has ports of its own.
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
        """Return the settings that keep Serve's ingress replicas in the block."""
        half = self.first + _BLOCK // 2
        ends = {"HTTP": (self.first, half - 1), "GRPC": (half, self.first + _BLOCK - 2)}
        return {
            f"RAY_SERVE_DIRECT_INGRESS_{end}_{protocol}_PORT": str(port)
            for protocol, ports in ends.items()
            for end, port in zip(("MIN", "MAX"), ports, strict=True)
        }

    def close(self) -> None:
        """Give the block back."""
        self._claim.close()
