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
_TIER_STARTS = ("llm", "stand_in")


def restarting_keys(old: Section, new: Section) -> list[str]:
    """Name the keys of a GatewayConfig whose change needs new replicas; none means that those there are can take it."""
    was, will = old.model_dump(mode="json"), new.model_dump(mode="json")
    keys = [key for key in _STARTS if _at(was, key) != _at(will, key)]
    if [tier["name"] for tier in was["tiers"]] != [tier["name"] for tier in will["tiers"]]:
        return [*keys, "tiers"]
    for before, after in zip(was["tiers"], will["tiers"], strict=True):
        keys += [f"tiers.{after['name']}.{key}" for key in _TIER_STARTS if before.get(key) != after.get(key)]
        if _priceless(before) != _priceless(after):
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


def _priceless(tier: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a tier's targets but for their prices, which the ingress alone needs."""
    return [{key: value for key, value in target.items() if key != "price"} for target in tier.get("targets") or ()]
