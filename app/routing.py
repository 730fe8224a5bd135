"""Which tiers to try, in order, for a score or for a model asked for by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from app.errors import ModelNotFoundError
from app.pricing import GivenPrice, ListedPrice, Price, Tariff
from app.providers import ProviderConfig
from app.section import Section


class LocalLLMConfig(Section):
    """A model served by `ray.serve.llm` on vLLM.

    Attributes:
        model: A Hugging Face name, a folder, or `bundled:smollm2-135m`.
        name: What clients may call it; by default the last part of `model`.
        device: `cpu` needs vLLM's CPU build.
        cpus: CPUs that Ray sets aside for a replica; a GPU's replica has them beside it.
        gpu_fraction: Share of one GPU that a replica is pinned to; the engine takes nine tenths of that memory.
        engine: vLLM engine arguments (`max_model_len`, `dtype`, ...).
        tools: Whether requests with `tools` may come here; needs `engine` arguments that turn on tool parsing.
        env: Environment of the replica.
        timeout_s: Longest wait for a whole answer, and for each chunk of a streamed one.
        price: What its tokens cost, or what the rented GPU costs and makes; by default nothing.
    """

    model: str
    name: str = ""
    device: Literal["cpu", "cuda"] = "cuda"
    cpus: PositiveFloat = 1
    gpu_fraction: Annotated[float, Field(gt=0, le=8)] = 1.0
    engine: dict[str, Any] = {}
    tools: bool = False
    env: dict[str, str] = {}
    timeout_s: PositiveFloat = 120
    price: GivenPrice = Price()

    @property
    def target(self) -> str:
        """The name that clients and answers use."""
        return self.name or self.model.rpartition("/")[2].rpartition(":")[2]


class TierConfig(Section):
    """A level of price and quality.

    Attributes:
        name: What clients may pin, and the `Tier-NAME` of its deployment.
        max_score: Prompts scored below it may be served here; the last tier's is 1.0.
        llm: A local model, or
        targets: API models, in the order they are tried.
        stand_in: The tier with a local model that answers while no target has its key in the environment.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    max_score: Annotated[float, Field(gt=0, le=1)]
    llm: LocalLLMConfig | None = None
    targets: tuple[ProviderConfig, ...] = ()
    stand_in: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.llm is None) == (not self.targets):
            raise ValueError(f"tier `{self.name}` needs either `llm` or `targets`")
        if self.llm and self.stand_in:
            raise ValueError(f"tier `{self.name}` has an `llm` and needs no `stand_in`")
        names = [target.model for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError(f"tier `{self.name}`: each of its `targets` needs another `model`")
        return self

    def models(self) -> dict[str, Tariff]:
        """Name the models of the tier, with what they cost: their own price, or the list price."""
        if self.llm:
            return {self.llm.target: self.llm.price}
        return {target.model: target.price or ListedPrice(model=target.model) for target in self.targets}

    def missing_keys(self) -> list[str]:
        """Name the environment variables without which no target can be asked; empty when one can."""
        if self.llm or any(target.available() for target in self.targets):
            return []
        return sorted({target.api_key_env for target in self.targets if target.api_key_env})


def plan(score: float, tiers: tuple[TierConfig, ...]) -> tuple[TierConfig, ...]:
    """Order the tiers to try for a prompt of difficulty `score`.

    The cheapest tier whose ceiling is above the score comes first, then the stronger
    ones, so that a fallback only ever raises quality.

    Args:
        score: Difficulty in [0, 1].
        tiers: Tiers by rising `max_score`, the last at 1.0.

    Returns:
        A non-empty suffix of `tiers`.
    """
    for i, tier in enumerate(tiers[:-1]):
        if score < tier.max_score:
            return tiers[i:]
    return tiers[-1:]


def pinned(model: str, tiers: tuple[TierConfig, ...]) -> tuple[TierConfig, ...]:
    """Return the tier that `model` names, by its own name or by one of its models'.

    It is the only one: who names a model wants no other.

    Raises:
        ModelNotFoundError: Nothing has that name; the message lists what does.
    """
    for tier in tiers:
        if model == tier.name or model in tier.models():
            return (tier,)
    names = [tier.name for tier in tiers] + [name for tier in tiers for name in tier.models()]
    raise ModelNotFoundError(f"The model `{model}` does not exist. Use `auto`, or one of: {', '.join(names)}.")
