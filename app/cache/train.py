"""Fine-tunes the verifier, the cross-encoder that says whether one answer serves two texts. `tierwise train verifier`.

Paraphrase pairs teach what is the same, traps (`app/cache/traps.py`) what is not. Published labels are noisy: a
sentence encoder, the teacher, tempers them, and where it contradicts one most, the pair is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from app.bundled import minilm_source, state_dir
from app.cache.pairs import Pair, read_pairs
from app.cache.traps import TrapMaker
from app.embedding import EmbedderConfig, OnnxEmbedderConfig
from app.finetune import batches_of, export_int8, run_pass, run_passes

NEAR, FAR = 0.9, 0.5  # cosines beyond which a label "different" or "same" is not believed
MAX_TOKENS = 128
_BLOCK = 2048  # texts that the teacher reads at once


@dataclass(frozen=True, slots=True)
class Lesson:
    """A pair, and the probability that the verifier should give it."""

    pair: Pair
    target: float


def judged(pairs: Sequence[Pair], teacher: EmbedderConfig) -> list[Lesson]:
    """Temper the labels by a sentence encoder's opinion; pairs that it contradicts strongly are left out.

    The target is the mean of the label and of the probability that the teacher's cosine alone gives, by a logistic
    regression on the labels: distillation with both hard and soft targets (Hinton et al., arXiv 1503.02531).
    """
    embedder = teacher.build()
    texts = sorted({text for pair in pairs for text in (pair.a, pair.b)}, key=len)
    starts = track(range(0, len(texts), _BLOCK), "the teacher reads", console=Console(stderr=True))
    vectors = [embedder.embed(texts[start : start + _BLOCK]) for start in starts]
    matrix, row = np.vstack(vectors), {text: i for i, text in enumerate(texts)}
    cosines = np.array([float(matrix[row[pair.a]] @ matrix[row[pair.b]]) for pair in pairs])
    labels = np.array([pair.same for pair in pairs])
    believed = np.where(labels, cosines >= FAR, cosines < NEAR)
    opinion = _logistic(cosines, labels)
    return [
        Lesson(pair, (float(pair.same) + float(p)) / 2)
        for pair, p, kept in zip(pairs, opinion, believed, strict=True)
        if kept
    ]


def _logistic(x: NDArray[np.float64], y: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Fit P(y) on x `(n,)` by maximum likelihood; return it for each x."""
    from scipy.optimize import minimize
    from scipy.special import expit

    centre = x.mean()

    def loss(w: NDArray[np.float64]) -> float:
        z = w[0] * (x - centre) + w[1]
        return float(np.mean(np.logaddexp(0, z) - y * z))

    slope, bias = minimize(loss, np.array([10.0, 0.0]), method="Nelder-Mead").x
    return np.asarray(expit(slope * (x - centre) + bias))


