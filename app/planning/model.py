"""A capacity model: from CPU time by part and kind of request to replicas, nodes, shards, GPUs and dollars.

CPU is the resource: a part's cores are its CPU time a request by the requests a second (the utilization law, Denning
and Buzen, The operational analysis of queueing network models, 1978). What a node, a GPU or a controller bears is an
assumption with a name, which a file may override.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from app.section import Section

Share = Annotated[float, Field(ge=0, le=1)]
KINDS = ("exact_hit", "semantic_hit", "miss")
TIERS = ("local", "mid", "top")
_PER_MILLION = 1e6
_MONTH_S = 30 * 86_400
_REPLICAS_OF_A_GPU = 2  # of the local tier, as `gpu_tokens_s` was measured
REPLICATED = ("Ingress", "Cache", "Classifier", "Tier")  # a replica of these is one event loop: one core


class Traffic(Section):
    """What comes.

    Attributes:
        exact_hit: Share of the requests that the cache answers by their text,
        semantic_hit: and by their meaning.
        local: Share of the misses that go to the local model,
        mid: and to the middle tier; the rest goes to the top.
        prompt_tokens: Of a request,
        answer_tokens: and of its answer.
        entries: Answers in the cache at a time; by default what is stored in a day, `ttl_s` of production.
    """

    exact_hit: Share = 0.24
    semantic_hit: Share = 0.11
    local: Share = 0.65
    mid: Share = 0.30
    prompt_tokens: PositiveInt = 400
    answer_tokens: PositiveInt = 200
    entries: NonNegativeInt | None = None

    def shares(self) -> dict[str, float]:
        """Return the share of each of `KINDS`."""
        return {
            "exact_hit": self.exact_hit,
            "semantic_hit": self.semantic_hit,
            "miss": max(0.0, 1 - self.exact_hit - self.semantic_hit),
        }

    def tiers(self) -> dict[str, float]:
        """Return the share of the misses that each of `TIERS` answers."""
        return {"local": self.local, "mid": self.mid, "top": max(0.0, 1 - self.local - self.mid)}


class Machines(Section):
    """What machines bear and cost. None of it is measured by us but `gpu_tokens_s` and `entry_bytes`.

    Attributes:
        utilization: Of a core at the busiest; the rest is for bursts.
        node_cores: Of a node,
        node_usd_per_hour: and its price; 16 cores, about what AWS asks for a c7i.4xlarge on demand.
        node_requests_s: Requests a second through a node's HAProxy; its own sizing guide has tens of thousands a core.
        gpu_tokens_s: Output tokens a second of a GPU; an H100 with Mistral-7B, two replicas, see docs/operations.md.
        gpu_usd_per_hour: Its rent.
        redis_gb: Memory of a shard that entries may fill.
        redis_cores: Of a shard that its commands may use: searches run on threads of their own.
        redis_usd_per_hour: The price of a shard.
        entry_bytes: Of an entry in Redis.
        cluster_replicas: In one Ray cluster; Ray is tested with more actors, but one Serve controller watches them all.
        most_gpus: That one may rent at a time,
        most_shards: of a Redis Cluster,
        most_mid_requests: a minute of the middle tier's API, and
        most_top_requests: of the top one's; the highest that OpenAI gives for gpt-4o-mini and gpt-4o unasked.
    """

    utilization: Annotated[float, Field(gt=0, le=1)] = 0.6
    node_cores: PositiveInt = 16
    node_usd_per_hour: NonNegativeFloat = 0.72
    node_requests_s: PositiveFloat = 20_000
    gpu_tokens_s: PositiveFloat = 6_625
    gpu_usd_per_hour: NonNegativeFloat = 2.5
    redis_gb: PositiveFloat = 24
    redis_cores: PositiveFloat = 3
    redis_usd_per_hour: NonNegativeFloat = 0.35
    entry_bytes: PositiveInt = 4_500
    cluster_replicas: PositiveInt = 1_000
    most_gpus: PositiveInt = 32
    most_shards: PositiveInt = 90
    most_mid_requests: PositiveInt = 30_000
    most_top_requests: PositiveInt = 10_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load takes.

    Attributes:
        cores: By part, at full use.
        replicas: By deployment, those of all API tiers together; the local tier has two on each GPU.
        clusters: Of Ray, since one controller watches so many replicas.
        usd_per_1m: Of requests: `cpu`, `gpu`, `redis`, `api`.
        limits: What has to be had of each API tier: requests and tokens a minute.
        nearness: Of everything that may run out, what is needed as a share of the most that there is.
    """

    requests_s: float
    cores: Mapping[str, float]
    replicas: Mapping[str, int]
    nodes: int
    shards: int
    gpus: int
    clusters: int
    usd_per_1m: Mapping[str, float]
    limits: Mapping[str, Mapping[str, float]]
    nearness: Mapping[str, float]

    @property
    def bottlenecks(self) -> list[str]:
        """What runs out, the first of it first."""
        return sorted(self.nearness, key=lambda name: -self.nearness[name])


