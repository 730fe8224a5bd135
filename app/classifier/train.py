"""Trains the head of the encoder classifier on prompts with outcomes. `tierwise train classifier` runs it.

Targets are soft: the difficulty of a row is the share of the ladder small, mid, large that its outcomes demand.
Every source weighs the same however many rows it has, so that no benchmark's style is the signal, and the product
prompts, nearest to real use, weigh as much as all benchmarks together. Their held-out scores also place the two cut
points: the head's raw output is mapped piecewise linearly so that 0.3 and 0.7 separate the tiers best there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundled import state_dir
from app.classifier.encoder import WEIGHTS, ClassifierConfig, inputs
from app.embedding import OnnxEmbedder
from app.errors import ConfigError

PRODUCT = Path(__file__).with_name("product_prompts.jsonl")
# Sources for non-commercial use, or that state no licence: to measure with, not to train shipped weights on.
MEASURE_ONLY = frozenset({"alpacaeval", "flask", "mixeval", "routerdc7"})
CUTS = (0.3, 0.7)
_TIERS = ("small", "mid", "large")

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows to learn from: `x` `(n, inputs)`, `y` `(n,)` difficulty in [0, 1], `weight` `(n,)`."""

    x: Array
    y: Array
    weight: Array


def train(
    data: Path, out: Path = WEIGHTS, seed: int = 0, epochs: int = 20, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train on every permitted `*.jsonl` of a folder and on the product prompts, and write the head.

    Embeddings are kept in the state folder, so an interrupted run goes on where it was.

    Returns:
        The figures that are stored beside the weights.

    Raises:
        ConfigError: The folder holds no usable rows.
    """
    encoder = ClassifierConfig().encoder.build()
    files = sorted(file for file in data.glob("*.jsonl") if file.stem not in MEASURE_ONLY)
    benchmarks: list[Examples] = []
    for file in files:
        rows = [(row["prompt"], row["difficulty"]) for row in _read(file) if row.get("difficulty") is not None]
        if rows:
            say(f"{file.name}: {len(rows)} prompts")
            x = _cached_inputs(encoder, [prompt for prompt, _ in rows], say)
            y = np.array([difficulty for _, difficulty in rows], np.float32)
            benchmarks.append(Examples(x, y, np.full(len(y), 1 / len(files) / len(y), np.float32)))
    if not benchmarks:
        raise ConfigError(f"there are no rows with a `prompt` and a `difficulty` in the *.jsonl of `{data}`")
    rows = [(row["prompt"], _TIERS.index(row["tier"])) for row in _read(PRODUCT)]
    tiers = np.array([tier for _, tier in rows])
    x = _cached_inputs(encoder, [prompt for prompt, _ in rows], say)
    product = Examples(x, (tiers / 2).astype(np.float32), np.full(len(tiers), 1 / len(tiers), np.float32))

    held_out = np.empty(len(tiers), np.float32)  # each fold scored by a head that has not seen it
    for fold in _folds(len(tiers), 5, seed):
        rest = np.setdiff1d(np.arange(len(tiers)), fold)
        weights = fit([*benchmarks, _take(product, rest)], seed, epochs)
        held_out[fold] = _raw(weights, product.x[fold])
    low, high = best_cuts(held_out, tiers)
    weights = fit([*benchmarks, product], seed, epochs)
    raw = _raw(weights, np.vstack([part.x for part in [*benchmarks, product]]))
    points = [min(float(raw.min()), low - 1), low, high, max(float(raw.max()), high + 1)]
    weights |= {"raw": np.array(points, np.float32), "score": np.array([0, *CUTS, 1], np.float32)}

    assigned = (held_out >= low).astype(int) + (held_out >= high)
    card = {
        "encoder": encoder.space,
        "seed": seed,
        "epochs": epochs,
        "data": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in [*files, PRODUCT]},
        "rows": sum(len(part.y) for part in [*benchmarks, product]),
        "held_out_product_accuracy": round(float(np.mean(assigned == tiers)), 4),
        "held_out_product_too_weak": round(float(np.mean(assigned < tiers)), 4),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(out, **weights)  # type: ignore[arg-type]
    out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    return card


def fit(parts: Sequence[Examples], seed: int, epochs: int, hidden: int = 32) -> dict[str, Array]:
    """Fit the two layers by weighted cross-entropy against the soft targets."""
    import torch

    torch.manual_seed(seed)
    x, y = np.vstack([part.x for part in parts]), np.concatenate([part.y for part in parts])
    weight = np.concatenate([part.weight for part in parts])
    mean, scale = x.mean(0), x.std(0) + 1e-6
    data = [torch.from_numpy(np.ascontiguousarray(a)) for a in ((x - mean) / scale, y, weight / weight.mean())]
    net = torch.nn.Sequential(
        torch.nn.Dropout(0.2), torch.nn.Linear(x.shape[1], hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 1)
    )
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(256):
            rows, target, importance = (part[batch] for part in data)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(rows)[:, 0], target, importance)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    first, second = net[1], net[3]
    tensors = {"w1": first.weight.T, "b1": first.bias, "w2": second.weight.T, "b2": second.bias}
    return {"mean": mean, "scale": scale, **{k: v.detach().numpy().copy() for k, v in tensors.items()}}


def best_cuts(raw: Array, tiers: NDArray[Any]) -> tuple[float, float]:
    """Return the two cut points with the best mean recall over the tiers 0, 1 and 2."""
    grid = np.unique(np.quantile(raw, np.linspace(0.05, 0.95, 61)))

    def recall(cuts: tuple[float, float]) -> float:
        assigned = (raw >= cuts[0]).astype(int) + (raw >= cuts[1])
        return float(np.mean([np.mean(assigned[tiers == tier] == tier) for tier in range(3)]))

    low, high = max(combinations([float(cut) for cut in grid], 2), key=recall)
    return low, high


def _raw(weights: dict[str, Array], x: Array) -> Array:
    hidden = np.tanh((x - weights["mean"]) / weights["scale"] @ weights["w1"] + weights["b1"])
    raw: Array = (hidden @ weights["w2"] + weights["b2"])[:, 0]
    return raw


def _take(part: Examples, rows: NDArray[Any]) -> Examples:
    return Examples(part.x[rows], part.y[rows], part.weight[rows])


def _folds(count: int, folds: int, seed: int) -> list[NDArray[Any]]:
    return np.array_split(np.random.default_rng(seed).permutation(count), folds)


def _read(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def _cached_inputs(encoder: OnnxEmbedder, prompts: list[str], say: Callable[[str], None], block: int = 256) -> Array:
    """Compute the head's inputs block by block, each kept in a file named by what it was made from."""
    folder = state_dir() / "train"
    folder.mkdir(parents=True, exist_ok=True)
    blocks = []
    for start in range(0, len(prompts), block):
        texts = prompts[start : start + block]
        name = hashlib.blake2b("\0".join([encoder.space, *texts]).encode(), digest_size=16).hexdigest()
        file = folder / f"{name}.npy"
        if not file.is_file():
            part = file.with_suffix(".part.npy")
            np.save(part, inputs(encoder, texts))
            part.rename(file)
            say(f"  embedded {start + len(texts)} of {len(prompts)}")
        blocks.append(np.load(file))
    return np.vstack(blocks)
