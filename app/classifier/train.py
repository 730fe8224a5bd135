"""Fine-tunes the encoder that scores difficulty. `tierwise train classifier` runs it.

The encoder learns two things at once: how much a task asks for, from prompts of our own with a tier each, and whether
weak models fail where strong ones do not, from benchmarks with outcomes. A last output tells the two kinds of prompt
apart, so that each is scored by what was learnt from its like. Every benchmark weighs the same however many rows it
has, so that no benchmark's style is the signal. The rows held out of each kind then place the customary cut points, so
that they keep a promised share of the top tier's quality.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundled import minilm_source, state_dir
from app.classifier.calibration import Outcomes, RouterPoint, halves, last_that_keeps, point
from app.classifier.encoder import (
    CUTS,
    FEATURES,
    MAX_TOKENS,
    OUTPUTS,
    WEIGHTS,
    Array,
    Scale,
    outcome_logit,
    task_logit,
    text_features,
)
from app.embedding.onnx import OnnxEncoder, open_graph, windowed
from app.errors import ConfigError
from app.finetune import batches_of, export_int8, run_pass, run_passes
from app.jsonl import read_rows

# Prompts of our own with a tier each. The long ones share their texts, so none of them is held out.
OWN = {name: Path(__file__).with_name(f"{name}_prompts.jsonl") for name in ("product", "long")}
# Sources for non-commercial use, or that state no licence: to measure with, not to train shipped weights on.
MEASURE_ONLY = frozenset({"alpacaeval", "flask", "mixeval", "routerdc7"})
_TIERS = ("small", "mid", "large")
_HELD_OUT = 0.15
_HELD_OUT_PRODUCT = 0.3  # they are few, and half of those held out test the promise
_CONFIDENCE = 0.95
_SOLVED = 0.5  # what an answer is worth from which on its tier suffices
_PRODUCT_SHARE = 0.3  # of a pass
_MOST_REPEATS = 4  # of a row in a pass

Target = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, and what each of `OUTPUTS` should say of it; None where nothing is known.

    Attributes:
        tier: Index of the weakest tier that suffices, if it is known.
        gain: By how much the strong model beat the weak one, in [-1, 1], if both were seen.
        quality: What each tier's answer was worth, in [0, 1], if all were seen; of our own prompts 1 from the tier on.
    """

    prompt: str
    target: Target
    tier: int | None = None
    gain: float | None = None
    quality: tuple[float, float, float] | None = None


