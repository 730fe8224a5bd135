"""Writes `docs/configuration.md` from the configuration's own models: `python -m app.config_docs`, or `make docs`."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.config import GatewayConfig
from app.section import Section

FILE = Path(__file__).parents[1] / "docs" / "configuration.md"
_INTRO = """# Configuration

Every key of `args` in a file of `configs/`, written by `make docs` from the models in `app/config.py` and below it.
An unknown key stops the start and names itself. Each section has a table under its path, in which `[]` stands for each
item of a list, and `NAME` for a name of your own. The rest of the file is Ray Serve's: `http_options`, and under
`deployments` how much runs of each deployment.
"""
_Schema = Mapping[str, Any]
_BOUNDS = {"exclusiveMinimum": "over", "minimum": "at least", "exclusiveMaximum": "under", "maximum": "at most"}
_FORMATS = {"date": "date", "path": "path", "file-path": "path of a file", "regex": "regular expression"}
_NAMES = {"string": "text", "integer": "integer", "number": "number", "boolean": "`true` or `false`", "null": "`null`"}


def markdown() -> str:
    """Return the page: a table for each section, outer ones first; what several kinds have in them comes once."""
    schema = GatewayConfig.model_json_schema()
    tables = "\n".join(_section("args", "", schema, schema["$defs"])).split("\n## ")
    return f"{_INTRO}\n" + "\n## ".join(dict.fromkeys(tables))


def _section(title: str, path: str, section: _Schema, sections: Mapping[str, _Schema]) -> Iterator[str]:
    """Yield the lines of a section's table, then those of the sections in it.

    Args:
        path: Of the section, and a dot, or empty.
        sections: By the names that references have.
    """
    description, meanings = _described(section.get("description", ""))
    yield from (f"## {title}\n", f"{description}\n", "| key | type | default | meaning |", "|---|---|---|---|")
    inherited = _inherited(section["title"])
    inner: list[tuple[str, str]] = []
    for name, field in section["properties"].items():
        default = "required" if name in section.get("required", ()) else _default(field)
        meaning = "Chooses this one." if "const" in field else meanings.get(name) or inherited.get(name, "")
        yield f"| `{name}` | {_escaped(_type(field))} | {_escaped(default)} | {_escaped(meaning)} |"
        inner += _inner(path + name, field)
    yield ""
    taken: set[str] = set()
    for place, reference in inner:
        found = sections[reference]
        if "items" in found:  # a section that is a list of others
            place, found = f"{place}[]", sections[found["items"]["$ref"].rpartition("/")[2]]
        keys = found["properties"]
        kind = keys.get("kind", {}).get("const")
        heading = f"`{place}`" + (f", `kind: {kind}`" if kind else "")
        if heading in taken:  # told apart by its keys
            heading += f", with `{next(iter(keys))}`"
        taken.add(heading)
        yield from _section(heading, f"{place}.", found, sections)


def _inherited(title: str) -> dict[str, str]:
    """Return the meanings of the keys that a section has from those it is derived from."""
    bases = [base for section in _sections(Section) if section.__name__ == title for base in section.__mro__[1:]]
    return {name: text for base in bases for name, text in _described(inspect.getdoc(base) or "")[1].items()}


def _sections(base: type[Section]) -> Iterator[type[Section]]:
    for section in base.__subclasses__():
        yield section
        yield from _sections(section)


def _described(docstring: str) -> tuple[str, dict[str, str]]:
    """Cut a docstring into its text and the meaning of each attribute."""
    text, _, attributes = docstring.partition("\nAttributes:\n")
    pairs = re.findall(r"^    (\w+): (.+(?:\n     +.+)*)", attributes, re.MULTILINE)
    return " ".join(text.split()), {name: " ".join(meaning.split()) for name, meaning in pairs}


def _inner(place: str, field: _Schema) -> Iterator[tuple[str, str]]:
    """Yield the sections that a field holds, each with its path."""
    if "$ref" in field:
        yield place, field["$ref"].rpartition("/")[2]
    for option in [*field.get("anyOf", ()), *field.get("oneOf", ())]:
        yield from _inner(place, option)
    if isinstance(field.get("items"), dict):
        yield from _inner(f"{place}[]", field["items"])
    if isinstance(field.get("additionalProperties"), dict):
        yield from _inner(f"{place}.NAME", field["additionalProperties"])


def _type(field: _Schema) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "$ref" in field or "oneOf" in field:
        return "section"
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    if field["type"] == "array":
        return f"list of: {_type(field['items'])}"
    if field["type"] == "object":
        values = field.get("additionalProperties")
        return f"names to: {_type(values)}" if isinstance(values, dict) else "names to anything"
    name = _FORMATS.get(field.get("format", ""), _NAMES[field["type"]])
    bounds = [f"{word} {field[bound]:g}" for bound, word in _BOUNDS.items() if bound in field]
    pattern = [f"like `{field['pattern']}`"] if "pattern" in field else []
    return ", ".join([name, *bounds, *pattern])


def _default(field: _Schema) -> str:
    default = field["default"]
    if isinstance(default, dict) and default:  # a section's, which its own table shows
        return f"`kind: {default['kind']}`" if "kind" in default and "oneOf" in field else ""
    return f"`{json.dumps(default)}`"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


if __name__ == "__main__":
    FILE.write_text(markdown(), "utf-8")
