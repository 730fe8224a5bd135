"""Tokens to US dollars: prices of one's own, with dates or of a rented GPU, else those of a kept price list."""

from __future__ import annotations

import functools
import logging
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Protocol, Self

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    RootModel,
    Tag,
    model_validator,
)

from app.schema import Usage
from app.section import Section

log = logging.getLogger(__name__)


class Tariff(Protocol):
    """What a model costs, whenever."""

    def at(self, day: date) -> Price:
        """Return the price of a day."""
        ...


class Price(Section):
    """What a model costs.

    Attributes:
        usd_per_1m_input_tokens: US dollars for a million tokens that it reads,
        usd_per_1m_output_tokens: and for a million that it writes.
        usd_per_1m_cached_input_tokens: Of prompt tokens that the provider had in its own cache; by default as others.
        usd_per_1m_cache_write_tokens: Of prompt tokens that it has put there for the request; likewise.
        batch_share: What a request in a batch costs, as a share of the usual price.
    """

    usd_per_1m_input_tokens: NonNegativeFloat = 0.0
    usd_per_1m_output_tokens: NonNegativeFloat = 0.0
    usd_per_1m_cached_input_tokens: NonNegativeFloat | None = None
    usd_per_1m_cache_write_tokens: NonNegativeFloat | None = None
    batch_share: Annotated[float, Field(ge=0, le=1)] = 0.5

    def at(self, day: date) -> Price:
        """Return itself: it holds on every day."""
        return self


class DatedPrice(Price):
    """A price and its days, in a list of such; of two that cover a day the later listed holds.

    Attributes:
        usd_per_1m_input_tokens: US dollars for a million tokens that it reads,
        usd_per_1m_output_tokens: and for a million that it writes.
        usd_per_1m_cached_input_tokens: Of prompt tokens that the provider had in its own cache; by default as others.
        usd_per_1m_cache_write_tokens: Of prompt tokens that it has put there for the request; likewise.
        batch_share: What a request in a batch costs, as a share of the usual price.
        from: The first day; open, if left out.
        until: The last day; open, if left out.
    """

    model_config = ConfigDict(populate_by_name=True)

    since: date | None = Field(None, alias="from")
    until: date | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since and self.until and self.until < self.since:
            raise ValueError(f"`until` {self.until} is before `from` {self.since}")
        return self

    def days_off(self, day: date) -> int:
        """Return how many days a day is away from these; 0 for one of them."""
        early = (self.since - day).days if self.since else 0
        late = (day - self.until).days if self.until else 0
        return max(early, late, 0)


class PriceHistory(RootModel[Annotated[tuple[DatedPrice, ...], Field(min_length=1)]]):
    """Prices by date. A day that none covers has the nearest one's; of two that cover it the later listed holds."""

    model_config = ConfigDict(frozen=True)

    def at(self, day: date) -> Price:
        """Return the price of a day."""
        return min(reversed(self.root), key=lambda price: price.days_off(day))


class GpuPrice(Section):
    """A rented GPU by the tokens it makes, so that a local token has an honest cost.

    Attributes:
        usd_per_gpu_hour: The rent.
        output_tokens_per_s: Measured, of the model under the load it has to bear; prompts are in it.
        gpus: What that throughput took: GPUs, or the fraction of one.
    """

    usd_per_gpu_hour: NonNegativeFloat
    output_tokens_per_s: PositiveFloat
    gpus: PositiveFloat = 1.0

    def at(self, day: date) -> Price:
        """Return the price, the same on every day; a batch takes as long as other requests."""
        usd_per_s = self.gpus * self.usd_per_gpu_hour / 3600
        return Price(usd_per_1m_output_tokens=1e6 * usd_per_s / self.output_tokens_per_s, batch_share=1.0)


class ListedPrice(Section):
    """The list price of a model whose configuration gives none: free where nobody lists it, which the log says."""

    model: str

    def at(self, day: date) -> Price:
        """Return the list price of a day."""
        return listed_price(self.model, day) or _unlisted(self.model)


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple | PriceHistory):
        return "history"
    given = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    return "gpu" if given.keys() & {"usd_per_gpu_hour", "output_tokens_per_s"} else "tokens"


