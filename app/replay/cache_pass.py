"""The cache in the log's own time: the real decision over entries in memory, one scope after another."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.cache import CacheConfig, RedisSemanticCache
from app.cache.decision import Candidate, evidence
from app.cache.store import Limits
from app.schema import CacheEntry, CacheKey, CacheLookup, Completion, Embedding

_BLOCK = 128  # requests whose cosines are computed at once
_VERIFIED = 50_000  # pairs whose verdict is remembered: traffic repeats itself, and the verified are short
_UNUSED = Completion({}, "")
Floats = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Visit:
    """A logged request, as the cache sees it.

    Attributes:
        row: Its place in the table.
        entry: The digest of its text.
        refusal: Why it must not be served from the cache; empty if it may.
        kept: Whether its answer may be stored.
    """

    row: int
    time: float
    entry: int
    semantic: bool
    refusal: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What the cache decided for a row.

    Attributes:
        served: The row whose answer it served; -1 for none.
        near: Of a miss that the verifier was asked about, the row that had the most evidence; -1 for none.
    """

    row: int
    lookup: CacheLookup
    served: int = -1
    near: int = -1


class ScopeStore:
    """The entries of one scope with their vectors: exact cosines, times to live and the least recently used out.

    Args:
        text: Returns the text of a row.
        floor: Cosine below which only the nearest is of interest.
    """

    def __init__(self, limits: Limits, text: Callable[[int], str], dim: int, floor: float) -> None:
        self.fetched: dict[str, tuple[Candidate, CacheEntry]] = {}  # by text, of the last lookup
        self._limits = limits
        self._text = text
        self._floor = floor
        self._slots: dict[int, int] = {}  # entry to its place in the arrays
        self._free: list[int] = []
        self._matrix = np.zeros((0, dim), np.float32)
        self._rows = np.zeros(0, np.int64)
        self._entries = np.zeros(0, np.uint64)
        self._ends = np.zeros(0)
        self._used = np.zeros(0)
        self._asked = np.zeros((0, dim), np.float32)
        self._cosines = np.zeros((0, 0), np.float32)
        self._place = 0
        self._now = 0.0

    def begin(self, vectors: Floats) -> None:
        """Take the vectors of the next requests, `(n, dim)`, and compute their cosines to all entries at once."""
        self._asked = vectors
        self._cosines = vectors @ self._matrix.T

    def at(self, now: float, place: int) -> None:
        """Set the clock, and which of those requests is looked up next."""
        self._now, self._place = now, place

    def get(self, entry: int) -> int | None:
        """Return the row whose live answer has exactly this text."""
        slot = self._slots.get(entry)
        if slot is None or self._ends[slot] <= self._now:
            return None
        self._used[slot] = self._now
        return int(self._rows[slot])

    def has(self, entry: int, until: float) -> bool:
        """Whether an entry is there and will be until then, whatever else is stored meanwhile."""
        slot = self._slots.get(entry)
        room = len(self._slots) + _BLOCK <= self._limits.max_entries
        return slot is not None and room and bool(self._ends[slot] > until)

    def put(self, entry: int, row: int, semantic: bool) -> None:
        """Store the answer of a row, with the vector of the request that is looked up."""
        slot = self._slots.get(entry)
        slot = self._slot() if slot is None else slot
        self._slots[entry] = slot
        self._rows[slot], self._entries[slot] = row, entry
        self._ends[slot], self._used[slot] = self._now + self._limits.ttl_s, self._now
        self._matrix[slot] = self._asked[self._place] if semantic else 0.0
        self._cosines[:, slot] = self._asked @ self._matrix[slot]

    async def nearest(self, key: CacheKey, embedding: Embedding, count: int) -> list[Candidate]:
        """Return up to `count` live entries by falling cosine, named by their slots; one, if none is near."""
        cosines = np.where(self._ends > self._now, self._cosines[self._place], -2.0)
        near = np.flatnonzero(cosines >= self._floor)
        if not len(near):
            near = np.array([int(cosines.argmax())]) if len(cosines) else near
            near = near[cosines[near] > -2.0]
        best = near[np.argsort(-cosines[near], kind="stable")][:count]
        return [Candidate(str(slot), float(cosines[slot])) for slot in best]

    async def fetch(self, key: CacheKey, candidates: Sequence[Candidate]) -> list[CacheEntry | None]:
        """Return the entries of candidates; the `tier` of each holds the row that it is the answer of."""
        rows = [int(self._rows[int(candidate.entry)]) for candidate in candidates]
        entries = [CacheEntry(self._text(row), _UNUSED, str(row)) for row in rows]
        self.fetched = {entry.text: (candidate, entry) for candidate, entry in zip(candidates, entries, strict=True)}
        return list(entries)

    def touch(self, scope: str, entry: str) -> None:
        """Note that an entry was used."""
        self._used[int(entry)] = self._now

    def _slot(self) -> int:
        if not self._free:
            self._make_room()
        return self._free.pop()

    def _make_room(self) -> None:
        """Drop what has expired; else grow; at the limit drop the least recently used."""
        for slot in np.flatnonzero(self._ends <= self._now):
            self._drop(int(slot))
        size = len(self._rows)
        if self._free:
            return
        if size >= self._limits.max_entries:
            self._drop(int(self._used.argmin()))
            return
        more = min(max(size, 8), self._limits.max_entries - size)
        for name in ("_rows", "_entries", "_ends", "_used", "_matrix"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)]))
        self._cosines = np.pad(self._cosines, ((0, 0), (0, more)))
        self._free = list(range(size + more - 1, size - 1, -1))

    def _drop(self, slot: int) -> None:
        if self._slots.pop(int(self._entries[slot]), None) is not None:
            self._ends[slot] = -np.inf
            self._used[slot] = np.inf
            self._free.append(slot)


