"""Parts of GPUs that add up, or stop the start with the sum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.config import AutoscalingConfig

from app.config import read_serve_file
from app.errors import ConfigError
from app.local_model import LocalLLMConfig
from app.nvidia import gpu_memory_bytes, told
from app.placement import Claim, claims, fits, shortage
from tests.fakes import serve_file


def sized(folder: Path, *deployments: dict[str, Any], targets: Sequence[dict[str, Any]] = (), **arguments: Any) -> Path:
    """Write a configuration with a local model on half a GPU, and the sizes of its deployments."""
    llm = {"name": "local", "max_score": 1.0, "llm": {"model": "a/b", "gpu_fraction": 0.5}, "targets": list(targets)}
    file = serve_file(folder, tiers=[llm], **arguments)
    raw = yaml.safe_load(file.read_text("utf-8"))
    raw["applications"][0]["deployments"] = list(deployments)
    file.write_text(yaml.safe_dump(raw), "utf-8")
    return file


@pytest.mark.parametrize(
    ("fractions", "cards", "fit"),
    [
        ([0.5, 0.5], 1, True),
        ([0.6, 0.6, 0.6], 2, False),
        ([0.6, 0.4, 0.5], 2, True),
        ([2, 0.5], 2, False),
        ([2], 2, True),
    ],
)
def test_a_replica_shares_a_gpu_but_is_not_split_over_two(fractions: list[float], cards: int, fit: bool) -> None:
    assert fits(fractions, cards) is fit


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gpu_fraction": 1.5}, "gpu_fraction: 1.5 is neither a part of one GPU nor a number of whole ones"),
        (
            {"gpu_fraction": 0.5, "engine": {"gpu_memory_utilization": 0.9}},
            r"engine.gpu_memory_utilization: .* 2 of them would take 1.8 .*; set at most 0.45",
        ),
        (
            {"gpu_fraction": 0.5, "engine": {"gpu_memory_utilization": 0.5}},
            r"0.5 of a GPU .* 2 of them would take 1 and each somewhat more .*; set at most 0.45",
        ),
        (
            {"gpu_fraction": 2, "engine": {"gpu_memory_utilization": 1}},
            r"engine.gpu_memory_utilization: .*; set at most 0.98",
        ),
        (
            {"gpu_fraction": 2, "engine": {"tensor_parallel_size": 4}},
            "is 2, but `engine` spreads the model over 4",
        ),
    ],
)
def test_parts_that_do_not_add_up_stop_the_start(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LocalLLMConfig(model="a/b", **fields)


@pytest.mark.parametrize(
    ("fields", "memory", "gpus"),
    [
        ({}, 0.9, 1),
        ({"gpu_fraction": 0.5}, 0.45, 1),
        ({"gpu_fraction": 0.5, "engine": {"gpu_memory_utilization": 0.44}}, 0.44, 1),
        ({"engine": {"gpu_memory_utilization": 0.95}}, 0.95, 1),
        ({"gpu_fraction": 4, "engine": {"pipeline_parallel_size": 2}}, 0.9, 4),
    ],
)
def test_a_replica_takes_the_memory_of_its_part(fields: dict[str, Any], memory: float, gpus: int) -> None:
    model = LocalLLMConfig(model="a/b", **fields)
    assert (model.gpu_memory, model.gpus) == (memory, gpus)


def test_on_a_cpu_no_part_of_a_gpu_is_looked_at() -> None:
    assert LocalLLMConfig(model="a/b", device="cpu", gpu_fraction=1.5).gpus == 1


def test_what_takes_a_gpu_is_named_with_its_replicas(tmp_path: Path) -> None:
    scaling = {"min_replicas": 0, "max_replicas": 2}
    file = sized(
        tmp_path,
        {"name": "Tier-local", "autoscaling_config": scaling},
        {"name": "Classifier", "num_replicas": 2, "ray_actor_options": {"num_cpus": 1, "num_gpus": 0.1}},
        classifier={"gpu_fraction": 0.1},
        redis={"embedded": True},
        cache={"embedder": {"gpu_fraction": 0.2}},
    )
    assert claims(read_serve_file(file)) == [
        Claim("tiers.local.llm.gpu_fraction", 0.5, 1, 2),
        Claim("cache.embedder.gpu_fraction", 0.2, 1, 1),
        Claim("classifier.gpu_fraction", 0.1, 2, 2),
    ]


@pytest.mark.parametrize(
    ("size", "most"), [({}, 100), ({"autoscaling_config": {"min_replicas": 2, "max_replicas": 4}}, 4)]
)
def test_automatic_numbers_of_replicas_are_counted_as_serve_counts_them(
    tmp_path: Path, size: dict[str, Any], most: int
) -> None:
    (claim,) = claims(read_serve_file(sized(tmp_path, {"name": "Tier-local", "num_replicas": "auto", **size})))
    assert (claim.least, claim.most) == (2 if size else 1, most)
    assert AutoscalingConfig.default().max_replicas == 100


def test_what_does_not_fit_is_said_with_its_sum() -> None:
    wanted = [Claim("tiers.local.llm.gpu_fraction", 0.5, 1, 2), Claim("classifier.gpu_fraction", 0.1, 1, 1)]
    assert shortage(wanted, 1) is None
    assert shortage(wanted, 1, grown=True) == (
        "2 x 0.5 (`tiers.local.llm.gpu_fraction`) + 1 x 0.1 (`classifier.gpu_fraction`) = 1.1 GPUs do not fit on 1"
    )


def test_what_ray_sets_aside_must_be_what_the_model_uses(tmp_path: Path) -> None:
    entry = {"name": "Classifier", "ray_actor_options": {"num_cpus": 1}}
    with pytest.raises(ConfigError, match=r"deployments\.Classifier\.ray_actor_options\.num_gpus: .* is 0.1"):
        read_serve_file(sized(tmp_path, entry, classifier={"gpu_fraction": 0.1}))


@pytest.mark.parametrize(
    ("name", "policy", "message"),
    [
        ("Tier-local", {"policy_function": "deployments.autoscaling:limited"}, "use `deployments.autoscaling:ByLoad`"),
        ("Ingress", {"policy_function": "deployments.autoscaling:ByLoad"}, "by requests under way"),
        (
            "Tier-local",
            {"policy_function": "deployments.autoscaling:ByLoad", "policy_kwargs": {"max_waitin": 3}},
            r"deployments\.Tier-local\.autoscaling_config\.policy\.policy_kwargs\.max_waitin: Extra inputs",
        ),
    ],
)
def test_a_policy_that_cannot_decide_stops_the_start(
    tmp_path: Path, name: str, policy: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_serve_file(sized(tmp_path, {"name": name, "autoscaling_config": {"policy": policy}}))


def test_a_local_model_with_targets_beside_it_is_sized_by_a_name_of_its_own(tmp_path: Path) -> None:
    targets = [{"model": "small", "api_key_env": None}]
    by_load, limited = ({"policy_function": f"deployments.autoscaling:{name}"} for name in ("ByLoad", "limited"))
    own = {"name": "LLM-local", "autoscaling_config": {"min_replicas": 2, "max_replicas": 3, "policy": by_load}}
    tier = {"name": "Tier-local", "autoscaling_config": {"policy": limited}}
    (claim,) = claims(read_serve_file(sized(tmp_path, own, tier, targets=targets)))
    assert (claim.fraction, claim.least, claim.most) == (0.5, 2, 3)
    tier["autoscaling_config"] = {"policy": by_load}
    with pytest.raises(ConfigError, match=r"use `deployments\.autoscaling:limited`"):
        read_serve_file(sized(tmp_path, tier, targets=targets))


def test_a_policy_of_the_operators_own_is_left_to_serve(tmp_path: Path) -> None:
    policy = {"policy_function": "mine:policy", "policy_kwargs": {"any": 1}}
    assert read_serve_file(sized(tmp_path, {"name": "Tier-local", "autoscaling_config": {"policy": policy}})).sizes


def test_a_command_that_is_missing_or_fails_says_nothing() -> None:
    assert told(["no-such-command"]) is None
    assert told(["false"]) is None
    assert told(["echo", "hello"]) == "hello"


def test_the_memory_is_that_of_the_smallest_gpu() -> None:
    assert gpu_memory_bytes(lambda command: "NVIDIA L4, 23034 MiB, 570.1\nNVIDIA T4, 15360 MiB, 570.1") == 15360 * 2**20
    with pytest.raises(ConfigError, match="gpu_fraction: `nvidia-smi` lists no GPU"):
        gpu_memory_bytes(lambda command: None)
