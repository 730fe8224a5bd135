"""Fewer tokens for the same prompt: blank space and repeated boilerplate, outside of code.

What is kept stands where it stood, and the same messages always become the same: providers that cache the prefix of a
prompt go on finding it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_CODE = re.compile(r"(```.*?(?:```|\Z))", re.DOTALL)
_BOILERPLATE = 200  # characters of a paragraph that is worth leaving out where it comes again


def compacted(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with runs of spaces and of blank lines shortened, and long paragraphs said once.

    Only text outside of fenced code changes, and never what an assistant or a tool said.
    """
    seen: set[str] = set()
    return [
        _message(message, seen) if message.get("role") not in ("assistant", "tool") else dict(message)
        for message in messages
    ]


def _message(message: Mapping[str, Any], seen: set[str]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": _text(content, seen)}
    if isinstance(content, list):
        parts = [{**part, "text": _text(part["text"], seen)} if "text" in part else part for part in content]
        return {**message, "content": parts}
    return dict(message)


def _text(text: str, seen: set[str]) -> str:
    pieces = [piece if piece.startswith("```") else _prose(piece, seen) for piece in _CODE.split(text)]
    return "".join(pieces).strip() or text


def _prose(text: str, seen: set[str]) -> str:
    text = re.sub(r"[ \t]+\n", "\n", re.sub(r"(?<=\S)[ \t]{2,}(?=\S)", " ", text))
    kept = []
    for paragraph in re.split(r"\n{2,}", text):
        if len(paragraph) >= _BOILERPLATE:
            if paragraph in seen:
                continue
            seen.add(paragraph)
        kept.append(paragraph)
    return "\n\n".join(kept)
