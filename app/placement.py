"""Which parts of GPUs the replicas of a file take, and whether they fit on the GPUs that there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from app.config import ServeFile

_AUTO = 100  # replicas that Serve starts at most for `num_replicas: auto`


@dataclass(frozen=True, slots=True)
class Claim:
    """What the replicas of a deployment take.

    Attributes:
        key: Where the part of a GPU is configured.
        fraction: That each takes.
        least: Replicas at the start, at least one: a tier that sleeps needs room to wake.
        most: That autoscaling may start.
    """

    key: str
    fraction: float
    least: int
    most: int


def claims(file: ServeFile) -> list[Claim]:
    """Return what takes GPUs."""
    config = file.config
    parts = {
        tier.llm_deployment: (f"tiers.{tier.name}.llm.gpu_fraction", tier.llm.gpu_fraction)
        for tier in config.tiers
        if tier.llm and tier.llm.device == "cuda"
    }
    keys = {"Cache": "cache.embedder.gpu_fraction", "Classifier": "classifier.gpu_fraction"}
    parts |= {name: (keys[name], part) for name, part in config.gpu_slices().items() if part}
    sizes = {size["name"]: size for size in file.sizes}
    return [Claim(key, part, *_replicas(sizes.get(name, {}))) for name, (key, part) in parts.items()]


def shortage(wanted: Sequence[Claim], cards: int, *, grown: bool = False) -> str | None:
    """Say which replicas do not fit on so many GPUs, with their sum; None if all do.

    Args:
        grown: Counts those that autoscaling may start as well.
    """
    numbers = [claim.most if grown else claim.least for claim in wanted]
    pairs = list(zip(wanted, numbers, strict=True))
    if fits([claim.fraction for claim, number in pairs for _ in range(number)], cards):
        return None
    terms = [f"{number} x {claim.fraction:g} (`{claim.key}`)" for claim, number in pairs]
    total = sum(number * claim.fraction for claim, number in pairs)
    return f"{' + '.join(terms)} = {total:g} GPUs do not fit on {cards}"


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


def _replicas(size: Mapping[str, Any]) -> tuple[int, int]:
    number = size.get("num_replicas")
    if isinstance(number, int):
        return number, number
    scaling = size.get("autoscaling_config") or {}
    if number == "auto":
        scaling = {"max_replicas": _AUTO, **scaling}
    least = int(scaling.get("initial_replicas") or scaling.get("min_replicas", 1))
    return max(least, 1), max(int(scaling.get("max_replicas", 1)), least, 1)
