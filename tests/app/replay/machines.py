"""The work of a replay done in the test's own process, and logs in our own words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from app.config import GatewayConfig
from app.replay.work import Batch, Comparer, Decider, Encoder, Reader, Work


class OneProcess:
    """Machines without Ray."""

    cores = 1

    def __init__(self, work: Work, config: GatewayConfig) -> None:
        self._work = work
        self._config = config

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def read(self, files: Sequence[str], columns: Mapping[str, str]) -> Iterator[pa.Table]:
        return Reader(columns, self._config)({"index": np.arange(len(files)), "file": np.array(files)})

    def encode(self, pieces: Sequence[Mapping[str, Any]]) -> Iterator[Batch]:
        return Encoder(self._work, self._config)(batch(pieces))

    def decide(self, scopes: Sequence[Mapping[str, Any]]) -> Iterator[Batch]:
        return Decider(self._work, self._config)(batch(scopes))

    def compare(self, pairs: Sequence[Mapping[str, Any]]) -> Iterator[Batch]:
        if pairs:
            yield Comparer(self._work, self._config)(batch(pairs))


def batch(items: Sequence[Mapping[str, Any]]) -> Batch:
    return {name: np.array([item[name] for item in items]) for name in items[0]}


# Each asked by a first client, and then in other words, or with a difference that matters, by the next.
QUESTIONS = [
    ("How do I reset my password?", "Use the link on the login page."),
    ("how do I reset my password", "Use the link on the login page."),
    ("Could you please tell me how do I reset my password?", "Use the link on the login page."),
    ("What is the boiling point of water at sea level?", "100 degrees Celsius."),
    ("At sea level, what is the boiling point of water?", "It boils at 100 degrees Celsius."),
    ("What is the freezing point of water at sea level?", "0 degrees Celsius."),
    ("Convert 30 kilometres to miles", "18.64 miles."),
    ("Convert 35 kilometres to miles", "21.75 miles."),
    ("Write a proof that the square root of two is irrational, and generalise it to all primes.", "Suppose not. " * 40),
    ("What is the weather right now?", "Rain."),
    ("Is Python faster than Java?", "No, mostly not."),
    ("Is Java faster than Python?", "Yes, mostly."),
    ("Who wrote the novel Middlemarch?", "George Eliot."),
    ("Who is the author of the novel Middlemarch?", "George Eliot wrote it."),
    ("hi", "Hello! How can I help?"),
]


def log_of(file: Path, rounds: int = 3) -> Path:
    """Write a log of the questions, some times over, by two tenants and two models, some requests failed."""
    rows = []
    for i in range(rounds * len(QUESTIONS)):
        question, answer = QUESTIONS[(7 * i) % len(QUESTIONS)]
        body = {"model": ("gpt-4-32k", "gpt-3.5-turbo")[i % 2], "messages": [{"role": "user", "content": question}]}
        failed = i % 20 == 19
        said = {"choices": [{"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}]}
        rows.append(
            {
                "timestamp": 1_750_000_000 + 600 * i,
                "tenant": ("acme", "globex")[i % 3 == 2],
                "route": "help",
                "latency_s": 1 + len(answer) / 100,
                "request": body,
                "response": None if failed else {**said, "usage": {"prompt_tokens": 20, "completion_tokens": 30}},
                "status": 500 if failed else 200,
            }
        )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
