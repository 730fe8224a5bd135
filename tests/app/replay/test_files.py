from __future__ import annotations

import bz2
import gzip
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import ConfigError
from app.replay import files
from app.replay.files import BadLineError, find, read_rows

LINES = b'{"prompt": "What is a monad?"}\n\n{"prompt": "And a functor?"}\n'
ROWS = [(1, {"prompt": "What is a monad?"}), (3, {"prompt": "And a functor?"})]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Serve the test's folder over HTTP."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def written(folder: Path, name: str, content: bytes = LINES) -> str:
    """Write a log and return its name."""
    file = folder / name
    if name.endswith(".zst"):
        with pa.OSFile(str(file), "wb") as sink, pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
    else:
        packed = {".gz": gzip.compress(content), ".bz2": bz2.compress(content)}
        file.write_bytes(packed.get(file.suffix, content))
    return str(file)


@pytest.mark.parametrize("name", ["log.jsonl", "log.ndjson", "log.jsonl.gz", "log.jsonl.zst", "log.json.bz2"])
def test_json_lines_are_read_plain_or_compressed(tmp_path: Path, name: str) -> None:
    assert list(read_rows(written(tmp_path, name))) == ROWS


def test_an_array_of_json_objects_is_read_too(tmp_path: Path) -> None:
    log = written(tmp_path, "log.json", b'[{"prompt": "a"}, 3]')
    (first, row), (second, bad) = read_rows(log)
    assert (first, row, second, str(bad)) == (1, {"prompt": "a"}, 2, "not a JSON object")


def test_a_csv_has_its_names_in_the_head_and_texts_over_several_lines(tmp_path: Path) -> None:
    log = written(tmp_path, "log.csv.gz", b'\xef\xbb\xbfprompt,model\n"one\ntwo",gpt-4\nthree,gpt-4o\n')
    rows = [row for _, row in read_rows(log)]
    assert rows == [{"prompt": "one\ntwo", "model": "gpt-4"}, {"prompt": "three", "model": "gpt-4o"}]


def test_parquet_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a", "b"], "model": ["m", None]}), tmp_path / "log.parquet")
    log = str(tmp_path / "log.parquet")
    assert list(read_rows(log)) == [(1, {"prompt": "a", "model": "m"}), (2, {"prompt": "b", "model": None})]


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        ("log.jsonl", b'{"prompt": "a"}\n{broken\n{"prompt": "b"}\n', 2, "not JSON"),
        ("log.jsonl", b'{"prompt": "a"}\n\xff\xfe\n{"prompt": "b"}\n', 2, "not JSON"),
        ("log.jsonl", b'{"prompt": "a"}\n[1]\n{"prompt": "b"}\n', 2, "not a JSON object"),
        ("log.csv", b"prompt,model\na,m\nb,m,more\nc,m\n", 3, "another number of cells than the head"),
    ],
)
def test_a_bad_line_costs_itself_alone(tmp_path: Path, name: str, content: bytes, line: int, reason: str) -> None:
    rows = list(read_rows(written(tmp_path, name, content)))
    bad = [(number, str(row)) for number, row in rows if isinstance(row, BadLineError)]
    assert (bad, len(rows)) == ([(line, reason)], 3)


def test_a_url_is_read_as_a_file_is(tmp_path: Path, url: str) -> None:
    written(tmp_path, "log.jsonl.gz")
    assert list(read_rows(f"{url}/log.jsonl.gz?signature=x")) == ROWS
    assert list(read_rows(f"file://{tmp_path}/log.jsonl.gz")) == ROWS


def test_a_url_that_is_not_there_is_said_to_be(url: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read `http://.*/no\.jsonl`"):
        list(read_rows(f"{url}/no.jsonl"))


def test_a_folder_stands_for_the_logs_in_it(tmp_path: Path) -> None:
    inside = tmp_path / "2026" / "01"
    inside.mkdir(parents=True)
    b, a = written(inside, "b.jsonl.gz"), written(tmp_path, "a.csv")
    written(tmp_path, "notes.txt")
    assert sorted(find([str(tmp_path)])) == sorted([a, b])
    assert find([f"file://{inside}"]) == [f"file://{b}"]


@pytest.mark.parametrize(
    ("log", "message"),
    [("no.jsonl", "no such file"), ("log.xlsx", "what is in it"), ("ftpx://a/b.jsonl", "cannot read")],
)
def test_what_cannot_be_a_log_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "log.xlsx")
    with pytest.raises(ConfigError, match=message) as raised:
        find([log])
    assert f"`{log}`" in raised.value.message


