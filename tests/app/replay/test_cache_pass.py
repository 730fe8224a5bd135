from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app import bundled
from app.cache import CacheConfig
from app.cache.semantic import model_names
from app.embedded_redis import EmbeddedRedis
from app.embedding import OnnxEmbedderConfig
from app.local_cache import LocalCache, question
from app.replay import cache_pass
from app.replay.cache_pass import CachePass, Decision, Visit
from tests.app.replay.machines import QUESTIONS

CONFIG = CacheConfig(threshold=0.9, ttl_s=100)


def visit(row: int, text: str, time: float | None = None, **fields: bool | str) -> Visit:
    """Make a request whose entry is its text."""
    given = {"semantic": True, "refusal": "", "kept": True, **fields}
    return Visit(row, float(row if time is None else time), hash(text) % 2**32, **given)  # type: ignore[arg-type]


def played(
    visits: Sequence[Visit],
    texts: Sequence[str],
    angles: Sequence[float] = (),
    probability: float = 0.5,
    config: CacheConfig = CONFIG,
) -> list[Decision]:
    """Play requests whose vectors have these angles in the plane, each text's own if none are given."""
    turned = angles or [hash(text) % 60 / 10 for text in texts]

    def vectors(rows: Sequence[int]) -> NDArray[np.float32]:
        at = [turned[row] for row in rows]
        return np.stack([np.cos(at), np.sin(at)], axis=1).astype(np.float32).reshape(len(at), 2)

    def verify(pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        return np.full(len(pairs), probability, np.float32)

    run = CachePass(config, vectors, lambda row: texts[row], verify, "space", 2)
    return [decision for decisions in run.play(visits, "acme") for decision in decisions]


def outcome(decision: Decision) -> tuple[str, int]:
    """Return the reason and the row that was served."""
    return f"{decision.lookup.status} {decision.lookup.reason}", decision.served


def test_the_same_text_is_an_exact_hit_from_the_first_one_that_was_stored() -> None:
    texts = ["why is snow white", "why is snow white", "why is snow white"]
    decisions = played([visit(row, text) for row, text in enumerate(texts)], texts, [1, 1, 1])
    assert [outcome(decision) for decision in decisions] == [
        ("miss no candidate", -1),
        ("hit exact", 0),
        ("hit exact", 0),
    ]


def test_an_answer_expires_after_its_time_to_live_and_is_stored_anew() -> None:
    texts = ["why is snow white"] * 4
    times = [0, 99, 101, 200]
    decisions = played([visit(row, texts[row], times[row]) for row in range(4)], texts, [1] * 4)
    assert [outcome(decision)[1] for decision in decisions] == [-1, 0, -1, 2]
    assert decisions[2].lookup.similarity is None


def test_what_may_not_be_kept_serves_nobody_and_what_may_not_be_looked_up_is_not() -> None:
    texts = ["why is snow white"] * 3
    visits = [visit(0, texts[0], kept=False), visit(1, texts[1]), visit(2, texts[2], refusal="volatile")]
    assert [outcome(d) for d in played(visits, texts, [1] * 3)] == [
        ("miss no candidate", -1),
        ("miss no candidate", -1),
        ("bypass volatile", -1),
    ]


def test_texts_that_are_not_matched_by_meaning_are_matched_exactly() -> None:
    texts = ["{result: 5}", "{result: 6}", "{result: 5}"]
    visits = [visit(row, text, semantic=False) for row, text in enumerate(texts)]
    assert [outcome(d) for d in played(visits, texts, [1] * 3)] == [("miss exact only", -1)] * 2 + [("hit exact", 0)]


def test_the_surface_alone_is_a_hit_and_evidence_decides_the_rest() -> None:
    texts = ["who wrote the novel", "Who wrote the novel?", "who is the author of the novel"]
    visits = [visit(row, text) for row, text in enumerate(texts)]
    assert outcome(played(visits, texts, [1, 1, 1.3])[1]) == ("hit surface", 0)
    sure = played(visits, texts, [1, 1, 1.3], probability=0.9)[2]
    assert outcome(sure) == ("hit verified", 0)
    assert sure.lookup.similarity == pytest.approx(np.cos(0.3), abs=1e-6)
    assert sure.lookup.evidence == pytest.approx(np.cos(0.3) + 0.04 * np.log(9), abs=1e-6)


def test_a_miss_that_the_verifier_was_asked_about_names_what_was_nearest_to_a_hit() -> None:
    texts = ["who wrote the novel", "who penned the novel", "who is the author of the novel"]
    decision = played([visit(row, text) for row, text in enumerate(texts)], texts, [1, 1.85, 1.45], probability=0.3)[2]
    assert (*outcome(decision), decision.near) == ("miss unverified", -1, 1)


def test_past_the_limit_the_least_recently_used_goes() -> None:
    texts = [f"question number {row}" for row in range(3)] + ["question number 0", "question number 1"]
    config = CacheConfig(threshold=0.9, max_entries=2)
    visits = [visit(row, text) for row, text in enumerate(texts)]
    decisions = played(visits, texts, [0, 1.5, 3, 0, 1.5], config=config)
    assert [outcome(decision)[0] for decision in decisions] == ["miss no candidate"] * 5
    again = played(
        [visits[0], visits[1], visit(2, texts[0]), visit(3, "new"), visit(4, texts[0])],
        texts,
        [0, 1.5, 0, 3, 0],
        config=config,
    )
    assert [outcome(decision)[1] for decision in again] == [-1, -1, 0, -1, 0]


def test_how_many_are_looked_up_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(3)
    texts = [f"tell me about the topic {draw.choice('abcdefghijkl')}" for _ in range(300)]
    angles = [ord(text[-1]) / 7 + draw.random() / 5 for text in texts]
    config = CacheConfig(threshold=0.9, ttl_s=40, max_entries=9)
    visits = [visit(row, text, row / 2, kept=draw.random() < 0.8) for row, text in enumerate(texts)]
    together = played(visits, texts, angles, 0.9, config)
    monkeypatch.setattr(cache_pass, "_BLOCK", 1)
    one_by_one = played(visits, texts, angles, 0.9, config)
    assert [outcome(d) for d in together] == [outcome(d) for d in one_by_one]
    assert len({outcome(d)[0] for d in together}) > 2


@pytest.mark.redis
@pytest.mark.skipif(bool(bundled.missing()), reason="needs the bundled models; `make setup` prepares them")
async def test_the_hits_are_those_of_the_real_cache_on_the_same_requests(tmp_path: Path) -> None:
    draw = random.Random(5)
    texts = [draw.choice(QUESTIONS)[0] for _ in range(80)]
    config = CacheConfig()
    embedder, verifier = OnnxEmbedderConfig().build(), config.verifier.build()
    vectors = embedder.embed(texts)
    run = CachePass(
        config,
        lambda rows: vectors[list(rows)],
        lambda row: texts[row],
        verifier.verify,
        model_names(embedder.space, verifier.name),
        vectors.shape[1],
    )
    real: list[tuple[str, int]] = []
    with EmbeddedRedis(tmp_path, persistent=False) as redis:
        cache = LocalCache(config, redis.url)
        for row, text in enumerate(texts):
            lookup = await cache.lookup(question(text))
            served = int(lookup.entry.completion.body["id"]) if lookup.entry else -1
            real.append((f"{lookup.status} {lookup.reason}", served))
            if lookup.status == "miss":
                await cache.keep(question(text), str(row), lookup.embedding)
        await cache.close()
    refusals = {row: reason.partition(" ")[2] for row, (reason, _) in enumerate(real) if reason.startswith("bypass")}
    visits = [visit(row, text, refusal=refusals.get(row, "")) for row, text in enumerate(texts)]
    decisions = [decision for block in run.play(visits, "evaluation") for decision in block]
    assert [outcome(decision) for decision in decisions] == real
    assert {"hit exact", "hit surface", "hit verified"} <= {reason for reason, _ in real}
