"""The product's promise, on a small scale: what a replay says of a log is what the gateway then does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from app.benchmark.case_study.command import measure
from app.ports import free_port
from tests.app.replay.machines import OneProcess

pytestmark = pytest.mark.serve
LATENCY = ("mean_s", "latency_ratio")
CONFIG = Path(__file__).parents[2] / "configs" / "case-study.yaml"


def test_the_replay_of_the_log_of_before_predicts_what_the_gateway_then_does(tmp_path: Path) -> None:
    raw = yaml.safe_load(CONFIG.read_text("utf-8"))
    raw["http_options"]["port"] = free_port()
    upstream = f"http://127.0.0.1:{free_port()}/v1"
    arguments = raw["applications"][0]["args"]
    # held over thousands of requests: a replay begins without any, the gateway has those of the warm-up behind it, so
    # that of 400 the best tier would get another share; how it is held is tested in tests/app/test_top_share.py
    del arguments["routing"]["top_share"]
    for tier in arguments["tiers"]:
        tier["targets"][0]["base_url"] = upstream
    config = tmp_path / "case-study.yaml"
    config.write_text(yaml.safe_dump(raw, sort_keys=False), "utf-8")
    # slow enough for a busy machine: a score that comes too late would go to the best tier
    found = measure(400, 5, 0, None, tmp_path / "before.jsonl", print, config, OneProcess)

    timed = {name: found["agreement"][name] for name in LATENCY}
    agreed = {name: pair for name, pair in found["agreement"].items() if name not in LATENCY}
    assert {"cost_change", "hit_rate", "token_cut", "reliability", "false_hit_rate", "tier top"} <= agreed.keys()
    assert not {name: pair for name, pair in agreed.items() if not pair["within"]}
    # The intervals of latency are a hundredth wide, and hold what the traffic may do, not what else a machine has to
    # do in this minute. So here it is to be about right; that it is within them takes the whole benchmark.
    for name, pair in timed.items():
        assert pair["low"] <= pair["predicted"] <= pair["high"], name
        assert pair["predicted"] == pytest.approx(pair["measured"], rel=0.5), name
    assert found["latency_ratio"] > 1
    assert found["replay_within_interval"] is all(pair["within"] for pair in timed.values())
    assert found["cost_change"] < -0.8
    assert 0.25 < found["hit_rate"] < 0.45
    assert found["reliability"] == 1
    assert found["before"]["reliability"] < 1
    assert found["cache"]["wrong_hits"] <= 1
    assert len((tmp_path / "before.jsonl").read_text("utf-8").splitlines()) == 400
