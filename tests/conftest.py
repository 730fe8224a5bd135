from __future__ import annotations

import pytest
from hypothesis import settings

from tests.fakes import FakeExactCache, FakeProvider

# no deadline, since a shared machine is slow at times; no folder of old examples; the same examples each time
settings.register_profile("tierwise", deadline=None, database=None, derandomize=True)
settings.load_profile("tierwise")


@pytest.fixture
def cache() -> FakeExactCache:
    return FakeExactCache()


@pytest.fixture
def providers() -> dict[str, FakeProvider]:
    return {"local": FakeProvider("small"), "mid": FakeProvider("medium"), "top": FakeProvider("large")}
