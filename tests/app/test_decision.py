from __future__ import annotations

import pytest

from app.cache.decision import LONGEST_VERIFIED, REACH, SURFACE, Screening, evidence, screen, settled

LONG = "Summarise the story of a fox who " + "ran and " * 60 + "slept"


def test_nothing_stored_leaves_nothing_to_decide() -> None:
    assert screen("How deep is the lake?", []) == Screening(None, (), None)


def test_a_text_that_differs_on_the_surface_alone_is_the_same() -> None:
    stored = ["How wide is the lake?", "Hi, HOW DEEP is the lake??"]
    assert screen("how deep is the lake", stored).same == 1


def test_texts_that_no_rule_refuses_are_grey_and_nearest_first() -> None:
    stored = ["What depth does the lake have?", "How deep are 2 lakes?", "The lake, how deep is it?"]
    assert screen("How deep is the lake?", stored) == Screening(None, (0, 2), "guard: number")


def test_the_rule_that_refused_the_nearest_is_the_one_named() -> None:
    stored = ["How do I lock the 2 doors?", "How do I unlock the 3 doors?"]
    assert screen("How do I unlock the 2 doors?", stored).refused == "guard: opposite"
    assert screen("How do I unlock the 2 doors?", stored[::-1]).refused == "guard: number"


def test_the_guard_comes_before_the_surface() -> None:
    assert screen("what does tar -c do", ["What does tar -C do?"]) == Screening(None, (), "guard: code")


def test_a_text_too_long_for_the_verifier_serves_only_the_same_text() -> None:
    assert len(LONG) > LONGEST_VERIFIED
    assert screen("Tell the story of a fox", [LONG]) == Screening(None, (), "too long to verify")
    assert screen(LONG, ["Tell the story of a fox"]) == Screening(None, (), "too long to verify")
    assert screen(f"Please, {LONG}!", [LONG]).same == 0


def test_a_doubtful_verifier_asks_for_a_higher_cosine_and_a_certain_one_for_a_lower() -> None:
    assert evidence(0.9, 0.2) < evidence(0.9, 0.5) == 0.9 < evidence(0.9, 0.8)


@pytest.mark.parametrize("probability", [0.0, 0.001, 0.5, 0.999, 1.0])
def test_no_certainty_moves_the_cosine_by_more_than_its_reach(probability: float) -> None:
    assert abs(evidence(0.9, probability) - 0.9) <= REACH + 1e-9 < 0.2
    assert evidence(1.0, probability) < SURFACE


@pytest.mark.parametrize(
    ("similarity", "settled_as"), [(0.9 + REACH + 1e-9, True), (0.9, None), (0.9 - REACH - 1e-9, False)]
)
def test_the_verifier_is_asked_only_where_it_can_turn_the_decision(similarity: float, settled_as: bool | None) -> None:
    assert settled(similarity, 0.9) is settled_as
    outcomes = {evidence(similarity, probability) >= 0.9 for probability in (0.0, 1.0)}
    assert outcomes == ({True, False} if settled_as is None else {settled_as})
