"""What the benchmarks ask: questions that are stored, their rewordings, and questions that nobody asked before."""

from __future__ import annotations

import random
from collections.abc import Callable

_THINGS = (
    "invoice receipt contract parcel ticket refund voucher passport warranty licence manual subscription password "
    "deposit mortgage prescription timetable newsletter payslip membership"
).split()
_PLACES = "Lisbon Oslo Quito Nairobi Hanoi Perth Boston Lyon Cairo Seoul".split()
_NOUNS = [
    *_THINGS,
    *"garden bicycle violin glacier cathedral bacteria orbit novel striker vineyard tunnel election harvest".split(),
    *"diamond dialect volcano nurse satellite bakery opera".split(),
]
_VERBS = (
    "explains repairs sells paints measures forgets imports teaches insures delays prints cancels audits hides renames "
    "photographs"
).split()

STORED = [f"How do I get a new {t} in {p}?" for t in _THINGS for p in _PLACES]
# Of the same meaning: hits that the verifier has to allow.
REWORDED = [f"What must I do to get a new {t} in {p}?" for t in _THINGS for p in _PLACES]


def fresh(seed: int = 0) -> Callable[[], str]:
    """Return a source of questions that are neither of these, nor like one another."""
    draw = random.Random(seed)

    def question() -> str:
        a, b, c, d, e = draw.choices(_NOUNS, k=5)
        return f"Why does the {a} {b} near the {c} {draw.choice(_VERBS)} a {d} {e}?"

    return question
