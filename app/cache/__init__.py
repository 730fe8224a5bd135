"""The cache: exact by key, semantic by meaning, both in one Redis."""

from app.cache.scope import cache_key, request_key
from app.cache.semantic import CacheConfig, RedisSemanticCache
from app.cache.store import RedisConfig, RedisStore

__all__ = ["CacheConfig", "RedisConfig", "RedisSemanticCache", "RedisStore", "cache_key", "request_key"]
