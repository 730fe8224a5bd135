"""The quality kept by routing down, watched while the gateway runs: what is checked, who judges, what moves."""

from app.quality.audit import QualityConfig

__all__ = ["QualityConfig"]
