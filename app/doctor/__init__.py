"""`tierwise doctor`: what a machine lacks to run the gateway of a configuration, before a request finds out."""

from __future__ import annotations

from pathlib import Path

import psutil

from app.bundled import run_dir
from app.config import read_serve_file
from app.doctor import gateway, gpu, machine
from app.doctor.finding import Finding, as_lines
from app.doctor.redis import redis_findings
from app.errors import ConfigError

__all__ = ["Finding", "as_lines", "diagnose"]


def diagnose(config_file: Path) -> list[Finding]:
    """Check this machine, the configuration and what the configuration needs; a failed check stops no other."""
    found = [
        machine.python(),
        machine.packages(),
        machine.haproxy(),
        machine.disk(),
        machine.shared_memory(),
        machine.open_files(),
    ]
    try:
        file = read_serve_file(config_file)
    except ConfigError as error:
        return [*found, Finding("configuration", "problem", error.message, "correct the key that is named")]
    config = file.config
    found.append(Finding("configuration", "ok", f"`{config_file}` can be served"))
    alone = gateway.runs_alone(file)
    found.append(machine.ray_settings([p for p in psutil.process_iter(["name"]) if p.info["name"] == "raylet"], alone))
    found += gateway.ports(file)
    found += gateway.keys(config)
    found.append(gateway.tenants(config.tenants))
    found += machine.engine({tier.llm.device for tier in config.tiers if tier.llm}, alone)
    found += gateway.models(config, alone)
    found += gpu.gpus(file, alone)
    if config.redis is None:
        return [*found, Finding("redis", "warning", "the configuration has none, so nothing is cached", "set `redis`")]
    return [*found, *redis_findings(config.redis, run_dir(file.port) / "redis")]
