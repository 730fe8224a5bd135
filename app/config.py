"""GatewayConfig: the whole configuration, `args` of a file in `configs/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, PositiveInt, ValidationError, model_validator

from app.admission import OverloadConfig
from app.assumptions import Assumptions
from app.cache import CacheConfig, RedisConfig
from app.canary import CanaryConfig, changed
from app.classifier import ClassifierConfig
from app.classifier.calibration import RouterCalibration
from app.classifier.encoder import CUTS
from app.errors import ConfigError
from app.ledger import BudgetConfig, LedgerConfig
from app.pricing import GivenPrice, ListedPrice, Tariff
from app.reload import restarting_keys
from app.routing import RoutingConfig, TierConfig, Tiers, cut_points
from app.section import Section
from app.shaping import ProfileConfig
from app.sizes import check_sizes
from app.tenants import OpenTenants, TenantsConfig, check_address

_KEPT = 0.95  # share of the best tier's quality that is aimed at where nothing is promised


class GatewayConfig(Section):
    """What the gateway is.

    Attributes:
        tenants: Who may ask.
        redis: Where the cache lives; null runs without one.
        cache: What is cached.
        classifier: What scores difficulty.
        tiers: By rising `max_score`, the last at 1.0.
        routing: What decides beside the score.
        profiles: Shapes of requests, by name.
        canary: A second configuration for some of the requests; null runs without one.
        overload: How much may be under way at once, and who goes first.
        ledger: What every request leaves.
        budgets: What tenants may spend, by tenant; `*` for each that is not named. They take Redis and the ledger.
        auto_models: Model names that are routed; add the name your application sends today and it need not change.
        price_list: Prices of models that have none of their own, in place of the list prices; also of those in logs.
        baseline: The model whose price is the bill without us; by default the last tier's first model.
        max_body_bytes: Longest request accepted.
        replay: What `tierwise replay` assumes.
        log_requests: Whether each request gets a line in the log: what was decided, never what was said.
    """

    tenants: TenantsConfig = OpenTenants()
    redis: RedisConfig | None = None
    cache: CacheConfig = CacheConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    tiers: Annotated[tuple[TierConfig, ...], Field(min_length=1)]
    routing: RoutingConfig = RoutingConfig()
    profiles: Mapping[str, ProfileConfig] = {}
    canary: CanaryConfig | None = None
    overload: OverloadConfig = OverloadConfig()
    ledger: LedgerConfig = LedgerConfig()
    budgets: Mapping[str, BudgetConfig] = {}
    auto_models: Annotated[tuple[str, ...], Field(min_length=1)] = ("auto",)
    price_list: Mapping[str, GivenPrice] = {}
    baseline: str | None = None
    max_body_bytes: PositiveInt = 4 * 2**20
    replay: Assumptions = Assumptions()
    log_requests: bool = True

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
        for name, tariff in [item for tier in self.tiers for item in tier.models().items()]:
            if self._tariff(name, tariff) != self.prices()[name]:
                raise ValueError(f"tiers: `{name}` has two prices; give both the same")
        if self.classifier.calibration is not None and self.classifier.calibration.expanduser().is_file():
            made_for = RouterCalibration.load(self.classifier.calibration.expanduser()).max_scores
            if list(made_for) != scores:
                raise ValueError(f"classifier.calibration: was made for tiers with `max_score` {list(made_for)}")
        if unknown := self.replay.latency.keys() - set(names):
            raise ValueError(f"replay.latency: there is no tier `{min(unknown)}`")
        if unknown := self.replay.profile_answer_tokens.keys() - self.profiles.keys():
            raise ValueError(f"replay.profile_answer_tokens: there is no profile `{min(unknown)}`")
        for key, judge in (("cache.audit", self.cache.audit.judge), ("routing.quality", self.routing.quality.judge)):
            if judge is not None and judge not in (*names, *self.prices()):
                raise ValueError(f"{key}.judge: `{judge}` is neither a tier nor one of the models")
        for tenant, bounds in self.routing.tenants.items():
            if wrong := bounds.check(names):
                raise ValueError(f"routing.tenants.{tenant}.{wrong}")
        self._check_profiles(names)
        self._check_budgets(names)
        if self.routing.top_share is not None and len(names) == 1:
            raise ValueError("routing.top_share: there is only one tier")
        if self.baseline is not None and self.baseline not in self.prices():
            raise ValueError(f"baseline: `{self.baseline}` is none of the models: {', '.join(self.prices())}")
        self._check_canary()
        return self

    def _check_profiles(self, tiers: list[str]) -> None:
        taken = {*self.auto_models, *tiers, *self.prices()}
        for name, profile in self.profiles.items():
            for tier in profile.tiers:
                if tier not in tiers:
                    raise ValueError(f"profiles.{name}.tiers: there is no tier `{tier}`")
            for model in profile.models:
                if model in taken:
                    raise ValueError(
                        f"profiles.{name}.models: `{model}` is a model, a tier or another profile's already"
                    )
                taken.add(model)

    def _check_budgets(self, tiers: list[str]) -> None:
        if self.budgets and (self.redis is None or not self.ledger.enabled):
            raise ValueError("budgets: what was spent is known with `redis` and `ledger.enabled` alone")
        for tenant, budget in self.budgets.items():
            if budget.step_down_to not in (None, *tiers):
                raise ValueError(f"budgets.{tenant}.step_down_to: there is no tier `{budget.step_down_to}`")

    def _check_canary(self) -> None:
        try:
            canary = self.canary_config()
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(["canary.changes", *map(str, first["loc"])])
            raise ValueError(f"{where}: {first['msg']}") from error
        if canary is not None and (restarting := restarting_keys(self, canary)):
            raise ValueError(f"canary.changes: `{restarting[0]}` takes replicas of its own; the canary has none")

    def canary_config(self) -> Self | None:
        """Return the configuration of the canary, if there is one."""
        if self.canary is None:
            return None
        given = self.model_dump(mode="json", exclude_unset=True, exclude={"canary"})
        return self.model_validate(changed(given, self.canary.changes))

    def prices(self) -> dict[str, Tariff]:
        """Map every configured model to its price."""
        models = [item for tier in self.tiers for item in tier.models().items()]
        return {name: self._tariff(name, tariff) for name, tariff in models}

    def baseline_model(self) -> str:
        """Return the model whose price is the bill without us."""
        return self.baseline or next(iter(self.tiers[-1].models()))

    def baseline_price(self) -> Tariff:
        """Return the price per token of the bill without us."""
        return self.prices()[self.baseline_model()]

    def price_of(self, model: str) -> Tariff:
        """Return the price of any model, such as a log may name."""
        return self.prices().get(model) or self._tariff(model, ListedPrice(model=model))

    def _tariff(self, model: str, own: Tariff) -> Tariff:
        return self.price_list.get(model, own) if isinstance(own, ListedPrice) else own

    def gpu_slices(self) -> dict[str, float]:
        """Map the deployments of small models to their part of a GPU."""
        embedder = getattr(self.cache.embedder, "gpu_fraction", 0.0)  # one behind an API has none
        return {"Cache": embedder if self.redis else 0.0, "Classifier": self.classifier.gpu_fraction}

    def stand_ins(self) -> dict[str, str]:
        """Map each tier whose keys are not in the environment to the tier that answers in its place."""
        return {tier.name: tier.stand_in for tier in self.tiers if tier.stand_in and tier.missing_keys()}

    def routable_tiers(self) -> Tiers:
        """Return the tiers with what they take now: while another stands in for one, what that one takes."""
        stand_ins = self.stand_ins()
        servers = {tier.name: tier for tier in self.tiers}
        return tuple(
            tier.model_copy(update={"abilities": server.takes(), "context_tokens": server.window()})
            for tier in self.tiers
            for server in [servers[stand_ins.get(tier.name, tier.name)]]
        )

    def quality_kept(self) -> float:
        """Return the promised share of routed requests whose answer is as good as the best tier's."""
        if self.routing.quality.kept is not None:
            return self.routing.quality.kept
        file = self.classifier.calibration
        if file is not None:
            promised = RouterCalibration.load(file.expanduser()).quality
        else:
            customary = cut_points(self.tiers) == CUTS
            promised = self.classifier.promised() if customary else None
        return promised or _KEPT

    def server_of(self, tier_name: str) -> TierConfig:
        """Return the tier that answers under a name: it, or its stand-in."""
        return next(tier for tier in self.tiers if tier.name == self.stand_ins().get(tier_name, tier_name))

    def timeout_s(self, tier_name: str) -> float:
        """Return the longest wait for a tier: all that it tries, and a little for the way."""
        tier = self.server_of(tier_name)
        own_s = tier.llm.timeout_s if tier.llm else 0.0
        total_s = tier.policy.total_s or own_s + sum(target.timeout_s for target in tier.targets)
        return 5 + (total_s if tier.targets else own_s)


