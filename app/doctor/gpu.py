"""The GPUs that models need: whether they are here, whether torch sees them, whether the replicas fit."""

from __future__ import annotations

import sys

from app.config import ServeFile
from app.doctor.finding import Finding, State
from app.nvidia import Ask, told
from app.nvidia import gpus as listed
from app.placement import claims, shortage

# in a process of its own, so that torch's memory goes back
_TORCH = [sys.executable, "-c", "import torch; print(torch.cuda.device_count(), torch.version.cuda)"]
_LOWER = "add GPUs, or lower a `gpu_fraction` or"


def gpus(file: ServeFile, alone: bool, ask: Ask = told) -> list[Finding]:
    """Check the GPUs of this machine where a model is to run on one.

    Args:
        alone: Whether they must be on this machine; else they may be on another node.
        ask: Runs a command.
    """
    wanted = claims(file)
    if not wanted:
        return []
    lacking: State = "problem" if alone else "warning"
    cards = listed(ask)
    if not cards:
        do = "install the driver, or use CPUs" if alone else "run `tierwise doctor` on a node with a GPU as well"
        return [Finding("gpu", lacking, f"`nvidia-smi` lists none here, and `{wanted[0].key}` asks for one", do)]
    seen = ask(_TORCH)
    if seen is None or int(seen.split()[0]) < len(cards):
        what = "cannot be imported" if seen is None else f"sees {seen.split()[0]} (CUDA {seen.split()[1]})"
        do = "`make setup HARDWARE=gpu`; a newer driver"
        return [Finding("gpu", "problem", f"{len(cards)} here, but torch {what}", do)]
    here = f"{len(cards)} ({cards[0]})"
    if short := shortage(wanted, len(cards)):
        return [Finding("gpu", lacking, f"{here}: {short} at the start", f"{_LOWER} `min_replicas`")]
    if alone and (short := shortage(wanted, len(cards), grown=True)):
        says = f"{here}: {short} once all are up, so the last ones would wait for a GPU"
        return [Finding("gpu", "warning", says, f"{_LOWER} `max_replicas`")]
    return [Finding("gpu", "ok", here)]
