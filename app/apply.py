"""`tierwise apply`: a changed configuration for a gateway that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from app.bundled import run_dir
from app.config import GatewayConfig, ServeFile, read_serve_file
from app.errors import ConfigError
from app.launch import samples, served_at
from app.reload import changed_keys, restarting_keys
from app.serve_api import ServeAPI

RELOADED = ("Ingress", "Cache", "Classifier")  # the deployments with a `reconfigure`
# the options of a deployment for whose change Serve replaces its replicas; any other it changes while they run
_REPLACING = (
    "ray_actor_options",
    "placement_group_bundles",
    "placement_group_strategy",
    "placement_group_bundle_label_selector",
    "placement_group_fallback_strategy",
    "max_replicas_per_node",
)
_EXPORTED_S = 60  # by then Ray has exported what replicas say, which it does every 10 s


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of it.

    Attributes:
        changed: The sections of `args` that differ from what ran, and the entries of `deployments`.
        restarted: The keys for whose sake replicas were replaced; none if they kept running.
    """

    changed: list[str]
    restarted: list[str]


class _FailedError(Exception):
    """The gateway could not become what it was asked to."""


def apply(
    path: Path, address: str | None, say: Callable[[str], None], timeout_s: float = 900, url: str | None = None
) -> Applied:
    """Make a running gateway what a file says, without a restart of its replicas if that can be.

    Args:
        address: Of Ray's dashboard; by default that of the `tierwise serve` on this machine and the file's port.
        timeout_s: Longest wait for new replicas.
        url: Of the gateway; by default the file's port on the host of `address`.

    Raises:
        ConfigError: The file cannot be served, or no gateway runs there: nothing has changed then. Or the deployment
            failed, or replicas refused the configuration: what ran is deployed again, and the message says which and
            why. Or it took too long, or the replicas could not be asked.
    """
    file = read_serve_file(path)
    api = ServeAPI(address.rstrip("/")) if address else _local(file)
    (wanted,) = file.raw["applications"]
    name = wanted.get("name", "default")
    deployed = _deployed(api, name)
    old, new = _config(_arguments(deployed)), file.config
    restarting, sized = restarting_keys(old, new), _sizes_changed(deployed, wanted)
    changed = [*changed_keys(old, new), *dict.fromkeys(key.rpartition(".")[0] for key in sized)]
    restarted = [*restarting, *(key for key in sized if key.rpartition(".")[2] in _REPLACING)]
    applied_s = round(time.time(), 3)
    application = {**wanted, "deployments": _reloaded(wanted, new, applied_s)}
    if not restarting:
        application["args"] = deployed.get("args") or {}  # as they were: by others Serve would replace every replica
    for key in restarted:
        say(f"{key} changed: new replicas take over when they are ready, the old ones end what they have begun")
    api.deploy({**file.raw, "applications": [application]})
    try:
        _wait(api, name, timeout_s)
        _ask(api, name, url or _gateway_url(file, address), applied_s)
    except _FailedError as failure:
        api.deploy({**file.raw, "applications": [deployed]})
        raise ConfigError(f"{failure}\nwhat ran before is deployed again") from failure
    return Applied(changed, restarted)


def _reloaded(application: Mapping[str, Any], config: GatewayConfig, applied_s: float) -> list[dict[str, Any]]:
    """Return the deployments of a file, with its `args` for those that take them while they run."""
    declared = {one["name"]: dict(one) for one in application.get("deployments") or ()}
    for name in RELOADED:
        if name != "Cache" or config.redis is not None:
            given = {"args": application.get("args") or {}, "applied_s": applied_s}
            declared.setdefault(name, {"name": name})["user_config"] = given
    return list(declared.values())


def _sizes_changed(deployed: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Name the options of deployments that differ, as `deployments.NAME.OPTION`."""
    before, after = _sizes(deployed), _sizes(wanted)
    return [
        f"deployments.{name}.{option}"
        for name in dict.fromkeys([*before, *after])
        for was, will in [(before.get(name, {}), after.get(name, {}))]
        for option in dict.fromkeys([*was, *will])
        if was.get(option) != will.get(option)
    ]


def _sizes(application: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Map each deployment to its options in the file."""
    return {
        one["name"]: {option: value for option, value in one.items() if option not in ("name", "user_config")}
        for one in application.get("deployments") or ()
    }


def _gateway_url(file: ServeFile, address: str | None) -> str:
    return f"http://{urlsplit(address).hostname}:{file.port}" if address else file.url


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
        _FailedError: It failed.
        ConfigError: It took too long.
    """
    deadline = time.monotonic() + timeout_s
    time.sleep(1)  # until Serve has taken notice
    while True:
        application = api.applications()[name]
        if application["status"] == "RUNNING":
            return
        if application["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise _FailedError(f"the deployment failed: {application['message']}")
        if time.monotonic() > deadline:
            raise ConfigError(f"not there after {timeout_s:g} s: {application['status']} {application['message']}")
        time.sleep(0.5)


def _ask(api: ServeAPI, name: str, url: str, applied_s: float) -> None:
    """Return when every replica says, by its metrics, that it serves what was applied.

    Raises:
        _FailedError: Some refused it.
        ConfigError: Some have not said so in time, or the gateway cannot be reached.
    """
    deadline = time.monotonic() + _EXPORTED_S
    while True:
        replicas, unread = _replicas(api, name), ""
        said: dict[tuple[str, str], str] = {}
        try:
            said = dict(_said(url, applied_s))
        except OSError as error:
            unread = f": {url}/metrics cannot be read ({error}); name the gateway by --url"
        if refused := [where for replica, where in replicas.items() if said.get(replica) == "refused"]:
            raise _FailedError(f"refused by {', '.join(refused)}; their logs say why")
        silent = [where for replica, where in replicas.items() if said.get(replica) != "applied"]
        if replicas and not silent:
            return
        if time.monotonic() > deadline:
            who = ", ".join(silent) or "any replica"
            raise ConfigError(f"not known after {_EXPORTED_S} s whether it was taken by {who}{unread}")
        time.sleep(0.5)


def _replicas(api: ServeAPI, name: str) -> dict[tuple[str, str], str]:
    """Map the replicas that take configurations, by deployment and id, to what an operator finds them by."""
    return {
        (deployment, replica["replica_id"]): f"{deployment} {replica['replica_id']} on {replica.get('node_ip')}"
        for deployment, details in api.applications()[name]["deployments"].items()
        if deployment in RELOADED
        for replica in details["replicas"]
        if replica["state"] != "STOPPING"
    }


def _said(url: str, applied_s: float) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the replicas that have taken, or refused, what was applied at a time."""
    for metric, labels, value in samples(url, "ray_tierwise_configuration_(?:applied|refused)_s", timeout_s=10):
        if value == applied_s:
            yield (labels["deployment"], labels["replica"]), metric.split("_")[-2]