def test_a_file_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    lines = b"".join(b'{"prompt": "question %d"}\n' % i for i in range(100_000))
    log = tmp_path / "log.jsonl.gz"
    log.write_bytes(gzip.compress(lines)[:-50_000])
    *rows, (line, bad) = read_rows(str(log))
    assert len(rows) > 1000
    assert (line, str(bad)) == (len(rows) + 1, "the file breaks off here")


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_bytes(b"no such thing")
    with pytest.raises(ConfigError, match=r"cannot read .*log.parquet"):
        list(read_rows(str(tmp_path / "log.parquet")))


def test_the_options_of_a_folders_url_are_those_of_its_files(tmp_path: Path) -> None:
    written(tmp_path, "log.jsonl")
    (file,) = find([f"file://{tmp_path}?region=eu-west-1"])
    assert file == f"file://{tmp_path}/log.jsonl?region=eu-west-1"
    assert list(read_rows(file)) == ROWS


def test_a_mark_of_the_byte_order_costs_no_line(tmp_path: Path) -> None:
    assert list(read_rows(written(tmp_path, "log.jsonl", b"\xef\xbb\xbf" + LINES))) == ROWS


def test_an_array_may_stand_after_blanks_and_be_written_over_many_lines(tmp_path: Path) -> None:
    log = written(tmp_path, "log.json", b'\xef\xbb\xbf\n [\n {"prompt":\n "a, [\\"{"},\n\n {"b": [{}, [1]]} ]\n')
    assert list(read_rows(log)) == [(1, {"prompt": 'a, ["{'}), (2, {"b": [{}, [1]]})]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_an_array_is_read_in_pieces_wherever_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    rows = [{"prompt": 'a "quoted\\" [word]', "n": [i, {"x": "}"}]} for i in range(9)]
    log = written(tmp_path, "log.json", json.dumps(rows).encode())
    monkeypatch.setattr(files, "_ARRAY_BYTES", size)
    assert [row for _, row in read_rows(log)] == rows


def test_arrays_may_follow_each_other(tmp_path: Path) -> None:
    log = written(tmp_path, "log.json", b'[{"prompt": "a"}]\n[{"prompt": "b"}, {"prompt": "c"}]\n')
    assert [row for _, row in read_rows(log)] == [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]


def test_an_array_that_breaks_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    (one, two) = read_rows(written(tmp_path, "log.json", b'[{"prompt": "a"}, {"prompt": "b'))
    assert (one, two[0], str(two[1])) == ((1, {"prompt": "a"}), 2, "the file breaks off here")


@pytest.mark.parametrize("broken", [b'{"prompt": nul}', b'{"prompt": "b"}}', b"7", b'{"prompt": "\xff"}'])
def test_a_broken_value_of_an_array_costs_itself_alone(tmp_path: Path, broken: bytes) -> None:
    rows = list(read_rows(written(tmp_path, "log.json", b'[{"prompt": "a"}, ' + broken + b', {"prompt": "c"}]')))
    assert [row for _, row in rows if isinstance(row, dict)] == [{"prompt": "a"}, {"prompt": "c"}]
    assert [number for number, row in rows if isinstance(row, BadLineError)] == [2]


def test_a_cell_of_parquet_that_cannot_be_read_costs_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"\xff\xfe", b"c"], pa.binary()).cast(pa.string(), safe=False)
    times = pa.array([0, 0, 2**62], pa.int64()).cast(pa.timestamp("us"))
    pq.write_table(pa.table({"prompt": texts, "time": times}), tmp_path / "log.parquet")
    (_, good), (second, utf8), (third, date) = read_rows(str(tmp_path / "log.parquet"))
    assert isinstance(good, dict)
    assert (good["prompt"], second, third) == ("a", 2, 3)
    assert {str(utf8), str(date)} == {"a cell that cannot be read"}


def test_names_in_a_folder_behind_a_url_may_have_any_sign(tmp_path: Path) -> None:
    folder = tmp_path / "50% #1"
    folder.mkdir()
    written(folder, "a?b 100%25.jsonl")
    (file,) = find([f"file://{quote(str(folder))}"])
    assert list(read_rows(file)) == ROWS
