"""What the two runs of the case come to, and what the replay said beforehand."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from app.benchmark.case_study.client import Answer
from app.benchmark.case_study.running import Run
from app.cache.calibration import interval
from app.config import GatewayConfig
from app.pricing import cost_usd
from app.schema import Usage

_STRETCH = 40  # misses that are a stretch of the machine's time
_MEANING = re.compile(r"\bm\d{6,}\b")


def of_run(run: Run, config: GatewayConfig) -> dict[str, Any]:
    """Return the figures of one run.

    Costs and tokens are those of every call that the upstreams answered, whoever made it; latencies those of answered
    requests, by the case's clock; `own_ms` is what a request took beside the upstreams, by the machine's.
    """
    took = [seconds for answer, seconds in zip(run.answers, run.seconds, strict=True) if answer.ok]
    total = np.array([seconds.total_s for seconds in took] or [np.nan])
    own = 1000 * np.array([seconds.own_s for seconds in took] or [np.nan])
    answered = sum(answer.ok for answer in run.answers)
    return {
        "requests": len(run.answers),
        "answered": answered,
        "reliability": answered / len(run.answers),
        "reliability_interval": interval(answered, len(run.answers)),
        "usd": sum(_usd(run, config).values()),
        "usd_by_model": _usd(run, config),
        "mean_s": float(total.mean()),
        "p50_s": float(np.median(total)),
        "p95_s": float(np.percentile(total, 95)),
        "own_ms": {"mean": float(own.mean()), "p50": float(np.median(own)), "p95": float(np.percentile(own, 95))},
        "prompt_tokens": sum(call.prompt_tokens for call in run.calls),
        "answer_tokens": sum(call.completion_tokens for call in run.calls),
        "calls": dict(Counter(call.model for call in run.calls)),
        "failed_calls": sum(not call.ok for call in run.calls),
        "wall_s": run.answers[-1].ended - run.answers[0].started,
    }


def of_cache(run: Run) -> dict[str, Any]:
    """Return hits, wrong ones among them, and where the others went."""
    hits = [answer.headers.get("cache") == "hit" for answer in run.answers]
    pairs = list(zip(run.requests, run.answers, hits, strict=True))
    wrong = [(asked, answer) for asked, answer, hit in pairs if hit and not is_right(asked.question.meaning, answer)]
    elsewhere = sum(
        answer.ok and not hit and not is_right(asked.question.meaning, answer) for asked, answer, hit in pairs
    )
    tiers = Counter(
        answer.headers.get("tier", "none") for answer, hit in zip(run.answers, hits, strict=True) if not hit
    )
    of_kind = {
        kind: round(float(np.mean([hit for asked, _, hit in pairs if asked.kind == kind])), 4)
        for kind in sorted({asked.kind for asked in run.requests})
    }
    levels: dict[str, Counter[str]] = {}
    for asked, answer, hit in pairs:
        if not hit:
            levels.setdefault(asked.question.level, Counter())[answer.headers.get("tier", "none")] += 1
    count = len(run.answers)
    return {
        "hit_rate": sum(hits) / count,
        "asked_again": sum(asked.kind != "new" for asked in run.requests) / count,
        "hits": sum(hits),
        "wrong_hits": len(wrong),
        "false_hit_rate": len(wrong) / max(1, sum(hits)),
        "false_hit_interval": interval(len(wrong), sum(hits)) if any(hits) else [0.0, 1.0],
        "wrong_elsewhere": elsewhere,
        "wrong_by_reason": dict(Counter(answer.headers.get("cache-reason", "") for _, answer in wrong)),
        "hits_by_reason": dict(
            Counter(answer.headers.get("cache-reason", "") for _, answer, hit in pairs if hit).most_common()
        ),
        "hit_rate_by_kind": of_kind,
        "reasons": _counts(run, "cache-reason"),
        "routes": _counts(run, "route"),
        "tiers": {name: number / count for name, number in sorted(tiers.items())},
        "tiers_by_level": {level: dict(tiers) for level, tiers in sorted(levels.items())},
    }


def _counts(run: Run, header: str) -> dict[str, int]:
    return dict(Counter(answer.headers.get(header, "none") for answer in run.answers).most_common())


def is_right(meaning: str, answer: Answer) -> bool:
    """Whether an answer is that of a meaning."""
    found = _MEANING.search(answer.text)
    return found is not None and found[0] == meaning


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any], cache: Mapping[str, Any], cut: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the figures that have an aim."""
    return {
        "cost_change": after["usd"] / before["usd"] - 1,
        "latency_ratio": before["mean_s"] / after["mean_s"],
        "hit_rate": cache["hit_rate"],
        "false_hit_rate": cache["false_hit_rate"],
        "token_cut": cut["answers"],
        "reliability": after["reliability"],
    }


