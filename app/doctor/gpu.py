"""The GPUs that local models need: whether they are here, whether torch sees them, whether the replicas fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

from app.config import ServeFile
from app.doctor.finding import Finding, State

_ASK = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
# in a process of its own, so that torch's memory goes back
_TORCH = [sys.executable, "-c", "import torch; print(torch.cuda.device_count(), torch.version.cuda)"]


def told(command: Sequence[str], timeout_s: float = 120) -> str | None:
    """Run a command; return what it prints, None where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout_s).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def gpus(file: ServeFile, alone: bool, ask: Callable[[Sequence[str]], str | None] = told) -> list[Finding]:
    """Check the GPUs of this machine where a tier has a model on CUDA.

    Args:
        alone: Whether they must be on this machine; else they may be on another node.
        ask: Runs a command.
    """
    fractions = _fractions(file)
    if not fractions:
        return []
    lacking: State = "problem" if alone else "warning"
    listed = ask(_ASK)
    if not listed:
        do = (
            "run `tierwise doctor` on a node with a GPU as well"
            if not alone
            else "install the driver, or `device: cpu`"
        )
        return [Finding("gpu", lacking, "`nvidia-smi` lists none here, and a tier has `device: cuda`", do)]
    cards = listed.splitlines()
    seen = ask(_TORCH)
    if seen is None or int(seen.split()[0]) < len(cards):
        what = "cannot be imported" if seen is None else f"sees {seen.split()[0]} (CUDA {seen.split()[1]})"
        return [
            Finding(
                "gpu", "problem", f"{len(cards)} here, but torch {what}", "`make setup HARDWARE=gpu`; a newer driver"
            )
        ]
    says = f"{len(cards)} ({cards[0]}); replicas at the start take {sum(fractions):g}"
    if not fits(fractions, len(cards)):
        do = "add GPUs, or lower `gpu_fraction` or `min_replicas`"
        return [Finding("gpu", lacking, f"{says}, which do not fit", do)]
    return [Finding("gpu", "ok", says)]


def fits(fractions: Sequence[float], cards: int) -> bool:
    """Whether replicas fit on so many GPUs: a replica of less than one shares a GPU, but is not split over two."""
    free = [1.0] * cards
    for fraction in sorted(fractions, reverse=True):
        share = min(fraction, 1.0)
        room = [at for at, left in enumerate(free) if left + 1e-9 >= share][: ceil(fraction)]
        if len(room) < ceil(fraction):
            return False
        for at in room:
            free[at] -= share
    return True


def _fractions(file: ServeFile) -> list[float]:
    """Return the share of a GPU of each replica that there is from the start."""
    sizes = {entry["name"]: entry for entry in file.raw["applications"][0].get("deployments") or []}
    return [
        tier.llm.gpu_fraction
        for tier in file.config.tiers
        if tier.llm and tier.llm.device == "cuda"
        for _ in range(_replicas(sizes.get(f"Tier-{tier.name}", {})))
    ]


def _replicas(size: Mapping[str, Any]) -> int:
    number = size.get("num_replicas")
    if isinstance(number, int):
        return number
    scaling = size.get("autoscaling_config") or {}
    return int(scaling.get("initial_replicas") or scaling.get("min_replicas", 1))
