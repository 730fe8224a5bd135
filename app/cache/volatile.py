"""Prompts whose answer must not be kept for others: it hangs on the time, the person, what went before, or chance.

Each pattern looks for a request, not for a word: "my account balance" is personal, "increase my height" is not; "bitcoin
price" asks for the price of the moment, "what moves the price of bitcoin" does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from app.cache.questions import ABOUT_ME, ABOUT_WORDS, AT_THE_MOMENT, FROM_BEFORE, LIVE_VALUE, MINE, TIMELESS
from app.cache.surface import plain

_NOW = r"(?:right now|at the moment|at present|currently|today(?:['’]s)?|tonight|tomorrow|yesterday|last night|this (?:morning|afternoon|evening|week|weekend)|so far today)"
_LIVE = (
    r"weather|temperature|forecast|traffic|news|headlines?|score|winning|price|rate|stock|trending|open|closed|playing|"
    r"showing|running|available|status|line-?up|schedule|exchange|happening|live"
)
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("volatile", rf"\b{_NOW}\b.*\b(?:{_LIVE})\b|\b(?:{_LIVE})\b.*\b{_NOW}\b"),
    ("volatile", r"\bwhat(?:['’]s| is)? (?:the )?(?:time|date|day)(?: is it)?(?: now| today)?(?: in \w+)?\s*\??$"),
    ("volatile", r"\bwhat time is it\b(?! going)|\bwhat day is (?:it|today)\b|\btoday['’]s\b"),
    ("volatile", r"\b(?:current|latest|newest|most recent) (?:\w+ ){0,3}(?:price|rate|version|release|news|score|weather|standings?|stock)\b"),
    ("volatile", r"\b(?:days?|hours?|weeks?|minutes?|long) (?:\w+ ){0,3}(?:until|till|left (?:until|till|to|before))\b"),
    ("volatile", r"\b(?:who|what|which)(?:['’]s| is| are)?\b.*\b(?:right now|at the moment|tonight|this evening)\b"),
    ("volatile", r"\btrending\b.*\bnow\b|\bopen now\b"),
    ("personal", rf"\b(?:where|when|what(?:['’]s)?|which|how (?:much|many)|show|list|check|find|give|track|cancel|change|update|summari[sz]e|read|delete|reschedule|pay|renew)\b(?:\s+\S+){{0,4}}\s+my\s+(?:\w+ ){{0,2}}(?:{MINE})\b(?!\s+(?:work|mean))"),
    ("personal", r"\bhow (?:much|many)\b.*\b(?:do|did|have) i\b(?! need to).*\b(?:left|spend|spent|owe|owed|earn|earned|use|used|remaining)\b"),
    ("personal", r"\bwhat did i (?:spend|buy|order|pay|say|write)\b|\bmy (?:next|last|recent|upcoming|latest) \w+"),
    ("context", r"^\W*(?:continue|go on|keep going|more|again|next|yes|no|ok(?:ay)?|sure|why(?: not)?|how so|really|thanks?)\b[\s.,!?]*(?:please|do (?:that|it|so)|go ahead)?\W*$"),
    ("context", r"^\W*(?:yes|no|ok(?:ay)?|sure)\b[,\s]+(?:\w+\s+){0,3}(?:that|it|this|one)\W*$"),
    ("context", r"^\W*(?:(?:can|could|would) you (?:please )?)?(?:make|rewrite|rephrase|shorten|expand|simplify|translate|fix|change|redo|explain|repeat|do|try)\s+(?:it|that|this|them)\b(?!\s+\w+[:`])[^:`]{0,60}$"),
    ("context", r"^\W*(?:and|but|so|or)\s+(?:what|how|why|in|for|with|if)\b[^:`]{0,40}$|^\W*(?:what|how) about\b[^:`]{0,60}$"),
    ("context", r"\b(?:the|this) (?:above|previous|attached|following|pasted|uploaded)\b(?: \w+){0,3}[^:`\n]{0,30}$|\b(?:translate|summari[sz]e|rewrite) the above\b"),
    ("context", r"^\W*(?:fix|debug|explain|review|improve|refactor|optimi[sz]e|test)\b(?:\s+\w+){0,4}\s+(?:this|the|my) (?:code|bug|function|error|script|text|document|file)\b[^:`\n]{0,20}$"),
    ("random", r"\b(?:random(?:ly)?|uuid|guid)\b.*\b(?:number|password|name|word|letter|colou?r|pick|choose|generate|give|string|new|card|winner|fact)\b|\b(?:pick|choose|generate|give|make|create)\b.*\b(?:random(?:ly)?|uuid|guid)\b"),
    ("random", r"\b(?:roll|throw)\b.*\b(?:die|dice|d\d+)\b|\b(?:flip|toss)\b.*\bcoin\b|^\W*shuffle\b|\bdraw (?:a|one) card\b"),
)  # fmt: skip

# What sounds like one of these and asks for general advice, or for a program.
_EXEMPT = {
    "personal": re.compile(
        r"^\W*(?:how (?:do|can|could|should|to|would)\b(?!.*\b(?:much|many)\b)|(?:what|which) (?:is|are) the \w+est\b"
        r"|(?:what|which|where|when|who)(?: \w+)? (?:should|can|could) i\b|can (?:an?|my)\b)"
        r"|\b(?:tips?|ideas|advice|ways|examples?|template|sample)\b|\bif (?:i|my|the|you|it|we)\b",
        re.I,
    ),
    "random": re.compile(
        r"\b(?:code|function|algorithms?|script|program\w*|python|java\w*|c\+\+|sql|bash|excel|library)\b", re.I
    ),
}
_COMPILED = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _PATTERNS]
_QUOTED = re.compile(r"\"[^\"\n]{1,200}\"|“[^”\n]{1,200}”")
_EXAMINED = 600  # characters at either end: a pasted document is not the request
_ONE_QUESTION = 160  # characters: a longer text is more than a question for a value


def uncacheable(text: str, extra: Sequence[re.Pattern[str]] = ()) -> str | None:
    """Return why an answer to `text` must not be shared: `volatile`, `personal`, `context`, `random`, or None.

    Args:
        extra: The operator's own patterns; a match is `pattern`.
    """
    if any(pattern.search(text) for pattern in extra):
        return "pattern"
    return _shared_by_nobody(text if len(text) <= 2 * _EXAMINED else f"{text[:_EXAMINED]}\n{text[-_EXAMINED:]}")


@lru_cache(maxsize=4096)  # asked before the lookup and before the write; what is asked often is asked word for word
def _shared_by_nobody(examined: str) -> str | None:
    unquoted = _QUOTED.sub(" ", examined)  # what is quoted is talked about: how to say it, what it means
    for kind, pattern in _COMPILED:
        said = examined if kind == "context" else unquoted
        if pattern.search(said) and not _exempt(kind, said):
            return kind
    return _whole(plain(unquoted)) if len(unquoted) <= _ONE_QUESTION else None


def _whole(question: str) -> str | None:
    """Return why an answer to a plain text must not be shared, judged as the one question that it is."""
    if AT_THE_MOMENT.fullmatch(question) and not ABOUT_WORDS.search(question):
        return "volatile"
    if LIVE_VALUE.fullmatch(question) and not TIMELESS.search(question):
        return "volatile"
    if ABOUT_ME.fullmatch(question) and not _exempt("personal", question):
        return "personal"
    return "context" if FROM_BEFORE.fullmatch(question) else None


def _exempt(kind: str, text: str) -> bool:
    return kind in _EXEMPT and _EXEMPT[kind].search(text) is not None
