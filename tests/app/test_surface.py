"""The plain form of a text: what is noise, and what only looks like it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.surface import plain

NOISE = [
    ("How deep is the lake?", "how deep is the lake"),
    ("How deep is the lake?", "HOW DEEP IS THE LAKE"),
    ("How deep is the lake?", "  How   deep is\nthe lake ??"),
    ("How deep is the lake?", "How deep is the lake..."),
    ("How deep is the lake?", "Hi! How deep is the lake?"),
    ("How deep is the lake?", "Good morning, how deep is the lake? Thanks!"),
    ("How deep is the lake?", "hello how deep is the lake"),
    ("How deep is the lake?", "um, ok so how deep is the lake"),
    ("How deep is the lake?", "Quick question: how deep is the lake?"),
    ("How deep is the lake?", "Could you please tell me how deep is the lake?"),
    ("How deep is the lake?", "I was wondering, how deep is the lake, please?"),
    ("How deep is the lake?", "Dear assistant, how deep is the lake? Thank you so much."),
    ("How deep is the lake?", "Sorry, does anyone know how deep is the lake"),
    ("How deep is the lake?", "“How deep is the lake?”"),
    ("What is a fjord?", "What's a fjord?"),
    ("What is a fjord?", "whats a fjord"),
    ("What is a fjord?", "What’s a fjord"),
    ("Why do cats not swim?", "why do cats not swim please"),
    ("Why don't cats swim?", "Why do not cats swim?"),
    ("Why can't cats swim?", "Why cannot cats swim?"),
    ("I'm tired, what helps?", "I am tired what helps"),
    ("Name apples, pears and plums", "Name apples pears and plums."),
    ("Sort a list (in Python)", "sort a list in python"),
    ("Which font suits?", "Which font suits - please"),
    ("Fonts - which one suits?", "Fonts which one suits"),
    ("What is ”hygge”?", "What is hygge?"),
    ("What is an ﬁlter?", "What is an filter?"),
    ("What is −5 plus 8?", "What is -5 plus 8?"),
]
MEANING = [
    ("How deep is the lake?", "How deep was the lake?"),
    ("Can I fly?", "Can't I fly?"),
    ("What is C?", "What is C++?"),
    ("What is C#?", "What is C?"),
    ("Is 3.11 out?", "Is 311 out?"),
    ("Is -5 odd?", "Is 5 odd?"),
    ("Who is a_b?", "Who is a b?"),
    ("How much is 5% of it?", "How much is 5 of it?"),
    ("Is 4! even?", "Is 4 even?"),
    ("What is n!", "What is n?"),
    ("Is my blood type A- please", "Is my blood type A please"),
    ("What is 3²?", "What is 32?"),
    ("Is [1, 2] mutable?", "Is (1, 2) mutable?"),
    ("What is (2 + 3) * 4?", "What is 2 + (3 * 4)?"),
    ("What is the slope of x - y?", "What is the slope of x y?"),
    ("Solve y'' + y = 0", "Solve y' + y = 0"),
    ('What type has "5"?', "What type has 5?"),
    ("What does !! mean in Kotlin?", "What does ?? mean in Kotlin?"),
    ("How do I split at , in a shell?", "How do I split at ; in a shell?"),
    ("What is the Welsh word for please?", "What is the Welsh word for thanks?"),
    ("What is the meaning of asap?", "What is the meaning of thx?"),
    ("Define please", "Define thanks"),
    ("How do I say no thanks?", "How do I say no?"),
    ("Good morning messages", "Good afternoon messages"),
    ("Right triangle area", "Triangle area"),
    ("Well water tests", "Water tests"),
    ("Well-being tips", "Being tips"),
    ("Hello lyrics", "Sorry lyrics"),
    ("Asking price of a flat", "Price of a flat"),
]


@pytest.mark.parametrize(("clean", "noisy"), NOISE)
def test_noise_has_the_plain_form_of_the_clean_text(clean: str, noisy: str) -> None:
    assert plain(noisy) == plain(clean) != ""


@pytest.mark.parametrize(("one", "other"), MEANING)
def test_what_means_something_stays(one: str, other: str) -> None:
    assert plain(one) != plain(other)


@pytest.mark.parametrize("text", ["please", "Thanks!", "Hi", "um", "...", "?!", "Hello there!"])
def test_something_is_left_of_a_text_of_noise_alone(text: str) -> None:
    assert plain(text)


@given(st.text(max_size=60))
def test_any_text_has_a_plain_form_in_single_spaces(text: str) -> None:
    assert plain(text) == " ".join(plain(text).split())
    assert bool(plain(text)) == bool(text.strip())


@pytest.mark.parametrize("run", ["a", " ", ".", "?!", "!", "-", "(", "thanks ", "please ", "so, ", "'", '"', "1,"])
def test_a_long_run_of_anything_takes_no_longer_than_its_length(run: str) -> None:
    text = f"x{run * (40_000 // len(run))}y"
    started = time.process_time()
    plain(text)
    plain(text[1:-1])
    assert time.process_time() - started < 1  # what grows with the square takes ten seconds
