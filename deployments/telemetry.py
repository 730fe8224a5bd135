"""Every metric we export."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Mapping
from typing import Any

import ray
from ray.serve import metrics

from app.cache.audit import Audit
from app.errors import GatewayError
from app.quality.audit import QualityCheck
from app.schema import NOBODY, Outcome
from app.tier.breaker import State

_LATENCY_S = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
_UNIT = [i / 10 for i in range(1, 10)]
_EXPORTED = ("ray_tierwise_", "ray_serve_", "ray_vllm", "vllm")


class Telemetry:
    """Counts outcomes and failures; labels are few and of few values."""

    def __init__(self) -> None:
        self._confidence = self._quality_confidence = 0.95
        self._requests = metrics.Counter(
            "tierwise_requests", "Requests answered.", tag_keys=("tier", "cache", "reason", "route", "finished")
        )
        self._errors = metrics.Counter(
            "tierwise_errors", "Requests that ended in an error.", tag_keys=("status", "type")
        )
        self._ledger_dropped = metrics.Counter(
            "tierwise_ledger_dropped", "Records that found no room while Redis was away: alert on an increase."
        )
        self._feedback = metrics.Counter(
            "tierwise_cache_feedback", "Clients' verdicts on cached answers.", tag_keys=("correct",)
        )
        self._tokens = metrics.Counter(
            "tierwise_tokens",
            "Tokens of prompts and answers; of tier `cache`, those that no model had to read or write.",
            tag_keys=("tier", "kind"),
        )
        self._cost = metrics.Counter("tierwise_cost_usd", "What the answers cost.", tag_keys=("tier",))
        self._saved = metrics.Gauge(
            "tierwise_saved_usd", "The bill at the baseline's price less the cost, since the start.", tag_keys=("tier",)
        )
        self._latency = metrics.Histogram(
            "tierwise_latency_s", "From the parsed request to the answer.", _LATENCY_S, tag_keys=("tier",)
        )
        self._score = metrics.Histogram("tierwise_score", "Difficulty of the scored prompts.", _UNIT)
        self._similarity = metrics.Histogram(
            "tierwise_similarity", "Cosine to the nearest stored text.", _UNIT, tag_keys=("cache",)
        )
        self._checks = metrics.Counter(
            "tierwise_cache_checks",
            "Cached answers compared with a fresh one; of near misses, what would have been served.",
            tag_keys=("kind", "verdict"),
        )
        self._check_cost = metrics.Counter("tierwise_cache_check_cost_usd", "What those comparisons cost.")
        self._false_hits = metrics.Gauge(
            "tierwise_cache_false_hit_rate",
            "Of the hits by meaning that were checked since the threshold last moved, the share that was wrong.",
            tag_keys=("bound",),
        )
        self._bound_broken = metrics.Counter(
            "tierwise_cache_bound_broken",
            "Times that the lower bound of the false-hit rate passed the limit: alert on an increase.",
            tag_keys=("of",),
        )
        self._steps = metrics.Gauge(
            "tierwise_cache_threshold_steps", "Steps of all scopes above the calibrated threshold."
        )
        self._tasks = metrics.Gauge("tierwise_asyncio_tasks", "Tasks of an ingress replica's event loop, of late.")
        self._saved_by_tier: dict[str, float] = {}
        self._cascades = metrics.Counter(
            "tierwise_cascades", "Cheaper tiers tried first near a cut point: `kept`, or why not.", tag_keys=("result",)
        )
        self._cascade_saved = metrics.Gauge("tierwise_cascade_saved_usd", "What trying them saved, since the start.")
        self._cascade_saved_usd = 0.0
        self._schemas = metrics.Counter(
            "tierwise_schemas", "Answers that had to be JSON: `valid`, `repaired`, ...", tag_keys=("tier", "result")
        )
        self._quality_checks = metrics.Counter(
            "tierwise_quality_checks",
            "Answers routed down that were compared with the best tier's.",
            tag_keys=("tier", "verdict"),
        )
        self._quality_cost = metrics.Counter("tierwise_quality_check_cost_usd", "What those comparisons cost.")
        self._quality_kept = metrics.Gauge(
            "tierwise_quality_kept",
            "Share of answers as good as the best tier's, since a cut point last moved; tier `all`: of all routed.",
            tag_keys=("tier", "bound"),
        )
        self._quality_broken = metrics.Counter(
            "tierwise_quality_bound_broken",
            "Times that the upper bound of the quality kept fell below the promise: alert on an increase.",
            tag_keys=("tier",),
        )
        self._quality_steps = metrics.Gauge(
            "tierwise_quality_steps", "Steps of a tier's cut point below the calibrated one.", tag_keys=("tier",)
        )

    def confide(self, confidence: float, quality_confidence: float) -> None:
        """Take the confidence of the intervals that are shown: of wrong hits, and of the quality kept."""
        self._confidence = confidence
        self._quality_confidence = quality_confidence

    def record(self, outcome: Outcome) -> None:
        """Count an answered request."""
        tier = {"tier": outcome.tier}
        self._requests.inc(
            1,
            tier
            | {"cache": outcome.cache.status, "reason": outcome.cache.reason}
            | {"route": outcome.route, "finished": str(outcome.finished).lower()},
        )
        self._latency.observe(outcome.latency_s, tier)
        self._save(outcome.tier, outcome.saved_usd)
        usage = outcome.completion.usage
        self._increase(self._tokens, usage.prompt_tokens, tier | {"kind": "prompt"})
        self._increase(self._tokens, usage.completion_tokens, tier | {"kind": "completion"})
        if outcome.cache.similarity is not None:
            self._similarity.observe(outcome.cache.similarity, {"cache": outcome.cache.status})
        if outcome.cache.status == "hit":
            return
        self._increase(self._cost, outcome.cost_usd, tier)
        if outcome.score is not None:
            self._score.observe(outcome.score)
        if outcome.schema is not None:
            self._schemas.inc(1, tier | {"result": outcome.schema})
        if outcome.cascade is not None:
            self._cascades.inc(1, {"result": outcome.cascade})
            self._cascade_saved_usd += outcome.cascade_saved_usd
            self._cascade_saved.set(self._cascade_saved_usd)

    def record_feedback(self, correct: bool) -> None:
        """Count a client's verdict on a cached answer."""
        self._feedback.inc(1, {"correct": str(correct).lower()})

    def record_audit(self, audit: Audit) -> None:
        """Count a check of a cached answer."""
        verdict = {True: "right", False: "wrong", None: "undecided"}[audit.correct]
        self._checks.inc(1, {"kind": audit.kind, "verdict": verdict})
        self._increase(self._check_cost, audit.cost_usd, {})
        for of, step in zip(("scope", "all"), audit.moved, strict=True):
            if step > 0:
                self._bound_broken.inc(1, {"of": of})
        if audit.bound is None:
            return
        hits = audit.bound.hits
        low, high = hits.interval(self._confidence)
        self._steps.set(audit.bound.steps)
        for bound, share in (("estimate", hits.wrong / max(hits.checked, 1)), ("lower", low), ("upper", high)):
            self._false_hits.set(share, {"bound": bound})

    def record_check(self, check: QualityCheck) -> None:
        """Count a comparison of a routed answer with the best tier's."""
        verdict = {True: "as good", False: "worse", None: "undecided"}[check.as_good]
        self._quality_checks.inc(1, {"tier": check.tier, "verdict": verdict})
        self._increase(self._quality_cost, check.cost_usd, {})
        if check.moved is not None and check.moved[1] > 0:
            self._quality_broken.inc(1, {"tier": check.moved[0]})
        if check.kept is None:
            return
        for tier, tally in check.kept.tallies.items():
            low, high = tally.interval(self._quality_confidence)
            self._set_kept(tier, 1 - tally.wrong / max(tally.checked, 1), 1 - high, 1 - low)
        # a move begins the tallies anew, and may be that of another tier, back to 0
        for tier in {check.tier, *check.kept.tallies, *check.kept.steps, *(check.moved or ())[:1]}:
            self._quality_steps.set(check.kept.steps.get(tier, 0), {"tier": tier})
        self._set_kept("all", check.kept.estimate(), *check.kept.interval(self._quality_confidence))

    def _set_kept(self, tier: str, estimate: float, low: float, high: float) -> None:
        for bound, share in (("estimate", estimate), ("lower", low), ("upper", high)):
            self._quality_kept.set(share, {"tier": tier, "bound": bound})

    def record_error(self, error: GatewayError) -> None:
        """Count a failure that a client saw, and what was spent in vain before it."""
        self._errors.inc(1, {"status": str(error.status_code), "type": error.type})
        if error.spent_usd:
            self._increase(self._cost, error.spent_usd, {"tier": NOBODY})
            self._save(NOBODY, -error.spent_usd)

    def record_tasks(self, count: int) -> None:
        """Show how many tasks there are."""
        self._tasks.set(count)

    def record_dropped(self, count: int) -> None:
        """Count records that the ledger has lost."""
        self._ledger_dropped.inc(count)

    def _save(self, tier: str, usd: float) -> None:
        self._saved_by_tier[tier] = self._saved_by_tier.get(tier, 0.0) + usd
        self._saved.set(self._saved_by_tier[tier], {"tier": tier})  # a gauge: a dear local tier can save less than 0

    @staticmethod
    def _increase(counter: Any, value: float, tags: dict[str, str]) -> None:
        if value > 0:  # Ray refuses zero
            counter.inc(value, tags)


