"""The traffic of the case: who asks what, when, and how much of it comes again.

The rate is that of the case's bill, 2.4 requests a second of its own clock: at what one costs here with gpt-4-32k,
$62,400 are some 6 million requests a month. One request in 400 begins a burst of 60 that come 2.5 times as fast and,
where they ask again, ask what the burst has just asked. Of all requests, 38 % ask an earlier question again: somewhat
more than a third, since no cache can answer 35 % of a traffic of which only a third comes again. Two thirds of those
are the same text; the others are another wording of the same meaning, for half of them, and else the same words said
hastily or politely.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.benchmark.case_study.questions import Question, questions, restyled

RATE = 2.4  # requests a second, of the case's clock
AGAIN = 0.38
SAME_TEXT = 2 / 3  # of those
OTHER_WORDS = 0.5  # of the rest
_BURST_EVERY, _BURST, _BURST_RATE = 400, 60, 2.5
_BURST_TOPICS = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """A request.

    Attributes:
        at_s: When, by the case's clock.
        kind: Whether its question comes for the first time.
    """

    at_s: float
    question: Question
    text: str
    kind: Literal["new", "same text", "same words", "other words"]

    def body(self, model: str) -> dict[str, Any]:
        """Return the request in OpenAI's form."""
        messages = [{"role": "system", "content": self.question.system}, {"role": "user", "content": self.text}]
        return {"model": model, "messages": messages, "temperature": 0}


def traffic(count: int, data: Path | None = None, seed: int = 0) -> list[Asked]:
    """Return so many requests, by time; the same for the same seed and data."""
    draw = random.Random(seed)
    fresh = questions(data, draw)
    asked: list[Asked] = []
    first: list[Question] = []  # each question when it came first
    said: dict[str, list[str]] = {}  # by meaning, the texts it was asked in
    unsaid: list[tuple[Question, str]] = []  # wordings that are still to come
    now, burst, begun = 0.0, 0, 0
    for _ in range(count):
        if not burst and draw.random() < 1 / _BURST_EVERY:
            burst, begun = _BURST, len(first)
        now += draw.expovariate(RATE * (_BURST_RATE if burst else 1.0))
        recent = first[begun:][-_BURST_TOPICS:] if burst else []
        burst = max(0, burst - 1)
        if not first or draw.random() >= AGAIN:
            question = next(fresh)
            first.append(question)
            asked.append(Asked(now, question, question.texts[0], "new"))
            unsaid += [(question, text) for text in question.texts[1:]]
        elif draw.random() < SAME_TEXT:
            question = draw.choice(recent or first)
            asked.append(Asked(now, question, draw.choice(said[question.meaning]), "same text"))
        elif unsaid and draw.random() < OTHER_WORDS:
            question, text = unsaid.pop(draw.randrange(len(unsaid)))
            asked.append(Asked(now, question, text, "other words"))
        else:
            question = draw.choice(recent or first)
            text = restyled(question.texts[0], draw)
            known = text in said[question.meaning]
            asked.append(Asked(now, question, text, "same text" if known else "same words"))
        said.setdefault(question.meaning, []).append(asked[-1].text)
    return asked
