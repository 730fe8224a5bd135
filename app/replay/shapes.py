"""Rows of logs in the shapes that people have, read as one: a Record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.replay.files import BadLineError, Row
from app.replay.values import (
    completion_of,
    counts_of,
    decoded,
    first,
    inside,
    latency_of,
    messages_of,
    number,
    option,
    succeeded,
    unix_time,
)
from app.schema import BATCH_TIERS

COLUMNS = (
    *("time", "tenant", "route", "model", "prompt", "messages", "request", "answer", "response", "prompt_tokens"),
    *("completion_tokens", "cached_tokens", "cache_write_tokens", "latency_s", "latency_ms", "status"),
)
# What may stand beside the messages of a row that is a request itself; its other fields are the log's.
_OPTIONS = (
    *("system", "temperature", "top_p", "n", "max_tokens", "max_completion_tokens", "stop", "seed", "tools"),
    *("tool_choice", "response_format", "presence_penalty", "frequency_penalty", "reasoning_effort"),
)
_LONGEST_S = 86400.0  # a latency from here on is a mistake, such as of a unit
_KINDS = {"input": "prompt_tokens", "output": "completion_tokens"}


@dataclass(frozen=True, slots=True)
class Record:
    """A logged request, and what came of it; None for what the log does not say.

    Attributes:
        body: In OpenAI's form: `model` (empty, if not known), `messages` and what else was asked for.
        tenant: Whose it was: a team, a project, a key; not the single user.
        route: The part of an application that asked, as the log names it.
        time: Unix time of the request.
        answer: The completion in OpenAI's form.
        cached_tokens: Those of the prompt that the provider had in its own cache, and
        cache_write_tokens: those that it has put there for this request.
        batch: Whether it was billed as a batch.
        free: Whether it cost nothing, since a cache in front of the provider had the answer.
        ok: Whether it was answered.
    """

    body: Mapping[str, Any]
    tenant: str = ""
    route: str = ""
    time: float | None = None
    answer: Mapping[str, Any] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    batch: bool = False
    latency_s: float | None = None
    ok: bool = True
    free: bool = False


def read_record(row: Row, columns: Mapping[str, str] = {}) -> Record:
    """Read a row of whatever shape, recognised by its fields.

    Args:
        columns: Our names (`COLUMNS`) to the row's, where it has a shape of its own.

    Raises:
        BadLineError: It is no answered or failed chat completion that we can read.
    """
    if columns:
        return _plain({ours: row.get(theirs) for ours, theirs in columns.items()})
    for marks, read in _SHAPES:
        if any(all(mark in row for mark in group) for group in marks):
            return read(row)
    return _plain(row)


def _plain(row: Row) -> Record:
    """Read OpenAI's request and response, side by side, or columns by their usual names."""
    request = decoded(first(row, "request", "request_body", "body"))
    response = decoded(first(row, "response", "response_body", "completion"))
    request = decoded(request.get("body", request)) if isinstance(request, dict) else row
    if isinstance(response, dict):
        response = decoded(response.get("body", response))
    asked = first(request, "messages", "input", "prompt", "question") or first(row, "messages", "input", "prompt")
    said = response or first(row, "answer", "output", "reply")
    kept = {name: option(row[name]) for name in _OPTIONS if row.get(name) not in (None, "")}
    kept = kept if request is row else request
    return _record(
        _body(kept, asked, first(request, "model") or first(row, "model")),
        said,
        tenant=first(row, "tenant", "team", "team_id", "organization", "project"),
        route=first(row, "route", "endpoint", "app", "application"),
        time=first(row, "time", "timestamp", "ts", "created_at", "date") or inside(response, "created"),
        latency_s=latency_of(row),
        ok=succeeded(first(row, "status", "status_code")) and not row.get("error"),
        counted=row,
    )


def _litellm(row: Row) -> Record:
    """Read a row of LiteLLM's spend logs, or of its standard logging payload."""
    kind = str(row.get("call_type") or "completion")
    if "completion" not in kind and "messages" not in kind and "responses" not in kind:
        raise BadLineError("no chat completion")
    request = decoded(first(row, "proxy_server_request"))
    request = request if isinstance(request, dict) else {}
    details = decoded(row.get("metadata"))
    details = details if isinstance(details, dict) else {}
    tags = decoded(row.get("request_tags"))
    asked = decoded(first(row, "messages")) or first(request, "messages", "input")
    options = decoded(row.get("model_parameters"))
    kept = {**request, **options} if isinstance(options, dict) else request
    start, end = unix_time(row["startTime"]), unix_time(row.get("endTime"))
    return _record(
        _body(kept, asked, first(row, "model")),
        decoded(first(row, "response")),
        tenant=first(details, "user_api_key_team_alias", "user_api_key_alias") or first(row, "team_id", "api_key"),
        route=tags[0] if isinstance(tags, list) and tags else first(row, "model_group"),
        time=start,
        latency_s=None if start is None or end is None else end - start,
        ok=succeeded(row.get("status")),
        counted=row,
        free=str(row.get("cache_hit")).lower() == "true" and not number(first(row, "spend", "response_cost")),
    )


