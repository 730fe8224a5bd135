"""The benchmarks' own parts: the scripted upstream, the client and the pass-through; no figure of theirs is checked."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from app.benchmark.load import Asking, UnexpectedAnswerError, play
from app.benchmark.overhead import listening
from app.benchmark.peers import ratios
from app.benchmark.prompts import REWORDED, STORED, fresh
from app.ports import free_port
from tests.waiting import eventually


@contextmanager
def running(module: str, *arguments: str) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, "-m", f"app.benchmark.{module}", str(port), *arguments])
    try:
        assert eventually(lambda: listening(url), 20)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def urls() -> Iterator[tuple[str, str]]:
    """The scripted upstream, and the pass-through before it."""
    with ExitStack() as stack:
        upstream = stack.enter_context(running("upstream"))
        yield upstream, stack.enter_context(running("passthrough", upstream))


def seen(upstream: str) -> int:
    with urllib.request.urlopen(f"{upstream}/requests", timeout=5) as answer:
        return int(json.load(answer))


@pytest.mark.parametrize("stream", [False, True])
def test_every_request_of_the_client_passes_to_the_upstream(urls: tuple[str, str], stream: bool) -> None:
    upstream, passthrough = urls
    before = seen(upstream)
    figures = play(passthrough, fresh(), 4, 0.2, asking=Asking(stream=stream))
    assert figures["requests"] == seen(upstream) - before > 0
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]


def test_answers_that_took_another_path_end_the_measurement(urls: tuple[str, str]) -> None:
    with pytest.raises(UnexpectedAnswerError, match="100%"):
        play(urls[0], fresh(), 1, 0.1, {"x-tierwise-cache": "hit"})


def test_a_failure_ends_the_measurement() -> None:
    with running("passthrough", "http://127.0.0.1:9") as url, pytest.raises(UnexpectedAnswerError, match="500"):
        play(url, fresh(), 1, 0.1)


def test_no_question_is_asked_that_another_case_has_stored() -> None:
    ask = fresh()
    assert not {*STORED, *REWORDED} & {ask() for _ in range(1000)}
    assert not set(STORED) & set(REWORDED)


def test_rates_are_compared_at_their_best_and_latencies_alone() -> None:
    def at(rps: float, p50_ms: float = 1.0) -> dict[str, float]:
        return {"rps": rps, "p50_ms": p50_ms}

    result = {
        "litellm": {
            "plain": {"c1": at(20), "c8": at(50)},
            "streamed": {"c1": at(10), "c8": at(5)},
            "exact_hit": {"c1": at(40, 20.0), "c8": at(60, 100.0)},
        },
        "tierwise": {
            "exact_hit": {"c1": at(600, 1.0), "c8": at(1200, 5.0)},
            "semantic_hit": {"c1": at(60), "c8": at(180)},
            "miss": {"c1": at(40), "c8": at(100)},
            "streamed_miss": {"c1": at(30), "c8": at(20)},
        },
    }
    assert ratios(result) == {
        "exact_hit_rps": 20.0,
        "exact_hit_p50": 0.05,
        "semantic_hit_rps": 3.0,
        "miss_rps": 2.0,
        "streamed_miss_rps": 3.0,
    }
