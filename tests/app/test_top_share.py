from __future__ import annotations

import random

import pytest

from app.top_share import TopShare


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_the_cut_settles_where_the_best_tier_gets_its_share(share: float) -> None:
    draw, keeper = random.Random(0), TopShare(share, 0.7)
    sent = []
    for _ in range(8000):
        score = draw.betavariate(2, 2)
        sent.append(score >= keeper.cut)
        keeper.add(score, forced=False)
    assert sum(sent[4000:]) / 4000 == pytest.approx(share, rel=0.15)


def test_requests_that_go_to_the_best_tier_anyway_use_up_its_share() -> None:
    draw, keeper = random.Random(0), TopShare(0.1, 0.7)
    sent = []
    for _ in range(8000):
        score, forced = draw.random(), draw.random() < 0.06
        sent.append(forced or score >= keeper.cut)
        keeper.add(score, forced)
    assert sum(sent[4000:]) / 4000 == pytest.approx(0.1, rel=0.15)


def test_a_share_that_is_used_up_leaves_nothing_to_the_scores() -> None:
    keeper = TopShare(0.05, 0.7)
    for _ in range(100):
        keeper.add(0.5, forced=True)
    assert keeper.cut > 1


def test_few_requests_move_nothing() -> None:
    keeper = TopShare(0.05, 0.7)
    for _ in range(99):
        keeper.add(0.1, forced=False)
    assert keeper.cut == 0.7
