"""GatewayConfig: the whole configuration, `args` of a file in `configs/`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from app.cache import CacheConfig, RedisConfig
from app.classifier import ClassifierConfig
from app.pricing import Price
from app.routing import TierConfig
from app.section import Section
from app.tenants import OpenTenants, TenantsConfig


class GatewayConfig(Section):
    """What the gateway is.

    Attributes:
        tenants: Who may ask.
        redis: Where the cache lives; null runs without one.
        cache: What is cached.
        classifier: What scores difficulty.
        tiers: By rising `max_score`, the last at 1.0.
        auto_models: Model names that are routed; add the name your application sends today and it need not change.
        baseline: The model whose price is the bill without us; by default the last tier's first model.
        max_body_bytes: Longest request accepted.
    """

    tenants: TenantsConfig = OpenTenants()
    redis: RedisConfig | None = None
    cache: CacheConfig = CacheConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    tiers: Annotated[tuple[TierConfig, ...], Field(min_length=1)]
    auto_models: tuple[str, ...] = ("auto",)
    baseline: str | None = None
    max_body_bytes: PositiveInt = 4 * 2**20

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [tier.name for tier in self.tiers]
        scores = [tier.max_score for tier in self.tiers]
        if len(set(names)) != len(names):
            raise ValueError("tiers: each needs another `name`")
        if scores != sorted(set(scores)) or scores[-1] != 1.0:
            raise ValueError(f"tiers: `max_score` must rise and end at 1.0, but is {scores}")
        local = {tier.name for tier in self.tiers if tier.llm}
        for tier in self.tiers:
            if tier.stand_in and tier.stand_in not in local:
                raise ValueError(f"tiers: the `stand_in` of `{tier.name}` must name a tier with an `llm`")
        if self.baseline is not None and self.baseline not in self.prices():
            raise ValueError(f"baseline: `{self.baseline}` is none of the models: {', '.join(self.prices())}")
        return self

    def prices(self) -> dict[str, Price]:
        """Map every configured model to its price."""
        return {name: price for tier in self.tiers for name, price in tier.models().items()}

    def baseline_price(self) -> Price:
        """Return the price per token of the bill without us."""
        return self.prices()[self.baseline] if self.baseline else next(iter(self.tiers[-1].models().values()))

    def stand_ins(self) -> dict[str, str]:
        """Map each tier whose keys are not in the environment to the tier that answers in its place."""
        return {tier.name: tier.stand_in for tier in self.tiers if tier.stand_in and tier.missing_keys()}

    def timeout_s(self, tier_name: str) -> float:
        """Return the longest wait for a tier: all its targets in turn, and a little for the way."""
        tier = next(tier for tier in self.tiers if tier.name == self.stand_ins().get(tier_name, tier_name))
        return 5 + (tier.llm.timeout_s if tier.llm else sum(target.timeout_s for target in tier.targets))
