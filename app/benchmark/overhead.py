"""What Tierwise adds to an answer: exact hit, semantic hit and miss, at concurrency 1 and 16.

The upstream is scripted and its own answer time is subtracted, so the figures are the gateway's alone. Client,
upstream and gateway share the machine's cores. A semantic hit is a question of twelve tokens, reworded; a miss is
embedded, looked up, scored, sent on, and written to the cache.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.benchmark.load import ask, play
from app.benchmark.prompts import REWORDED, STORED, fresh
from app.benchmark.running import gateway
from app.config import ServeFile, read_serve_file

CONFIG = Path("configs/bench.yaml")
_CONCURRENCY = (1, 16)
_ROUNDS = 3


def measure(seconds: float, say: Callable[[str], None], config: Path = CONFIG) -> dict[str, Any]:
    """Start the gateway of `config` and its scripted upstream, and measure.

    Args:
        seconds: Of each case, concurrency and round; a round warms up first.

    Returns:
        `exact_hit|semantic_hit|miss` . `c1|c16` . `p50_ms|p95_ms|rps`, medians of three rounds; and `upstream_ms`, what
        was subtracted.
    """
    file = read_serve_file(config)
    with scripted_upstream(file) as upstream, gateway(file, say):
        say(f"storing {len(STORED)} answers")
        ask(file.url, STORED)
        unknown = fresh()
        direct = play(upstream, unknown, 1, seconds)["p50_ms"]
        # the exact hits first: a rewording that is a hit is not stored, so it stays one
        cases: dict[str, tuple[Callable[[], str], dict[str, str]]] = {
            "exact_hit": (itertools.cycle(STORED).__next__, {"x-tierwise-cache-reason": "exact"}),
            "semantic_hit": (itertools.cycle(REWORDED).__next__, {"x-tierwise-cache-reason": "verified"}),
            "miss": (unknown, {"x-tierwise-cache": "miss"}),
        }
        rounds: dict[tuple[str, str], list[dict[str, float]]] = {}
        for turn in range(_ROUNDS + 1):
            for case, (prompt, expected) in cases.items():
                for concurrency in _CONCURRENCY:
                    figures = play(file.url, prompt, concurrency, seconds if turn else 1.0, expected)
                    if turn:  # the first warms up
                        rounds.setdefault((case, f"c{concurrency}"), []).append(figures)
                        say(f"{case} c{concurrency}: {figures['p50_ms']:.2f} ms, {figures['rps']:.0f} requests/s")
    result: dict[str, Any] = {case: {} for case in cases}
    for (case, level), all_figures in rounds.items():
        median = {
            key: statistics.median(figures[key] for figures in all_figures) for key in ("p50_ms", "p95_ms", "rps")
        }
        if case == "miss":
            median = {key: value - direct if key.endswith("_ms") else value for key, value in median.items()}
        result[case][level] = {key: round(value, 3) for key, value in median.items()}
    return result | {"upstream_ms": round(direct, 3)}


@contextlib.contextmanager
def scripted_upstream(file: ServeFile, *options: str) -> Iterator[str]:
    """Run the scripted upstream where the file's targets expect it; gives its URL."""
    with upstream_process(file, "app.benchmark.upstream", *options) as url:
        yield url


@contextlib.contextmanager
def upstream_process(file: ServeFile, module: str, *options: str) -> Iterator[str]:
    """Run a module that takes the port, where the file's targets expect it; gives its URL."""
    address = urlsplit(file.config.tiers[0].targets[0].base_url)
    process = subprocess.Popen([sys.executable, "-m", module, str(address.port), *options])
    url = f"http://{address.netloc}"
    try:
        while not listening(url):
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def listening(url: str) -> bool:
    """Whether a server answers there."""
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except urllib.error.HTTPError:  # it answers, if only that there is nothing at /
        return True
    except OSError:
        return False
    return True
