"""The parts of a replay that many processes can do at once, each with models of its own, over a folder they share."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from app.cache import CacheConfig, RedisSemanticCache
from app.cache.agreement import answer_text, settled_answers
from app.cache.semantic import model_names
from app.config import GatewayConfig
from app.embedding import OpenAIEmbedderConfig
from app.embedding.onnx import OnnxEmbedder
from app.errors import ConfigError
from app.replay.cache_pass import CachePass, Decision, ScopeStore, Visit
from app.replay.requests import Gate
from app.replay.table import Rows, tables

Batch = dict[str, NDArray[Any]]
# Two answers: the same text, JSON, yes or no; alike to the models, which is a hint; contradicting; nobody knows.
SAME, ALIKE, DIFFERENT, UNKNOWN = 2, 1, 0, -1
_AT_ONCE = 2000  # decisions handed back together


@dataclass(frozen=True, slots=True)
class Work:
    """The folder of a replay, on a disk that every process sees.

    Its arrays: `texts` `(texts,)` has a row for each distinct prompt, and `vectors` `(texts, dim)` its embedding as
    float16; `order` `(rows,)` has the rows by scope and time, `scopes` `(scopes + 1,)` where each scope starts in it;
    `time`, `entry`, `text`, `semantic` and `storable` are `(rows,)`.
    """

    folder: Path

    @property
    def rows(self) -> Path:
        """The log as a table."""
        return self.folder / "rows.arrow"

    def save(self, **arrays: NDArray[Any]) -> None:
        """Write arrays under their names."""
        for name, array in arrays.items():
            np.save(self.folder / f"{name}.npy", array)

    def array(self, name: str) -> NDArray[Any]:
        """Map a written array into memory."""
        return np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r"))

    def new_array(self, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Make an array on disk, to be filled."""
        file = self.folder / f"{name}.npy"
        np.lib.format.open_memmap(file, "w+", dtype, shape).flush()  # type: ignore[no-untyped-call]
        return np.asarray(np.load(file, mmap_mode="r+"))

    def keep(self, array: NDArray[Any]) -> NDArray[Any]:
        """Put an array on the disk and map it into memory, where the system forgets it when it must; to be read."""
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".npy") as file:  # the map outlives the name
            np.save(file, array)
            file.flush()
            return np.asarray(np.load(file.name, mmap_mode="r"))


def local_embedder(config: CacheConfig) -> OnnxEmbedder:
    """Load the encoder, on one thread: there is a process for each core.

    Raises:
        ConfigError: It is an API, and a replay sends nothing anywhere.
    """
    if isinstance(config.embedder, OpenAIEmbedderConfig):
        raise ConfigError("cache.embedder: a replay sends nothing anywhere; name a local encoder in its configuration")
    return config.embedder.model_copy(update={"threads": 1}).build()


class Reader:
    """Reads a log into pieces of the table."""

    def __init__(self, columns: Mapping[str, str], config: GatewayConfig) -> None:
        self._columns = columns
        self._gate = Gate(config)

    def __call__(self, batch: Batch) -> Iterator[pa.Table]:
        """Read the logs of a batch of `index` and `file`."""
        for index, file in zip(batch["index"], batch["file"], strict=True):
            yield from tables(int(index), str(file), self._columns, self._gate)


class Encoder:
    """Embeds and scores prompts."""

    def __init__(self, work: Work, config: GatewayConfig) -> None:
        self._rows = Rows(work.rows)
        self._texts = work.array("texts")
        self._embedder = local_embedder(config.cache)
        self._classifier = config.classifier.model_copy(update={"threads": 1}).build()

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """Encode the texts from `start` to `stop`."""
        for start, stop in zip(batch["start"], batch["stop"], strict=True):
            prompts = [self._rows.value("prompt", int(row)) for row in self._texts[start:stop]]
            yield {
                "text": np.arange(start, stop),
                "vector": self._embedder.embed(prompts).astype(np.float16),
                "score": self._classifier.scores(prompts),
            }


