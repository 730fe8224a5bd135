"""A log as a table on disk: what the simulation needs of each request, so that a log of any size is read once."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from app.replay.files import BadLineError, Row, read_rows
from app.replay.requests import Gate
from app.replay.shapes import read_record

# `error` is the reason of a line that could not be read, whose other fields are empty. NaN and -1 are unknown.
SCHEMA = pa.schema(
    [
        ("file", pa.int32()),
        ("line", pa.int64()),
        ("error", pa.string()),
        ("time", pa.float64()),
        ("tenant", pa.string()),
        ("anonymous", pa.bool_()),  # the log does not say whose it was
        ("route", pa.string()),
        ("model", pa.string()),
        ("prompt", pa.string()),
        ("message", pa.string()),  # the answer's, as JSON; empty without one
        ("structured", pa.bool_()),
        ("text_id", pa.uint64()),
        ("scope", pa.uint64()),
        ("entry", pa.uint64()),
        ("semantic", pa.bool_()),
        ("refusal", pa.string()),  # why the cache must not be asked; empty if it may
        ("storable", pa.bool_()),
        ("abilities", pa.string()),  # what it takes beside text, by commas
        ("needed_tokens", pa.int32()),  # of its prompt and the longest answer that it asks for
        ("profile", pa.string()),
        ("limit", pa.int32()),  # the profile's, on the answer; 0 for none
        ("raised_limit", pa.int32()),  # for a second try, where that cuts it; 0 for no second try
        ("added_tokens", pa.int32()),  # to the prompt, by its profile; below 0 those left out
        ("begun", pa.uint64()),  # the conversation that it goes on with; 0 for none
        ("continued", pa.uint64()),  # and that of the next turn; 0 if the answer is not known
        ("prompt_tokens", pa.float32()),
        ("completion_tokens", pa.float32()),
        ("cached_tokens", pa.float32()),
        ("cache_write_tokens", pa.float32()),
        ("batch", pa.bool_()),
        ("free", pa.bool_()),  # a cache that the log is of had the answer
        ("latency_s", pa.float32()),
        ("ok", pa.bool_()),
        ("counted_tokens", pa.int32()),  # of the prompt, where the log does not say
        ("answer_tokens", pa.int32()),  # of the answer, likewise; -1 without an answer
    ]
)
_EMPTY = {
    field.name: {"string": "", "double": float("nan"), "float": float("nan"), "bool": False}.get(str(field.type), 0)
    for field in SCHEMA
}
# What reading a row may raise when a field of it is nothing that we know.
_UNFIT = (TypeError, ValueError, KeyError, AttributeError, RecursionError, ArithmeticError, pa.ArrowException)
_MOST_LINES = 2.0**40  # of a file
_OPEN = 500  # batches whose description is kept at hand
BATCH = 1000  # rows of a batch in the file; all but the last have as many
Columns = dict[str, NDArray[Any]]


def tables(index: int, file: str, columns: Mapping[str, str], gate: Gate) -> Iterator[pa.Table]:
    """Read a log in pieces of the table.

    Args:
        index: The place of the file among the logs.
        gate: Says what the gateway would make of each request.
    """
    batch: list[dict[str, Any]] = []
    for line, row in read_rows(file):
        batch.append({**_EMPTY, **_fields(row, columns, gate), "file": index, "line": line})
        if len(batch) == BATCH:
            yield _table(batch)
            batch = []
    if batch:
        yield _table(batch)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make a piece of the table; a row with a value that no column can hold becomes a bad line."""
    try:
        return pa.Table.from_pylist(rows, SCHEMA)
    except _UNFIT as error:
        if len(rows) > 1:
            return pa.concat_tables(_table([row]) for row in rows)
        bad = {"file": rows[0]["file"], "line": rows[0]["line"], "error": _unfit(error)}
        return pa.Table.from_pylist([{**_EMPTY, **bad}], SCHEMA)


def _fields(row: Row | BadLineError, columns: Mapping[str, str], gate: Gate) -> dict[str, Any]:
    try:
        if isinstance(row, BadLineError):
            raise row
        return gate.fields(read_record(row, columns))
    except BadLineError as error:
        return {"error": str(error)}
    except _UNFIT as error:
        return {"error": _unfit(error)}


def _unfit(error: Exception) -> str:
    return f"a field of another type or size than it should have ({type(error).__name__})"


@dataclass(frozen=True, slots=True)
class BadLines:
    """Lines that could not be read.

    Attributes:
        reasons: How many for each reason.
        first: Some of them: the place of the file, the line, the reason.
    """

    reasons: dict[str, int]
    first: list[tuple[int, int, str]]

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.reasons.values())


_SHOWN = 20


