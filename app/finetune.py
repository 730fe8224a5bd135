"""What the trainings of encoders share: passes over batches of like length, checkpoints, and the export to ONNX."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def batches_of(items: Sequence[T], length: Callable[[T], int], size: int, seed: int) -> list[list[T]]:
    """Batch items of like length, since padding costs as much as text; the batches in random order."""
    rng = random.Random(seed)
    ordered = sorted(items, key=lambda item: length(item) + rng.random() * 20)
    batches = [list(ordered[i : i + size]) for i in range(0, len(ordered), size)]
    rng.shuffle(batches)
    return batches


def run_pass(
    model: Any,
    batches: Sequence[T],
    loss_of: Callable[[T], Any],
    learning_rate: float,
    say: Callable[[str], None],
) -> None:
    """Train a model on batches, once each, the learning rate warmed up and then falling to nothing."""
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    steps = len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / (0.05 * steps), (steps - step) / (0.95 * steps))
    )
    started, running = time.monotonic(), 0.7
    model.train()
    for step, batch in enumerate(batches):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=_has_bfloat16()):
            loss = loss_of(batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running = 0.98 * running + 0.02 * float(loss.detach())
        if step % 50 == 0:
            left = (time.monotonic() - started) / (step + 1) * (steps - step - 1)
            say(f"step {step} of {steps}, loss {running:.3f}, {left / 60:.0f} min left")
    model.eval()


def run_passes(
    model: Any,
    passes: int,
    checkpoint: Path,
    one_pass: Callable[[int], None],
    say: Callable[[str], None],
) -> None:
    """Run the passes that a checkpoint does not have yet; it is written after each."""
    import torch

    done = 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        done = int(saved["passes"])
        say(f"going on after pass {done}")
    for number in range(done, passes):
        say(f"pass {number + 1} of {passes}")
        one_pass(number)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"model": model.state_dict(), "passes": number + 1}, checkpoint)
    model.eval()


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
        return "amx_bf16" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False
