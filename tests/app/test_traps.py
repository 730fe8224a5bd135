"""Pairs made from questions: noise is the same, a small change is not, and two paraphrases changed alike are again."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from app.cache.pairs import Pair
from app.cache.surface import plain
from app.cache.traps import TrapMaker

NAMES = "Siena Porto Gdansk Lyon Bruges Malmo Turku Split".split()
CORPUS = [f"Which trams cross the old bridge near {name}, and how long are they?" for name in NAMES * 100]
CORPUS += ["What do beavers carry upstream?"]
PARAPHRASES = [
    ("How do I enable alerts?", "What must be done to enable alerts?"),
    ("Which birds nest on 40 islands?", "On 40 islands, which birds nest?"),
    ("How wide is the river in Lyon?", "What breadth has the river of Lyon?"),
    ("What do beavers carry?", "Which things do beavers carry?"),
    ("What is the price of tin?", "Tin has what price?"),
]


def made(seed: int = 0, rounds: int = 60) -> list[tuple[str, str, Pair]]:
    """Return pairs, each with the two paraphrases that it was made from."""
    maker = TrapMaker(CORPUS, seed)
    return [(a, b, pair) for _ in range(rounds) for a, b in PARAPHRASES for pair in maker.pairs(a, b)]


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[\w+#./-]+", text.lower()))


def test_a_small_change_is_another_text_labelled_different() -> None:
    changes = [(a, b, pair) for a, b, pair in made() if not pair.same and not pair.kind.endswith("-other")]
    assert {"number", "entity", "opposite", "attribute", "word", "year", "language", "code"} <= {
        p.kind for *_, p in changes
    }
    for a, b, pair in changes:
        assert pair.a == a
        assert plain(pair.b) not in (plain(a), plain(b))


def test_noise_is_labelled_the_same_and_leaves_every_number() -> None:
    noises = [(a, b, pair) for a, b, pair in made() if pair.kind == "noise"]
    assert noises
    for a, b, pair in noises:
        assert (pair.a, pair.same) == (a, True)
        assert re.findall(r"\d+", pair.b) == re.findall(r"\d+", b)


def test_noise_is_most_often_what_the_plain_form_takes_away() -> None:
    maker = TrapMaker(CORPUS)
    text = "What is the depth of the harbour in Porto?"
    noisy = [maker.noisy(text) for _ in range(500)]
    assert len(set(noisy)) > 50
    assert sum(plain(other) == plain(text) for other in noisy) > 0.8 * len(noisy)


def test_two_paraphrases_changed_alike_are_labelled_the_same() -> None:
    alike = [(a, b, pair) for a, b, pair in made() if pair.kind.endswith("-same")]
    assert {"number-same", "entity-same", "opposite-same", "year-same"} <= {pair.kind for *_, pair in alike}
    for a, b, pair in alike:
        assert pair.same
        assert words(pair.a) - words(a) == words(pair.b) - words(b) != Counter()


def test_two_paraphrases_changed_unlike_are_labelled_different() -> None:
    unlike = [(a, b, pair) for a, b, pair in made() if pair.kind.endswith("-other")]
    assert unlike
    for a, b, pair in unlike:
        assert not pair.same
        assert words(pair.a) - words(a) != words(pair.b) - words(b)


def test_a_text_may_be_its_own_paraphrase() -> None:
    maker = TrapMaker(CORPUS)
    pairs = [pair for _ in range(50) for pair in maker.pairs(CORPUS[0], CORPUS[0])]
    assert {pair.same for pair in pairs} == {True, False}
    assert all(pair.a != pair.b for pair in pairs if not pair.same)


@pytest.mark.parametrize("text", ["", "?", "a", "Go!", "x 5", "How"])
def test_the_shortest_texts_do_no_harm(text: str) -> None:
    maker = TrapMaker(CORPUS)
    assert all(pair.kind for _ in range(50) for pair in maker.pairs(text, text))


def test_the_same_seed_makes_the_same_pairs() -> None:
    assert made(seed=3) == made(seed=3) != made(seed=4)
