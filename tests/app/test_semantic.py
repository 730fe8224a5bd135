"""What the semantic cache does with the neighbours that the store finds, the vectors and probabilities being given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from app.bundled import missing
from app.cache import CacheConfig, RedisSemanticCache, RedisStore, cache_key
from app.cache.calibration import Calibration
from app.cache.decision import REACH, Candidate, evidence
from app.cache.semantic import model_names
from app.cache.verifier import VerifierConfig
from app.embedding import OnnxEmbedderConfig
from app.errors import ConfigError
from app.schema import CacheEntry, CacheKey, CacheLookup, Embedding
from tests.fakes import answer, chat

ASKED = "How do I store fresh basil?"
KEPT = "What keeps fresh basil from wilting?"
HELD = "What is the way to hold on to fresh basil?"
OTHER = "Which dishes go well with fresh basil?"


class FakeStore:
    """Neighbours by their text and cosine, nearest first; those in `expired` are gone, others' are `created` then."""

    def __init__(
        self, neighbours: dict[str, float], expired: Sequence[str] = (), created: dict[str, float] | None = None
    ) -> None:
        self.neighbours = neighbours
        self.expired = expired
        self.created = created or {}
        self.counts: list[int] = []
        self.fetched: list[str] = []
        self.touched: list[str] = []

    async def nearest(self, key: CacheKey, embedding: Embedding, count: int) -> list[Candidate]:
        self.counts.append(count)
        return [Candidate(text, cosine) for text, cosine in self.neighbours.items()][:count]

    def touch(self, scope: str, entry: str) -> None:
        self.touched.append(entry)

    async def fetch(self, key: CacheKey, candidates: Sequence[Candidate]) -> list[CacheEntry | None]:
        self.fetched += [candidate.entry for candidate in candidates]
        return [
            None if text in self.expired else CacheEntry(text, answer(text), "local", "", self.created.get(text, 0.0))
            for text in self.fetched
        ]