class Decider:
    """Plays scopes through the cache."""

    def __init__(self, work: Work, config: GatewayConfig) -> None:
        self._rows = Rows(work.rows)
        self._order, self._scopes, self._vectors = work.array("order"), work.array("scopes"), work.array("vectors")
        self._visits = {name: work.array(name) for name in ("time", "entry", "text", "semantic", "storable")}
        self._verifier = config.cache.verifier.model_copy(update={"threads": 1}).build()
        space = model_names(local_embedder(config.cache).space, self._verifier.name)
        self._pass = CachePass(
            config.cache, self._embedded, self._text, self._verifier.verify, space, self._vectors.shape[1]
        )

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """Decide the scopes from `first` to `last`."""
        done: list[Decision] = []
        for first, last in zip(batch["first"], batch["last"], strict=True):
            for scope in range(int(first), int(last)):
                for decisions in self._play(scope):
                    done += decisions
                    if len(done) >= _AT_ONCE:
                        yield _columns(done)
                        done = []
        yield _columns(done)

    def _play(self, scope: int) -> Iterator[list[Decision]]:
        start, stop = self._scopes[scope : scope + 2]
        rows = self._order[start:stop]
        tenant = self._rows.value("tenant", int(rows[0]))
        return self._pass.play((self._visit(int(row)) for row in rows), tenant)

    def _visit(self, row: int) -> Visit:
        of = self._visits
        refusal = self._rows.value("refusal", row)
        return Visit(
            row,
            float(of["time"][row]),
            int(of["entry"][row]),
            bool(of["semantic"][row]),
            refusal,
            bool(of["storable"][row]),
        )

    def _embedded(self, rows: Any) -> NDArray[np.float32]:
        vectors = self._vectors[self._visits["text"][rows]] if len(rows) else self._vectors[:0]
        return np.asarray(vectors, np.float32)

    def _text(self, row: int) -> str:
        return str(self._rows.value("prompt", row))


class Comparer:
    """Compares logged answers: what a hit served with what the log has for the same request."""

    def __init__(self, work: Work, config: GatewayConfig) -> None:
        self._rows = Rows(work.rows)
        embedder, verifier = (
            local_embedder(config.cache),
            config.cache.verifier.model_copy(update={"threads": 1}).build(),
        )

        async def embed(text: str) -> NDArray[np.float32]:
            return np.asarray(embedder.embed([text])[0], np.float32)

        async def verify(pairs: Any) -> NDArray[np.float32]:
            return verifier.verify(pairs)

        store = ScopeStore(config.cache.limits(""), str, 1, 1.0)
        self._cache = RedisSemanticCache(config.cache, store, embed, verify, "", 0.0)

    def __call__(self, batch: Batch) -> Batch:
        """Say of each pair of `row` and `served` how the answers compare: SAME, ALIKE, DIFFERENT or UNKNOWN."""
        pairs = zip(batch["row"], batch["served"], strict=True)
        return {"row": batch["row"], "agree": np.array([self._agree(int(row), int(served)) for row, served in pairs])}

    def _agree(self, row: int, served: int) -> int:
        stored, fresh = (self._completion(served), self._completion(row))
        body = {"response_format": {"type": "json_object"}} if self._rows.value("structured", row) else {}
        settled = settled_answers(body, stored, fresh)
        if settled is not None:
            return SAME if settled else DIFFERENT
        alike = asyncio.run(self._cache.agree(answer_text(stored), answer_text(fresh)))
        return UNKNOWN if alike is None else ALIKE if alike else DIFFERENT

    def _completion(self, row: int) -> dict[str, Any]:
        return {"choices": [{"message": msgspec.json.decode(self._rows.value("message", row))}]}


def _columns(decisions: Sequence[Decision]) -> Batch:
    lookups = [decision.lookup for decision in decisions]
    return {
        "row": np.array([decision.row for decision in decisions], np.int64),
        "served": np.array([decision.served for decision in decisions], np.int64),
        "near": np.array([decision.near for decision in decisions], np.int64),
        "reason": np.array([f"{lookup.status} {lookup.reason}" for lookup in lookups], object),
        "similarity": np.array([_or_nan(lookup.similarity) for lookup in lookups]),
        "evidence": np.array([_or_nan(lookup.evidence) for lookup in lookups]),
    }


def _or_nan(number: float | None) -> float:
    return float("nan") if number is None else number
