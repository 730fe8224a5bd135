"""Logs as files: JSONL, CSV or Parquet, plain or compressed, on a disk, in a bucket or behind a URL, row by row."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import pyarrow as pa
from pyarrow import fs

from app.errors import ConfigError

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_ROWS_AT_ONCE = 1000  # of a Parquet file
_LONGEST_CELL = 2**24  # characters

Row = dict[str, Any]


class BadLineError(ValueError):
    """A line that cannot be used; the message says why, without quoting it."""


def find(logs: Sequence[str]) -> list[str]:
    """Return the files of logs; a folder stands for all files in it that have a known ending.

    Raises:
        ConfigError: One is not there, or has an ending that we do not know.
    """
    return [file for log in logs for file in _found(log)]


def _found(log: str) -> Iterator[str]:
    filesystem, path = _located(log)
    if isinstance(filesystem, fs.PyFileSystem):  # a URL: whether it is there shows when it is read
        _kind(log)
        yield log
        return
    try:
        (info,) = filesystem.get_file_info([path])
    except OSError as error:
        raise ConfigError(f"cannot read `{log}`: {error}") from error
    if info.type == fs.FileType.NotFound:
        raise ConfigError(f"cannot read `{log}`: there is no such file")
    if info.type == fs.FileType.File:
        _kind(log)
        yield log
        return
    inside = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    names = sorted(str(entry.path) for entry in inside if entry.type == fs.FileType.File)
    known = [name for name in names if _split(name)[0] in _FORMATS]
    if not known:
        raise ConfigError(f"`{log}` has no files that end in {', '.join(_FORMATS)}")
    scheme, mark, rest = log.partition("://")
    _, asked, options = rest.partition("?")  # such as a store's own `endpoint_override`
    yield from (f"{scheme}://{name}{asked}{options}" if mark else name for name in known)


def read_rows(file: str) -> Iterator[tuple[int, Row | BadLineError]]:
    """Yield each row with the number of its line, or what is wrong with it; empty lines are skipped.

    A file that breaks off, such as a download that was cut, is read as far as it goes.

    Raises:
        ConfigError: The file cannot be read at all.
    """
    last = 0
    try:
        for last, row in _rows(file):
            yield last, row
    except (OSError, pa.ArrowInvalid, EOFError) as error:
        if not last:
            raise ConfigError(f"cannot read `{file}`: {error}") from error
        yield last + 1, BadLineError("the file breaks off here")


def _rows(file: str) -> Iterator[tuple[int, Row | BadLineError]]:
    kind, compression = _kind(file)
    filesystem, path = _located(file)
    if kind == "parquet":
        import pyarrow.parquet as pq

        with filesystem.open_input_file(path) as source:
            batches = pq.ParquetFile(source).iter_batches(_ROWS_AT_ONCE)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
        return
    with filesystem.open_input_stream(path, compression=compression) as stream:
        lines = io.BufferedReader(stream)
        yield from _csv_rows(lines) if kind == "csv" else _json_rows(lines)


def _json_rows(lines: io.BufferedReader) -> Iterator[tuple[int, Row | BadLineError]]:
    if lines.peek(1)[:1] == b"[":  # one array, as some exports have it: read at once
        try:
            yield from enumerate(map(_object, msgspec.json.decode(lines.read(), type=list[Any])), 1)
        except msgspec.DecodeError as error:
            yield 1, BadLineError(f"no JSON array: {error}")
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, _object(msgspec.json.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield number, BadLineError("not JSON")


def _object(value: Any) -> Row | BadLineError:
    return value if isinstance(value, dict) else BadLineError("not a JSON object")


def _csv_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, Row | BadLineError]]:
    csv.field_size_limit(_LONGEST_CELL)
    # what is no UTF-8 costs a character, not the file; `strict` would end the reading there
    reader = csv.DictReader(codecs.iterdecode(lines, "utf-8-sig", "replace"))
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, BadLineError(f"not CSV: {error}")
            continue
        if None in row or None in row.values():
            yield reader.line_num, BadLineError("another number of cells than the head")
        else:
            yield reader.line_num, dict(row)


def _kind(file: str) -> tuple[str, str | None]:
    """Return the format and the compression that a name's ending says."""
    ending, compression = _split(urlsplit(file).path if "://" in file else file)
    if ending not in _FORMATS:
        raise ConfigError(f"`{file}`: what is in it? It should end in {', '.join(_FORMATS)}, plain or with .gz or .zst")
    return _FORMATS[ending], compression


def _split(name: str) -> tuple[str, str | None]:
    path = PurePosixPath(name)
    compression = _COMPRESSIONS.get(path.suffix)
    return (path.with_suffix("") if compression else path).suffix.lower(), compression


def _located(file: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a file, as Ray Data would pick it, and its path there."""
    scheme = urlsplit(file).scheme if "://" in file else ""
    if scheme in ("http", "https"):
        from fsspec.implementations.http import HTTPFileSystem

        return fs.PyFileSystem(fs.FSSpecHandler(HTTPFileSystem())), file
    try:
        if scheme == "file":
            return fs.LocalFileSystem(), unquote(urlsplit(file).path)
        return fs.FileSystem.from_uri(file) if scheme else (fs.LocalFileSystem(), file)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"cannot read `{file}`: {error}") from error