def train(
    data: Sequence[Path],
    out: Path = WEIGHTS,
    base: Path | str | None = None,
    seed: int = 0,
    passes: int = 2,
    rows: int = 16_000,
    quality: float = 0.9,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train on every permitted JSONL file and on prompts of our own; write graph, tokenizer and card into a folder.

    A pass that is done is kept in the state folder, so that an interrupted training goes on after it.

    Args:
        data: Files, or folders of `*.jsonl`.
        base: A Hugging Face encoder, by name or folder; by default the bundled one.
        rows: Of a pass, drawn so that each source has its share.
        quality: Share of the top tier's that the cut points 0.3 and 0.7 keep on held-out rows of each kind, at 95 %
            confidence. Where these cannot support it, the cut points separate the tiers best, and the card says so.

    Returns:
        The figures of the card.

    Raises:
        ConfigError: There are no usable rows.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(seed)
    started = time.monotonic()
    files = training_files(data)
    sources = read_sources(files)
    if set(sources) <= set(OWN):
        raise ConfigError(
            f"there are no rows with outcomes in the *.jsonl of {', '.join(f'`{path}`' for path in data)}"
        )
    taught, held_out = split(sources, seed)
    for name, examples in sources.items():
        say(f"{name}: {len(examples)} prompts")

    source = base or minilm_source()
    tokenizer = AutoTokenizer.from_pretrained(source)
    standard = np.array([text_features(example.prompt) for part in taught.values() for example in part], np.float32)
    model = _router(AutoModel.from_pretrained(source), standard.mean(0), standard.std(0) + 1e-6)
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in [*files, *OWN.values()]}
    name = hashlib.blake2b(json.dumps([hashes, str(source), seed, rows]).encode(), digest_size=4).hexdigest()

    def one_pass(number: int) -> None:
        drawn = _drawn(taught, rows, seed + number)
        batches = batches_of(drawn, lambda example: min(len(example.prompt), 5 * MAX_TOKENS), 32, seed + number)
        title = f"pass {number + 1} of {passes}"
        run_pass(model, batches, lambda batch: _loss(model, tokenizer, batch), 6e-5 / (number + 1), title)

    earlier_s = run_passes(model, passes, state_dir() / "train" / f"classifier-{name}.pt", one_pass, say)
    out.mkdir(parents=True, exist_ok=True)
    graph, vocabulary = out / "classifier.int8.onnx", out / "tokenizer.json"
    inputs = _encode(tokenizer, ["hello world, how are you", "hello"])
    export_int8(model, inputs, ("input_ids", "attention_mask"), "logits", graph)
    tokenizer.backend_tokenizer.save(str(vocabulary))
    encoder = open_graph(graph, vocabulary, os.cpu_count() or 1, MAX_TOKENS)
    outputs = {name: _outputs(encoder, part) for name, part in held_out.items()}
    scale, promise = _scale(held_out, outputs, quality, say)
    card = {
        "base": "all-MiniLM-L6-v2" if base is None else str(base),
        "seed": seed,
        "passes": passes,
        "rows_a_pass": rows,
        "data": hashes,
        "held_out": {name: _figures(part, scale.scores(outputs[name])) for name, part in held_out.items()},
        "promise": promise,
        "minutes": round((earlier_s + time.monotonic() - started) / 60, 1),
        "scale": {"task": scale.task.tolist(), "outcome": scale.outcome.tolist()},
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    return card


def best_cuts(raw: Array, tiers: NDArray[Any]) -> tuple[float, float]:
    """Return the cut points that separate the tiers 0, 1 and 2 best."""
    return max(_pairs(raw), key=lambda cuts: separation((raw >= cuts[0]).astype(int) + (raw >= cuts[1]), tiers))


def separation(assigned: NDArray[Any], tiers: NDArray[Any]) -> float:
    """Return the mean recall over the tiers 0, 1 and 2; a 2 taken for a 0 counts twice, and a -1 not at all."""
    recall = [np.mean(assigned[tiers == tier] == tier) for tier in range(3) if (tiers == tier).any()]
    return float(np.mean(recall) - (np.mean(assigned[tiers == 2] == 0) if (tiers == 2).any() else 0.0))


def _pairs(raw: NDArray[Any]) -> Iterator[tuple[float, float]]:
    """Yield cut points, at quantiles."""
    grid = np.unique(np.quantile(raw, np.linspace(0.03, 0.97, 81)))
    return combinations([float(cut) for cut in grid], 2)


def training_files(data: Sequence[Path]) -> list[Path]:
    """Return the files of `data` that shipped weights may be trained on; of a folder its `*.jsonl`."""
    found = [file for path in data for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    return [file for file in found if file.stem not in MEASURE_ONLY]


def read_sources(files: Sequence[Path]) -> dict[str, list[Example]]:
    """Read the rows that teach something, by the file's name; and those of our own."""
    sources = {file.stem: examples for file in files if (examples := _benchmark(file))}
    return sources | {name: [_own(row) for row in _read(file)] for name, file in OWN.items()}


def _own(row: Mapping[str, Any]) -> Example:
    tier = _TIERS.index(row["tier"])
    worth = (float(tier <= 0), float(tier <= 1), 1.0)
    return Example(row["prompt"], (float(tier >= 1), float(tier >= 2), None, None, None, 0.0), tier, quality=worth)


def _benchmark(file: Path) -> list[Example]:
    return [example for row in _read(file) if (example := _outcome(row)) is not None]


def _outcome(row: Mapping[str, Any]) -> Example | None:
    """Read a row with outcomes in [0, 1]; with a difficulty alone; or of prompts that were chosen for being hard."""
    small, mid, large = (row.get(name) for name in _TIERS)
    weak, strong = (row.get("weak_score", small), row.get("strong_score", large))
    if weak is not None and strong is not None:
        gain = float(strong) - float(weak)
        fails = (None if small is None else 1 - float(small), None if mid is None else 1 - float(mid))
        tier = _TIERS.index(row["tier"]) if row.get("tier") and row.get("solved") is not False else None
        worth = None if small is None or mid is None or large is None else (float(small), float(mid), float(large))
        return Example(row["prompt"], (None, None, *fails, (1 + gain) / 2, 1.0), tier, gain, worth)
    if row.get("label") == "selected as hard":
        return Example(row["prompt"], (1.0, 0.9, None, None, None, 0.0))
    if (difficulty := row.get("difficulty")) is not None:
        return Example(row["prompt"], (None, None, float(difficulty), None, float(difficulty), 1.0))
    return None


def split(sources: Mapping[str, list[Example]], seed: int) -> tuple[dict[str, list[Example]], dict[str, list[Example]]]:
    """Hold out a share of each source; of those without a known tier or gain there is nothing to measure."""
    taught, held_out = {}, {}
    for name, examples in sources.items():
        shuffled = random.Random(seed).sample(examples, len(examples))
        measurable = any(example.tier is not None or example.gain is not None for example in examples)
        share = _HELD_OUT_PRODUCT if name == "product" else _HELD_OUT if measurable and name not in OWN else 0
        count = int(share * len(examples))
        taught[name] = shuffled[count:]
        if count:
            held_out[name] = shuffled[:count]
    return taught, held_out


def _drawn(taught: Mapping[str, Sequence[Example]], rows: int, seed: int) -> list[Example]:
    """Draw a pass: the product prompts' share, and of the others the same number each, no row too often."""
    rng = random.Random(seed)
    others = int(rows * (1 - _PRODUCT_SHARE) / max(1, len(taught) - 1))
    drawn: list[Example] = []
    for name, examples in taught.items():
        wanted = int(rows * _PRODUCT_SHARE) if name == "product" else others
        whole, rest = divmod(min(wanted, _MOST_REPEATS * len(examples)), len(examples))
        drawn += list(examples) * whole + rng.sample(list(examples), rest)
    return drawn


def _router(encoder: Any, mean: Array, deviation: Array) -> Any:
    import torch

    class Router(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.hidden = torch.nn.Linear(encoder.config.hidden_size + FEATURES, 96)
            self.dropout = torch.nn.Dropout(0.1)
            self.out = torch.nn.Linear(96, len(OUTPUTS))
            self.register_buffer("mean", torch.from_numpy(mean))
            self.register_buffer("deviation", torch.from_numpy(deviation))

        def forward(self, input_ids: Any, attention_mask: Any, features: Any) -> Any:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            joined = torch.cat([pooled, (features - self.mean) / self.deviation], dim=1)
            return self.out(self.dropout(torch.nn.functional.gelu(self.hidden(joined))))

    return Router()


def _encode(tokenizer: Any, prompts: Sequence[str]) -> dict[str, Any]:
    import torch

    rows = [windowed(ids, MAX_TOKENS) for ids in tokenizer(list(prompts))["input_ids"]]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    features = torch.tensor([text_features(prompt) for prompt in prompts], dtype=torch.float32)
    return {"input_ids": ids, "attention_mask": mask, "features": features}


def _loss(model: Any, tokenizer: Any, batch: Sequence[Example]) -> Any:
    import torch

    logits = model(**_encode(tokenizer, [example.prompt for example in batch])).float()
    known = torch.tensor([[value is not None for value in example.target] for example in batch])
    target = torch.tensor([[value or 0.0 for value in example.target] for example in batch])
    # outcomes and rubrics are noisy: smoothing keeps the heads from certainty they have no ground for
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, target * 0.94 + 0.03, reduction="none")
    return (losses * known).sum() / known.sum()


def _outputs(encoder: OnnxEncoder, examples: Sequence[Example]) -> Array:
    """Run the graph that serves; one by one, since int8 activations hang on what is in a batch."""
    prompts = [example.prompt for example in examples]
    return np.concatenate(
        [encoder.run([prompt], features=np.array([text_features(prompt)], np.float32)) for prompt in prompts]
    )


def _scale(
    held_out: Mapping[str, Sequence[Example]], outputs: Mapping[str, Array], quality: float, say: Callable[[str], None]
) -> tuple[Scale, dict[str, Any]]:
    """Place the customary cut points for prompts of each kind; return what they keep as well."""
    benchmarks = [
        name for name in held_out if name != "product" and any(example.tier is not None for example in held_out[name])
    ]
    kinds = {"task": (["product"], task_logit), "outcome": (benchmarks, outcome_logit)}
    points, promises = {}, {}
    for kind, (names, logit) in kinds.items():
        raw = np.concatenate([logit(outputs[name]) for name in names])
        points[kind], promises[kind] = _points([example for name in names for example in held_out[name]], raw, quality)
        if promises[kind] is None:
            say(f"{kind}: the rows held out cannot support {quality:.0%} of the top tier's quality")
    return Scale(**points), promises


def _points(examples: Sequence[Example], raw: Array, quality: float) -> tuple[Array, dict[str, Any] | None]:
    """Map logits to scores by the cut points that keep the quality; else by those that separate the tiers best."""
    known = [i for i, example in enumerate(examples) if example.quality is not None]
    worth = np.array([examples[i].quality for i in known])
    outcomes = Outcomes(raw[known].astype(float), worth, np.zeros(worth.shape))
    found, promise = promised_cuts(outcomes, quality), None
    if found is None:
        tiered = np.array([example.tier is not None for example in examples])
        low, high = best_cuts(raw[tiered], np.array([example.tier for example in examples if example.tier is not None]))
    else:
        low, high = found.cuts
        kept, shares = round(found.quality_kept, 4), found.shares
        promise = {"quality": quality, "confidence": _CONFIDENCE, "rows": len(known), "kept": kept, "shares": shares}
    least, most = min(float(raw.min()), low), max(float(raw.max()), high)
    return np.array([[least - 2, low, max(high, low + 1e-3), most + 2], [0, *CUTS, 1]], np.float32), promise


def promised_cuts(outcomes: Outcomes, quality: float) -> RouterPoint | None:
    """Return the cut points that separate the tiers best, of those that keep `quality` of the top tier's.

    Half of the rows give the candidates that no others beat both in what they keep and in how they separate the tiers;
    on the other half they are tested by falling quality, see `last_that_keeps`.

    Returns:
        The cut points with what they do on the half that tested them; None where it supports none of them, or is too
        small.
    """
    try:
        seen, tested = halves(outcomes)
    except ConfigError:
        return None
    needed = np.where(seen.quality.max(axis=1) >= _SOLVED, np.argmax(seen.quality >= _SOLVED, axis=1), -1)
    candidates = [(point(seen, cuts), separation(seen.routed(cuts), needed)) for cuts in _pairs(seen.scores)]
    best: list[tuple[RouterPoint, float]] = []
    for candidate in sorted(candidates, key=lambda found: (-found[0].quality_kept, -found[1])):
        if not best or candidate[1] > best[-1][1]:
            best.append(candidate)
    chosen = last_that_keeps(tested, [candidate for candidate, _ in best], quality, _CONFIDENCE)
    return None if chosen is None else point(tested, chosen.cuts)


def _figures(examples: Sequence[Example], scores: Array) -> dict[str, float]:
    """Say how well scores place prompts in their tiers, and how they order them by what the strong model gains."""
    figures: dict[str, float] = {"rows": len(examples)}
    known = [i for i, example in enumerate(examples) if example.tier is not None]
    if known:
        tiers = np.array([examples[i].tier for i in known])
        assigned = (scores[known] >= CUTS[0]).astype(int) + (scores[known] >= CUTS[1])
        figures["right_tier"] = round(float(np.mean(assigned == tiers)), 4)
        figures["below_top"] = round(float(np.mean(assigned < 2)), 4)
        figures["too_weak"] = round(float(np.mean(assigned < tiers)), 4)
        figures["hard_to_small"] = round(float(np.mean(assigned[tiers == 2] == 0)), 4)
    gains = np.array([example.gain for example in examples if example.gain is not None])
    if len(gains) == len(examples) and gains.sum() > 0:
        figures["share_of_gain"] = round(_area(scores, gains), 4)
    return figures


def _area(scores: Array, gains: Array) -> float:
    """Return the mean share of the gain that the hardest x % have, over all x: 0.5 by chance, like APGR."""
    ordered = np.cumsum(gains[np.argsort(-scores, kind="stable")]) / gains.sum()
    return float(ordered.mean())


def _read(file: Path) -> Iterator[dict[str, Any]]:
    return (row for _, row in read_rows(file, "prompt"))
