"""A tier of API models: which target is asked, when another is, and when one rests."""

from app.tier.config import PolicyConfig
from app.tier.policy import Target, TargetPolicy

__all__ = ["PolicyConfig", "Target", "TargetPolicy"]
