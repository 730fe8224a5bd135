"""A second configuration for some of the requests: which ones, and what differs in it. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import Field, model_validator

from app.section import Section

Arm = Literal["", "stable", "canary"]  # empty where no canary runs
# A tenant's key and its money are one, whatever answers it; and so are a replica's queue and what starts with it.
CHANGEABLE = ("cache", "classifier", "tiers", "routing", "profiles", "auto_models", "price_list", "baseline")
_CALLERS = ("user", "safety_identifier")


class CanaryConfig(Section):
    """A second configuration for a share of the callers, compared with the first by `tierwise ledger compare`.

    A caller is the request's `user` (or `safety_identifier`), or else its conversation, by its first turn; each stays
    on its side, and none of them changes sides when the share grows, but to the canary. What the canary is answered is
    cached apart. `tierwise apply` turns it on, changes it and ends it.

    Attributes:
        share: Of the callers.
        tenants: Whose callers; empty for all. Those of other tenants are stable.
        changes: What differs, as in `args`: what `tierwise apply` may change while replicas run, of `cache`,
            `classifier`, `tiers`, `routing`, `profiles`, `auto_models`, `price_list` and `baseline`. Sections are
            merged, tiers by their `name`; other lists are replaced.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    tenants: tuple[str, ...] = ()
    changes: dict[str, Any]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not {"share", "tenants"} & self.model_fields_set:
            raise ValueError("needs a `share`, `tenants`, or both")
        if wrong := self.changes.keys() - set(CHANGEABLE):
            raise ValueError(f"changes: `{min(wrong)}` is the same for both; there may be: {', '.join(CHANGEABLE)}")
        return self


def arm_of(canary: CanaryConfig | None, tenant: str, body: Mapping[str, Any]) -> Arm:
    """Decide which configuration answers a request: the same for all requests of a caller.

    Args:
        body: Of the request, before a profile shapes it.
    """
    if canary is None:
        return ""
    if canary.tenants and tenant not in canary.tenants:
        return "stable"
    return "canary" if _place(tenant, body) < canary.share else "stable"


def _place(tenant: str, body: Mapping[str, Any]) -> float:
    """Place a caller in [0, 1)."""
    named = next((body[name] for name in _CALLERS if isinstance(body.get(name), str) and body[name]), None)
    caller = [tenant, "conversation", _opening(body["messages"])] if named is None else [tenant, "user", named]
    digest = hashlib.blake2b(msgspec.json.encode(caller, order="deterministic"), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def _opening(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the messages to the first of the user, which all turns of a conversation begin with."""
    asked = next((i for i, message in enumerate(messages) if message.get("role") == "user"), len(messages))
    return list(messages[: asked + 1])


def changed(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given with the changes made: sections merged, lists of named sections by `name`."""
    return {**given, **{key: _changed(given.get(key), value) for key, value in changes.items()}}


def _changed(given: Any, change: Any) -> Any:
    if isinstance(given, Mapping) and isinstance(change, Mapping):
        return changed(given, change)
    if _named(given) and _named(change) and _names(change) <= _names(given):
        by_name = {item["name"]: item for item in change}
        return [changed(item, by_name.get(item["name"], {})) for item in given]
    return change


def _named(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(item, Mapping) and "name" in item for item in value)
    )


def _names(items: Sequence[Mapping[str, Any]]) -> set[Any]:
    return {item["name"] for item in items}