def token_cut(before: Run, after: Run) -> dict[str, float]:
    """Return by how much profiles cut the tokens of the requests that a tier answered, against the same ones before.

    Returns:
        `answers` for their tokens alone, `prompts_too` with the prompts', and `bought` for all that was bought in the
        two runs, which the cache cuts as well.
    """
    pairs = [
        (then.completion["usage"], now.completion["usage"])
        for then, now in zip(before.answers, after.answers, strict=True)
        if then.completion and now.completion and now.headers.get("cache") != "hit"
    ]
    said, said_now = (sum(pair[side]["completion_tokens"] for pair in pairs) for side in (0, 1))
    read, read_now = (sum(pair[side]["prompt_tokens"] for pair in pairs) for side in (0, 1))
    bought = [sum(call.prompt_tokens + call.completion_tokens for call in run.calls) for run in (before, after)]
    return {
        "answers": 1 - said_now / max(1, said),
        "prompts_too": 1 - (said_now + read_now) / max(1, said + read),
        "bought": 1 - bought[1] / max(1, bought[0]),
    }


def overheads(run: Run) -> dict[str, float]:
    """Return what each path took beside the upstreams, under the replay's names; without those seen too rarely.

    Their error is how far the means of stretches of misses lie apart: another stretch of the machine's time is like
    one of these, not like the mean of all.
    """
    paths: dict[str, Callable[[Answer], bool]] = {
        "exact_hit_s": lambda answer: answer.headers.get("cache-reason") == "exact",
        "semantic_hit_s": lambda answer: (
            answer.headers.get("cache") == "hit" and answer.headers.get("cache-reason") not in ("exact", "coalesced")
        ),
        "miss_s": lambda answer: answer.ok and answer.headers.get("cache") != "hit",
    }
    pairs = list(zip(run.answers, run.seconds, strict=True))
    took = {name: [seconds.own_s for answer, seconds in pairs if on_path(answer)] for name, on_path in paths.items()}
    found = {name: round(float(np.mean(own)), 5) for name, own in took.items() if len(own) >= 5}
    misses = took["miss_s"]
    if len(misses) >= 3 * _STRETCH:
        means = [np.mean(misses[i : i + _STRETCH]) for i in range(0, len(misses) - _STRETCH + 1, _STRETCH)]
        found["own_error"] = round(1.96 * float(np.std(means, ddof=1) / np.mean(means)), 3)
    return found


def agreement(shown: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Set the replay's figures with their intervals beside the measured ones."""
    told = dict(shown["intervals"])
    told["false_hit_rate"] = _false_hits(shown["cache"])
    told |= {f"tier {name}": ends for name, ends in told.pop("tiers").items()}
    pairs = {name: (told[name], measured[name]) for name in told if name in measured}
    return {
        name: {
            "predicted": expected,
            "low": low,
            "high": high,
            "measured": round(found, 6),
            "within": bool(low - 1e-9 <= found <= high + 1e-9),
        }
        for name, ((expected, low, high), found) in pairs.items()
    }


def _false_hits(cache: Mapping[str, Any]) -> list[float]:
    """Return the share of wrong hits: by the log's own answers, where the replay could compare some."""
    measured, expected = cache["measured_false_hits"], cache["expected_false_hits"]
    of_hits = cache["semantic"] / max(cache["hit_rate"], 1e-9)
    if measured and measured["of_semantic_hits"]:
        return [share * of_hits for share in measured["of_semantic_hits"]]
    return list(expected["of_hits"])


def _usd(run: Run, config: GatewayConfig) -> dict[str, float]:
    spent: dict[str, float] = {}
    for call in run.calls:
        usage = Usage(call.prompt_tokens, call.completion_tokens)
        spent[call.model] = spent.get(call.model, 0.0) + cost_usd(usage, config.price_of(call.model))
    return spent


def measured_for(agreeing: Mapping[str, Any], after: Mapping[str, Any], cache: Mapping[str, Any]) -> dict[str, float]:
    """Return the measured figures by the names that the replay has for them."""
    tiers = {f"tier {name}": share for name, share in cache["tiers"].items()}
    return {**agreeing, "mean_s": after["mean_s"], **tiers}


def all_within(agreed: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether every figure lies within its interval."""
    return all(pair["within"] for pair in agreed.values())