@dataclass(frozen=True, slots=True)
class ServeFile:
    """A file of `configs/`, read and checked."""

    path: Path
    raw: Mapping[str, Any]
    config: GatewayConfig

    @property
    def host(self) -> str:
        """The address that Serve listens on; Ray's default is every one."""
        return str(self.raw.get("http_options", {}).get("host") or "0.0.0.0")

    @property
    def port(self) -> int:
        """The port that Serve listens on."""
        return int(self.raw.get("http_options", {}).get("port") or 8000)

    @property
    def sizes(self) -> Sequence[Mapping[str, Any]]:
        """How much of each deployment runs, where the file says so."""
        return self.raw["applications"][0].get("deployments") or ()

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the gateway."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"


def read_serve_file(path: Path) -> ServeFile:
    """Read a Serve configuration and check what can be checked before anything starts.

    Raises:
        ConfigError: It cannot be read or served; the message names the key.
    """
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
        arguments = raw["applications"][0].get("args") or {}
    except OSError as error:
        raise ConfigError(f"cannot read `{path}`: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"`{path}` is not YAML: {error}") from error
    except (TypeError, KeyError, IndexError) as error:
        raise ConfigError(f"`{path}` needs `applications`, a list with one application") from error
    try:
        config = GatewayConfig.model_validate(arguments)
    except ValidationError as error:
        lines = [f"  args.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError("\n".join([f"`{path}` cannot be served:", *lines])) from error
    file = ServeFile(path, raw, config)
    check_sizes(file.sizes, config.tiers, config.gpu_slices())
    check_address(config.tenants, file.host)
    return file
