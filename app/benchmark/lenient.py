"""The values in an answer that was not told its form: what a forgiving script of the client would make of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from app.shaping.schema import text_fault

_MARKS = "*_`\"' "
_BULLET = re.compile(r"\s*(?:[-*•]|\d+[.)])\s+(.+)")
_ARTICLE = re.compile(r"^(?:an?|the)\s+")
_WORDS_OF = {True: ("yes", "true"), False: ("no", "false")}


def strict(schema: Mapping[str, Any], text: str) -> Any:
    """Return the value of a text that is JSON and follows the schema; None if it is not."""
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    return None if text_fault(wanted, text) is not None else msgspec.json.decode(text)


def lenient(schema: Mapping[str, Any], text: str) -> Any:
    """Return the value that a text has for an object's schema; None if it has none.

    In this order: the first JSON object in the text, be it in a fence or between words, that has what the schema asks
    for; lines such as `key: value` for every key; and if there is one key alone, the only one of its values (or match
    of its pattern) that the text names, `yes` and `no` for booleans, or the lines of a list, else its commas. Numbers
    may be written as strings, keys in other case, and other keys may stand beside those asked for.
    """
    properties: Mapping[str, Any] = schema["properties"]
    candidates = [*_objects(text), _lines(properties, text)]
    if len(properties) == 1:
        ((key, form),) = properties.items()
        candidates.append({key: _named(form, text)})
    for candidate in candidates:
        keys = {str(key).casefold(): value for key, value in candidate.items()}
        value = {key: _typed(form, keys[key]) for key, form in properties.items() if key in keys}
        if strict(schema, json.dumps(value)) is not None:
            return value
    return None


def same(found: Any, expected: Any) -> bool:
    """Whether two values are the same but for case, surrounding blanks, a closing full stop and articles."""
    if isinstance(expected, Mapping):
        return isinstance(found, Mapping) and all(same(found.get(key), value) for key, value in expected.items())
    if isinstance(expected, list):
        pairs = zip(found, expected, strict=False) if isinstance(found, list) else ()
        return isinstance(found, list) and len(found) == len(expected) and all(same(a, b) for a, b in pairs)
    if isinstance(expected, str):
        return isinstance(found, str) and _plain(found) == _plain(expected)
    return bool(found == expected)


def _plain(text: str) -> str:
    return _ARTICLE.sub("", text.casefold().strip(" ."))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    for start in (match.start() for match in re.finditer(r"\{", text)):
        try:
            value, _ = decoder.raw_decode(text, start)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _lines(properties: Mapping[str, Any], text: str) -> dict[str, str]:
    """Read lines such as `- **Key**: value`; of a key that comes twice, the first."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        name = re.sub(r"^[-*•\d.)\s]+", "", key).strip(_MARKS).casefold()
        if colon and name in properties:
            found.setdefault(name, value.strip(_MARKS + ","))
    return found


def _named(form: Mapping[str, Any], text: str) -> Any:
    """Return the one value of a form that a text names; None if it names several or none."""
    if "enum" in form:
        return _only([value for value in form["enum"] if _says(text, value)])
    if "pattern" in form:
        return _only(list(dict.fromkeys(re.findall(form["pattern"].strip("^$"), text))))
    if form.get("type") == "boolean":
        return _only([value for value, words in _WORDS_OF.items() if any(_says(text, word) for word in words)])
    if form.get("type") == "array":
        bullets = [match[1].strip(_MARKS + ".,") for line in text.splitlines() if (match := _BULLET.match(line))]
        return bullets or _listed(text.strip())
    return None


def _listed(line: str) -> list[str] | None:
    """Split a line at its commas; None for a text of several lines, and for JSON."""
    if "\n" in line or "{" in line:
        return None
    return re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", line.rpartition(":")[2].strip(" ."))


def _says(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}s?\b", text, re.IGNORECASE) is not None


def _only(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else None


def _typed(form: Mapping[str, Any], value: Any) -> Any:
    """Return a value in the type of its form, as far as a script can tell: `1,860.00 USD` for a number is 1860.0."""
    if not isinstance(value, str):
        return str(value) if form.get("type") == "string" and isinstance(value, int | float) else value
    if form.get("type") == "number" and (match := re.search(r"-?\d[\d,]*(?:\.\d+)?", value)):
        return float(match[0].replace(",", ""))
    if form.get("type") in ("boolean", "array"):
        return _named(form, value)
    if "enum" in form:
        return _only([known for known in form["enum"] if _says(value, known)])
    return value
