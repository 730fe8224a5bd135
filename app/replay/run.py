"""The steps of a replay: read, embed and score, decide, compare. What comes out is a row of facts for each request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from app.config import GatewayConfig
from app.errors import ConfigError
from app.replay.files import find, shown_name
from app.replay.table import BadLines, Columns, Rows, newest, write
from app.replay.work import Batch, Work

T = TypeVar("T")
Progress = Callable[[str, int | None], Callable[[int], None]]  # a step and how much it is, to what is told of each part
MONTH_S = 30.4375 * 86400
_TEXTS_AT_ONCE = 256
_SHARD = 2000  # rows that are enough for a shard of scopes
_COMPARED = 600  # hits, and as many misses, whose logged answers are compared with another's
_NUMBERS = (
    *("time", "text_id", "scope", "entry", "semantic", "storable", "prompt_tokens", "completion_tokens"),
    *(
        "cached_tokens",
        "cache_write_tokens",
        "batch",
        "free",
        "latency_s",
        "ok",
        "counted_tokens",
        "answer_tokens",
        "file",
        "line",
    ),
    *("needed_tokens", "limit", "raised_limit", "added_tokens", "begun", "continued", "anonymous"),
)


class Machines(Protocol):
    """Who does the work: Ray Data (`app/replay/batch.py`), or a test in its own process."""

    cores: int

    def read(self, files: Sequence[str], columns: Mapping[str, str]) -> Iterator[pa.Table]:
        """Read logs into pieces of the table; see `work.Reader`."""
        ...

    def encode(self, pieces: Sequence[Mapping[str, Any]]) -> Iterator[Batch]:
        """Embed and score texts; see `work.Encoder`."""
        ...

    def decide(self, scopes: Sequence[Mapping[str, Any]]) -> Iterator[Batch]:
        """Play scopes through the cache; see `work.Decider`."""
        ...

    def compare(self, pairs: Sequence[Mapping[str, Any]]) -> Iterator[Batch]:
        """Compare logged answers; see `work.Comparer`."""
        ...


Hire = Callable[[Work, GatewayConfig], AbstractContextManager[Machines]]


@dataclass(frozen=True, slots=True)
class Labels:
    """A column of a few texts: an index for each row, `(rows,)`, into the names."""

    index: NDArray[np.int32]
    names: Sequence[str]

    def are(self, wanted: Callable[[str], bool]) -> NDArray[np.bool_]:
        """Say of each row whether its name is wanted."""
        return np.array([wanted(name) for name in self.names], bool)[self.index]


Keep = Callable[[NDArray[Any]], NDArray[Any]]


def _as_it_is(array: NDArray[Any]) -> NDArray[Any]:
    return array


@dataclass(frozen=True, slots=True)
class Replayed:
    """What is known of every request of a log, `(rows,)` each.

    Attributes:
        columns: Numbers of the table, its `time` complete.
        untimed: How many requests the log has no time of.
        left_out: How many older ones it has beside these.
        abilities: What each takes beside text, by commas; `profile` its profile, empty for none.
        reason: The cache's decisions, such as `hit exact`.
        served: The row whose answer was served, or -1.
        near: Of a miss, the row whose answer was nearest to being served, or -1.
        similarity: Cosine to the nearest, and
        evidence: what the threshold was compared with; NaN where there was nothing to compare.
        score: Difficulty.
        compared: Pairs of rows and how their logged answers compare (`work.SAME` and so on), `(pairs, 3)`.
        seconds: What each step took, on so many
        cores: of them.
        keep: Puts an array of a row for each request where there is room for it (`Work.keep`).
    """

    rows: Rows
    files: Sequence[str]
    bad: BadLines
    columns: Columns
    untimed: int
    left_out: int
    tenant: Labels
    route: Labels
    model: Labels
    abilities: Labels
    profile: Labels
    reason: Labels
    served: NDArray[np.int32]
    near: NDArray[np.int32]
    similarity: NDArray[np.float32]
    evidence: NDArray[np.float32]
    score: NDArray[np.float32]
    compared: NDArray[np.int64]
    seconds: Mapping[str, float]
    cores: int
    keep: Keep = _as_it_is

    @property
    def hit(self) -> NDArray[np.bool_]:
        """Which requests the cache answered."""
        return self.reason.are(lambda name: name.startswith("hit "))

    @property
    def exact(self) -> NDArray[np.bool_]:
        """Which of them by the same text."""
        return self.reason.are(lambda name: name == "hit exact")

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which requests had an answer when they were logged, whose latencies count; all, where none had."""
        ok = np.asarray(self.columns["ok"], bool)
        return ok if ok.any() else ~ok

    @property
    def days(self) -> float:
        """How long the log is, at least an hour; one without any time is a month."""
        times = self.columns["time"]
        if self.untimed == len(times):
            return MONTH_S / 86400
        return max(float(times.max() - times.min()), 3600.0) / 86400


