"""Labelled pairs made from questions: noise that must not cost a hit, and small changes that need another answer.

A `Change` rewrites a text so that its answer differs. The verifier learns from it in three ways: a text and its
changed paraphrase differ, two paraphrases changed alike are the same, and changed unlike they differ. So it is the
difference between the two texts that counts, never the mere presence of a number or a name.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from app.cache.pairs import Pair

Change = Callable[[str], str | None]

_OPPOSITES = """
enable disable|increase decrease|before after|open close|start stop|buy sell|import export|upload download|
add remove|install uninstall|lock unlock|accept reject|allow block|mute unmute|follow unfollow|send receive|
minimum maximum|first last|best worst|cheapest dearest|highest lowest|largest smallest|longest shortest|
advantages disadvantages|pros cons|benefits risks|cause prevent|gain lose|win lose|borrow lend|encrypt decrypt|
encode decode|compress decompress|ascending descending|upper lower|left right|north south|east west|inside outside|
indoor outdoor|hot cold|summer winter|morning evening|day night|weekday weekend|male female|husband wife|father mother|
brother sister|son daughter|boy girl|men women|man woman|young old|new old|rich poor|fat thin|strong weak|hard soft|
hard easy|deep shallow|love hate|like dislike|public private|internal external|input output|client server|
employer employee|teacher student|landlord tenant|debit credit|asset liability|income expense|profit loss|long short|
positive negative|odd even|legal illegal|possible impossible|safe unsafe|common rare|single married|domestic foreign|
arrive depart|arrival departure|entry exit|push pull|create delete|show hide|expand collapse|attach detach|
connect disconnect|subscribe unsubscribe|approve decline|sync unsync|raise lower|win lose|pass fail|cheap expensive|
up down|on off|more less|early late|above below|over under|fast slow|true false|read write|save spend|earn owe
"""
_ATTRIBUTES = """
population area capital currency language president climate size flag history|height weight age salary|
price colour size weight|author publisher title genre|director cast plot budget|meaning origin pronunciation spelling|
symptoms causes treatment prevention diagnosis|cost duration distance|speed range mileage|syllabus eligibility fee|
username password email|width length depth height|calories protein fat sugar|deadline budget scope|
ingredients recipe price|boiling melting freezing|revenue profit headcount|address phone website
"""
_LANGUAGES = (
    "English French German Spanish Italian Portuguese Dutch Polish Russian Chinese Japanese Hindi Arabic".split()
)
_CODE = "Python Java JavaScript TypeScript Go Rust Ruby PHP Swift Kotlin C# C++ SQL Bash".split()
_FORMATS = ["JSON", "XML", "CSV", "YAML", "Markdown", "a table", "bullet points", "one sentence", "one paragraph"]
_PLACES = (
    "Paris London Berlin Madrid Rome Vienna Tokyo Delhi Mumbai Chicago Boston Texas California Canada Mexico Brazil "
    "Germany France Spain Italy Japan China India Pakistan Russia Australia Nigeria Kenya Egypt"
).split()
_COMMANDS = (
    "git reset --hard|git reset --soft|git reset --mixed|git rebase main|git merge main|git stash|git stash pop|ls -l|"
    "ls -a|rm -r|rm -f|chmod 644|chmod 755|docker run|docker exec|docker stop|kubectl get pods|kubectl get nodes|"
    "x += 1|x -= 1|x ** 2|x // 2|list.sort()|sorted(list)|list.append(x)|list.extend(x)|SELECT DISTINCT|SELECT COUNT(*)"
    "|LEFT JOIN|INNER JOIN|ORDER BY id ASC|ORDER BY id DESC|a == b|a is b|a != b|npm install|npm ci|pip install"
).split("|")
_UNITS = (
    "km miles|kg pounds|celsius fahrenheit|litres gallons|metres feet|inches centimetres|dollars euros|days weeks|"
    "hours minutes"
)
_RANKS = (
    "best|worst|cheapest|easiest|hardest|fastest|safest|biggest|oldest|latest|funniest|healthiest|simplest|strangest|"
    "most popular|most famous|most expensive|most common|most important|most beautiful"
).split("|")
_ASKED = ["how", "why", "when", "where"]
_KINDS = """
international online free used digital portable wireless organic vegan annual monthly weekly remote part-time full-time
government private public local foreign cheap expensive small large new old modern ancient medical legal financial
technical professional academic electric manual automatic temporary permanent serious mild chronic early late first
second third-party native mobile indoor outdoor commercial residential personal corporate adult female male senior
junior northern southern domestic artificial natural synthetic raw frozen instant hidden official unofficial
""".split()
_MONTHS = "January February March April May June July August September October November December".split()


def _groups(text: str) -> dict[str, list[str]]:
    """Map each word of a group to the others."""
    groups = [group.split() for group in text.replace("\n", "").split("|")]
    found: dict[str, list[str]] = {}
    for group in groups:
        for word in group:
            found.setdefault(word, []).extend(other for other in group if other != word)
    return found


_OTHER_WORD = {
    kind: _groups(text) for kind, text in (("opposite", _OPPOSITES), ("attribute", _ATTRIBUTES), ("unit", _UNITS))
}


class TrapMaker:
    """Makes pairs from questions and their paraphrases.

    Args:
        texts: A corpus to draw names and words from.
    """

    def __init__(self, texts: Sequence[str], seed: int = 0) -> None:
        self._random = random.Random(seed)
        names: set[str] = set()
        words: dict[str, int] = {}
        for text in texts:
            tokens = text.split()
            names |= {t.strip("?,.") for t in tokens[1:] if re.fullmatch(r"[A-Z][a-z]{2,}[?,.]?", t)}
            for token in tokens:
                words[token] = words.get(token, 0) + 1
        self._names = sorted(names)
        self._words = sorted(word for word, count in words.items() if count >= 5 and re.fullmatch(r"[a-z]{4,}", word))
        self._rare = {word for word, count in words.items() if count < 0.002 * len(texts)}

    def pairs(self, a: str, b: str) -> Iterator[Pair]:
        """Make some pairs from two paraphrases, or from a text and itself."""
        if self._random.random() < 0.5:
            yield Pair(a, self.noisy(b), True, "noise")
        name, change, other = self._change(b)
        changed_b, same_a, other_a = change(b), change(a), other(a)
        if changed_b and changed_b != b:
            yield Pair(a, self.noisy(changed_b), False, name)
            if same_a and same_a != a and _delta(a, same_a) == _delta(b, changed_b) and self._random.random() < 0.7:
                yield Pair(same_a, changed_b, True, f"{name}-same")
            if other_a and other_a not in (a, same_a) and self._random.random() < 0.7:
                yield Pair(other_a, changed_b, False, f"{name}-other")

    def noisy(self, text: str) -> str:
        """Change the surface alone: case, punctuation, spaces, politeness, disfluency."""
        r = self._random
        if r.random() < 0.4:
            return text
        if r.random() < 0.3:
            text = text.lower() if r.random() < 0.8 else text.upper()
        if r.random() < 0.4:
            text = text.rstrip("?.! ") + r.choice(["", "?", "??", " ?", ".", "!"])
        if r.random() < 0.25:
            opening = r.choice(_OPENINGS)
            text = opening + (text[:1].lower() + text[1:] if text[1:2].islower() else text)
        if r.random() < 0.15:
            text = text.rstrip() + r.choice(
                [" please", " Thanks!", " thank you", " thx", " pls", " Thanks in advance."]
            )
        if r.random() < 0.15:
            for short, long in (("What is", "What's"), ("I am", "I'm"), ("do not", "don't"), ("it is", "it's")):
                text = text.replace(short, long) if r.random() < 0.5 else text.replace(long, short)
        if r.random() < 0.1:
            text = text.replace(" ", "  ", 1)
        if r.random() < 0.08 and len(text) > 12:
            at = r.randrange(4, len(text) - 4)
            if text[at : at + 2].isalpha():
                text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        return text

    def _change(self, text: str) -> tuple[str, Change, Change]:
        """Draw a named change and another of its kind; most often one that rewrites what the text says already."""
        rewrites, ends = self._changes()
        self._random.shuffle(rewrites)
        fitting = [change for change in rewrites if change[1](text) not in (None, text)]
        return fitting[0] if fitting and self._random.random() < 0.65 else self._random.choice(ends)

    def _changes(self) -> tuple[list[tuple[str, Change, Change]], list[tuple[str, Change, Change]]]:
        """Return changes that rewrite and changes that add an end, their random choices made."""
        r = self._random
        ends: list[tuple[str, list[str], str]] = [
            ("format", _FORMATS, "as {}"),
            ("language", _LANGUAGES, "in {}"),
            ("code", _CODE, "in {}"),
            ("place", _PLACES, "in {}"),
            ("year", [str(year) for year in range(1990, 2027)], "in {}"),
            ("month", _MONTHS, "in {}"),
            ("amount", [str(n) for n in (2, 3, 5, 7, 10, 12, 15, 20, 25, 30, 50, 100, 500)], "with {} people"),
            ("version", ["2", "3", "3.8", "3.11", "10", "11", "14", "15"], "for version {}"),
            ("command", _COMMANDS, "using `{}`"),
            ("name", self._names, "for {}"),
        ]
        additions: list[tuple[str, Change, Change]] = []
        for name, choices, pattern in ends:
            first, second = r.sample(choices, 2)
            additions.append((name, _ended(pattern.format(first)), _ended(pattern.format(second))))
        name_1, name_2 = r.sample(self._names, 2)
        word_1, word_2 = r.sample(self._words, 2)
        kind_1, kind_2 = r.sample(_KINDS, 2)
        step_1, step_2 = r.sample(range(1, 9), 2)
        rewrites: list[tuple[str, Change, Change]] = [
            ("number", _number(step_1), _number(step_2)),
            ("number", _number(step_1 * 10), _number(step_2 * 10)),
            ("entity", _entity(name_1), _entity(name_2)),
            ("word", self._word(word_1), self._word(word_2)),
            ("opposite", _swapped("opposite", r), _nothing),
            ("attribute", _swapped("attribute", r), _nothing),
            ("unit", _swapped("unit", r), _nothing),
            ("negation", _negated, _nothing),
            ("direction", _turned, _nothing),
            ("question", _asked(r.choice(_ASKED)), _nothing),
            ("rank", _ranked(r.choice(_RANKS)), _nothing),
            ("dropped", self._dropped, _nothing),
            ("narrowed", self._narrowed(kind_1), self._narrowed(kind_2)),
        ]
        return rewrites, additions

    def _word(self, word: str) -> Change:
        """Replace the first content word."""

        def change(text: str) -> str | None:
            rare = self._content(text)
            return text.replace(rare[0], word, 1) if rare else None

        return change

    def _narrowed(self, kind: str) -> Change:
        """Put a word before the last content word that narrows it down."""

        def change(text: str) -> str | None:
            rare = self._content(text)
            return text.replace(f" {rare[-1]}", f" {kind} {rare[-1]}", 1) if rare else None

        return change

    def _dropped(self, text: str) -> str | None:
        """Leave out a content word of several."""
        rare = self._content(text)
        return text.replace(f" {rare[-2]}", "", 1) if len(rare) > 2 else None

    def _content(self, text: str) -> list[str]:
        return [token for token in text.split() if token in self._rare and re.fullmatch(r"[a-z]{4,}", token)]


_OPENINGS = (
    "Hi, |Hello! |Hey, |Please tell me: |Could you tell me, |Can you please explain: |um, |so, |ok so |"
    "Quick question: |I was wondering, |Just curious, |Help: |Sorry, |well, |Dear assistant, |Question: |"
    "I need to know, |please "
).split("|")


def _delta(old: str, new: str) -> tuple[Counter[str], Counter[str]]:
    """Return the words that a change took away and those that it brought: alike if it changed the same thing."""
    before, after = (Counter(re.findall(r"\w+", text.lower())) for text in (old, new))
    return before - after, after - before


def _nothing(text: str) -> str | None:
    return None


def _ended(end: str) -> Change:
    def change(text: str) -> str | None:
        body = text.rstrip("?.! ")
        return f"{body} {end}{text[len(body) :].strip()}"

    return change


def _asked(word: str) -> Change:
    """Ask for the manner, the reason, the time or the place instead."""

    def change(text: str) -> str | None:
        match = re.match(
            r"(how|why|when|where) (?=(?:do|does|did|is|are|was|were|can|could|should|will)\b)", text, re.I
        )
        if match is None or match[1].lower() == word:
            return None
        return f"{word.capitalize() if text[0].isupper() else word} {text[match.end() :]}"

    return change


def _ranked(rank: str) -> Change:
    pattern = re.compile(rf"\b({'|'.join(_RANKS)})\b", re.IGNORECASE)
    return lambda text: pattern.sub(rank, text, count=1)


def _number(step: int) -> Change:
    def change(text: str) -> str | None:
        match = re.search(r"(?<![\w.])\d{1,6}(?![\w.])", text)
        return None if match is None else f"{text[: match.start()]}{int(match[0]) + step}{text[match.end() :]}"

    return change


def _entity(name: str) -> Change:
    def change(text: str) -> str | None:
        match = re.search(r"(?<=\w )[A-Z][a-z]{2,}\b", text)
        return None if match is None else f"{text[: match.start()]}{name}{text[match.end() :]}"

    return change


def _swapped(kind: str, rng: random.Random) -> Change:
    """Replace the first word that has an opposite, or another attribute of its kind."""
    pick = rng.random()

    def change(text: str) -> str | None:
        for match in re.finditer(r"[A-Za-z]+", text):
            if others := _OTHER_WORD[kind].get(match[0].lower()):
                other = others[int(pick * len(others))]
                other = other.capitalize() if match[0][0].isupper() else other
                return f"{text[: match.start()]}{other}{text[match.end() :]}"
        return None

    return change


_NEGATIONS = (
    (
        r"\b(can|could|should|would|will|do|does|did|is|are|was|were|must) (I|you|we|they|he|she|it|people)\b",
        r"\1 \2 not",
    ),
    (r"\bwith\b", "without"),
    (r"\bwithout\b", "with"),
    (r"\b(should|can|could|would|will|must|may) (?!not)", r"\1 not "),
    (r"\bnot ", ""),
    (r"n't\b", ""),
)


def _negated(text: str) -> str | None:
    for pattern, replacement in _NEGATIONS:
        changed = re.sub(pattern, replacement, text, count=1, flags=re.IGNORECASE)
        if changed != text:
            return changed
    return None


_DIRECTIONS = (
    r"\bfrom (\w+) to (\w+)",
    r"\bconvert(?:ing)? (\w+) (?:in)?to (\w+)",
    r"\b(\w+) (?:better|worse|bigger|faster|older|cheaper|stronger) than (\w+)",
    r"\b(\w+) (?:instead of|rather than) (\w+)",
)


def _turned(text: str) -> str | None:
    for pattern in _DIRECTIONS:
        if match := re.search(pattern, text, re.IGNORECASE):
            (a, b), (c, d) = match.span(1), match.span(2)
            if match[1].lower() != match[2].lower():
                return text[:a] + match[2] + text[b:c] + match[1] + text[d:]
    return None
