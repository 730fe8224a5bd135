"""The surface of a text: case, punctuation, spaces, politeness and hesitation, which must not cost a hit.

Equal surfaces are a hit without further evidence, so what may carry meaning stays: signs that stand alone, brackets
around a formula, and a courtesy that is talked about ("the Korean word for please").
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Courtesies that are words like others too: they count before a pause or the start of a request.
_MAYBE_COURTESY = (
    r"(?:hi|hello|hey|hiya|greetings|good (?:morning|afternoon|evening))(?: there| all| everyone| team)?|dear \w+",
    r"um+|uh+|er+|hmm+|well|so|ok(?:ay)?|right|anyway|actually|basically|look|listen|sorry|excuse me|pardon me",
    r"(?:(?:quick|small|simple|just a(?: quick)?|one(?: quick)?|a) )?question|(?:just )?(?:wondering|curious|asking)",
)
_COURTESY = (
    r"please|pls|plz|kindly|i(?: was| am|'m)? (?:just )?(?:wondering|curious)",
    r"(?:can|could|would|will) (?:you|u|someone|anyone)(?: please| kindly| possibly)? (?:tell|explain to|help|show) me",
    r"(?:please |kindly )?(?:tell me|let me know|help me understand|i (?:need|want|would like|'d like) to know)",
    r"(?:can|could) i ask(?: you)?|may i ask|i have a question|any idea|does anyone know|do you know",
)
_REQUEST = (
    "what|whats|what's|which|who|whos|who's|whom|whose|when|where|why|how|is|are|am|was|were|do|does|did|can|could|"
    "should|would|will|have|has|may|must|if|i|we|any|tell|explain|show|give|list|write|describe|define|compare|help|let"
)
_BEFORE = rf"(?= ?[,.:;!?]| -+ | (?:{'|'.join((_REQUEST, *_MAYBE_COURTESY, *_COURTESY))})\b)"
_PAUSE = r"(?:[\s,.:;!?]|-+\s)"
_OPENING = re.compile(
    rf"(?:(?:(?:{'|'.join(_MAYBE_COURTESY)}){_BEFORE}|(?:{'|'.join(_COURTESY)})\b){_PAUSE}*)+",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"(?:[ ,.;?]|(?<=\s)-|(?<!\d)!){0,9}\b"
    r"(?:please|pls|plz|thanks?(?: you)?(?: so much| very much| a lot| in advance)?|thx|ty|cheers|asap)[ .!?]{0,9}$",
    re.IGNORECASE,
)
_TALKS_ABOUT = re.compile(
    r"(?:^\S*|\b(?:of|for|to|as|in|with|from|is|are|means?|meaning|says?|said|saying|words?|spell|write|send|called|like|"
    r"and|or|vs|versus|than|the|an?|no|translate|define|pronounce))$",
    re.IGNORECASE,
)
_LONGEST_CLOSING = 60
_CONTRACTIONS = (
    (re.compile(r"\b(what|where|who|when|how|why|that|there|it|he|she)'?s\b"), r"\1 is"),
    (re.compile(r"\bcan'?t\b|\bcannot\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"\b(do|does|did|is|are|was|were|should|would|could|have|has|had|must|need)n'?t\b"), r"\1 not"),
    (re.compile(r"\bi'm\b"), "i am"),
    (re.compile(r"\b(\w+)'re\b"), r"\1 are"),
    (re.compile(r"\b(\w+)'ve\b"), r"\1 have"),
    (re.compile(r"\b(\w+)'ll\b"), r"\1 will"),
)
_NO_FACTORIAL = r"(?<!\d)(?<!\b[^\W\d])!"
_MARKS = (
    (re.compile(r"`"), ""),
    (re.compile(r'"(?=[^\W\d])|(?<=[^\W\d])"|(?<=[^\W\d][?.!,;])"'), ""),  # "5" is no 5
    (re.compile(r"(?<![\w'])'(?=[^\W\d])|(?<=[^\W\d]{2})'(?!\w)"), ""),  # y' is no y
    (re.compile(r"(?<!\S)\(([^\W\d_]+(?:,? [^\W\d_]+){0,20})\)(?=[ ?.!,;:]|$)"), r"\1"),
    (re.compile(rf"(?<=[\w)\]])(?:[,;:?.]|{_NO_FACTORIAL})++(?=\s|$)"), ""),
    (re.compile(r"(?<=[^\W\d])[,;](?=[^\W\d])"), " "),
    (re.compile(r"(?<=[^\W\d]{2}) -+ (?=[^\W\d]{2})"), " "),  # x - y is no x y
)
_SPELLINGS = str.maketrans({"−": "-", "‘": "'", "’": "'", "“": '"', "”": '"'})


def normal(text: str) -> str:
    """Return a text in one spelling of each character; 5² is 5^2, where Unicode's normal form would make it 52."""
    text = re.sub(r"(?<=[\w)\]])[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: f"^{found[0]}", text)
    return unicodedata.normalize("NFKC", text).translate(_SPELLINGS)


@lru_cache(maxsize=4096)  # a text is compared with several, now and later
def plain(text: str) -> str:
    """Return a text without its surface: two texts with the same plain form ask the same.

    Signs inside words and numbers stay, since `c++`, `-35`, `3.11` and `a_b` mean something.
    """
    text = " ".join(normal(text).split())
    for _ in range(8):
        shorter = _without_courtesy(text)
        if shorter == text:
            break
        text = shorter
    text = text.lower()
    for pattern, replacement in (*_CONTRACTIONS, *_MARKS):
        text = pattern.sub(replacement, text)
    return " ".join(_without_end(text).split()) or text


def _without_courtesy(text: str) -> str:
    """Drop what opens and what closes a request politely, unless nothing else would be left."""
    opening = _OPENING.match(text)
    shorter = text[opening.end() :] if opening else text
    head, tail = shorter[:-_LONGEST_CLOSING], shorter[-_LONGEST_CLOSING:]
    closing = _CLOSING.search(tail)
    if closing and not _TALKS_ABOUT.search(head[-_LONGEST_CLOSING:] + tail[: closing.start()]):
        shorter = head + tail[: closing.start()]
    return shorter if shorter.strip() else text


def _without_end(text: str) -> str:
    """Drop the marks that end a text; 5! and n! are numbers."""
    body = text.rstrip(" ?.,;:!")
    return f"{body}!" if text.startswith("!", len(body)) and re.search(r"(?:\d|\b[^\W\d])$", body[-2:]) else body