class CachePass:
    """Plays scopes through the real decision of the semantic cache.

    Args:
        vectors: Returns the vectors of rows, `(rows, dim)`, of L2 norm 1.
        text: Returns the text of a row.
        verify: As OnnxVerifier does.
        space: Names the encoder and the verifier.
    """

    def __init__(
        self,
        config: CacheConfig,
        vectors: Callable[[Sequence[int]], Floats],
        text: Callable[[int], str],
        verify: Callable[[Sequence[tuple[str, str]]], Floats],
        space: str,
        dim: int,
    ) -> None:
        self._config = config
        self._vectors = vectors
        self._text = text
        self._dim = dim
        self._space = space
        self._threshold = config.threshold_for(space)
        self._read: list[
            tuple[str, float]
        ] = []  # stored texts that the verifier read in this lookup, with its verdicts
        self._verdict = functools.lru_cache(_VERIFIED)(lambda a, b: verify([(a, b)]))

    def play(self, visits: Iterable[Visit], tenant: str) -> Iterator[list[Decision]]:
        """Decide the requests of one scope, by time, some at once."""
        coming = iter(visits)
        store = ScopeStore(self._config.limits(tenant), self._text, self._dim, self._config.floor)
        cache = RedisSemanticCache(self._config, store, self._embed, self._verify, self._space, self._threshold)
        while block := list(itertools.islice(coming, _BLOCK)):
            yield _finished(self._block(cache, store, block))

    async def _block(self, cache: RedisSemanticCache, store: ScopeStore, block: Sequence[Visit]) -> list[Decision]:
        last = block[-1].time
        # who is certain to be an exact hit needs no cosines
        near = [v for v in block if v.semantic and not v.refusal and not store.has(v.entry, last)]
        store.begin(self._vectors([visit.row for visit in near]))
        places = {visit.row: place for place, visit in enumerate(near)}
        decisions = []
        for visit in block:
            semantic = visit.row in places
            store.at(visit.time, places.get(visit.row, 0))
            decision = await self._decide(cache, store, visit, semantic)
            decisions.append(decision)
            if decision.lookup.status == "miss" and visit.kept:
                store.put(visit.entry, visit.row, semantic)
        return decisions

    async def _embed(self, text: str) -> Floats:
        return np.zeros(0, np.float32)  # the store has the vectors, and knows which request is looked up

    async def _verify(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        verdicts = np.concatenate([self._verdict(*pair) for pair in pairs])
        self._read += [(stored, float(verdict)) for (stored, _), verdict in zip(pairs, verdicts, strict=True)]
        return verdicts

    async def _decide(self, cache: RedisSemanticCache, store: ScopeStore, visit: Visit, semantic: bool) -> Decision:
        if visit.refusal:
            return Decision(visit.row, CacheLookup("bypass", visit.refusal))
        exact = store.get(visit.entry)
        if exact is not None:
            return Decision(visit.row, CacheLookup("hit", "exact", 1.0), exact)
        if not semantic:
            return Decision(visit.row, CacheLookup("miss", "exact only"))
        self._read = []
        lookup = await cache.lookup(CacheKey("", "", self._text(visit.row), True))
        if lookup.entry:
            return Decision(visit.row, lookup, int(lookup.entry.tier))
        return Decision(visit.row, lookup, near=self._nearest_read(store))

    def _nearest_read(self, store: ScopeStore) -> int:
        """Return the row that the last lookup had the most evidence for, of those that the verifier read."""
        found = [(store.fetched[text], probability) for text, probability in self._read]
        weighed = [(evidence(near.similarity, probability), int(entry.tier)) for (near, entry), probability in found]
        return max(weighed)[1] if weighed else -1


def _finished(call: Coroutine[Any, Any, T]) -> T:
    """Run what is asynchronous by its form alone, since everything it asks is in memory."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise RuntimeError("a cache in memory has nothing to wait for")
