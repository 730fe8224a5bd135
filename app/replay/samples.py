"""Prompts to judge by eye: texts that save most, hits with the reason of each, prompts that went to a cheaper tier.

With `redact`, a text is a number and its length: what is the same can still be told, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from app.replay.run import Replayed
from app.replay.simulate import Simulation
from app.replay.work import ALIKE, DIFFERENT, SAME, UNKNOWN
from app.routing import cut_points

_SAMPLED = 20
_CLUSTERS = 15
_LONGEST = 400  # characters shown of a text


def shown_by(simulation: Simulation, redact: bool) -> Callable[[int], str]:
    """Return what shows the prompt of a row."""
    rows = simulation.replayed.rows
    digests = simulation.replayed.columns["text_id"]
    numbers: dict[int, int] = {}

    def show(row: int) -> str:
        text = str(rows.value("prompt", row))
        if redact:
            return f"[text {numbers.setdefault(int(digests[row]), len(numbers) + 1)}, {len(text)} characters]"
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"

    return show


def samples(simulation: Simulation, redact: bool, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Draw the samples."""
    show, random = shown_by(simulation, redact), np.random.default_rng(seed)
    return {
        "clusters": _clusters(simulation, show),
        "hits": _hits(simulation, show, random),
        "down_routed": _down_routed(simulation, show, random),
    }


def _clusters(simulation: Simulation, show: Callable[[int], str]) -> list[dict[str, Any]]:
    """Return the groups of texts that share answers and saved most by it, each by the text that served most often."""
    replayed = simulation.replayed
    hits = np.flatnonzero(replayed.hit)
    served = replayed.served[hits]
    digests = replayed.columns["text_id"]
    _, text = np.unique(np.concatenate([digests[hits], digests[served]]), return_inverse=True)
    asked, stored = np.split(text, 2)
    size = int(text.max(initial=-1)) + 1
    pairs = coo_array((np.ones(len(hits), bool), (asked, stored)), shape=(size, size))
    count, of = connected_components(pairs, directed=False)
    saved = np.bincount(of[asked], weights=simulation.costs.before_usd[hits], minlength=count)
    times, texts = np.bincount(of[asked], minlength=count), np.bincount(of, minlength=count)
    rows = np.zeros(count, np.int64)
    often = np.argsort(np.bincount(stored, minlength=size)[stored], kind="stable")
    rows[of[stored[often]]] = served[often]  # the last one stays, which served most
    return [
        {
            "prompt": show(int(rows[i])),
            "texts": int(texts[i]),
            "hits": int(times[i]),
            "saved_usd": round(float(saved[i]), 6),
        }
        for i in np.argsort(-saved, kind="stable")[:_CLUSTERS]
    ]


def _by_text(replayed: Replayed, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep the first of each text, and as many as are shown."""
    _, first = np.unique(replayed.columns["text_id"][drawn], return_index=True)
    kept: NDArray[np.int64] = drawn[np.sort(first)][:_SAMPLED]
    return kept


def _hits(simulation: Simulation, show: Callable[[int], str], random: np.random.Generator) -> list[dict[str, Any]]:
    """Draw hits by meaning, and exact ones where there are not enough of those."""
    replayed = simulation.replayed
    meant = random.permutation(np.flatnonzero(replayed.hit & ~replayed.exact))
    drawn = np.concatenate([meant, random.permutation(np.flatnonzero(replayed.exact))])
    drawn = _by_text(replayed, drawn)
    agreed = {int(row): int(says) for row, _, says in replayed.compared}
    return [
        {
            "asked": show(row),
            "served": show(int(replayed.served[row])),
            "reason": _reason(simulation, row),
            "answers": _COMPARED[agreed[row]] if row in agreed else "not compared",
        }
        for row in map(int, drawn)
    ]


_COMPARED = {SAME: "the same", ALIKE: "alike", DIFFERENT: "differ", UNKNOWN: "neither alike nor unlike"}


def _reason(simulation: Simulation, row: int) -> str:
    replayed = simulation.replayed
    name = replayed.reason.names[replayed.reason.index[row]].removeprefix("hit ")
    if name == "exact":
        return "the same text"
    if name == "surface":
        return f"differs on the surface alone; cosine {replayed.similarity[row]:.3f}"
    if np.isnan(replayed.evidence[row]):
        return f"cosine {replayed.similarity[row]:.3f} is enough for {simulation.present:g}, whatever the verifier says"
    return (
        f"{name}: evidence {replayed.evidence[row]:.3f} reaches {simulation.present:g}; "
        f"cosine {replayed.similarity[row]:.3f}"
    )


def _why(simulation: Simulation, row: int) -> str:
    """Say what decided on a request's tier."""
    routes, tenants, config = simulation.costs.routes, simulation.replayed.tenant, simulation.config
    reason = routes.reason.names[routes.reason.index[row]]
    bounds = config.routing.tenants.get(tenants.names[tenants.index[row]])
    cuts = (bounds and bounds.cuts) or cut_points(config.tiers)
    score = f"score {simulation.replayed.score[row]:.3f}"
    if reason == "score":
        return f"{score} is below {cuts[routes.tier[row]]:g}"
    return f"{_BY.get(reason, f'{reason}: the tier by the score does not take it')}; {score}"


_BY = {
    "share": "the best tier's share is used up",
    "floor": "the tenant's floor",
    "ceiling": "the tenant's ceiling",
    "conversation": "the conversation had reached it",
    "profile": "its profile permits no other",
    "context": "too long for the tier by the score",
}


def _down_routed(
    simulation: Simulation, show: Callable[[int], str], random: np.random.Generator
) -> list[dict[str, Any]]:
    """Draw requests that went to a tier below the top one."""
    tiers, costs, replayed = simulation.config.tiers, simulation.costs, simulation.replayed
    below = np.flatnonzero(simulation.routed & (costs.tier < len(tiers) - 1))
    drawn = _by_text(replayed, random.permutation(below))
    return [
        {
            "prompt": show(row),
            "tier": tiers[costs.tier[row]].name,
            "reason": _why(simulation, row),
            "model_before": replayed.model.names[replayed.model.index[row]] or "(not logged)",
            "before_usd": round(float(costs.before_usd[row]), 6),
            "after_usd": round(float(simulation.after_usd[row]), 6),
        }
        for row in map(int, drawn)
    ]