def write(pieces: Iterable[pa.Table], file: Path) -> tuple[int, BadLines]:
    """Write the readable rows to a file, and count the others; return how many were written."""
    reasons: dict[str, int] = {}
    shown: list[tuple[int, int, str]] = []
    rows, rest = 0, SCHEMA.empty_table()
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for piece in pieces:
            good = pa.compute.equal(piece["error"], "")
            for bad in piece.filter(pa.compute.invert(good)).select(["file", "line", "error"]).to_pylist():
                reasons[bad["error"]] = reasons.get(bad["error"], 0) + 1
                shown.append((bad["file"], bad["line"], bad["error"]))
            shown = sorted(shown)[:_SHOWN]
            rest = pa.concat_tables([rest, piece.filter(good)])
            whole = len(rest) - len(rest) % BATCH
            if whole:
                writer.write_table(rest.slice(0, whole).combine_chunks(), BATCH)
                rows, rest = rows + whole, rest.slice(whole)
        writer.write_table(rest.combine_chunks(), BATCH)
    return rows + len(rest), BadLines(reasons, shown)


def newest(file: Path, count: int) -> int:
    """Leave the newest `count` rows alone in a written table, in little memory; return how many older ones are gone.

    A row without a time is as old as the one before it. Where none has a time, the last files and lines are the newest.
    """
    rows = Rows(file)
    over = len(rows) - count
    if over <= 0:
        return 0
    with tempfile.TemporaryFile(dir=file.parent) as spare:
        ranked = np.memmap(spare, np.float64, "w+", shape=(len(rows),))
        for part, ages in zip(_batches(ranked), rows.ages(), strict=True):
            part[:] = ages
        ranked.partition(over)  # in its place: neither it nor the table is ever in memory
        oldest = float(ranked[over])
        ties = sum(int((part == oldest).sum()) for part in _batches(ranked[over:]))
    shorter = file.with_suffix(".newest")
    write(_younger(rows, oldest, ties), shorter)
    shorter.replace(file)
    return over


def _younger(rows: Rows, oldest: float, ties: int) -> Iterator[pa.Table]:
    """Yield the rows that are younger than that, and so many that are as old."""
    for ages, table in zip(rows.ages(), rows.tables(), strict=True):
        taken = ages > oldest
        tied = np.flatnonzero(ages == oldest)[:ties]
        taken[tied], ties = True, ties - len(tied)
        yield table.filter(pa.array(taken))


def _batches(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (array[start : start + BATCH] for start in range(0, len(array), BATCH))


class Rows:
    """The written rows, mapped into memory: the system reads what is asked for, and forgets it when it must."""

    def __init__(self, file: Path) -> None:
        self._source = pa.memory_map(str(file))
        self._reader = pa.ipc.open_file(self._source)
        self._batch = functools.lru_cache(_OPEN)(self._reader.get_batch)

    def __len__(self) -> int:
        batches = self._reader.num_record_batches
        return (batches - 1) * BATCH + len(self._batch(batches - 1)) if batches else 0

    def value(self, name: str, row: int) -> Any:
        """Return one field of one row."""
        batch, within = divmod(row, BATCH)
        return self._batch(batch).column(name)[within].as_py()

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of numbers or flags, `(rows,)`."""
        kind = np.dtype(SCHEMA.field(name).type.to_pandas_dtype())
        column, start = np.empty(len(self), kind), 0
        for part in self._parts(name):
            column[start : start + len(part)] = part.to_numpy(zero_copy_only=False)
            start += len(part)
        return column

    def labels(self, name: str) -> tuple[NDArray[np.int32], Sequence[str]]:
        """Return a column of a few texts as indices, `(rows,)`, into the texts."""
        names: dict[str, int] = {}
        index, start = np.empty(len(self), np.int32), 0
        for part in self._parts(name):
            encoded = part.dictionary_encode()
            places = [names.setdefault(text, len(names)) for text in encoded.dictionary.to_pylist()]
            index[start : start + len(part)] = np.array(places, np.int32)[encoded.indices.to_numpy()]
            start += len(part)
        return index, list(names)

    def ages(self) -> Iterator[NDArray[np.float64]]:
        """Yield of each batch numbers that are larger for newer rows; see `newest`."""
        timed = any(np.isfinite(part.to_numpy()).any() for part in self._parts("time"))
        last = -np.inf
        for times, files, lines in zip(*map(self._parts, ("time", "file", "line")), strict=True):
            if not timed:
                yield files.to_numpy() * _MOST_LINES + lines.to_numpy()
                continue
            ages = np.concatenate([[last], times.to_numpy()])
            known = np.isfinite(ages)
            known[0] = True
            ages = ages[np.maximum.accumulate(np.where(known, np.arange(len(ages)), 0))]
            last = ages[-1]
            yield ages[1:]

    def tables(self) -> Iterator[pa.Table]:
        """Yield the batches whole."""
        return (pa.Table.from_batches([self._reader.get_batch(i)]) for i in range(self._reader.num_record_batches))

    def _parts(self, name: str) -> Iterator[pa.Array]:
        wanted = pa.ipc.IpcReadOptions(included_fields=[SCHEMA.get_field_index(name)])
        reader = pa.ipc.open_file(self._source, options=wanted)
        return (reader.get_batch(i).column(0) for i in range(reader.num_record_batches))
