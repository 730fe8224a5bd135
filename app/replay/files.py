"""Logs as files: JSONL, CSV or Parquet, plain or compressed, on a disk, in a bucket or behind a URL, row by row."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec
import pyarrow as pa
from pyarrow import fs

from app.errors import ConfigError

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_ROWS_AT_ONCE = 1000  # of a Parquet file
_LONGEST_CELL = 2**24  # characters
_ARRAY_BYTES = 2**20  # of a JSON array that are read at once
_LONGEST_VALUE = 2**28  # bytes of one in it; where a bracket is missing, the rest is none
# A whole string, or what opens, ends or parts a value; a quotation mark alone is a string that is cut.
_MARKS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)

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
        raise ConfigError(f"cannot read `{shown_name(log)}`: {error}") from error
    if info.type == fs.FileType.NotFound:
        raise ConfigError(f"cannot read `{shown_name(log)}`: there is no such file")
    if info.type == fs.FileType.File:
        _kind(log)
        yield log
        return
    inside = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    names = sorted(str(entry.path) for entry in inside if entry.type == fs.FileType.File)
    known = [name for name in names if _split(name)[0] in _FORMATS]
    if not known:
        raise ConfigError(f"`{shown_name(log)}` has no files that end in {', '.join(_FORMATS)}")
    scheme, mark, rest = log.partition("://")
    _, asked, options = rest.partition("?")  # such as a store's own `endpoint_override`
    user, at, _ = urlsplit(log).netloc.rpartition("@")
    yield from (f"{scheme}://{user}{at}{quote(name)}{asked}{options}" if mark else name for name in known)


def shown_name(file: str) -> str:
    """Return the name of a log without what may be secret in its URL: who asks, and what is signed."""
    if "://" not in file:
        return file
    parts = urlsplit(file)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


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
    except (OSError, pa.ArrowException, EOFError) as error:
        if not last:
            raise ConfigError(f"cannot read `{shown_name(file)}`: {error}") from error
        yield last + 1, BadLineError("the file breaks off here")


def _rows(file: str) -> Iterator[tuple[int, Row | BadLineError]]:
    kind, compression = _kind(file)
    filesystem, path = _located(file)
    if kind == "parquet":
        import pyarrow.parquet as pq

        with filesystem.open_input_file(path) as source:
            batches = pq.ParquetFile(source).iter_batches(_ROWS_AT_ONCE)
            yield from enumerate((row for batch in batches for row in _parquet_rows(batch)), 1)
        return
    with filesystem.open_input_stream(path, compression=compression) as stream:
        lines = io.BufferedReader(stream)
        yield from _csv_rows(lines) if kind == "csv" else _json_rows(lines)


def _parquet_rows(batch: pa.RecordBatch) -> Iterator[Row | BadLineError]:
    try:
        yield from batch.to_pylist()
    except (ValueError, ArithmeticError, pa.ArrowException):  # such as a text that is no UTF-8, a date of year 10000
        if batch.num_rows == 1:
            yield BadLineError("a cell that cannot be read")
            return
        for row in range(batch.num_rows):
            yield from _parquet_rows(batch.slice(row, 1))


def _json_rows(lines: io.BufferedReader) -> Iterator[tuple[int, Row | BadLineError]]:
    head = lines.peek(1).removeprefix(codecs.BOM_UTF8)
    array = head.lstrip()[:1] == b"["  # one array, as some exports have it
    for number, line in enumerate(_elements(lines) if array else lines, 1):
        text = line.removeprefix(codecs.BOM_UTF8).strip()
        if text:
            yield number, _object(text)


def _object(text: bytes) -> Row | BadLineError:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return BadLineError("not JSON")
    return value if isinstance(value, dict) else BadLineError("not a JSON object")


def _elements(stream: io.BufferedReader) -> Iterator[bytes]:
    """Cut a JSON array into its values as they stand there, one in memory at a time; another may follow it.

    Raises:
        EOFError: It breaks off.
    """
    text, start, at, depth = b"", 0, 0, 0  # what is read, where the value begins, and what was looked at
    while more := stream.read(_ARRAY_BYTES):
        text, start, at = text[start:] + more, 0, at - start
        for mark in _MARKS.finditer(text, at):
            sign = mark[0]
            if sign == b'"':  # of a string whose end is yet to come
                at = mark.start()
                break
            at = mark.end()
            depth = max(0, depth + (sign in b"[{") - (sign in b"]}"))
            if depth == 0 and sign == b"}":
                depth = 1  # one too many, which shows when the value is read
            elif depth == 1 and sign == b"[":
                start = at  # the array begins
            elif depth == 0 or (depth == 1 and sign == b","):
                yield text[start : mark.start()]
                start = at
        if len(text) - start > _LONGEST_VALUE:
            break
    if depth or text[start:].strip():
        raise EOFError("the array has no end")


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
        raise ConfigError(
            f"`{shown_name(file)}`: what is in it? It should end in {', '.join(_FORMATS)}, plain or with .gz or .zst"
        )
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
        raise ConfigError(f"cannot read `{shown_name(file)}`: {error}") from error
