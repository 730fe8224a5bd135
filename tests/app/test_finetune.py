"""What the trainings share: passes that are interrupted go on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.finetune import run_pass, run_passes

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.models  # not that they export one, but PyTorch takes seconds to import


def model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))


def trained(passes: int, checkpoint: Path, say: Callable[[str], None] = lambda line: None) -> Any:
    """Train from the same start, dropout included."""
    net = model()
    batches = list(torch.arange(24.0).reshape(3, 2, 4) / 24)

    def one_pass(number: int) -> None:
        run_pass(net, batches, lambda batch: (net(batch) ** 2).mean(), 0.01, f"pass {number + 1}")

    run_passes(net, passes, checkpoint, one_pass, say)
    return net.state_dict()


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_that_goes_on_comes_to_the_same_weights_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    said: list[str] = []
    first = trained(1, tmp_path / "on.pt")
    torch.rand(7)  # what the machine drew in between does not matter
    second = trained(2, tmp_path / "on.pt", said.append)
    assert said == ["going on after pass 1"]
    assert same(second, trained(2, tmp_path / "whole.pt"))
    assert not same(first, second)


def test_a_checkpoint_with_more_passes_than_are_asked_for_is_not_used(tmp_path: Path) -> None:
    trained(3, tmp_path / "long.pt")
    said: list[str] = []
    assert same(trained(1, tmp_path / "long.pt", said.append), trained(1, tmp_path / "short.pt"))
    assert said == []


def test_a_checkpoint_that_breaks_off_while_it_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(1, tmp_path / "kept.pt")
    before = (tmp_path / "kept.pt").read_bytes()

    def broken(state: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(KeyboardInterrupt):
        trained(2, tmp_path / "kept.pt")
    assert (tmp_path / "kept.pt").read_bytes() == before


def test_a_training_that_goes_on_counts_the_time_of_the_passes_before(tmp_path: Path) -> None:
    trained(1, tmp_path / "on.pt")
    assert run_passes(model(), 1, tmp_path / "on.pt", lambda number: None, lambda line: None) > 0
