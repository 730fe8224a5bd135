"""`tierwise bench case-study`: before, replay, after; and the table of the case beside ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from app.benchmark.case_study.figures import (
    agreement,
    all_within,
    changes,
    measured_for,
    of_cache,
    of_run,
    overheads,
    token_cut,
)
from app.benchmark.case_study.running import Run, played, script, scripted_models, write_log
from app.benchmark.case_study.traffic import Asked, traffic
from app.benchmark.running import gateway
from app.config import ServeFile, read_serve_file
from app.replay.batch import Cluster
from app.replay.costs import costs_of
from app.replay.figures import figures
from app.replay.run import Hire
from app.replay.run import play as replay
from app.replay.simulate import simulate

CONFIG = Path("configs/case-study.yaml")
DATA = Path("../shared/data")
_WARM_UP = 2_000  # requests that share nothing with the others
_COLD = 100  # of them, whose times say nothing of later ones
_BEFORE_FASTER = 5  # times the speed: scripts alone are asked, which takes the machine next to nothing


def measure(
    requests: int,
    speed: float,
    seed: int,
    data: Path | None,
    log: Path | None,
    say: Callable[[str], None],
    config: Path = CONFIG,
    hire: Hire = Cluster,
) -> dict[str, Any]:
    """Play the traffic to the one model of before and to Tierwise, and let the replay predict the latter.

    Args:
        speed: How much faster the case's clock runs than the machine's, while Tierwise is asked.
        data: Prompts; by default the project's own.
        log: Where the log of the first run goes.
        hire: Does the replay's work.

    Returns:
        The figures that have an aim, `replay_within_interval`, and what they are made of: `before`, `after`, `cache`,
        `tokens`, `replay`.
    """
    file = read_serve_file(config)
    asked, warm_up = traffic(requests, data, seed), _apart(traffic(min(_WARM_UP, requests), data, seed + 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sooner = speed * _BEFORE_FASTER
        with scripted_models(file, script(file, asked, sooner, seed), folder) as upstream:
            say(f"before: {requests} requests to the scripted gpt-4-32k, in {asked[-1].at_s / sooner:.0f} s")
            before = played(upstream, upstream, asked, sooner)
        log = log or folder / "before.jsonl"
        write_log(log, before)
        with (
            scripted_models(file, script(file, [*warm_up, *asked], speed, seed), folder) as upstream,
            gateway(file, say),
        ):
            first = played(file.url, upstream, warm_up, speed).after(_COLD)
            say(f"after: the same {requests} requests to Tierwise, in {asked[-1].at_s / speed:.0f} s")
            after = played(file.url, upstream, asked, speed)
        own = overheads(first)
        say(f"replay of the log of before; Tierwise's own part as in {len(first.answers)} requests of warm-up: {own}")
        shown = predicted(log, with_overheads(file, own, folder), folder, hire)
    return results(file, before, after, shown) | {"seed": seed, "speed": speed, "overheads": own}


def results(file: ServeFile, before: Run, after: Run, shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of two runs and of the replay."""
    then, now, cache = of_run(before, file.config), of_run(after, file.config), of_cache(after)
    cut = token_cut(before, after)
    aimed = changes(then, now, cache, cut)
    agreed = agreement(shown, measured_for(aimed, now, cache))
    kept = {name: shown[name] for name in ("month", "latency", "reliability", "cache", "tiers", "intervals")}
    return {
        **{name: round(value, 6) for name, value in aimed.items()},
        "replay_within_interval": all_within(agreed),
        "before": then,
        "after": now,
        "cache": cache,
        "tokens": cut,
        "agreement": agreed,
        "replay": kept,
    }


def predicted(log: Path, file: ServeFile, folder: Path, hire: Hire) -> dict[str, Any]:
    """Return the replay's figures, as `tierwise replay LOG --json` writes them."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        replayed = replay(Path(work), [str(log)], file.config, {}, lambda step, total: lambda done: None, hire)
        return figures(simulate(replayed, costs_of(replayed, file.config), file.config))


def with_overheads(file: ServeFile, own: Mapping[str, float], folder: Path) -> ServeFile:
    """Write the file anew with other assumptions of what Tierwise itself takes."""
    raw = yaml.safe_load(file.path.read_text("utf-8"))
    raw["applications"][0]["args"]["replay"] |= own
    path = folder / file.path.name
    path.write_text(yaml.safe_dump(raw, sort_keys=False), "utf-8")
    return read_serve_file(path)


def _apart(requests: list[Asked]) -> list[Asked]:
    """Give requests texts of their own, so that the cache keeps them from all others."""
    return [
        replace(asked, question=replace(asked.question, system=f"{asked.question.system} Warm-up."))
        for asked in requests
    ]
