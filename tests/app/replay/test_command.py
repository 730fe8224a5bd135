"""A whole replay, from a log to a report, by the real models in this process; by Ray Data in the test marked so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app import bundled
from app.config import read_serve_file
from app.errors import ConfigError
from app.replay.command import column_names, replay
from tests.app.replay.machines import QUESTIONS, OneProcess, log_of
from tests.fakes import serve_file

pytestmark = pytest.mark.skipif(bool(bundled.missing()), reason="needs the bundled models; `make setup` prepares them")
LATENCY = {"local": {"first_token_s": 0.2, "output_tokens_per_s": 100}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Replay a log once, and keep all that it writes."""
    folder = tmp_path_factory.mktemp("replay")
    log = log_of(folder / "log.jsonl")
    with log.open("a") as file:
        file.write('{broken\n{"id": 7}\n')
    config = serve_file(folder, replay={"latency": LATENCY}, cache={"ttl_s": 86400})
    replay([str(log)], config, "", folder / "r.html", folder / "r.json", folder / "best.yaml", hire=OneProcess)
    return folder


@pytest.fixture(scope="module")
def shown(folder: Path) -> dict[str, Any]:
    """Return the figures and samples of that replay."""
    figures: dict[str, Any] = json.loads((folder / "r.json").read_text())
    return figures


def test_every_request_is_accounted_for(shown: dict[str, Any]) -> None:
    assert shown["log"]["requests"] == 3 * len(QUESTIONS)
    assert (shown["log"]["bad_lines"], shown["log"]["bad_reasons"]) == (
        2,
        {"not JSON": 1, "no messages and no prompt": 1},
    )
    assert sum(shown["tiers"].values()) == pytest.approx(1, abs=1e-3)
    assert sum(shown["cache"]["reasons"].values()) == shown["log"]["requests"]
    for groups in ("by_tenant", "by_route", "by_model", "by_hour", "by_day"):
        assert sum(group["requests"] for group in shown[groups]) == shown["log"]["requests"]
    assert {group["name"] for group in shown["by_tenant"]} == {"acme", "globex"}


def test_the_parts_add_up_to_what_is_saved(shown: dict[str, Any]) -> None:
    month, parts = shown["month"], shown["parts"]
    assert sum(parts.values()) == pytest.approx(month["saved_usd"], abs=0.02)
    assert month["before_usd"] - month["after_usd"] == pytest.approx(month["saved_usd"], abs=0.02)
    a_month = 30.4375 / shown["log"]["days"]
    assert sum(day["before_usd"] for day in shown["by_day"]) * a_month == pytest.approx(month["before_usd"], rel=5e-3)


def test_the_bill_before_is_by_list_price_of_the_models_in_the_log(shown: dict[str, Any]) -> None:
    of = {group["name"]: group for group in shown["by_model"]}
    asked = of["gpt-4-32k"]
    most = asked["requests"] * (20 * 60 + 30 * 120) / 1e6  # those that failed had no answer to pay
    assert 0.8 * most < asked["before_usd"] <= most
    assert of["gpt-3.5-turbo"]["before_usd"] < asked["before_usd"] / 50


def test_the_hits_are_judged_with_intervals(shown: dict[str, Any]) -> None:
    cache = shown["cache"]
    assert cache["exact"] > 0.2
    assert cache["semantic"] > 0
    assert cache["bypass"] > 0
    estimate, low, high = cache["expected_false_hits"]["of_semantic_hits"]
    assert 0 <= low < estimate < high < 0.02
    assert cache["measured_false_hits"]["wrong"] == 0
    low, high = shown["quality"]["kept"][1:]
    assert 0.5 < low < shown["quality"]["kept"][0] < high < 1


def test_no_direction_is_confused(shown: dict[str, Any]) -> None:
    pairs = {(hit["asked"], hit["served"]) for hit in shown["samples"]["hits"]}
    assert not {
        pair for pair in pairs if len(set(pair) & {"Is Python faster than Java?", "Is Java faster than Python?"}) == 2
    }


def test_failures_become_fewer_with_hits_and_stronger_tiers_to_fall_back_to(shown: dict[str, Any]) -> None:
    reliability = shown["reliability"]
    assert reliability["before"] == pytest.approx(1 - 2 / 45, abs=1e-4)
    assert 0.9999 < reliability["after"] <= 1  # three tiers to ask, three times each


def test_what_is_assumed_is_said(shown: dict[str, Any]) -> None:
    said = " ".join(shown["assumptions"])
    assert "local: 0.20 s and 100 tokens a second, as configured" in said
    assert "auto_models" in said
    assert "held-out product prompts" in said


def test_the_best_settings_are_a_configuration_that_can_be_served(folder: Path, shown: dict[str, Any]) -> None:
    config = read_serve_file(folder / "best.yaml").config
    assert config.auto_models == ("auto", "gpt-4", "gpt-4-32k", "gpt-3.5-turbo")
    assert [tier.max_score for tier in config.tiers] == pytest.approx(shown["settings"]["best"]["max_scores"])
    assert shown["settings"]["best"]["max_error_rate"] is None  # so few answers show nothing


