"""What is shown of single requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.replay.run import Replayed
from app.replay.samples import samples
from tests.app.replay.made import changed, replayed, simulation
from tests.fakes import CONFIG


class Prompts:
    """Rows of which only the prompts are asked for."""

    def __init__(self, *prompts: str) -> None:
        self._prompts = prompts

    def value(self, name: str, row: int) -> str:
        return self._prompts[row]


def of(*prompts: str, **fields: Any) -> Replayed:
    distinct = list(dict.fromkeys(prompts))
    digests = np.array([distinct.index(prompt) for prompt in prompts], np.uint64)
    return replayed(len(prompts), text_id=digests, rows=Prompts(*prompts), **fields)


def test_wordings_that_share_answers_save_together() -> None:
    made = of(
        *("Who?", "who", "who", "What?", "Who then?", "What?"),
        reasons=["miss x", "hit surface", "hit exact", "miss x", "hit verified", "hit exact"],
        served=[-1, 0, 1, -1, 0, 3],
        evidence=[np.nan, np.nan, np.nan, np.nan, 1.0, np.nan],
    )
    who, what = samples(simulation(made), redact=False)["clusters"]
    assert (who["prompt"], who["texts"], who["hits"]) == ("Who?", 3, 3)
    assert (what["prompt"], what["texts"], what["hits"]) == ("What?", 1, 1)
    assert who["saved_usd"] == pytest.approx(3 * 0.002)


def test_a_redacted_text_is_a_number_and_a_length() -> None:
    made = of("secret", "secret", reasons=["miss x", "hit exact"], served=[-1, 0])
    drawn = samples(simulation(made), redact=True)
    assert drawn["clusters"][0]["prompt"] == drawn["hits"][0]["asked"] == "[text 1, 6 characters]"


@pytest.mark.parametrize(
    ("routing", "why"),
    [
        ({}, "score 0.100 is below 0.3"),
        ({"tenants": {"acme": {"cuts": [0.2, 0.5]}}}, "score 0.100 is below 0.2"),
        ({"tenants": {"acme": {"floor": "mid"}}}, "the tenant's floor; score 0.100"),
    ],
)
def test_a_prompt_that_went_down_says_why(routing: dict[str, Any], why: str) -> None:
    (drawn,) = samples(simulation(of("Why?", score=[0.1]), changed(routing=routing)), redact=False)["down_routed"]
    assert (drawn["prompt"], drawn["reason"], drawn["model_before"]) == ("Why?", why, "large")


def test_a_tier_that_takes_what_the_cheaper_one_does_not_is_named_by_that() -> None:
    tiers = CONFIG.model_dump(exclude_defaults=True)["tiers"]
    config = changed(tiers=[{**tiers[0], "abilities": []}, *tiers[1:]])
    (drawn,) = samples(simulation(of("Why?", score=[0.1], abilities=["tools"]), config), redact=False)["down_routed"]
    assert drawn["reason"].startswith("tools: ")


def test_a_text_is_shown_once() -> None:
    made = of("Why?", "Why?", "How?", "Why?", score=[0.1] * 4)
    drawn = samples(simulation(made), redact=False)["down_routed"]
    assert sorted(row["prompt"] for row in drawn) == ["How?", "Why?"]