class ReloadTelemetry:
    """Which configuration a replica has; `tierwise apply` reads it."""

    def __init__(self) -> None:
        self._taken = metrics.Gauge(
            "tierwise_configuration_applied_s",
            "Unix time of the `tierwise apply` that gave the configuration in force; 0 for that of the start.",
        )
        self._refused = metrics.Gauge(
            "tierwise_configuration_refused_s",
            "Unix time of the `tierwise apply` whose configuration could not be taken; 0 if the last one could.",
        )

    def record_taken(self, applied_s: float) -> None:
        """Say that a configuration is in force."""
        self._taken.set(applied_s)
        self._refused.set(0)

    def record_refused(self, applied_s: float) -> None:
        """Say that a configuration could not be taken, so that the one before stays."""
        self._refused.set(applied_s)


class TierTelemetry:
    """The metrics of one API tier's replica."""

    def __init__(self, tier: str) -> None:
        self._tier = tier
        self._calls = metrics.Counter(
            "tierwise_upstream_calls",
            "Calls of targets, by what became of them.",
            tag_keys=("tier", "target", "result"),
        )
        self._open = metrics.Gauge(
            "tierwise_breaker_open",
            "1 while a target is left alone, 0.5 while one request tries.",
            tag_keys=("tier", "target"),
        )

    def record(self, target: str, result: str) -> None:
        """Count a call."""
        self._calls.inc(1, {"tier": self._tier, "target": target, "result": result})

    def record_breakers(self, states: Mapping[str, State]) -> None:
        """Show the breakers of targets."""
        for target, state in states.items():
            self._open.set(_OPENNESS[state], {"tier": self._tier, "target": target})


_OPENNESS = {"closed": 0.0, "half-open": 0.5, "open": 1.0}


async def prometheus() -> bytes:
    """Collect the metrics of every replica on every node, as Prometheus text; Ray exports them every few seconds."""
    return await asyncio.to_thread(_collect)


def _collect() -> bytes:
    texts = []
    for node in ray.nodes():
        if node["Alive"] and node.get("MetricsExportPort"):
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            try:
                with urllib.request.urlopen(url, timeout=2) as response:
                    texts.append(response.read().decode())
            except OSError:
                continue  # a node that is leaving
    return merged(texts).encode()


def merged(texts: list[str]) -> str:
    """Merge Prometheus texts family by family, since a family may appear only once; others than ours are left out."""
    families: dict[str, list[str]] = {}
    for text in texts:
        lines: list[str] = []
        for line in text.splitlines():
            if line.startswith("# HELP "):
                name = line.split(" ", 3)[2]
                lines = families.setdefault(name, [])
                if lines:
                    continue
            elif line.startswith("# ") and line in lines:
                continue
            lines.append(line)
    kept = [line for name, lines in families.items() if name.startswith(_EXPORTED) for line in lines]
    return "\n".join(kept) + "\n"
