"""A month of our own making, for `tierwise replay`: product prompts, some asked often, all sent to one dear model."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import app.classifier
from app.jsonl import read_rows

_START, _DAYS = datetime(2026, 3, 1, tzinfo=UTC), 30
_TOKENS = {"small": 60, "mid": 220, "large": 600}  # of an answer, by what the prompt asks for
_FAILED = 0.01
_ASKED_AGAIN = (
    0.9  # exponent of the popularity: the second most popular prompt comes 2**-0.9 times as often as the first
)


def write_log(file: Path, requests: int, distinct: bool = False, seed: int = 0) -> dict[str, Any]:
    """Write a log; return what is in it.

    Args:
        distinct: Whether every prompt is another's, by a number: no hits, and most work for a replay.
    """
    with file.open("w", encoding="utf-8") as lines:
        for row in _rows(requests, distinct, random.Random(seed)):
            lines.write(json.dumps(row) + "\n")
    return {"requests": requests, "days": _DAYS, "model": "gpt-4-32k", "file": str(file)}


def _rows(requests: int, distinct: bool, draw: random.Random) -> Iterator[dict[str, Any]]:
    source = Path(app.classifier.__file__).with_name("product_prompts.jsonl")
    prompts = [row for _, row in read_rows(source, "prompt", "tier")]
    draw.shuffle(prompts)
    weights = [rank**-_ASKED_AGAIN for rank in range(1, len(prompts) + 1)]
    chosen = draw.choices(prompts, weights, k=requests)
    times = sorted(_time(draw) for _ in range(requests))
    for number, (time, row) in enumerate(zip(times, chosen, strict=True)):
        tokens = max(5, round(draw.lognormvariate(math.log(_TOKENS[row["tier"]]), 0.4)))
        failed = draw.random() < _FAILED
        asked = _said_otherwise(row["prompt"], draw)
        asked = f"Case {number}: {asked}" if distinct else asked
        usage = {"prompt_tokens": 10 + len(asked) // 4, "completion_tokens": 0 if failed else tokens}
        yield {
            "time": time.isoformat(),
            "tenant": draw.choice(("shop", "support", "support")),
            "route": row["category"],
            "request": {"model": "gpt-4-32k", "messages": [{"role": "user", "content": asked}]},
            "response": {"usage": usage},
            "latency_s": round(1.0 + tokens / 25 + draw.expovariate(2), 3),
            "status": 503 if failed else 200,
        }


def _time(draw: random.Random) -> datetime:
    """Draw a time of the month, most of them by day."""
    hour = min(max(draw.gauss(14, 4), 0), 23.99)
    return _START + timedelta(days=draw.randrange(_DAYS), hours=hour)


def _said_otherwise(prompt: str, draw: random.Random) -> str:
    """Say a prompt as it is, or as hastily or as politely as people do."""
    kind = draw.random()
    if kind < 0.7:
        return prompt
    if kind < 0.85:
        return prompt.lower().rstrip("?.!")
    return f"{draw.choice(('Please', 'Hi,', 'Could you please tell me:'))} {prompt}"
