"""The guard: refuses a hit where the parts of two texts that determine the answer differ, however alike they sound.

Rules look at numbers, formulas, units, dates, versions, code, layout, case, quotes, names, negation, opposites,
direction, attributes, languages and formats. Each compares what one text has and the other has not; where neither has
any, it is silent. Similarity of meaning is not judged here: that is the verifier's part.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from app.cache.lexicon import (
    ALIASES,
    AMBIGUOUS_UNITS,
    ATTRIBUTES,
    CASED_UNITS,
    CODE_LANGUAGES,
    FORMATS,
    LANGUAGES,
    MONTHS,
    NEGATIONS,
    NUMBERS,
    OPPOSITES,
    PARTICLES,
    STOPWORDS,
    UNITS,
    WEEKDAYS,
)
from app.cache.surface import normal

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+(?:[.,:/-]\d+)*|[$€£₹¥%+#*/=<>^-]+", re.UNICODE)
_QUOTED = re.compile(r"[\"“”]([^\"“”]{1,200})[\"“”]|(?<!\w)['‘]([^'’]{2,200})['’](?!\w)")
_CODE = re.compile(r"```(.*?)```|(?<!`)`++([^`]+)`+", re.DOTALL)
_INDENTED = re.compile(r"\n([ \t]+[^\s][^\n]*)")
_OF_SPACES = re.compile(
    r"\b(?:spaces|white ?spaces?|(?:double|extra|leading|trailing) space|tabs|indent\w*|new ?lines?|line ?breaks?)\b",
    re.I,
)
_NOT_ONE_SPACE = re.compile(r"[^\S ]+|\s{2,}")
_PATTERN = re.compile(
    r"\b(?:regexp?|regular expression|pattern|glob|wildcard) ['\"]?([^\W\d_][?.*+])(?=['\"\s]|$)", re.I
)
_ARGUMENT = r"(?:\"[^\"\n]{0,80}\"|'[^'\n]{0,80}'|[\w.]{1,2})"
_CALL = re.compile(rf"(?<!\w)\w{{2,50}}(\((?!s\)){_ARGUMENT}(?:, ?{_ARGUMENT}){{0,9}}\))")  # no file(s)
_SHORT = re.compile(r"(?<=[^\s.?!:] )([^\W\d_][?.](?= [a-z])|[^\W\d_]{1,2}(?![\w'’+#-]))")
_IDENTIFIER = re.compile(
    r"(?<![\w.])(?:--?[a-zA-Z][\w-]*|\w+(?:\.\w+)*\(\)|[A-Za-z]+_\w+|[a-z]+[A-Z]\w*|(?=[^\W\d]*\d)(?=\d*[A-Za-z_])\w++"
    r"|[A-Za-z]{1,2}\d*[+-](?![+-])|\d+\+(?![+=])"  # A-, Na+, 18+
    r"|[A-Z]+-\d+|\w+\.(?:py|js|ts|java|cpp|txt|csv|json|yaml|xml|html|css|md|sh|exe|pdf|docx?|xlsx?))(?!\w)"
)
_MEASURE = re.compile(r"\d+([a-z]+)", re.IGNORECASE)
_OPERAND = r"(?:\d++(?:[.,]\d++)*+|\b[a-z]\b)['!]{0,3}"
_FORMULA = re.compile(
    rf"(?<![\w.,])[(\[-]{{0,9}}{_OPERAND}[)\]]{{0,9}}"
    rf"(?:\s{{0,3}}(?:\*\*|//|[<>=!]=|[-+*/^%<>=×÷·–])\s{{0,3}}[(\[-]{{0,9}}{_OPERAND}[)\]]{{0,9}})+",
    re.IGNORECASE,
)
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "–": "-"})
_PIVOTS = frozenset("than to into from over in by before after with".split())
_SAME_PIVOT = {"into": "to"}
_UNIT_AT = re.compile(r"(?:(?<=\d)|(?<=\d[ -])|\b(?:in|to|into)\s+)([a-z]+|[%$€£₹¥])(?![a-z])|([$€£₹¥])(?=\s?\d)", re.I)
_SECOND = re.compile(r"\bsecond(?=[ -](?:\w+est|most|least|best|worst)\b)", re.I)
_MAY = re.compile(
    r"\b(?:in|of|since|until|till|during|by|from|early|mid|late|next|last|every|each)[ -]may\b|\bmay,? \d|"
    r"\d(?:st|nd|rd|th)? (?:of )?may\b",
    re.I,
)
_THE_MONTH = "the month of may"
_WORDY_NOT = re.compile(r"n['’]t$")


@dataclass(frozen=True, slots=True)
class Features:
    """What a text says that an answer hangs on."""

    tokens: frozenset[str]
    words: tuple[str, ...]
    numbers: Counter[str]
    units: frozenset[str]
    symbols: frozenset[str]
    formulas: frozenset[str]
    code: frozenset[str]
    layout: tuple[str, ...]
    cased: frozenset[str]
    said: frozenset[str]
    quotes: frozenset[str]
    names: frozenset[str]
    negations: int
    sides: dict[str, tuple[frozenset[str], frozenset[str]]]
    script: str
    language: str | None


def refusal(cached: str, new: str) -> str | None:
    """Return the rule by which the answer to `cached` must not serve `new`, or None if no rule objects."""
    a, b = features(cached), features(new)
    if a.script != b.script or (a.language and b.language and a.language != b.language):
        return "language"
    if a.numbers != b.numbers:
        return "number"
    if a.formulas and b.formulas and a.formulas != b.formulas:
        return "formula"
    if a.units != b.units and ((a.units and b.units) or a.numbers):
        return "unit"
    if _lowered(a.symbols - b.symbols) & _lowered(b.symbols - a.symbols):
        return "unit"
    if a.code - b.code - b.said or b.code - a.code - a.said:
        return "code"
    if a.layout != b.layout:
        return "layout"
    if _bare(a.cased - b.cased) & _bare(b.cased - a.cased):
        return "case"
    if a.quotes != b.quotes and not _only_quoted_otherwise(a, b):
        return "quote"
    for rule, members in _STRICT:
        if (a.tokens & members) != (b.tokens & members):
            return rule
    if _turned(a, b):
        return "direction"
    for rule, groups in (("opposite", _OPPOSITES), ("attribute", _ATTRIBUTES)):
        if any((one & a.tokens and two & b.tokens and not (one & b.tokens or two & a.tokens)) for one, two in groups):
            return rule
    if (a.negations > 0) != (b.negations > 0):
        return "negation"
    if a.names - _aliased(b) and b.names - _aliased(a):
        return "name"
    return None


@lru_cache(maxsize=4096)
def features(text: str) -> Features:
    """Extract what the rules compare."""
    text = normal(text.replace("°C", " celsius").replace("°F", " fahrenheit").replace("\r\n", "\n"))
    raw = _TOKEN.findall(text)
    lowered = [token.lower().replace("’", "'") for token in raw]
    words = [_singular(token) for token in lowered]
    prose = _CODE.sub(" ", text)
    code = {(fenced or span).strip("\n") for fenced, span in _CODE.findall(text)}
    code |= {*_identifiers(prose), *_PATTERN.findall(prose)}
    return Features(
        tokens=frozenset(words)
        | frozenset(lowered)
        | (_LANGUAGE_SIGNS & set(text.lower().split()))
        | {token for token, pattern in PARTICLES.items() if pattern.search(text)}
        | ({_THE_MONTH} if _MAY.search(text) else set()),
        words=tuple(words),
        numbers=Counter(_numbers(text)),
        units=frozenset(_units(text, lowered)),
        symbols=CASED_UNITS.intersection(raw),
        formulas=frozenset("".join(found.lower().split()).translate(_SIGNS) for found in _FORMULA.findall(text)),
        code=frozenset(code),
        layout=_layout(text, prose),
        cased=_cased(prose),
        said=frozenset(word.strip("`'\"()[].,;:!?") for word in text.lower().split()),
        quotes=frozenset(_tight(first or second) for first, second in _QUOTED.findall(prose)),
        names=_names(text),
        negations=sum(token in NEGATIONS or bool(_WORDY_NOT.search(token)) for token in lowered),
        sides=_sides(words),
        script=_script(text),
        language=_language(lowered),
    )


def _lowered(words: frozenset[str]) -> set[str]:
    return {word.lower() for word in words}


def _identifiers(text: str) -> Iterator[str]:
    """Yield what reads like code: options as they are, since -r is not -R, the rest in lower case."""
    for span in _IDENTIFIER.findall(text):
        measure = _MEASURE.fullmatch(span)
        if measure is None or measure[1].lower() not in UNITS:  # 5km is 5 km
            yield span if span.startswith("-") else span.lower()


def _layout(text: str, prose: str) -> tuple[str, ...]:
    """Return the indented lines after the first, as they are; and of a text about spaces, all that is not one space."""
    spaces = _NOT_ONE_SPACE.findall(text.strip()) if _OF_SPACES.search(prose) else []
    return (*(line.rstrip() for line in _INDENTED.findall(prose.strip())), *spaces)


def _cased(text: str) -> frozenset[str]:
    """Return the arguments of calls, and symbols like G, Co and the pattern a?, as they are written.

    There are none where capitals say nothing. Who writes no capital at all means none by a small letter; in Go To It
    they are a matter of style.
    """
    if _shouted(text):
        return frozenset()
    calls, lower = frozenset(_CALL.findall(text)), text.lower() == text
    short = {token for token in _SHORT.findall(" ".join(text.split())) if token.lower() not in _FUNCTION_WORDS}
    return calls | {
        token
        for token in short
        if token[1:] in ("?", ".") or (not lower and (len(token) == 1 or token.lower() != token))
    }


def _bare(symbols: frozenset[str]) -> set[str]:
    return {symbol.lower().rstrip("?.") for symbol in symbols}


def _shouted(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    return sum(c.isupper() for c in letters) > 0.6 * len(letters)


def _names(text: str) -> frozenset[str]:
    """Return capitalised words that do not open a sentence, in lower case; none where capitals say nothing."""
    if _shouted(text):
        return frozenset()
    found = re.findall(r"(?<=[\w,;] )[A-Z][^\W\d_]+(?![\w])", re.sub(r"['’]s\b|(?<=\w)-(?=\w)", " ", text))
    return frozenset(_alias(_singular(name.lower())) for name in found)


def _aliased(text: Features) -> frozenset[str]:
    return text.tokens | {_alias(token) for token in text.tokens} | text.names


def _alias(word: str) -> str:
    return ALIASES.get(word, word)


def _numbers(text: str) -> list[str]:
    """Return the numbers of a text: 1,000 is 1000 and two is 2; 2.0 stays 2.0, since versions differ so."""
    text = _SECOND.sub("2", text)
    found = re.findall(r"(?:(?<=\s)|^)-\d[\d.,]*|\d+(?:[.,:/]\d+)*|[^\W\d_]+", text)
    numbers = [
        re.sub(r"(?<=\d),(?=\d{3}\b)", "", token).rstrip(".,")
        for token in found
        if token[-1].isdigit() or token[0].isdigit()
    ]
    return numbers + [NUMBERS[token.lower()] for token in found if token.lower() in NUMBERS]


def _units(text: str, words: list[str]) -> Iterator[str]:
    """Yield the units of a text: measures wherever they stand, words like "day" and "foot" where they measure."""
    yield from (UNITS[word] for word in words if word in UNITS and word not in AMBIGUOUS_UNITS)
    yield from (UNITS[unit] for found in _UNIT_AT.findall(text) if (unit := "".join(found).lower()) in UNITS)


def _language(words: list[str]) -> str | None:
    """Name the language of a text by its commonest words, or None if they do not tell."""
    counts = {language: sum(word in stop for word in words) for language, stop in _STOPWORDS.items()}
    (best, most), (_, next_most) = Counter(counts).most_common(2)
    return best if most >= 2 and most > next_most else None


def _only_quoted_otherwise(a: Features, b: Features) -> bool:
    """Whether what one text quotes, the other says without quotes."""
    said_a, said_b = " ".join(a.words), " ".join(b.words)
    return all(
        " ".join(_singular(w.lower()) for w in _TOKEN.findall(q)) in said_b for q in a.quotes - b.quotes
    ) and all(" ".join(_singular(w.lower()) for w in _TOKEN.findall(q)) in said_a for q in b.quotes - a.quotes)


def _turned(a: Features, b: Features) -> bool:
    """Whether two words have changed sides of a word like `to`, `from` or `than`: A to B against B to A."""
    for pivot in a.sides.keys() & b.sides.keys():
        (left_a, right_a), (left_b, right_b) = a.sides[pivot], b.sides[pivot]
        if (left_a - right_a) & (right_b - left_b) and (right_a - left_a) & (left_b - right_b):
            return True
    return False


def _sides(words: list[str]) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """Map each pivot of a text, at its last place, to the words on its left and on its right."""
    last = {_SAME_PIVOT.get(word, word): i for i, word in enumerate(words) if word in _PIVOTS}
    return {
        pivot: (frozenset(words[:i]) - _FUNCTION_WORDS, frozenset(words[i + 1 :]) - _FUNCTION_WORDS)
        for pivot, i in last.items()
    }


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _tight(span: str) -> str:
    return re.sub(r"\s+", " ", span).strip().rstrip(".,;")


def _script(text: str) -> str:
    """Name the writing system most letters are of: an answer is expected in the question's."""
    kinds = Counter(unicodedata.name(c, "?").split(" ")[0] for c in text if c.isalpha())
    return kinds.most_common(1)[0][0] if kinds else ""


_FUNCTION_WORDS = frozenset(word for words in STOPWORDS.values() for word in words) | frozenset(
    "be been it its this that these those if then than there we you your they he she me us am was were would could "
    "should will shall must may might one some any all".split()
)
_LANGUAGE_SIGNS = frozenset({"c#", "c++"})
_STRICT = (
    ("language", frozenset(LANGUAGES)),
    ("code language", frozenset(CODE_LANGUAGES)),
    ("format", frozenset(FORMATS)),
    ("date", frozenset({*MONTHS, _THE_MONTH})),
    ("date", frozenset(WEEKDAYS)),
)


_STOPWORDS = {language: frozenset(words) for language, words in STOPWORDS.items()}
_OPPOSITES = [sides for one, two in OPPOSITES for sides in ((one, two), (two, one))]
_ATTRIBUTES = [
    (frozenset({one}), frozenset({two})) for group in ATTRIBUTES for one in group for two in group if one != two
]
