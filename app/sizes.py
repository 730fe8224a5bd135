"""The `deployments` of a file, where Serve would find a mistake late or never: autoscaling policies, parts of GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from app.errors import ConfigError
from app.routing import TierConfig
from app.scaling import LoadLimits

_BY_LOAD, _LIMITED = "deployments.autoscaling:ByLoad", "deployments.autoscaling:limited"


def check_sizes(
    deployments: Sequence[Mapping[str, Any]], tiers: Sequence[TierConfig], slices: Mapping[str, float]
) -> None:
    """Check what a file says of its deployments.

    Args:
        slices: The part of a GPU that each deployment of a small model has.

    Raises:
        ConfigError: It cannot be served as it stands; the message names the key.
    """
    report = {"Classifier": _BY_LOAD} | {f"Tier-{tier.name}": _LIMITED for tier in tiers if tier.targets}
    report |= {tier.llm_deployment: _BY_LOAD for tier in tiers if tier.llm}
    for size in deployments:
        name = size.get("name", "")
        _check_policy(name, (size.get("autoscaling_config") or {}).get("policy") or {}, report.get(name))
        if name in slices and "ray_actor_options" in size:
            _check_slice(name, float((size["ray_actor_options"] or {}).get("num_gpus") or 0), slices[name])


def _check_policy(name: str, policy: Mapping[str, Any], fitting: str | None) -> None:
    key = f"deployments.{name}.autoscaling_config.policy"
    chosen = policy.get("policy_function")
    if chosen not in (_BY_LOAD, _LIMITED):
        return  # Serve's own, or the operator's
    if chosen != fitting:
        other = f"`{fitting}`" if fitting else "no `policy`: the default goes by requests under way"
        raise ConfigError(f"{key}.policy_function: its replicas do not report what `{chosen}` goes by; use {other}")
    try:
        LoadLimits.model_validate(policy.get("policy_kwargs") or {})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{key}.policy_kwargs.{first['loc'][0]}: {first['msg']}") from error


def _check_slice(name: str, reserved: float, used: float) -> None:
    if reserved == used:
        return
    key = {"Cache": "cache.embedder", "Classifier": "classifier"}[name]
    raise ConfigError(
        f"deployments.{name}.ray_actor_options.num_gpus: Ray would set {reserved:g} of a GPU aside, but "
        f"`{key}.gpu_fraction` is {used:g}; give both the same"
    )
