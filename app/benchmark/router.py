"""The classifier on prompts with known outcomes, beside baselines that learnt from the same rows."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.benchmark.router_baselines import Baseline, baselines
from app.benchmark.router_measures import averaged, cascaded, placed, saved, strong_calls
from app.classifier import ClassifierConfig
from app.classifier.calibration import Array, Outcomes
from app.classifier.encoder import CUTS
from app.classifier.train import read_sources, split, training_files
from app.config import GatewayConfig, read_serve_file
from app.errors import ConfigError
from app.jsonl import read_rows, write_rows
from app.router_evaluation import costs

OURS = "Tierwise"
_BLOCK = 64  # prompts scored at once
_LADDER = ("small", "mid", "large")
_ROUNDS = 300  # of the latency
SIXTY_TOKENS = (
    "Our shop sells hand tools to small builders. Last month three customers sent back drills because the chuck came "
    "loose. Please write a short letter to the supplier that names the fault, asks for the test records of the batch, "
    "and proposes a date and an hour for a call early next week."
)

Row = dict[str, Any]


def measure(
    dev: Sequence[Path],
    train: Sequence[Path],
    scores: Sequence[Path],
    config_file: Path,
    say: Callable[[str], None],
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure the classifier of a configuration on each development file, and the baselines beside it.

    Args:
        dev: JSONL rows, in files or folders: a `prompt`; `tier`, the weakest that suffices; what each tier's answer was
            worth as `small`, `mid` and `large`; `weak_score` and `strong_score` where the gap is between others than
            small and large. Of a file that the classifier was trained on, the rows that its training held out are used.
            Prompts that were learnt from, but for case and spaces, are left out.
        train: What the baselines learn from beside the classifier's own prompts; files or folders.
        scores: Other routers' scores of the prompts, as `tierwise route-eval` writes them; cut at 0.3 and 0.7.
        out: A folder for what other scorers need: in `rows` what was measured, with `weak_score` and `strong_score`;
            beside it each router's rows `{"prompt", "score"}`, stretched so that it is cut at 0.3 and 0.7.

    Returns:
        `files`: for each its figures by router, see `router_measures`, and `cascade`; `latency`.

    Raises:
        ConfigError: A file cannot be read, or has no tiers and no outcomes, or no prompt that was not learnt from, or
            the configuration has not three tiers.
    """
    config = read_serve_file(config_file).config
    if len(config.tiers) != len(_LADDER):
        raise ConfigError(f"`{config_file}` has {len(config.tiers)} tiers; the rows are about three: small, mid, large")
    classifier = config.classifier.model_copy(update={"threads": os.cpu_count() or 1}).build()
    card = _card(config.classifier)
    paths = [file for path in dev for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    files = {file: [row for _, row in read_rows(file, "prompt")] for file in paths}
    trained = {file for file in files if hashlib.sha256(file.read_bytes()).hexdigest() in card["data"].values()}
    # what of these the classifier has learnt, the baselines learn too
    taught, held_out = split(read_sources([*training_files(train), *sorted(trained)]), card["seed"])
    for file in trained:
        unseen = {example.prompt for example in held_out[file.stem]}
        files[file] = [row for row in files[file] if row["prompt"] in unseen]
    # a file may ask the same twice, and be split between the two
    learnt = {_plain(example.prompt) for part in taught.values() for example in part}
    for file, rows in files.items():
        files[file] = [row for row in rows if _plain(row["prompt"]) not in learnt]
        if not files[file]:
            raise ConfigError(f"`{file}` has no prompt that was not learnt from")
    sets = {file: DevFile(file, rows, config) for file, rows in files.items()}
    recorded = {file.stem: _recorded(file, files.values()) for file in scores}
    routers = {
        OURS: Baseline(lambda prompts: _scored(classifier.scores, prompts), _cuts(config)),
        **baselines(taught, held_out, say),
        **recorded,
    }
    result: dict[str, Any] = {"learnt_from": {name: len(part) for name, part in taught.items()}, "files": {}}
    for file, measured in sets.items():
        say(f"{file.name}: {len(files[file])} prompts")
        result["files"][file.stem] = {"held_out_of_training": file in trained, **measured.figures(routers)}
    if out is not None:
        _write(out, files, routers)
    return result | {"latency": latency(config.classifier)}


def latency(classifier: ClassifierConfig) -> dict[str, Any]:
    """Time the score of one prompt of sixty tokens on one thread."""
    scores = classifier.model_copy(update={"threads": 1}).build().scores
    scores([SIXTY_TOKENS])
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        scores([SIXTY_TOKENS])
        times.append(1e3 * (time.perf_counter() - started))
    p50, p95 = statistics.median(times), float(np.percentile(times, 95))
    return {"tokens": 60, "threads": 1, "p50_ms": round(p50, 3), "p95_ms": round(p95, 3)}


class DevFile:
    """Rows of a development file, and what they say."""

    def __init__(self, file: Path, rows: Sequence[Row], config: GatewayConfig) -> None:
        # what no tier solves says nothing about which is needed
        self._tiered = [
            i for i, row in enumerate(rows) if row.get("tier") in _LADDER and row.get("solved") is not False
        ]
        self._needed = np.array([_LADDER.index(rows[i]["tier"]) for i in self._tiered], np.int64)
        gaps = [_gap(row) for row in rows]
        self._gaps = np.array(gaps, float) if all(gaps) else None
        self._quality = _quality(rows)
        if not (self._tiered or self._quality or self._gaps is not None):
            raise ConfigError(f"`{file}`: its rows have neither a `tier` nor the outcomes of tiers")
        self._prompts = [str(row["prompt"]) for row in rows]
        self._cost = costs(rows, config)
        self._margin = config.routing.cascade.margin

    def figures(self, routers: Mapping[str, Baseline]) -> dict[str, Any]:
        """Return the figures of every router, and of ours the cascade's."""
        found: dict[str, Any] = {
            "rows": len(self._prompts),
            "with_tier": len(self._tiered),
            "hard": int(np.sum(self._needed == 2)),
            "routers": {name: self._measured(router) for name, router in routers.items()},
        }
        if len(self._quality) == len(_LADDER):
            ours = routers[OURS]
            found["cascade"] = cascaded(self._outcomes(ours.score(self._prompts)), ours.cuts, self._margin)
        return found

    def _measured(self, router: Baseline) -> dict[str, Any]:
        draws = [self._drawn(router.score(self._prompts), router.cuts) for _ in range(router.draws)]
        return draws[0] if len(draws) == 1 else averaged(draws)

    def _drawn(self, scores: Array, cuts: Sequence[float]) -> dict[str, Any]:
        found: dict[str, Any] = placed(scores[self._tiered], cuts, self._needed) if self._tiered else {}
        if self._gaps is not None:
            found |= strong_calls(scores, *self._gaps.T)
        if self._quality:
            found |= saved(self._outcomes(scores))
        return found

    def _outcomes(self, scores: Array) -> Outcomes:
        return Outcomes(scores, np.array(list(self._quality.values())).T, self._cost[:, list(self._quality)])


def _gap(row: Row) -> tuple[float, float] | None:
    """Return what the weak and the strong model's answers were worth, if they are known."""
    weak, strong = row.get("weak_score", row.get("small")), row.get("strong_score", row.get("large"))
    return None if weak is None or strong is None else (float(weak), float(strong))


def _quality(rows: Sequence[Row]) -> dict[int, list[float]]:
    """Return what the answers of each tier were worth, of those tiers where it is known of every row.

    Where nothing but the tier that suffices is known, it and the better ones are worth 1.
    """
    known = {
        tier: [float(row[name]) for row in rows]
        for tier, name in enumerate(_LADDER)
        if all(row.get(name) is not None for row in rows)
    }
    if len(known) > 1 and len(_LADDER) - 1 in known:
        return known
    if all(row.get("tier") in _LADDER for row in rows):
        return {tier: [float(_LADDER.index(row["tier"]) <= tier) for row in rows] for tier in range(len(_LADDER))}
    return {}


def _plain(prompt: object) -> str:
    return " ".join(str(prompt).casefold().split())


def _write(out: Path, files: Mapping[Path, Sequence[Row]], routers: Mapping[str, Baseline]) -> None:
    """Write what was measured and the scores of it, for other scorers."""
    (out / "rows").mkdir(parents=True, exist_ok=True)
    for file, rows in files.items():
        gaps = [dict(zip(("weak_score", "strong_score"), _gap(row) or (None, None), strict=True)) for row in rows]
        write_rows(out / "rows" / file.name, [row | gap for row, gap in zip(rows, gaps, strict=True)])
    prompts = sorted({str(row["prompt"]) for rows in files.values() for row in rows})
    for name, router in routers.items():
        scores = customary(router.score(prompts), router.cuts)
        rows = [{"prompt": prompt, "score": float(score)} for prompt, score in zip(prompts, scores, strict=True)]
        write_rows(out / f"{name.lower().replace(' ', '_')}.jsonl", rows)


def customary(scores: Array, cuts: tuple[float, float]) -> Array:
    """Stretch scores `(n,)` so that the cut points are 0.3 and 0.7; their order and ties stay."""
    ends = min(float(scores.min()), cuts[0]) - 1, max(float(scores.max()), cuts[1]) + 1
    return np.interp(scores, [ends[0], *cuts, ends[1]], [0, *CUTS, 1])


def _scored(score: Callable[[Sequence[str]], Any], prompts: Sequence[str]) -> Array:
    parts = [score(prompts[i : i + _BLOCK]) for i in range(0, len(prompts), _BLOCK)]
    return np.asarray(np.concatenate(parts), float)


def _cuts(config: GatewayConfig) -> tuple[float, float]:
    low, high, _ = (tier.max_score for tier in config.tiers)
    return low, high


def _card(classifier: ClassifierConfig) -> dict[str, Any]:
    """Read what the classifier was trained on."""
    card = classifier.card()
    if not {"data", "seed"} <= card.keys():
        file = classifier.folder() / "card.json"
        raise ConfigError(f"classifier.model: `{file}` does not say what the classifier was trained on")
    return card


def _recorded(file: Path, files: Iterable[Sequence[Row]]) -> Baseline:
    """Give the scores of a file, which must have one of each prompt."""
    known = {str(row["prompt"]): float(row["score"]) for _, row in read_rows(file, "prompt", "score")}
    prompts = {str(row["prompt"]) for rows in files for row in rows}
    if missing := prompts - known.keys():
        raise ConfigError(f"`{file}` has no score of {len(missing)} of {len(prompts)} prompts")
    return Baseline(lambda prompts: np.array([known[prompt] for prompt in prompts]), CUTS)
