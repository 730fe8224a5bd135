"""`tierwise plan`, from files to figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from app.config import GatewayConfig, read_serve_file
from app.errors import ConfigError
from app.planning.model import KINDS, TIERS, Machines, Plan, Traffic, plan
from app.planning.simulate import shared, waits
from app.planning.table import checked, table
from app.pricing import cost_usd
from app.schema import Usage

SHIPPED = Path(__file__).with_name("service_times.json")


def planned(
    loads: Sequence[float], config: Path, service_times: Path, assumptions: Path | None
) -> tuple[dict[str, Any], str]:
    """Size a gateway for each load; return the figures, and the tables that show them.

    Args:
        loads: Requests a second.
        config: Whose tiers and prices to use: the last three by rising price.
        service_times: As `tierwise bench service-times` writes them.
        assumptions: A YAML file with `traffic` and `machines`, of which it need only name what is other.

    Raises:
        ConfigError: A file cannot be read; the message names it and the key.
    """
    times, checks = _times(service_times)
    traffic, machines = _assumed(assumptions)
    gateway = read_serve_file(config).config
    sizes: list[tuple[Plan, dict[str, float]]] = []
    for load in loads:
        found = plan(load, times, traffic, machines, _api_usd(gateway, traffic))
        sizes.append((found, waits(times, found, traffic)))
    figures = {
        "assumptions": {"traffic": traffic.model_dump(), "machines": machines.model_dump()},
        "plans": [{**asdict(found), "bottlenecks": found.bottlenecks, "added": added} for found, added in sizes],
        "checks": checks,
    }
    return figures, "\n\n".join([table(sizes), *([checked(checks)] if checks else [])])


def _times(file: Path) -> tuple[dict[str, dict[str, float]], list[dict[str, Any]]]:
    """Read the CPU times, and the checks with what the model says of each."""
    try:
        times = json.loads(file.read_text("utf-8"))
        factor, idle, cores = float(times["factor"]), float(times["idle_cores"]), int(times["cores"])
        ours = {kind: {part: factor * ms for part, ms in times["cpu_ms"][kind].items()} for kind in KINDS}
        both = {kind: {**ours[kind], **times["beside"][kind]} for kind in KINDS}
        checks = [{**check, "model": _modelled(both, check["offered_rps"], cores, idle)} for check in times["checks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"`{file}` has no service times ({error!r}); `tierwise bench service-times --json FILE` makes it"
        ) from error
    return ours, checks


def _modelled(both: Mapping[str, Mapping[str, float]], rate: float, cores: int, idle: float) -> dict[str, float]:
    """Say what a machine does at a load on which client and upstream run too."""
    traffic = Traffic()
    busy = rate * sum(share * sum(both[kind].values()) for kind, share in traffic.shares().items()) / 1e3
    return {"cores_used": round(busy + idle, 3), **shared(both, rate, traffic, cores)}


def _assumed(file: Path | None) -> tuple[Traffic, Machines]:
    if file is None:
        return Traffic(), Machines()
    try:
        given = yaml.safe_load(file.read_text("utf-8")) or {}
        if unknown := given.keys() - {"traffic", "machines"}:
            raise ConfigError(f"`{file}`: unknown key `{min(unknown)}`; it may have `traffic` and `machines`")
        return Traffic(**given.get("traffic", {})), Machines(**given.get("machines", {}))
    except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
        raise ConfigError(f"cannot read `{file}`: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"`{file}`: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _api_usd(config: GatewayConfig, traffic: Traffic) -> dict[str, float]:
    """Price an answer of each tier's first model; the local one is paid for by its GPUs."""
    usage = Usage(traffic.prompt_tokens, traffic.answer_tokens)
    prices = config.prices()
    tiers = dict(zip(reversed(TIERS), reversed(config.tiers), strict=False))
    return {
        name: 0.0 if tier.llm else cost_usd(usage, prices[next(iter(tier.models()))]) for name, tier in tiers.items()
    }