def plan(
    requests_s: float,
    times: Mapping[str, Mapping[str, float]],
    traffic: Traffic,
    machines: Machines,
    api_usd: Mapping[str, float],
) -> Plan:
    """Size a gateway.

    Args:
        requests_s: Requests a second, at the busiest.
        times: CPU milliseconds by kind of request (`KINDS`) and part, as `tierwise bench service-times` measures them.
        api_usd: What an answer of each tier costs; 0 for the local one, whose GPUs are counted.
    """
    shares = traffic.shares()
    parts = sorted({part for of in times.values() for part in of})
    cores = {
        part: requests_s * sum(share * times[kind].get(part, 0.0) for kind, share in shares.items()) / 1e3
        for part in parts
    }
    of_misses = traffic.tiers()
    by_api = {tier: cores.get("Tier", 0.0) * share for tier, share in of_misses.items() if tier != "local"}
    if "Tier" in cores:
        cores["Tier"] = sum(by_api.values())
    replicas = {part: _at_least_two(cores[part] / machines.utilization) for part in REPLICATED if part in cores}
    if "Tier" in cores:  # a deployment for each API tier
        replicas["Tier"] = sum(_at_least_two(busy / machines.utilization) for busy in by_api.values())
    tiers = {tier: requests_s * shares["miss"] * share for tier, share in of_misses.items()}
    gpus_used = tiers["local"] * traffic.answer_tokens / machines.gpu_tokens_s
    gpus = math.ceil(gpus_used / machines.utilization)
    entries = traffic.entries if traffic.entries is not None else requests_s * shares["miss"] * 86_400
    stored_gb = entries * machines.entry_bytes / 1e9
    redis_cores = cores.get("Redis", 0.0)
    shards = max(
        1,
        math.ceil(stored_gb / machines.redis_gb),
        math.ceil(redis_cores / machines.redis_cores / machines.utilization),
    )
    ours = sum(cores.values()) - redis_cores
    nodes = max(
        2,
        math.ceil(ours / machines.node_cores / machines.utilization),
        math.ceil(requests_s / machines.node_requests_s),
    )
    watched = sum(replicas.values()) + _REPLICAS_OF_A_GPU * gpus
    clusters = math.ceil(watched / machines.cluster_replicas)
    hourly = {
        "cpu": nodes * machines.node_usd_per_hour,
        "gpu": gpus * machines.gpu_usd_per_hour,
        "redis": shards * machines.redis_usd_per_hour,
    }
    usd = {name: price / (3600 * requests_s) * _PER_MILLION for name, price in hourly.items()}
    usd["api"] = sum(tiers[tier] * api_usd.get(tier, 0.0) for tier in TIERS) / requests_s * _PER_MILLION
    tokens = traffic.prompt_tokens + traffic.answer_tokens
    api = {
        tier: {"requests": 60 * tiers[tier], "tokens": 60 * tiers[tier] * tokens} for tier in TIERS if tier != "local"
    }
    nearness = {
        "GPUs": gpus_used / machines.utilization / machines.most_gpus,
        "shards of Redis": max(stored_gb / machines.redis_gb, redis_cores / machines.redis_cores / machines.utilization)
        / machines.most_shards,
        "mid: requests a minute": api["mid"]["requests"] / machines.most_mid_requests,
        "top: requests a minute": api["top"]["requests"] / machines.most_top_requests,
        "replicas of a cluster": watched / machines.cluster_replicas,
    }
    return Plan(requests_s, cores, replicas, nodes, shards, gpus, clusters, usd, api, nearness)


def monthly_usd(found: Plan) -> float:
    """Return what thirty days at this rate cost."""
    return sum(found.usd_per_1m.values()) * found.requests_s * _MONTH_S / _PER_MILLION


def _at_least_two(replicas: float) -> int:
    return max(2, math.ceil(replicas))
