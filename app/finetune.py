"""What the trainings of encoders share: passes over batches of like length, checkpoints, and the export to ONNX."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TextColumn("loss {task.fields[loss]:.3f}"),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


def batches_of(items: Sequence[T], length: Callable[[T], int], size: int, seed: int) -> list[list[T]]:
    """Batch items of like length, since padding costs as much as text; the batches in random order."""
    rng = random.Random(seed)
    ordered = sorted(items, key=lambda item: length(item) + rng.random() * 20)
    batches = [list(ordered[i : i + size]) for i in range(0, len(ordered), size)]
    rng.shuffle(batches)
    return batches


def run_pass(model: Any, batches: Sequence[T], loss_of: Callable[[T], Any], learning_rate: float, title: str) -> None:
    """Train a model on batches, once each, the learning rate warmed up and then falling to nothing.

    Args:
        title: Of the progress bar.
    """
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    steps = len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / (0.05 * steps), (steps - step) / (0.95 * steps))
    )
    running = 0.7
    model.train()
    with Progress(*_COLUMNS, console=Console(stderr=True)) as progress:
        bar = progress.add_task(title, total=steps, loss=running)
        for batch in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=_has_bfloat16()):
                loss = loss_of(batch)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            running = 0.98 * running + 0.02 * float(loss.detach())
            progress.update(bar, advance=1, loss=running)
    model.eval()


def run_passes(
    model: Any,
    passes: int,
    checkpoint: Path,
    one_pass: Callable[[int], None],
    say: Callable[[str], None],
) -> float:
    """Run the passes that a checkpoint does not have yet; it is written after each.

    A training that goes on draws the same random numbers as one that was never interrupted. A checkpoint with more
    passes than are asked for is of no use: its weights have seen too much.

    Returns:
        The seconds that earlier runs spent on the passes that were taken over.
    """
    import torch

    done, earlier_s = 0, 0.0
    saved = torch.load(checkpoint, weights_only=True) if checkpoint.is_file() else {}
    if "random" in saved and saved["passes"] <= passes:
        model.load_state_dict(saved["model"])
        torch.set_rng_state(saved["random"])
        done, earlier_s = int(saved["passes"]), float(saved["seconds"])
        say(f"going on after pass {done}")
    started = time.monotonic()
    for number in range(done, passes):
        one_pass(number)
        state = {
            "model": model.state_dict(),
            "passes": number + 1,
            "random": torch.get_rng_state(),
            "seconds": earlier_s + time.monotonic() - started,
        }
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        part = checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.replace(checkpoint)  # whole or not at all, whenever it is interrupted
    model.eval()
    return earlier_s


def export_onnx(model: Any, inputs: Mapping[str, Any], varying: Sequence[str], output: str, file: Path) -> None:
    """Export a model to ONNX in float32, its batch size free, and the length of the inputs in `varying`."""
    import torch

    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=512)
    torch.onnx.export(
        model.float().eval(),
        tuple(inputs.values()),
        file,
        input_names=list(inputs),
        output_names=[output],
        dynamic_shapes=tuple({0: batch, 1: tokens} if name in varying else {0: batch} for name in inputs),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def export_int8(model: Any, inputs: Mapping[str, Any], varying: Sequence[str], output: str, file: Path) -> None:
    """Export a model to ONNX with int8 weights, its activations quantised as they come."""
    with tempfile.TemporaryDirectory() as work:
        plain = Path(work) / "model.onnx"
        export_onnx(model, inputs, varying, output, plain)
        quantised(plain, file)


def quantised(plain: Path, file: Path) -> None:
    """Write an ONNX graph with int8 weights, per channel: closest to float32 at the same speed."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(plain, file, weight_type=QuantType.QInt8, per_channel=True)


def _has_bfloat16() -> bool:
    try:
        flags = set(Path("/proc/cpuinfo").read_text("utf-8").split())
        return bool(flags & {"amx_bf16", "avx512_bf16"})
    except OSError:
        return False
