"""`tierwise apply`: a changed configuration for a gateway that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.bundled import run_dir
from app.config import GatewayConfig, ServeFile, read_serve_file
from app.errors import ConfigError
from app.launch import served_at
from app.reload import changed_keys, restarting_keys
from app.serve_api import ServeAPI

RELOADED = ("Ingress", "Cache", "Classifier")  # the deployments with a `reconfigure`


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of it.

    Attributes:
        changed: The sections that differ from what ran.
        restarted: The keys for whose sake replicas were replaced; none if they kept running.
    """

    changed: list[str]
    restarted: list[str]


def apply(path: Path, address: str | None, say: Callable[[str], None], timeout_s: float = 900) -> Applied:
    """Make a running gateway what a file says, without a restart of its replicas if that can be.

    Args:
        address: Of Ray's dashboard; by default that of the `tierwise serve` on this machine and the file's port.

    Raises:
        ConfigError: The file cannot be served, or no gateway runs there: nothing has changed then. Or the deployment
            failed: the message says why.
    """
    file = read_serve_file(path)
    api = ServeAPI(address.rstrip("/")) if address else _local(file)
    (wanted,) = file.raw["applications"]
    name = wanted.get("name", "default")
    deployed = _deployed(api, name)
    old, new = _config(_arguments(deployed)), file.config
    changed, restarted = changed_keys(old, new), restarting_keys(old, new)
    application = dict(wanted)
    if not restarted:
        application |= {"args": deployed["args"], "deployments": _reloaded(wanted)}
    for key in restarted:
        say(f"{key} changed: new replicas take over when they are ready, the old ones end what they have begun")
    api.deploy({**file.raw, "applications": [application]})
    _wait(api, name, timeout_s)
    return Applied(changed, restarted)


def _reloaded(application: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the deployments of a file, with its `args` for those that take them while they run."""
    declared = {one["name"]: dict(one) for one in application.get("deployments") or ()}
    for name in RELOADED:
        declared.setdefault(name, {"name": name})["user_config"] = {"args": application.get("args") or {}}
    return list(declared.values())


def _arguments(deployed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the `args` in force: those of the last reload, or those it was deployed with."""
    for deployment in deployed.get("deployments") or ():
        if deployment["name"] == "Ingress" and deployment.get("user_config"):
            reloaded: Mapping[str, Any] = deployment["user_config"]["args"]
            return reloaded
    return deployed.get("args") or {}


def _config(arguments: Mapping[str, Any]) -> GatewayConfig:
    try:
        return GatewayConfig.model_validate(arguments)
    except ValidationError as error:
        raise ConfigError(f"what runs was deployed by another version of Tierwise; deploy anew: {error}") from error


def _local(file: ServeFile) -> ServeAPI:
    api = served_at(run_dir(file.port) / "serve.log")
    if api is None:
        raise ConfigError(f"no `tierwise serve` runs on port {file.port}; name Ray's dashboard by --address")
    return api


def _deployed(api: ServeAPI, name: str) -> dict[str, Any]:
    try:
        applications = api.applications()
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"no Ray Serve at {api.address}: {error}") from error
    if name not in applications or not applications[name].get("deployed_app_config"):
        raise ConfigError(
            f"no application `{name}` runs at {api.address}; deploy it by `tierwise serve` or `serve deploy`"
        )
    deployed: dict[str, Any] = applications[name]["deployed_app_config"]
    return deployed


def _wait(api: ServeAPI, name: str, timeout_s: float) -> None:
    """Return when the application runs as it was asked to.

    Raises:
        ConfigError: It failed, or took too long.
    """
    deadline = time.monotonic() + timeout_s
    time.sleep(1)  # until Serve has taken notice
    while True:
        application = api.applications()[name]
        if application["status"] == "RUNNING":
            return
        if application["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ConfigError(f"the deployment failed: {application['message']}")
        if time.monotonic() > deadline:
            raise ConfigError(f"not there after {timeout_s:g} s: {application['status']} {application['message']}")
        time.sleep(0.5)
