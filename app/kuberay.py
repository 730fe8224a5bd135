"""Writes what other files hold into `configs/kubernetes/tierwise.yaml`: `python -m app.kuberay`, or `make kuberay`."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

_CONFIGS = Path(__file__).parents[1] / "configs"
FILE = _CONFIGS / "kubernetes" / "tierwise.yaml"
BLOCKS = {"serveConfigV2": _CONFIGS / "production.yaml", "redis.conf": _CONFIGS / "redis.conf"}


def filled(manifest: str) -> str:
    """Return the manifest with each block as its file is now."""
    for key, file in BLOCKS.items():
        manifest = _with_block(manifest, key, file.read_text("utf-8"))
    return manifest


def _with_block(manifest: str, key: str, text: str) -> str:
    """Replace what is indented below `KEY: |`."""
    below = re.compile(rf"^(?P<indent> *){re.escape(key)}: \|\n(?:(?P=indent)  .*\n|\n)*", re.MULTILINE)
    found = below.search(manifest)
    if found is None:
        raise ValueError(f"there is no `{key}: |`")
    indent = found["indent"]
    block = f"{indent}{key}: |\n{textwrap.indent(text, f'{indent}  ')}"
    return manifest[: found.start()] + block + manifest[found.end() :]


if __name__ == "__main__":
    FILE.write_text(filled(FILE.read_text("utf-8")), "utf-8")