class Links(HTMLParser):
    """Collects whatever a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        fetched = ("src", "href", "xlink:href", "srcset", "data", "action")
        self.found += [(tag, value) for name, value in attrs if name in fetched and value and not value.startswith("#")]


def test_the_page_needs_nothing_but_itself(folder: Path) -> None:
    text = (folder / "r.html").read_text()
    links = Links()
    links.feed(text)
    assert links.found == []
    assert not re.search(r"@import|url\((?!#)|<script|<link", text)
    assert text.count("<svg") == 4
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"#0[1-5]0[1-5]0[1-5]", text)  # every colour of a chart is the page's


def test_a_prompt_is_text_and_no_markup(tmp_path: Path) -> None:
    rows = [{"prompt": "<script>alert('hi')</script> what does this do?", "answer": "It greets."}] * 3
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = serve_file(tmp_path)
    replay([str(tmp_path / "log.jsonl")], config, "", tmp_path / "r.html", hire=OneProcess)
    text = (tmp_path / "r.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_a_redacted_replay_writes_no_text_of_any_prompt(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    secrets = [f"Translate into French: the dog of patient zyxw{i}vut is called qrst{i}pon." for i in (1, 1, 2, 3)]
    rows = [{"prompt": secret, "answer": f"Because of ansr{i}wer."} for i, secret in enumerate(secrets)]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": "zyxw9vut" broken\n')
    outputs = tmp_path / "r.html", tmp_path / "r.json", tmp_path / "best.yaml"
    replay([str(log)], serve_file(tmp_path), "", *outputs, redact=True, hire=OneProcess)
    told = capfd.readouterr()
    for text in (*(file.read_text() for file in outputs), told.out, told.err):
        assert not re.search(r"zyxw|qrst|ansr|patient", text)
    assert re.search(r"\[text 1, \d+ characters\]", outputs[0].read_text())


def test_what_the_log_leaves_out_is_estimated_and_said_to_be(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("question,team\nWhy is the sky blue?,zoo\nWhy is the sky blue?,zoo\nWhy is grass green?,farm\n")
    config = serve_file(tmp_path, cache={"ttl_s": 31 * 86400})
    shown = replay([f"file://{log}"], config, "prompt=question, tenant=team", tmp_path / "r.html", hire=OneProcess)
    assert shown["log"]["estimated"] == {
        "user": 0,
        "time": 3,
        "model": 3,
        "prompt tokens": 3,
        "completion tokens": 3,
        "answer": 3,
        "latency": 3,
    }
    assert (shown["log"]["from"], shown["log"]["days"], shown["cache"]["exact"]) == (
        None,
        30.438,
        pytest.approx(1 / 3, abs=1e-3),
    )
    assert shown["cache"]["measured_false_hits"] is None
    last = datetime.fromisoformat(shown["by_day"][-1]["name"]).replace(tzinfo=UTC)
    assert timedelta(0) <= datetime.now(UTC) - last < timedelta(days=2)  # at the prices of now
    assert any("spread over the month that ends now" in line for line in shown["assumptions"])


def test_of_a_log_that_is_too_long_the_newest_requests_are_played_and_that_is_said(
    tmp_path: Path, shown: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = serve_file(tmp_path, replay={"max_requests": 10}, cache={"ttl_s": 86400})
    of_newest = replay([str(log_of(tmp_path / "log.jsonl"))], config, "", tmp_path / "r.html", hire=OneProcess)
    left_out = shown["log"]["requests"] - 10
    assert (of_newest["log"]["requests"], of_newest["log"]["left_out"]) == (10, left_out)
    assert of_newest["log"]["to"] == shown["log"]["to"]
    assert of_newest["log"]["days"] == pytest.approx(9 * 600 / 86400, abs=1e-3)
    assert f"{left_out} older requests left out" in capsys.readouterr().out
    assert f"Left out: {left_out} older requests of the log; 10 are played" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("columns", ["prompt", "prompt=", "promt=question"])
def test_a_column_that_is_not_mapped_rightly_is_named(columns: str) -> None:
    with pytest.raises(ConfigError, match=r"--columns: `prom\w*t?=\w*` should be NAME=COLUMN"):
        column_names(columns)


def test_a_log_without_a_request_is_refused_with_the_reasons(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    with pytest.raises(ConfigError, match=r"there is no request in .*: no messages and no prompt \(2\)"):
        replay([str(tmp_path / "log.jsonl")], serve_file(tmp_path), "", tmp_path / "r.html", hire=OneProcess)


def test_an_embeddings_api_is_refused_since_nothing_may_be_sent(tmp_path: Path) -> None:
    embedder = {"kind": "openai", "model": "text-embedding-3-small"}
    config = serve_file(tmp_path, cache={"embedder": embedder, "threshold": 0.9})
    with pytest.raises(ConfigError, match=r"cache.embedder: a replay sends nothing anywhere"):
        replay([str(log_of(tmp_path / "log.jsonl", 1))], config, "", tmp_path / "r.html", hire=OneProcess)


@pytest.mark.serve
def test_the_command_finds_on_ray_data_what_one_process_finds(
    folder: Path, shown: dict[str, Any], tmp_path: Path
) -> None:
    config = serve_file(tmp_path, replay={"latency": LATENCY}, cache={"ttl_s": 86400})
    command = [sys.executable, "-c", "from app.cli import main; main()", "replay", str(folder / "log.jsonl")]
    outputs = ["--config", str(config), "--out", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json")]
    done = subprocess.run([*command, *outputs], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Average latency" in done.stdout
    found = json.loads((tmp_path / "r.json").read_text())
    same = set(found) - {"speed"}
    assert {name: found[name] for name in same} == {name: shown[name] for name in same}
