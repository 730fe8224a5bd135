"""A log as a table on disk: what the simulation needs of each request, so that a log of any size is read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from app.cache import CacheConfig, cache_key
from app.cache.policy import lookup_refusal, storable
from app.replay.files import BadLineError, Row, read_rows
from app.replay.shapes import Record, read_record
from app.schema import ChatRequest, Completion
from app.wire import last_user_text, message_text

# `error` is the reason of a line that could not be read, whose other fields are empty. NaN and -1 are unknown.
SCHEMA = pa.schema(
    [
        ("file", pa.int32()),
        ("line", pa.int64()),
        ("error", pa.string()),
        ("time", pa.float64()),
        ("tenant", pa.string()),
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
        ("tools", pa.bool_()),
        ("prompt_tokens", pa.float64()),
        ("completion_tokens", pa.float64()),
        ("cached_tokens", pa.float64()),
        ("batch", pa.bool_()),
        ("latency_s", pa.float64()),
        ("ok", pa.bool_()),
        ("prompt_chars", pa.int64()),
        ("answer_chars", pa.int64()),
    ]
)
_EMPTY = {field.name: {"string": "", "double": float("nan"), "bool": False}.get(str(field.type), 0) for field in SCHEMA}
BATCH = 1000  # rows of a batch in the file; all but the last have as many
Columns = dict[str, NDArray[Any]]


def tables(index: int, file: str, columns: Mapping[str, str], config: CacheConfig) -> Iterator[pa.Table]:
    """Read a log in pieces of the table.

    Args:
        index: The place of the file among the logs.
    """
    batch: list[dict[str, Any]] = []
    for line, row in read_rows(file):
        batch.append({**_EMPTY, **_fields(row, columns, config), "file": index, "line": line})
        if len(batch) == BATCH:
            yield pa.Table.from_pylist(batch, SCHEMA)
            batch = []
    if batch:
        yield pa.Table.from_pylist(batch, SCHEMA)


def _fields(row: Row | BadLineError, columns: Mapping[str, str], config: CacheConfig) -> dict[str, Any]:
    try:
        if isinstance(row, BadLineError):
            raise row
        return _of(read_record(row, columns), config)
    except BadLineError as error:
        return {"error": str(error)}
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        return {"error": f"a field of another type than it should have ({type(error).__name__})"}


def _of(record: Record, config: CacheConfig) -> dict[str, Any]:
    body = {**record.body, "model": record.body["model"] or "auto"}
    tenant = record.tenant or "default"
    prompt = last_user_text(body["messages"])
    request = ChatRequest(body, tenant, prompt)
    key = cache_key(body, tenant)
    refusal = lookup_refusal(request, config)
    answer = dict(record.answer) if record.answer else None
    kept = record.ok and refusal is None if answer is None else storable(request, Completion(answer, ""), config)
    said = answer["choices"][0]["message"] if answer else None
    return {
        "time": float("nan") if record.time is None else record.time,
        "tenant": tenant,
        "route": record.route,
        "model": record.body["model"],
        "prompt": prompt,
        "message": msgspec.json.encode(said).decode() if said else "",
        "structured": ((body.get("response_format") or {}).get("type") or "text") != "text",
        "text_id": int.from_bytes(hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=8).digest(), "little"),
        "scope": int(key.scope[:16], 16),
        "entry": int(key.entry[:16], 16),
        "semantic": key.semantic,
        "refusal": refusal or "",
        "storable": kept and record.ok,
        "tools": bool(body.get("tools")),
        "prompt_tokens": _known(record.prompt_tokens),
        "completion_tokens": _known(record.completion_tokens if record.ok else record.completion_tokens or 0),
        "cached_tokens": _known(record.cached_tokens),
        "batch": record.batch,
        "latency_s": _known(record.latency_s),
        "ok": record.ok,
        "prompt_chars": sum(len(message_text(message)) for message in body["messages"]),
        "answer_chars": len(str(said.get("content") or "")) if said else -1,
    }


def _known(number: float | None) -> float:
    return float("nan") if number is None else float(number)


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


class Rows:
    """The written rows, mapped into memory: the system reads what is asked for, and forgets it when it must."""

    def __init__(self, file: Path) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(file)))
        self._batches = [self._reader.get_batch(i) for i in range(self._reader.num_record_batches)]

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    def value(self, name: str, row: int) -> Any:
        """Return one field of one row."""
        batch, within = divmod(row, BATCH)
        return self._batches[batch].column(name)[within].as_py()

    def columns(self, *names: str) -> Columns:
        """Return columns of numbers and flags, each `(rows,)`."""
        return {
            name: np.concatenate([batch.column(name).to_numpy(zero_copy_only=False) for batch in self._batches])
            for name in names
        }

    def labels(self, name: str) -> tuple[NDArray[np.int32], Sequence[str]]:
        """Return a column of a few texts as indices, `(rows,)`, into the texts."""
        column = pa.chunked_array([batch.column(name) for batch in self._batches], pa.string())
        encoded = column.dictionary_encode().combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.chunk(0)
        return encoded.indices.to_numpy().astype(np.int32), encoded.dictionary.to_pylist()
