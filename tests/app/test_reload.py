"""What of a configuration a running gateway takes, and what needs new replicas."""

from __future__ import annotations

from typing import Any

import pytest

from app.config import GatewayConfig
from app.reload import changed_keys, restarting_keys
from tests.fakes import CONFIG

RAW = CONFIG.model_dump(mode="json", exclude_defaults=True)


def with_target(**fields: Any) -> dict[str, Any]:
    """The small gateway, its best tier's target changed."""
    *others, top = RAW["tiers"]
    return {"tiers": [*others, {**top, "targets": [{**top["targets"][0], **fields}]}]}


@pytest.mark.parametrize(
    "change",
    [
        {"cache": {"ttl_s": 7, "threshold": 0.9, "tenants": {"acme": {"max_entries": 3}}}},
        {"routing": {"tenants": {"acme": {"floor": "mid"}}}},
        {"profiles": {"json": {"max_tokens": 7}}},
        {"auto_models": ["gpt-4o"]},
        {"overload": {"max_ongoing": 7}},
        {"tiers": [{**tier, "max_score": score} for tier, score in zip(RAW["tiers"], (0.1, 0.2, 1.0), strict=True)]},
        with_target(price={"usd_per_1m_output_tokens": 7}),
    ],
)
def test_what_is_decided_anew_for_each_request_is_taken_while_running(change: dict[str, Any]) -> None:
    new = GatewayConfig.model_validate({**RAW, **change})
    assert changed_keys(CONFIG, new) == list(change)
    assert restarting_keys(CONFIG, new) == []


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"redis": {"url_env": "ELSEWHERE"}}, "redis"),
        ({"cache": {"embedder": {"model": "other"}}}, "cache.embedder"),
        ({"cache": {"verifier": {"threads": 2}}}, "cache.verifier"),
        ({"classifier": {"gpu_fraction": 0.1}}, "classifier.gpu_fraction"),
        (with_target(timeout_s=7), "tiers.top.targets"),
        (with_target(model="larger"), "tiers.top.targets"),
        ({"tiers": [*RAW["tiers"][:2], {**RAW["tiers"][2], "policy": {"hedge": True}}]}, "tiers.top.policy"),
        ({"tiers": RAW["tiers"][1:]}, "tiers"),
    ],
)
def test_what_a_replica_holds_from_its_start_needs_new_ones(change: dict[str, Any], key: str) -> None:
    assert restarting_keys(CONFIG, GatewayConfig.model_validate({**RAW, **change})) == [key]