def _langfuse(row: Row) -> Record:
    """Read an observation of Langfuse's exports, in either spelling of its fields."""
    if str(row.get("type") or "GENERATION").upper() != "GENERATION":
        raise BadLineError("no generation")
    start, end = unix_time(first(row, "startTime", "start_time")), unix_time(first(row, "endTime", "end_time"))
    options = decoded(first(row, "modelParameters", "model_parameters"))
    counted = decoded(first(row, "usageDetails", "usage_details", "usage"))
    latency = None if start is None or end is None else end - start
    return _record(
        _body(
            options if isinstance(options, dict) else {},
            decoded(first(row, "input")),
            first(row, "model", "providedModelName", "provided_model_name"),
        ),
        decoded(first(row, "output")),
        tenant=first(row, "projectId", "project_id"),
        route=first(row, "traceName", "trace_name", "name"),
        time=start,
        latency_s=number(row.get("latency")) if latency is None else latency,
        ok=str(row.get("level") or "").upper() != "ERROR",
        counted=_buckets(counted) if isinstance(counted, dict) else row,
    )


def _buckets(counted: Mapping[str, Any]) -> dict[str, Any]:
    """Add up Langfuse's kinds of tokens, which do not overlap: cached ones are none of `input`."""
    sums: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    for name, count in counted.items():
        kind = "input" if name.endswith("_input_tokens") else name.partition("_")[0]  # Anthropic's names, and others
        if kind in sums:
            sums[kind].append(number(count) or 0)
    totals = {ours: sum(sums[kind]) for kind, ours in _KINDS.items() if sums[kind]}
    cached = first(counted, "input_cached_tokens", "input_cache_read", "cache_read_input_tokens")
    written = first(counted, "input_cache_creation", "cache_creation_input_tokens")
    return {**counted, **totals, "cached_tokens": cached, "cache_write_tokens": written}


def _helicone(row: Row) -> Record:
    """Read a row of Helicone's exports."""
    if "embeddings" in str(row.get("request_path") or ""):
        raise BadLineError("no chat completion")
    request = decoded(row.get("request_body"))
    if not isinstance(request, dict):
        raise BadLineError("no request body; export with bodies")
    properties = decoded(row.get("request_properties"))
    properties = properties if isinstance(properties, dict) else {}
    latency_ms = number(first(row, "delay_ms"))
    return _record(
        _body(request, first(request, "messages", "input", "prompt"), first(row, "request_model", "model")),
        decoded(row.get("response_body")),
        tenant=first(properties, "tenant", "Tenant", "team", "Team", "customer", "Customer"),
        route=first(properties, "app", "App", "feature", "Feature") or first(row, "request_path"),
        time=unix_time(row["request_created_at"]),
        latency_s=None if latency_ms is None else latency_ms / 1000,
        ok=succeeded(row.get("response_status")),
        counted=row,
    )


# By their marks: fields that a row of the shape has, any of the groups.
_SHAPES: tuple[tuple[tuple[tuple[str, ...], ...], Callable[[Row], Record]], ...] = (
    ((("startTime", "call_type"), ("startTime", "spend")), _litellm),
    ((("traceId", "input"), ("trace_id", "input"), ("traceId", "startTime")), _langfuse),
    ((("request_created_at", "request_body"), ("request_created_at", "response_status")), _helicone),
)


def _record(
    body: dict[str, Any],
    said: Any,
    *,
    tenant: Any,
    route: Any,
    time: Any,
    latency_s: float | None,
    ok: bool,
    counted: Mapping[str, Any],
    free: bool = False,
) -> Record:
    answer = completion_of(said)
    within, beside = counts_of(inside(said, "usage")), counts_of(counted)
    tier = inside(said, "service_tier") or body.get("service_tier")
    return Record(
        body,
        "" if tenant is None else str(tenant),
        "" if route is None else str(route),
        unix_time(time),
        answer,
        beside.prompt if within.prompt is None else within.prompt,
        beside.completion if within.completion is None else within.completion,
        beside.cached if within.cached is None else within.cached,
        beside.written if within.written is None else within.written,
        tier in BATCH_TIERS,
        latency_s if latency_s is not None and 0 <= latency_s < _LONGEST_S else None,
        ok,
        free,
    )


def _body(kept: Mapping[str, Any], asked: Any, model: Any) -> dict[str, Any]:
    options = {key: value for key, value in kept.items() if key not in ("input", "prompt", "question", "system")}
    model = first(kept, "model") if model is None else model
    messages = messages_of(asked)
    if isinstance(kept.get("system"), str):  # of Anthropic's requests
        messages = [{"role": "system", "content": kept["system"]}, *messages]
    return {**options, "model": "" if model is None else str(model), "messages": messages}
