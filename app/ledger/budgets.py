"""What a tenant may spend in a day and in a month, and what happens as it nears the end of it."""

from __future__ import annotations

import logging
import math
import time
from calendar import monthrange
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, Protocol, Self

from pydantic import Field, PositiveFloat, model_validator

from app.background import Background
from app.errors import BudgetExceededError, CacheUnavailableError
from app.ledger.record import usd
from app.ledger.rollup import day_of
from app.schema import Allowance
from app.section import Section

log = logging.getLogger(__name__)
EVERYBODY = "*"
_FRESH_S = 1.0
_DAY_S = 24 * 3600
State = Literal["ok", "warn", "step-down", "refuse"]
_Share = Annotated[float, Field(gt=0)]


class BudgetConfig(Section):
    """What a tenant may spend, by UTC days and months, and at which shares of it what happens.

    What a request costs is counted within two seconds of its answer, so that a little more may be spent. Checks that
    the gateway makes for itself do not count.

    Attributes:
        usd_per_day: For a day,
        usd_per_month: and for a month; of the two, the one that is nearer to its end decides.
        warn_at: Answers say `warn` in `x-tierwise-budget-state`.
        step_down_at: Requests go no higher than `step_down_to`; null does without.
        step_down_to: A tier.
        refuse_at: What would cost anything is refused (429); stored answers are still given. Null never refuses.
    """

    usd_per_day: PositiveFloat | None = None
    usd_per_month: PositiveFloat | None = None
    warn_at: _Share = 0.8
    step_down_at: _Share | None = None
    step_down_to: str | None = None
    refuse_at: _Share | None = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.usd_per_day is None and self.usd_per_month is None:
            raise ValueError("needs `usd_per_day` or `usd_per_month`")
        if (self.step_down_at is None) != (self.step_down_to is None):
            raise ValueError("`step_down_at` and `step_down_to` go together")
        steps = [share for share in (self.warn_at, self.step_down_at, self.refuse_at) if share is not None]
        if steps != sorted(steps):
            raise ValueError("`warn_at`, `step_down_at` and `refuse_at` must rise")
        return self


@dataclass(frozen=True, slots=True)
class Spent:
    """Dollars that a tenant has spent in the day and in the month of `time`, a Unix time."""

    day_usd: float
    month_usd: float
    time: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a tenant stands with its budget.

    Attributes:
        used: Share of the budget that is spent; may pass 1.
        left_usd: Until it is spent, in the period that decides.
        allowance: What that leaves its requests; None for everything.
    """

    state: State
    used: float
    left_usd: float
    allowance: Allowance | None = None

    def headers(self) -> dict[str, str]:
        """Return what a response says of it."""
        return {
            "x-tierwise-budget-state": self.state,
            "x-tierwise-budget-used": f"{self.used:.4f}",
            "x-tierwise-budget-left-usd": f"{self.left_usd:.6f}",
        }


def standing(budget: BudgetConfig, tenant: str, spent: Spent, now: float) -> Standing:
    """Decide where a tenant stands; what was spent in a period that is over counts no more."""
    same_day = day_of(now) == day_of(spent.time)
    same_month = day_of(now)[:7] == day_of(spent.time)[:7]
    periods = [
        (amount / limit, limit - amount, period)
        for limit, amount, period in (
            (budget.usd_per_day, spent.day_usd * same_day, "day"),
            (budget.usd_per_month, spent.month_usd * same_month, "month"),
        )
        if limit is not None
    ]
    used, left, period = max(periods)
    left = max(left, 0.0)
    if budget.refuse_at is not None and used >= budget.refuse_at:
        said = f"The budget of `{tenant}` for this {period} is spent. Stored answers are still given; for others"
        return Standing("refuse", used, left, Allowance(None, _refusal(said, tenant, period, now)))
    if budget.step_down_at is not None and used >= budget.step_down_at:
        said = (
            f"The budget of `{tenant}` for this {period} is nearly spent: it allows `auto` and models up to the tier "
        )
        said += f"`{budget.step_down_to}`. Ask for one of those; for this one"
        return Standing("step-down", used, left, Allowance(budget.step_down_to, _refusal(said, tenant, period, now)))
    return Standing("warn" if used >= budget.warn_at else "ok", used, left)


def _refusal(said: str, tenant: str, period: str, now: float) -> BudgetExceededError:
    return BudgetExceededError(
        f"{said} wait for the next {period} (UTC), or ask the operator to raise `budgets.{tenant}.usd_per_{period}`.",
        math.ceil(_ends(period, now) - now),
    )


def _ends(period: str, now: float) -> float:
    """Return the Unix time at which the period of `now` is over."""
    at = datetime.fromtimestamp(now, UTC)
    days = monthrange(at.year, at.month)[1] - at.day if period == "month" else 0
    return now - now % _DAY_S + (1 + days) * _DAY_S


class Spending(Protocol):
    """Tells what tenants have spent. `app/ledger/store.py` has it in Redis."""

    async def spent(self, tenants: Collection[str], time: float) -> dict[str, tuple[int, int]]:
        """Return billionths of a dollar of the day and of the month.

        Raises:
            CacheUnavailableError: The store did not answer.
        """
        ...


class Budgets:
    """Knows where each tenant stands, a second late at most, without a round trip on the path.

    Args:
        budgets: By tenant; `*` for all that are not named.
    """

    def __init__(
        self, budgets: Mapping[str, BudgetConfig], spending: Spending, now: Callable[[], float] = time.time
    ) -> None:
        self._budgets = budgets
        self._spending = spending
        self._now = now
        self._spent: dict[str, Spent] = {}
        self._read_at = -math.inf
        self._reads = Background()

    async def of(self, tenant: str) -> Standing | None:
        """Return where a tenant stands; None without a budget. Redis down leaves what was read last in force."""
        budget = self._budgets.get(tenant) or self._budgets.get(EVERYBODY)
        if budget is None:
            return None
        now = self._now()
        if tenant not in self._spent:  # its first request here: only this one waits
            self._spent[tenant] = Spent(0.0, 0.0, now)
            await self._read([tenant])
        elif now - self._read_at >= _FRESH_S and not self._reads:
            self._read_at = now
            self._reads.start(self._read(list(self._spent)))
        return standing(budget, tenant, self._spent[tenant], now)

    async def _read(self, tenants: Collection[str]) -> None:
        now = self._now()
        try:
            found = await self._spending.spent(tenants, now)
        except CacheUnavailableError as error:
            log.warning("what was spent is not known: %s", error.message)
            return
        self._spent |= {tenant: Spent(usd(day), usd(month), now) for tenant, (day, month) in found.items()}
