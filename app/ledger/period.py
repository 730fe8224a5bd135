"""The period that figures are asked for, from words to Unix times."""

from __future__ import annotations

from datetime import UTC, datetime

from app.errors import InvalidRequestError

_DAY_S = 24 * 3600
_MOST_DAYS = 400


def period(
    start: str | None, end: str | None, now: float, params: tuple[str, str] = ("from", "to")
) -> tuple[float, float]:
    """Return the whole hours from `start` to before `end`, as Unix times; by default the 24 up to the present one.

    Args:
        params: What the two are called, for the message.

    Raises:
        InvalidRequestError: They are no times, or in the wrong order.
    """
    until = now if end is None else _read(end, params[1])
    until += -until % 3600
    since = until - _DAY_S if start is None else _read(start, params[0])
    since -= since % 3600
    if not 0 < until - since <= _MOST_DAYS * _DAY_S:
        raise InvalidRequestError(
            f"`{params[0]}` must be before `{params[1]}`, by {_MOST_DAYS} days at most.", params[0]
        )
    return since, until


def said(time: float) -> str:
    """Return a Unix time in words that `period` reads."""
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%dT%H:%MZ}"


def _read(text: str, param: str) -> float:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        message = f"`{param}` must be a day or a time (UTC), such as 2026-05-01 or 2026-05-01T12:00."
        raise InvalidRequestError(message, param) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