def play(
    folder: Path,
    logs: Sequence[str],
    config: GatewayConfig,
    columns: Mapping[str, str],
    progress: Progress,
    hire: Hire,
    clock: Callable[[], float] = time.time,
) -> Replayed:
    """Play logs through the cache and the classifier of a configuration.

    Args:
        folder: Holds what is read of the logs meanwhile; every machine of a cluster must see it.
        hire: Starts the machines that do the work.
        clock: Says when the month of a log without any times has ended.

    Raises:
        ConfigError: A log cannot be read, or none has a request.
    """
    files, work, laps = find(logs), Work(folder), _Laps()
    progress("start", None)
    with hire(work, config) as cluster:
        laps.end("start")
        pieces = _told(cluster.read(files, columns), progress("read", None), len)
        count, bad = write(pieces, work.rows)
        if not count:
            reasons = ", ".join(f"{reason} ({lines})" for reason, lines in bad.reasons.items())
            raise ConfigError(
                f"there is no request in {', '.join(map(shown_name, files))}{': ' if reasons else ''}{reasons}"
            )
        left_out = newest(work.rows, config.replay.max_requests)
        rows = Rows(work.rows)
        numbers = {name: work.keep(rows.column(name)) for name in _NUMBERS}
        times, untimed = _timed(numbers, clock())
        if untimed:
            numbers["time"] = work.keep(times)
        scopes = _arrange(work, numbers)
        laps.end("read")
        scores = _encode(cluster, work, len(work.array("texts")), progress)
        laps.end("embed and score")
        decided = _decide(cluster, work, scopes, len(rows), progress)
        laps.end("decide")
        compared = _compare(cluster, decided, numbers, progress)
        laps.end("compare")
        cores = cluster.cores
    return Replayed(
        rows=rows,
        files=files,
        bad=bad,
        columns=numbers,
        untimed=untimed,
        left_out=left_out,
        **{name: _labels(work, rows, name) for name in ("tenant", "route", "model", "abilities", "profile")},
        reason=decided.reason,
        served=decided.served,
        near=decided.near,
        similarity=decided.similarity,
        evidence=decided.evidence,
        score=work.keep(scores[work.array("text")]),
        compared=compared,
        seconds=laps.seconds,
        cores=cores,
        keep=work.keep,
    )


def _labels(work: Work, rows: Rows, name: str) -> Labels:
    index, names = rows.labels(name)
    return Labels(work.keep(index), names)


def _timed(numbers: Columns, now: float) -> tuple[NDArray[np.float64], int]:
    """Give the rows without a time one between their neighbours', and count them; a log without any gets a month's."""
    times = numbers["time"]
    known = np.isfinite(times)
    if known.all():
        return times, 0
    # in the order of the files and their lines: they are read at the same time, and come mixed
    place = np.empty(len(times))
    place[np.lexsort((numbers["line"], numbers["file"]))] = np.arange(len(place))
    if known.any():
        order = np.argsort(place[known])
        given = place[known][order], times[known][order]
        return np.where(known, times, np.interp(place, *given)), int((~known).sum())
    return now + ((place + 1) / len(place) - 1) * MONTH_S, len(place)


