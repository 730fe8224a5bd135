"""What of a configuration may change while the gateway runs, and what needs new replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.section import Section

# Models that are loaded, connections that are open: a replica has them from its start.
_STARTS = (
    "redis",
    "ledger",
    "cache.embedder",
    "cache.verifier",
    "cache.embeddings",
    "cache.sweep_s",
    "classifier.gpu_fraction",
)
_TIER_STARTS = ("stand_in", "policy")


def restarting_keys(old: Section, new: Section) -> list[str]:
    """Name the keys of a GatewayConfig whose change needs new replicas; none means that those there are can take it."""
    was, will = old.model_dump(mode="json"), new.model_dump(mode="json")
    keys = [key for key in _STARTS if _at(was, key) != _at(will, key)]
    if [tier["name"] for tier in was["tiers"]] != [tier["name"] for tier in will["tiers"]]:
        return [*keys, "tiers"]
    for before, after in zip(was["tiers"], will["tiers"], strict=True):
        keys += [f"tiers.{after['name']}.{key}" for key in _TIER_STARTS if before.get(key) != after.get(key)]
        if _priceless(before.get("llm")) != _priceless(after.get("llm")):
            keys.append(f"tiers.{after['name']}.llm")
        targets = [list(map(_priceless, tier.get("targets") or ())) for tier in (before, after)]
        if targets[0] != targets[1]:
            keys.append(f"tiers.{after['name']}.targets")
    return keys


def changed_keys(old: Section, new: Section) -> list[str]:
    """Name the sections that differ."""
    was, will = old.model_dump(mode="json"), new.model_dump(mode="json")
    return [key for key in will if was.get(key) != will[key]]


def _at(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        value = (value or {}).get(key)
    return value


def _priceless(model: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a tier says of a model but for its price, which the ingress alone needs."""
    return {key: value for key, value in (model or {}).items() if key != "price"}
