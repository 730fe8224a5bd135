from __future__ import annotations

from app.failfast import FailFast


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_after_a_failure_calls_fail_at_once_for_a_while_and_then_try_again() -> None:
    clock = Clock()
    failfast = FailFast(0.5, clock)
    assert not failfast.tripped
    failfast.trip()
    assert failfast.tripped
    clock.now += 0.49
    assert failfast.tripped
    clock.now += 0.01
    assert not failfast.tripped


def test_each_failure_starts_the_pause_anew() -> None:
    clock = Clock()
    failfast = FailFast(0.5, clock)
    failfast.trip()
    clock.now += 0.4
    failfast.trip()
    clock.now += 0.4
    assert failfast.tripped


def test_a_reset_tries_again_at_once() -> None:
    failfast = FailFast(1000)
    failfast.trip()
    failfast.reset()
    assert not failfast.tripped
