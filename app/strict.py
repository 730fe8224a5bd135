"""Schemas of others in OpenAI's strict mode, where it takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

# OpenAI refuses a strict schema with these; what it takes of `properties` is in `_closed`
_REFUSED = frozenset(
    ("allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties")
)


def schema_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `response_format` of a schema that was not written for OpenAI.

    It is strict, with objects closed that leave that open, where this asks for no property that the schema leaves out
    at will and forbids none that it names; else it goes as it is.
    """
    wanted: dict[str, Any] = {"name": "answer", "schema": dict(schema)}
    if schema.get("type") == "object" and "anyOf" not in schema:
        with contextlib.suppress(_LooseSchemaError):
            wanted |= {"schema": _closed(schema), "strict": True}
    return {"type": "json_schema", "json_schema": wanted}


class _LooseSchemaError(Exception):
    """A schema says what strict mode cannot."""


def _closed(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, Mapping) or _REFUSED & schema.keys():
        raise _LooseSchemaError
    closed = dict(schema)
    kinds = schema.get("type")
    if "object" in (kinds if isinstance(kinds, list) else [kinds]):
        names = (schema.get("properties") or {}).keys()
        if not names or names - set(schema.get("required") or ()) or schema.get("additionalProperties"):
            raise _LooseSchemaError
        closed["additionalProperties"] = False
    for key in ("properties", "$defs", "definitions"):
        if key in schema:
            closed[key] = {name: _closed(part) for name, part in schema[key].items()}
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
    if "anyOf" in schema:
        closed["anyOf"] = [_closed(part) for part in schema["anyOf"]]
    return closed
