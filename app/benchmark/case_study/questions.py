"""What the case's traffic asks: questions of a known meaning, with how long a model's answer is.

Nearly half of them are classification and extraction, made here: each has a number of its own, so no two mean the
same. The others are chat. With a folder of data, its prompts: `cache/stream.jsonl`, whose prompts of one `class` mean
the same and whose near-duplicates do not, and `routing/**/*.jsonl`, each of a meaning of its own. Without one, or
when that is used up: the product prompts that the classifier was trained on, each for a numbered case, and a few
templates in two wordings.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import app.classifier
from app.benchmark.prompts import REWORDED, STORED
from app.jsonl import read_rows

STRUCTURED = 0.45  # share of classification and extraction
# Median tokens of an unshaped answer: the mean of the traffic is then near the 2.4 s of the case, at gpt-4's speed.
TOKENS = {"structured": 56, "small": 17, "mid": 26, "large": 62}
_SPREAD = 0.35  # of the logarithm
_LONGEST = 1200  # characters of a prompt from the data
_DATA = ("dev/*.jsonl", "train/llmrouter.jsonl", "train/arenahard.jsonl")
_TEMPLATES = 0.15  # share of the templates in two wordings, of our own chat
CHAT = "You are the assistant of a company with many teams. Answer what its people ask you."
SORTING = "You sort the tickets of a support desk."
READING = "You read the documents of an accounting team."
_THINGS = "blender kettle toaster mixer grinder fryer scale oven juicer freezer".split()
_TROUBLES = (
    "was charged to my card twice",
    "stops after ten seconds and shows a red light",
    "should have been here on Monday",
    "is what we would like two hundred of, at which price",
    "came with a broken lid",
    "does not switch off any more",
    "is on the invoice, but not in the parcel",
    "has no manual in my language",
)
_COMPANIES = "Alder Birch Cedar Dogwood Elm Fir Ginkgo Hazel Juniper Larch Maple Oak".split()


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, in whatever words.

    Attributes:
        meaning: Names what the answer is about: two questions may share an answer if theirs is the same.
        texts: Its wordings.
        tokens: Of an answer that nothing keeps short.
        level: What it takes: `small`, `mid` or `large`, as the source labels it; or `structured`.
    """

    meaning: str
    system: str
    texts: tuple[str, ...]
    tokens: int
    level: str

    @property
    def route(self) -> str:
        """The part of the application that asks."""
        return {SORTING: "tickets", READING: "invoices"}.get(self.system, "chat")


def questions(data: Path | None, draw: random.Random) -> Iterator[Question]:
    """Yield questions without end, each of a meaning of its own.

    Args:
        data: A folder with `cache` and `routing`.
    """
    chat = chain(_from_data(data, draw) if data else (), _own(draw))
    number = 0
    while True:
        if draw.random() < STRUCTURED:
            system, texts, level = (*_structured(number, draw), "structured")
        else:
            system, (texts, level) = CHAT, next(chat)
        tokens = max(5, round(draw.lognormvariate(math.log(TOKENS[level]), _SPREAD)))
        yield Question(f"m{number:06d}", system, texts, tokens, level)
        number += 1


def restyled(text: str, draw: random.Random) -> str:
    """Say a text as hastily or as politely as people do; its meaning stays."""
    if draw.random() < 0.5:
        return text.rstrip("?.!")
    return f"{draw.choice(('Please:', 'Hi,', 'Hello,'))} {text}"


def _structured(number: int, draw: random.Random) -> tuple[str, tuple[str, ...]]:
    thing, serial = draw.choice(_THINGS), 100_000 + 7 * number
    if draw.random() < 0.6:
        trouble = draw.choice(_TROUBLES)
        asked = f"Which team should handle ticket {serial}: billing, technical, shipping or sales?"
        return SORTING, (f"{asked}\n\nThe {thing} {trouble}.",)
    company, total = draw.choice(_COMPANIES), draw.randrange(1_000, 900_000) / 100
    text = (
        "What are the number, the total and the currency of this invoice?\n\n"
        f"{company} Ltd, invoice {company[0]}{serial}: {draw.randrange(2, 90)} pieces of {thing}, {total:.2f} EUR."
    )
    return READING, (text,)


def _own(draw: random.Random) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield wordings and level, from what comes with the project."""
    source = Path(app.classifier.__file__).with_name("product_prompts.jsonl")
    prompts = [(str(row["prompt"]), str(row["tier"])) for _, row in read_rows(source, "prompt", "tier")]
    templates = list(zip(STORED, REWORDED, strict=True))
    draw.shuffle(templates)
    case = 0
    while True:
        if templates and draw.random() < _TEMPLATES:
            yield templates.pop(), "small"
        else:
            case += 1
            text, level = draw.choice(prompts)
            yield (f"Case {case}: {text}",), level


def _from_data(data: Path, draw: random.Random) -> Iterable[tuple[tuple[str, ...], str]]:
    """Return wordings and levels in an order of chance, none of them twice."""
    families: dict[str, list[str]] = {}
    levels: dict[str, str] = {}
    for _, row in read_rows(data / "cache" / "stream.jsonl", "prompt", "class", "source"):
        families.setdefault(row["class"], []).append(row["prompt"])
        levels.setdefault(row["class"], "large" if row["source"] == "arena-hard" else "mid")
    known = {_plain(text) for texts in families.values() for text in texts}
    for file in sorted(file for pattern in _DATA for file in (data / "routing").glob(pattern)):
        for line, row in read_rows(file, "prompt"):
            text = row["prompt"]
            if len(text) <= _LONGEST and (plain := _plain(text)) not in known:
                known.add(plain)
                name = f"{file.parent.name}/{file.name}:{line}"
                families[name], levels[name] = [text], row.get("tier") or "mid"
    names = list(families)
    draw.shuffle(names)
    return [(tuple(families[name]), levels[name]) for name in names]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