GivenPrice = Annotated[
    Annotated[Price, Tag("tokens")] | Annotated[GpuPrice, Tag("gpu")] | Annotated[PriceHistory, Tag("history")],
    Discriminator(_kind),
]


def cost_usd(usage: Usage, tariff: Tariff, day: date | None = None) -> float:
    """Return the price of a completion's tokens in USD.

    Args:
        day: Of the request; by default today, in UTC.
    """
    price = tariff.at(day or datetime.now(UTC).date())
    usual = price.usd_per_1m_input_tokens
    cached_price, write_price = (
        usual if given is None else given
        for given in (price.usd_per_1m_cached_input_tokens, price.usd_per_1m_cache_write_tokens)
    )
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    stored = min(usage.cache_write_tokens, usage.prompt_tokens - cached)
    usd = (
        (usage.prompt_tokens - cached - stored) * usual
        + cached * cached_price
        + stored * write_price
        + usage.completion_tokens * price.usd_per_1m_output_tokens
    ) / 1e6
    return usd * price.batch_share if usage.batch else usd


@functools.lru_cache(maxsize=10_000)
def listed_price(model: str, day: date) -> Price | None:
    """Return the list price of a model on a day: `_HISTORIC`, else the library's; None where neither knows it.

    Of prices that rise with the length of the prompt, the one of short prompts.
    """
    name = model.rpartition("/")[2].lower().replace("gpt-35-", "gpt-3.5-")  # as Azure says it
    history = _HISTORIC.get(name.removeprefix("anthropic."))  # as Bedrock says it
    if history is not None and any(price.days_off(day) == 0 for price in history.root):
        return history.at(day)
    from genai_prices import Usage as Counted
    from genai_prices import calc_price

    when = datetime.combine(day, time(12), UTC)
    for reference in dict.fromkeys((model, name)):
        try:
            found = calc_price(Counted(input_tokens=1), reference, genai_request_timestamp=when).model_price
        except (LookupError, ValueError):
            continue
        keys = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
        per_million = {key: _base(getattr(found, key)) for key in keys}
        return Price(
            usd_per_1m_input_tokens=per_million["input_mtok"] or 0.0,
            usd_per_1m_output_tokens=per_million["output_mtok"] or 0.0,
            usd_per_1m_cached_input_tokens=per_million["cache_read_mtok"],
            usd_per_1m_cache_write_tokens=per_million["cache_write_mtok"],
        )
    return None


def _base(price: Any) -> float | None:
    return None if price is None else float(getattr(price, "base", price))


@functools.lru_cache(maxsize=1000)
def _unlisted(model: str) -> Price:
    log.warning("no price is known for `%s`: counted as free; give it a `price`, or one in `price_list`", model)
    return Price()


def _history(*rows: tuple[str | None, str | None, float, float]) -> PriceHistory:
    keys = ("since", "until", "usd_per_1m_input_tokens", "usd_per_1m_output_tokens")
    return PriceHistory(tuple(DatedPrice.model_validate(dict(zip(keys, row, strict=True))) for row in rows))


# What the library lacks. Sources: Anthropic's price list of 2023 and "Introducing Claude 2.1", 2023-11-21; OpenAI's
# price list of 2023 for text-davinci-003, "Introducing ChatGPT and Whisper APIs", 2023-03-01, "Function calling and
# other API updates", 2023-06-13, and "New embedding models and API updates", 2024-01-25 (of the alias: 2024-02-16).
_INSTANT = _history((None, "2023-11-20", 1.63, 5.51), ("2023-11-21", None, 0.80, 2.40))
_HISTORIC = {
    **{f"claude-instant{version}": _INSTANT for version in ("", "-1", "-1.1", "-1.2", "-v1", "-v1.1", "-v1.2")},
    "gpt-3.5-turbo": _history((None, "2023-06-12", 2.0, 2.0), ("2023-06-13", "2024-02-15", 1.5, 2.0)),
    "text-davinci-003": _history((None, None, 20.0, 20.0)),
}