def lessons(published: Sequence[Lesson], limit: int, seed: int) -> list[Lesson]:
    """Mix the published pairs with as many traps made from them, shuffled, `limit` in all."""
    rng = random.Random(seed)
    maker = TrapMaker([lesson.pair.a for lesson in published], seed)
    mixed = rng.sample(list(published), min(len(published), limit // 2))
    traps: list[Lesson] = []
    while len(traps) < limit - len(mixed):
        lesson = rng.choice(published)
        pair = lesson.pair
        other, target = (pair.b, lesson.target) if pair.same else (pair.a, 1.0)
        # a trap of the same meaning is as sure as the pair that it is made of
        traps += [Lesson(trap, target if trap.same else 0.0) for trap in maker.pairs(pair.a, other)]
    mixed += traps[: limit - len(mixed)]
    rng.shuffle(mixed)
    return mixed


def train(
    file: Path,
    out: Path,
    limit: int = 100_000,
    seed: int = 0,
    passes: int = 1,
    teacher: EmbedderConfig | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train and write `verifier.int8.onnx`, `tokenizer.json` and `card.json` into a folder.

    The verifier is a student: its targets are the labels, tempered by the teacher, and what the traps say. Each pass
    sees `limit` pairs, its traps made anew. A pass that is done is kept in the state folder, so that an interrupted
    training goes on after it.

    Args:
        teacher: By default the bundled encoder.

    Returns:
        The figures of the card.

    Raises:
        ConfigError: The pairs cannot be read.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(seed)
    started = time.monotonic()
    teacher = teacher or OnnxEmbedderConfig(threads=os.cpu_count() or 1)
    published = judged(read_pairs(file), teacher)
    held_out, published = published[:3000], published[3000:]
    tests = lessons(held_out, 4000, seed + 1000)
    source = minilm_source()
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = _cross_encoder(AutoModel.from_pretrained(source, attn_implementation="sdpa"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    checkpoint = state_dir() / "train" / f"verifier-{digest[:8]}-{limit}-{seed}-{teacher.build().space}.pt"

    def one_pass(number: int) -> None:
        batches = batches_of(lessons(published, limit, seed + number), _length, 64, seed)
        title = f"pass {number + 1} of {passes}"
        run_pass(model, batches, lambda batch: _loss(model, tokenizer, batch), 7e-5 / (number + 1), title)

    earlier_s = run_passes(model, passes, checkpoint, one_pass, say)
    out.mkdir(parents=True, exist_ok=True)
    example = _encode(tokenizer, [Pair("hello", "hello", True, ""), Pair("hello", "world", False, "")])
    names = ("input_ids", "attention_mask", "token_type_ids")
    export_int8(model, {name: example[name] for name in names}, names, "logit", out / "verifier.int8.onnx")
    tokenizer.backend_tokenizer.save(str(out / "tokenizer.json"))
    tested = [lesson.pair for lesson in tests]
    scores = _scores(model, tokenizer, tested)
    card = {
        "base": "all-MiniLM-L6-v2",
        "seed": seed,
        "passes": passes,
        "pairs_a_pass": limit,
        "teacher": teacher.build().space,
        "data": {file.name: digest},
        "held_out_accuracy": _accuracy(tested, scores),
        "minutes": round((earlier_s + time.monotonic() - started) / 60, 1),
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    return card


def _length(lesson: Lesson) -> int:
    return len(lesson.pair.a) + len(lesson.pair.b)


def _loss(model: Any, tokenizer: Any, batch: Sequence[Lesson]) -> Any:
    import torch

    logits = model(**_encode(tokenizer, [lesson.pair for lesson in batch]))
    target = torch.tensor([lesson.target for lesson in batch])
    # labels are noisy: smoothing keeps the head from certainty it has no ground for
    return torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), target * 0.96 + 0.02)


def _cross_encoder(encoder: Any) -> Any:
    import torch

    class CrossEncoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder
            self.head = torch.nn.Linear(encoder.config.hidden_size, 1)

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            hidden = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return self.head((hidden * mask).sum(1) / mask.sum(1))[:, 0]

    return CrossEncoder()


def _encode(tokenizer: Any, pairs: Sequence[Pair]) -> dict[str, Any]:
    encoded = tokenizer(
        [pair.a for pair in pairs],
        [pair.b for pair in pairs],
        padding=True,
        truncation=True,
        max_length=MAX_TOKENS,
        return_tensors="pt",
    )
    return dict(encoded)


def _scores(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        parts = [
            torch.sigmoid(model(**_encode(tokenizer, pairs[i : i + 64]))).numpy() for i in range(0, len(pairs), 64)
        ]
    return np.concatenate(parts)


def _accuracy(pairs: Sequence[Pair], scores: NDArray[np.float32]) -> dict[str, float]:
    by_kind: dict[str, list[bool]] = {}
    for pair, score in zip(pairs, scores, strict=True):
        for kind in ("all", pair.kind):
            by_kind.setdefault(kind, []).append(bool(score >= 0.5) == pair.same)
    return {kind: round(sum(right) / len(right), 4) for kind, right in sorted(by_kind.items())}
