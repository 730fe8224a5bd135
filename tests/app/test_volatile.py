"""Prompts whose answer is for one moment, one person, one conversation or one throw, and those that sound so."""

from __future__ import annotations

import re
import time

import pytest

from app.cache.volatile import uncacheable
from tests.app import everyday_prompts

REFUSED = {
    "volatile": [
        "What's the weather in Turin today?",
        "Will the forecast for this weekend hold?",
        "What time is it in Lima?",
        "what is the date today",
        "What day is it?",
        "What is the current price of copper?",
        "Tell me the latest news about the strike",
        "Which is the newest stable release of the kernel?",
        "How many days until Easter?",
        "Who is winning the match right now?",
        "Which bakeries near the station are open now?",
        "What is trending now?",
        "What was yesterday's exchange rate of the krona?",
    ],
    "personal": [
        "Where is my parcel?",
        "What is my account balance?",
        "Show me my unread messages",
        "Cancel my subscription",
        "How much did I spend in May?",
        "How many vacation days do I have left?",
        "When is my next dentist visit?",
        "Reschedule my appointment to noon",
        "What did I order from the florist?",
    ],
    "context": [
        "continue",
        "Go on, please",
        "yes, do that",
        "Why?",
        "Make it shorter",
        "Can you please rephrase that?",
        "And what about Portugal?",
        "How about in winter?",
        "Translate the above",
        "Summarize the attached report",
        "Explain this code",
    ],
    "random": [
        "Pick a random colour",
        "Give me a random number between 1 and 50",
        "Roll two dice",
        "Flip a coin",
        "Generate a UUID",
        "shuffle these names",
    ],
}
KEPT = [
    "How deep is the lake?",
    "What is the weather like on Mars?",
    "Why does the price of copper rise?",
    "What is time dilation?",
    "How does a stock exchange work?",
    "Who opened the first bakery?",
    "What does a weather forecast need?",
    "How do I cancel my subscription?",
    "How can I increase my account's security?",
    "How should I write my e-mails?",
    "How do I track my expenses?",
    "What is the fastest way to pay my bills?",
    "How can I help my child to sleep?",
    "What is the meaning of my name being Ruth?",
    "Why is the sky blue?",
    "Make a cake recipe with plums",
    "Translate this to Greek: where is the harbour?",
    "Fix this sentence: him are late",
    "Write a Python function that picks a random element",
    "How does a random number generator work in C++? Show the algorithm",
    "Write a program that rolls two dice",
    "What is the next prime after 31?",
    "Continue the series 2, 4, 8",
    "Yes or no: is a whale a fish?",
    "Explain recursion with an example",
    "What makes news trustworthy?",
]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in REFUSED.items() for text in texts])
def test_what_hangs_on_the_moment_the_person_the_context_or_chance_is_named(kind: str, text: str) -> None:
    assert uncacheable(text) == kind
    assert uncacheable(text.upper()) == kind


@pytest.mark.parametrize("text", KEPT)
def test_general_questions_and_requests_for_programs_are_kept(text: str) -> None:
    assert uncacheable(text) is None


@pytest.mark.parametrize("text", everyday_prompts.REFUSED.splitlines())
def test_everyday_questions_for_the_moment_or_for_ones_own_are_refused(text: str) -> None:
    assert uncacheable(text) is not None
    assert uncacheable(text) == uncacheable(text.upper())


@pytest.mark.parametrize("text", everyday_prompts.KEPT.splitlines())
def test_everyday_questions_with_the_same_words_and_a_lasting_answer_are_kept(text: str) -> None:
    assert uncacheable(text) is None


def test_what_is_quoted_is_talked_about_and_not_asked() -> None:
    assert uncacheable('How do you say "what time is it" in Welsh?') is None
    assert uncacheable("Spell “where is my parcel” backwards") is None
    assert uncacheable("Where is my parcel “to the moon”?") == "personal"
    assert uncacheable('Translate this: "bon voyage"') is None


def test_the_operators_patterns_come_first() -> None:
    extra = (re.compile(r"\bticket \d+"), re.compile("copper"))
    assert uncacheable("Who wrote ticket 17?", extra) == "pattern"
    assert uncacheable("What is the current price of copper?", extra) == "pattern"
    assert uncacheable("Who writes tickets?", extra) is None


def test_a_pasted_document_is_not_the_request_but_its_ends_are() -> None:
    document = "The old mill stands by the river. " * 60
    assert uncacheable(f"Summarise: {document} What time is it? {document}") is None
    assert uncacheable(f"Summarise: {document} And what is the weather like right now?") == "volatile"
    assert uncacheable(f"What is my account balance? {document}") == "personal"


def test_a_long_text_takes_no_time() -> None:
    started = time.process_time()
    for run in ("today ", "my ", "a", " ", "roll ", "the above "):
        uncacheable(run * (40_000 // len(run)))
    assert time.process_time() - started < 1
