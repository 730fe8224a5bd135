"""What errors say, left out of what Ray Serve itself logs and traces: an upstream may quote the request in it.

Serve logs each error that leaves a replica, and writes it on the replica's span, with its message and its causes' ones.
Here only their types are left, and where in the code they came from.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor

_LOGGERS = ("ray.serve", "asyncio")


def log_without_words() -> None:
    """Leave out of this process' log what errors say; a second call changes nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_without_words)


def _without_words(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        record.exc_text = _told(error)  # a formatter takes this in place of what it would make of `exc_info`
    return True


def _told(error: BaseException) -> str:
    """Write a traceback without the messages."""
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in chain:
        chain.append(found)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    parts = ["".join(traceback.format_tb(one.__traceback__)) + type(one).__qualname__ for one in reversed(chain)]
    return "\n\n".join(parts)


class WordlessProcessor(BatchSpanProcessor):
    """Exports spans in batches, with the types of exceptions alone."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that is over."""
        super().on_end(_wordless(span) if span.events else span)


def _wordless(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        span.attributes,
        [_event(event) for event in span.events],
        span.links,
        span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _event(event: Event) -> Event:
    kept: dict[str, Any] = {
        name: value
        for name, value in (event.attributes or {}).items()
        if name not in ("exception.message", "exception.stacktrace")
    }
    return Event(event.name, kept, event.timestamp)
