"""What Serve logs and traces of an error: where it came from, never what it says."""

from __future__ import annotations

import json
import logging

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ray._common.formatters import JSONFormatter

from app.errors import UpstreamError
from deployments.wordless import WordlessProcessor, log_without_words

WORDS = "my secret words"


def fail() -> None:
    try:
        raise ValueError(WORDS)
    except ValueError as error:
        raise UpstreamError(f"you said: {WORDS}", "fake") from error


def test_a_traceback_in_serve_s_log_has_the_types_of_errors_and_none_of_their_words() -> None:
    lines: list[str] = []

    class Written(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend(formatter.format(record) for formatter in (JSONFormatter(), logging.Formatter()))

    log, handler = logging.getLogger("ray.serve"), Written()
    log.addHandler(handler)
    log_without_words()
    try:
        fail()
    except UpstreamError:
        log.exception("Request failed.")
    finally:
        log.removeHandler(handler)
    assert "ValueError\n\n" in json.loads(lines[0])["exc_text"]
    for line in lines:
        assert ("UpstreamError" in line, "in fail" in line, WORDS in line) == (True, True, False)


def test_an_exported_span_has_the_types_of_exceptions_and_none_of_their_words() -> None:
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(WordlessProcessor(exported))
    with provider.get_tracer("test").start_as_current_span("hop", attributes={"a": 1}) as span:
        try:
            fail()
        except UpstreamError as error:
            span.record_exception(error)
    provider.force_flush()
    (found,) = exported.get_finished_spans()
    (event,) = found.events
    assert dict(event.attributes or {}) == {
        "exception.type": "app.errors.UpstreamError",
        "exception.escaped": "False",
    }
    assert (found.name, found.context, dict(found.attributes or {})) == ("hop", span.get_span_context(), {"a": 1})
    provider.shutdown()