class FakeVerifier:
    """Gives each stored text its probability, 0.5 if it has none."""

    def __init__(self, probabilities: dict[str, float] | None = None) -> None:
        self.probabilities = probabilities or {}
        self.pairs: list[tuple[str, str]] = []

    async def verify(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        self.pairs += pairs
        return np.array([self.probabilities.get(stored, 0.5) for stored, _ in pairs], np.float32)


async def look_up(
    store: FakeStore,
    verifier: FakeVerifier | None = None,
    config: CacheConfig | None = None,
    threshold: float = 0.9,
    text: str = ASKED,
    steps: int = 0,
    since: float = 0.0,
) -> CacheLookup:
    async def embed(text: str) -> NDArray[np.float32]:
        return np.array([1, 0], np.float32)

    verify = (verifier or FakeVerifier()).verify
    semantic = RedisSemanticCache(
        config or CacheConfig(), cast(RedisStore, store), embed, verify, "plane", threshold, lambda scope: steps
    )
    return await semantic.lookup(cache_key(chat(text).body, "acme"), since)


async def test_without_a_neighbour_there_is_no_candidate_and_the_embedding_is_kept() -> None:
    found = await look_up(FakeStore({}))
    assert found == CacheLookup("miss", "no candidate", embedding=Embedding("plane", np.array([1, 0], "<f4").tobytes()))


async def test_a_surface_that_differs_is_a_hit_that_no_verifier_is_asked_about() -> None:
    verifier = FakeVerifier()
    found = await look_up(FakeStore({KEPT: 0.89, "please, how do i store fresh basil": 0.7}), verifier)
    assert (found.status, found.reason, found.similarity, found.evidence) == ("hit", "surface", 0.7, None)
    assert verifier.pairs == []


async def test_an_answer_that_is_too_old_does_not_hide_a_younger_one() -> None:
    verifier = FakeVerifier({KEPT: 0.99, HELD: 0.99})
    found = await look_up(FakeStore({KEPT: 0.95, HELD: 0.9}, created={KEPT: 50.0, HELD: 100.0}), verifier, since=60.0)
    assert (found.status, found.reason, found.similarity) == ("hit", "verified", 0.9)
    assert verifier.pairs == [(HELD, ASKED)]


async def test_where_all_that_is_near_is_too_old_the_miss_says_so() -> None:
    found = await look_up(FakeStore({KEPT: 0.95}, created={KEPT: 50.0}), since=60.0)
    assert (found.status, found.reason) == ("miss", "older than max-age")


async def test_a_cosine_that_no_verifier_could_turn_is_enough() -> None:
    verifier = FakeVerifier({KEPT: 0.0})
    found = await look_up(FakeStore({KEPT: 0.96}), verifier, threshold=0.96 - REACH)
    assert (found.status, found.reason, found.similarity, verifier.pairs) == ("hit", "similar", 0.96, [])


async def test_between_the_two_the_verifier_reads_the_stored_text_first() -> None:
    verifier = FakeVerifier({KEPT: 0.9})
    found = await look_up(FakeStore({KEPT: 0.89}), verifier)
    assert (found.status, found.reason, found.entry) == ("hit", "verified", CacheEntry(KEPT, answer(KEPT), "local"))
    assert found.evidence == pytest.approx(evidence(0.89, 0.9))
    assert verifier.pairs == [(KEPT, ASKED)]


async def test_a_hit_names_its_entry_within_its_scope() -> None:
    found = await look_up(FakeStore({KEPT: 0.96}))
    assert found.entry_id == f"{cache_key(chat(ASKED).body, 'acme').scope}.{KEPT}"


async def test_where_the_verifier_doubts_the_nearest_the_next_is_read() -> None:
    verifier = FakeVerifier({KEPT: 0.1, HELD: 0.95})
    found = await look_up(FakeStore({KEPT: 0.9, HELD: 0.89}), verifier)
    assert (found.reason, found.entry and found.entry.text) == ("verified", HELD)


async def test_an_unverified_miss_says_the_strongest_evidence_and_the_nearest_cosine() -> None:
    found = await look_up(FakeStore({KEPT: 0.89, HELD: 0.88}), FakeVerifier({KEPT: 0.1, HELD: 0.6}))
    assert (found.status, found.reason, found.similarity) == ("miss", "unverified", 0.89)
    assert found.evidence == pytest.approx(evidence(0.88, 0.6))


async def test_a_miss_by_the_guard_names_its_rule() -> None:
    found = await look_up(FakeStore({"How do I store 3 pots of fresh basil?": 0.97}))
    assert (found.status, found.reason, found.similarity) == ("miss", "guard: number", 0.97)


async def test_too_far_for_any_verifier_is_below_the_threshold() -> None:
    verifier = FakeVerifier({OTHER: 1.0})
    found = await look_up(FakeStore({OTHER: 0.7}), verifier)
    assert (found.status, found.reason, found.similarity, verifier.pairs) == ("miss", "below threshold", 0.7, [])


async def test_a_neighbour_that_has_expired_is_skipped() -> None:
    found = await look_up(FakeStore({KEPT: 0.99, HELD: 0.97}, expired=[KEPT]))
    assert (found.status, found.similarity, found.entry and found.entry.text) == ("hit", 0.97, HELD)


async def test_no_more_neighbours_are_verified_than_configured() -> None:
    verifier = FakeVerifier({KEPT: 0.1, HELD: 0.1, OTHER: 1.0})
    neighbours = {KEPT: 0.89, HELD: 0.89, OTHER: 0.89}
    assert (await look_up(FakeStore(neighbours), verifier, CacheConfig(verified=2))).status == "miss"
    assert [stored for stored, _ in verifier.pairs] == [KEPT, HELD]


async def test_no_more_candidates_are_asked_for_than_configured() -> None:
    store = FakeStore({OTHER: 0.7, KEPT: 0.69})
    await look_up(store, config=CacheConfig(candidates=1))
    assert (store.counts, store.fetched) == ([1], [OTHER])


async def test_a_neighbour_below_the_floor_is_not_even_fetched() -> None:
    store = FakeStore({KEPT: 0.7, HELD: 0.69})
    found = await look_up(store, config=CacheConfig(floor=0.7), threshold=0.6)
    assert (found.status, store.fetched) == ("hit", [KEPT])
    store = FakeStore({KEPT: 0.65})
    found = await look_up(store, config=CacheConfig(floor=0.7), threshold=0.6)
    assert (found.reason, found.similarity, store.fetched) == ("no candidate", 0.65, [])


# The threshold in force


def calibrated(file: Path, models: str) -> CacheConfig:
    Calibration(0.93, 0.01, 0.95, 400, 0, 0.0075, models, "0" * 64).save(file)
    return CacheConfig(calibration=str(file))


def test_the_threshold_is_the_calibrated_one(tmp_path: Path) -> None:
    assert calibrated(tmp_path / "c.json", model_names("e", "v")).threshold_for("e/v") == 0.93


@pytest.mark.parametrize("models", ["e/other", "other/v"])
def test_a_calibration_made_with_other_models_is_refused(tmp_path: Path, models: str) -> None:
    config = calibrated(tmp_path / "c.json", model_names("e", "v"))
    with pytest.raises(ConfigError, match=rf"made with the models e/v, not {models}; run `tierwise calibrate cache`"):
        config.threshold_for(models)


def test_a_threshold_of_the_operator_needs_no_calibration(tmp_path: Path) -> None:
    config = CacheConfig(threshold=0.8, calibration=str(tmp_path / "missing.json"))
    assert config.threshold_for("any/models") == 0.8


@pytest.mark.parametrize(("steps", "status"), [(-2, "hit"), (0, "hit"), (2, "miss")])
async def test_a_scope_s_steps_move_its_threshold(steps: int, status: str) -> None:
    found = await look_up(FakeStore({KEPT: 0.91}), threshold=0.9, steps=steps)
    assert found.status == status
    assert found.evidence == pytest.approx(0.91)


@pytest.mark.parametrize(("threshold", "near"), [(0.915, KEPT), (0.925, None)])
async def test_a_miss_within_a_step_of_the_threshold_brings_the_entry_it_missed(
    threshold: float, near: str | None
) -> None:
    found = await look_up(FakeStore({KEPT: 0.91, HELD: 0.9}), threshold=threshold)
    assert (found.status, found.reason) == ("miss", "unverified")
    assert (found.near.text if found.near else None) == near


def test_the_limit_is_the_calibration_s_unless_the_audit_has_its_own(tmp_path: Path) -> None:
    Calibration(0.9, 0.02, 0.95, 500, 1, 0.01, "a/b", "0").save(tmp_path / "calibration.json")
    assert CacheConfig(calibration=str(tmp_path / "calibration.json")).max_error_rate() == 0.02
    assert CacheConfig.model_validate({"audit": {"max_error_rate": 0.05}}).max_error_rate() == 0.05


LONG = (
    "To {} the second factor of your account, open the settings, choose the page about security, and scroll down to "
    "the part that is called sign-in. Press the button beside the second factor, enter your password once more, and "
    "type the code that we send to the phone number you have given us. The code is good for {} seconds; ask for a new "
    "one if it comes late. You will see a message as soon as it is done, and a mail says when it was changed."
)
LONG_OTHERWISE = (
    "Under Settings > Security > Sign-in there is a switch named Second Factor, which is what you want to enable. It "
    "asks for the password of your account first. We then text a code to your phone, to be typed in in 300 seconds. "
    "Once that has worked, the page shows a green tick and a mail from us confirms the change, with the time and the "
    "place. Should no code come, press Resend; should it never come, the people of the Help Desk can look into it."
)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("The capital of France is Paris.", "Paris is the capital city of France.", True),
        ("It opens at 9.", "It opens at 9 and closes at 17.", True),
        ("To enable it, open Security and switch it on.", "To disable it, open Security and switch it off.", False),
        ("It grows best in shade, in wet soil.", "Its flowers are sold at the market on Mondays.", False),
        ("Water boils at 100 degrees.", "Water boils at 90 degrees.", False),
        (LONG.format("enable", 300), LONG.format("disable", 300), False),
        (LONG.format("enable", 300), LONG.format("enable", 900), False),
        (LONG.format("enable", 300), LONG.format("enable", 300) + " Your devices stay as they are.", None),
        (LONG.format("enable", 300), LONG_OTHERWISE, None),
        ("How to store basil. " * 40, "The history of Rome. " * 40, False),
    ],
)
async def test_answers_agree_by_their_facts_and_their_meaning_if_they_are_read_whole(
    a: str, b: str, same: bool | None
) -> None:
    if "minilm" in missing():
        pytest.skip("the bundled encoder is not prepared; `tierwise prepare` does")
    embedder, verifier = OnnxEmbedderConfig().build(), VerifierConfig().build()

    async def embed(text: str) -> NDArray[np.float32]:
        return cast(NDArray[np.float32], embedder.embed([text])[0])

    async def verify(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        return verifier.verify(pairs)

    semantic = RedisSemanticCache(CacheConfig(), cast(RedisStore, FakeStore({})), embed, verify, "plane", 0.9)
    assert await semantic.agree(a, b) is same
