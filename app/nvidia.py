"""What the driver says of this machine's NVIDIA GPUs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

from app.errors import ConfigError

_ASK = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
Ask = Callable[[Sequence[str]], str | None]


def told(command: Sequence[str], timeout_s: float = 120) -> str | None:
    """Run a command; return what it prints, None where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout_s).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def gpus(ask: Ask = told) -> list[str]:
    """Return a line for each GPU: its name, its memory in MiB, the driver's version."""
    return (ask(_ASK) or "").splitlines()


def gpu_memory_bytes(ask: Ask = told) -> int:
    """Return the memory of the smallest GPU.

    Raises:
        ConfigError: The driver lists none.
    """
    sizes = [int(line.split(",")[1].split()[0]) for line in gpus(ask)]
    if not sizes:
        raise ConfigError("gpu_fraction: `nvidia-smi` lists no GPU here; leave it out, or run the replica where one is")
    return min(sizes) * 2**20
