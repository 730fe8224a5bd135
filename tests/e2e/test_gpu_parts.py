"""Replicas on parts of one GPU, placed by Ray. The GPU is a logical one: Ray counts it, and nothing computes on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.placement import Claim, shortage

pytestmark = pytest.mark.serve
DRIVER = Path(__file__).with_name("gpu_parts_driver.py")


def test_two_replicas_and_a_slice_share_one_gpu_and_a_third_replica_waits_as_the_check_says(tmp_path: Path) -> None:
    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run([sys.executable, str(DRIVER)], env=environment, capture_output=True, text=True, timeout=180)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (report,) = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]  # Ray may say more
    assert (report["models"], report["slice"]) == ([[0], [0]], [0])
    assert report["left"] == pytest.approx(0, abs=1e-3)
    assert report["running_of_three"] == 2

    def claims(replicas: int) -> list[Claim]:
        return [Claim("tiers.local.llm.gpu_fraction", 0.45, replicas, replicas), Claim("classifier", 0.1, 1, 1)]

    assert shortage(claims(2), 1) is None
    assert "= 1.45 GPUs do not fit on 1" in str(shortage(claims(3), 1))
