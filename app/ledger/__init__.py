"""What every request was: recorded, summed by hour, counted against budgets, and exported."""

from app.ledger.budgets import BudgetConfig
from app.ledger.store import LedgerConfig

__all__ = ["BudgetConfig", "LedgerConfig"]
