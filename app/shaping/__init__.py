"""What an answer looks like: JSON that follows its schema, profiles of requests, no more tokens than are needed."""

from app.shaping.profiles import ProfileConfig, Shaper

__all__ = ["ProfileConfig", "Shaper"]
