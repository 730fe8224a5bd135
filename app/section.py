"""The base of every configuration section."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Frozen, and an unknown key is an error, so that a typo stops the start and names itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