def _arrange(work: Work, numbers: Columns) -> list[dict[str, int]]:
    """Write what the workers need, and cut the scopes into shards, the largest first."""
    _, texts, text = np.unique(numbers["text_id"], return_index=True, return_inverse=True)
    order = np.lexsort((numbers["line"], numbers["file"], numbers["time"], numbers["scope"]))
    changes = np.flatnonzero(np.diff(numbers["scope"][order])) + 1
    scopes = np.concatenate([[0], changes, [len(order)]])
    work.save(texts=texts, text=text.astype(np.int32), order=order, scopes=scopes)
    work.save(**{name: numbers[name] for name in ("time", "entry", "semantic", "storable")})
    shards, first = [], 0
    for last in range(1, len(scopes)):
        if scopes[last] - scopes[first] >= _SHARD or last == len(scopes) - 1:
            shards.append({"first": first, "last": last})
            first = last
    return sorted(shards, key=lambda shard: scopes[shard["first"]] - scopes[shard["last"]])


def _encode(cluster: Machines, work: Work, texts: int, progress: Progress) -> NDArray[np.float32]:
    """Embed every distinct prompt into a file, and return the scores, `(texts,)`."""
    pieces = [{"start": i, "stop": min(i + _TEXTS_AT_ONCE, texts)} for i in range(0, texts, _TEXTS_AT_ONCE)]
    scores = np.zeros(texts, np.float32)
    vectors: NDArray[Any] | None = None
    for batch in _told(cluster.encode(pieces), progress("embed and score", texts), _length):
        if vectors is None:
            vectors = work.new_array("vectors", (texts, batch["vector"].shape[1]), "<f2")
        vectors[batch["text"]] = batch["vector"]
        scores[batch["text"]] = batch["score"]
    return scores


@dataclass(frozen=True, slots=True)
class _Decided:
    reason: Labels
    served: NDArray[np.int32]
    near: NDArray[np.int32]
    similarity: NDArray[np.float32]
    evidence: NDArray[np.float32]


def _decide(
    cluster: Machines, work: Work, shards: Sequence[Mapping[str, int]], rows: int, progress: Progress
) -> _Decided:
    # every row is decided once
    reason, served, near = (work.new_array(name, (rows,), "<i4") for name in ("reason", "served", "near"))
    similarity, evidence = (work.new_array(name, (rows,), "<f4") for name in ("similarity", "evidence"))
    names: dict[str, int] = {}
    for batch in _told(cluster.decide(shards), progress("decide", rows), lambda batch: len(batch["row"])):
        at = batch["row"]
        reason[at] = [names.setdefault(str(name), len(names)) for name in batch["reason"]]
        served[at], near[at] = batch["served"], batch["near"]
        similarity[at], evidence[at] = batch["similarity"], batch["evidence"]
    return _Decided(Labels(reason, list(names)), served, near, similarity, evidence)


def _compare(cluster: Machines, decided: _Decided, numbers: Columns, progress: Progress) -> NDArray[np.int64]:
    """Compare logged answers: of some hits by meaning with what they served, of some misses with what was nearest."""
    answered = numbers["answer_tokens"] >= 0
    meant = decided.reason.are(lambda name: name.startswith("hit ") and name != "hit exact")
    other = np.where(meant, decided.served, decided.near)
    able = answered & (other >= 0) & answered[other]
    drawn = np.random.default_rng(0).permutation(np.arange(len(other)))
    rows = np.concatenate([drawn[(able & those)[drawn]][:_COMPARED] for those in (meant, ~meant)])
    pairs = [{"row": int(row), "served": int(other[row])} for row in rows]
    told = _told(cluster.compare(pairs), progress("compare answers", len(pairs)), lambda batch: len(batch["row"]))
    found = [np.stack([batch["row"], other[batch["row"]], batch["agree"]], axis=1) for batch in told]
    return np.concatenate(found) if found else np.zeros((0, 3), np.int64)


def _length(batch: Batch) -> int:
    return len(batch["text"])


def _told(parts: Iterable[T], tell: Callable[[int], None], size: Callable[[T], int]) -> Iterator[T]:
    for part in parts:
        yield part
        tell(size(part))


class _Laps:
    """How long each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end(self, step: str) -> None:
        """Note the time since the last step ended."""
        now = time.perf_counter()
        self.seconds[step], self._last = round(now - self._last, 2), now
