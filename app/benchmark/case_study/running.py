"""The scripted models and the gateway of the case, and traffic played before them."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from app.benchmark.case_study.client import Answer, Seconds, play, seconds_of
from app.benchmark.case_study.traffic import Asked
from app.benchmark.case_study.upstream import Call, Pace, Script
from app.benchmark.overhead import upstream_process
from app.config import ServeFile

T = TypeVar("T")
BEFORE = "gpt-4-32k"  # the model that the application asks for
FAULT_RATE = 0.009
START = datetime(2024, 3, 4, 9, tzinfo=UTC)  # a working day when these models and prices were current
_SETTLED_S = 1.0  # after the last answer, for what is still written


@dataclass(frozen=True, slots=True)
class Run:
    """Requests, what came of each, and the calls that the upstreams had."""

    requests: Sequence[Asked]
    answers: Sequence[Answer]
    seconds: Sequence[Seconds]
    calls: Sequence[Call]

    def after(self, count: int) -> Run:
        """Leave out the first requests."""
        return Run(self.requests[count:], self.answers[count:], self.seconds[count:], self.calls)


def script(file: ServeFile, requests: Sequence[Asked], speed: float, seed: int) -> Script:
    """Return what the upstreams do: the speeds that the configuration assumes, gpt-4's for the model before."""
    paces = {}
    for tier in file.config.tiers:
        model = file.config.replay.latency[tier.name]
        paces[next(iter(tier.models()))] = Pace(model.first_token_s, model.output_tokens_per_s)
    paces[BEFORE] = paces[next(iter(file.config.tiers[-1].models()))]
    answers = {asked.text: (asked.question.meaning, asked.question.tokens) for asked in requests}
    return Script(speed, FAULT_RATE, paces, answers, seed)


@contextlib.contextmanager
def scripted_models(file: ServeFile, wanted: Script, folder: Path) -> Iterator[str]:
    """Run the scripted models where the file's targets expect them; gives their URL."""
    path = folder / "script.json"
    path.write_bytes(msgspec.json.encode(wanted))
    with upstream_process(file, "app.benchmark.case_study.upstream", str(path)) as url:
        yield url


def played(url: str, upstream: str, requests: Sequence[Asked], speed: float) -> Run:
    """Ask all requests of a server whose models are `upstream`."""
    answers = play(url, requests, speed, BEFORE)
    time.sleep(_SETTLED_S)
    with urllib.request.urlopen(f"{upstream}/calls", timeout=60) as answer:
        calls = msgspec.json.decode(answer.read(), type=list[Call])
    return Run(requests, answers, seconds_of(requests, answers, calls), calls)


def write_log(file: Path, run: Run) -> None:
    """Write what an application's own log would have of a run, by the case's clock."""
    with file.open("wb") as lines:
        for row in _rows(run):
            lines.write(msgspec.json.encode(row) + b"\n")


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    for asked, answer, seconds in zip(run.requests, run.answers, run.seconds, strict=True):
        yield {
            "time": (START + timedelta(seconds=asked.at_s)).isoformat(),
            "tenant": "company",
            "route": asked.question.route,
            "request": asked.body(BEFORE),
            "response": answer.completion or {"usage": {"prompt_tokens": 0, "completion_tokens": 0}},
            "latency_s": round(seconds.total_s, 4),
            "status": 200 if answer.ok else answer.status or 503,
        }
