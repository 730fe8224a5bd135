"""Rows of the shapes that people have, in our own words, and what is read of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.replay.files import BadLineError
from app.replay.shapes import read_record

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How tall is a giraffe?"}]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
ANSWER = "About five metres."
COMPLETION = {
    "id": "chatcmpl-7",
    "created": int(NOON),
    "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 21, "completion_tokens": 6, "prompt_tokens_details": {"cached_tokens": 16}},
}
BODY = {"model": "gpt-4o", "messages": ASKED, "temperature": 0.2}
LITELLM = {
    "request_id": "r1",
    "call_type": "acompletion",
    "api_key": "88dc28",
    "spend": 0.0001,
    "prompt_tokens": 21,
    "completion_tokens": 6,
    "startTime": "2026-03-01T12:00:00Z",
    "endTime": "2026-03-01T12:00:01.500Z",
    "model": "gpt-4o",
    "model_group": "smart",
    "metadata": json.dumps({"user_api_key_team_alias": "zoo"}),
    "request_tags": '["facts"]',
    "messages": json.dumps(ASKED),
    "response": json.dumps(COMPLETION),
    "status": "success",
}
LANGFUSE = {
    "id": "o1",
    "traceId": "t1",
    "type": "GENERATION",
    "name": "facts",
    "projectId": "zoo",
    "startTime": "2026-03-01 12:00:00.000000",
    "endTime": "2026-03-01 12:00:01.500000",
    "model": "gpt-4o",
    "modelParameters": {"temperature": 0.2},
    "input": {"messages": ASKED},
    "output": {"role": "assistant", "content": ANSWER},
    "usageDetails": {"input": 5, "input_cached_tokens": 16, "output": 6, "total": 27},
}
LANGFUSE_CSV = {
    "id": "o1",
    "trace_id": "t1",
    "type": "GENERATION",
    "trace_name": "facts",
    "project_id": "zoo",
    "start_time": "2026-03-01 12:00:00.000000",
    "end_time": "2026-03-01 12:00:01.500000",
    "provided_model_name": "gpt-4o",
    "model_parameters": '{"temperature": 0.2}',
    "input": json.dumps(ASKED),
    "output": json.dumps(ANSWER),
    "usage_details": '{"input": 5, "input_cached_tokens": 16, "output": 6}',
}
HELICONE = {
    "request_id": "r1",
    "request_created_at": "2026-03-01T12:00:00+00:00",
    "request_body": BODY,
    "request_path": "/v1/chat/completions",
    "request_properties": {"tenant": "zoo", "app": "facts"},
    "response_body": COMPLETION,
    "response_status": 200,
    "delay_ms": 1500,
    "prompt_tokens": 21,
    "completion_tokens": 6,
    "prompt_cache_read_tokens": 16,
}
OPENAI = {
    "timestamp": 1000 * NOON,
    "tenant": "zoo",
    "route": "facts",
    "latency_ms": 1500,
    "request": BODY,
    "response": COMPLETION,
}


@pytest.mark.parametrize("row", [OPENAI, LITELLM, LANGFUSE, LANGFUSE_CSV, HELICONE])
def test_each_shape_is_recognised_by_its_fields_and_read_alike(row: dict[str, Any]) -> None:
    record = read_record(row)
    assert (record.body["model"], record.body["messages"]) == ("gpt-4o", ASKED)
    assert (record.tenant, record.route, record.time, record.ok) == ("zoo", "facts", NOON, True)
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (21, 6, 16)
    assert record.latency_s == pytest.approx(1.5)
    assert record.answer is not None
    assert record.answer["choices"][0]["message"]["content"].strip('"') == ANSWER


@pytest.mark.parametrize("row", [OPENAI, LANGFUSE, LANGFUSE_CSV, HELICONE])
def test_what_was_asked_for_beside_the_messages_is_kept(row: dict[str, Any]) -> None:
    assert read_record(row).body["temperature"] == 0.2


def test_columns_of_any_name_are_mapped() -> None:
    row = {"q": "How tall is a giraffe?", "a": ANSWER, "when": "2026-03-01T12:00:00", "ms": "1500", "m": "gpt-4o"}
    names = {"prompt": "q", "answer": "a", "time": "when", "latency_ms": "ms", "model": "m"}
    record = read_record(row, names)
    assert record.body == {"model": "gpt-4o", "messages": [ASKED[1]]}
    assert (record.time, record.latency_s) == (NOON, 1.5)
    assert record.answer is not None


def test_a_plain_prompt_is_enough() -> None:
    record = read_record({"id": "x", "prompt": "How tall is a giraffe?"})
    assert record.body == {"model": "", "messages": [ASKED[1]]}
    assert (record.time, record.answer, record.prompt_tokens, record.latency_s, record.ok) == (*[None] * 4, True)


def test_a_row_that_is_a_request_itself_keeps_its_options_and_no_field_of_the_log() -> None:
    record = read_record({**BODY, "id": "x", "trace": 7, "answer": ANSWER})
    assert record.body == BODY


def test_a_line_of_the_batch_api_is_read() -> None:
    row = {
        "custom_id": "1",
        "body": BODY,
        "response": {"status_code": 200, "body": {**COMPLETION, "service_tier": "batch"}},
    }
    record = read_record(row)
    assert (record.completion_tokens, record.batch) == (6, True)


def test_an_answer_of_anthropic_is_read_with_its_cached_tokens_beside_the_others() -> None:
    usage = {"input_tokens": 5, "cache_read_input_tokens": 16, "cache_creation_input_tokens": 0, "output_tokens": 6}
    said = {"role": "assistant", "content": [{"type": "text", "text": ANSWER}], "usage": usage}
    record = read_record({"request": BODY, "response": said})
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (21, 16, 6)
    assert record.answer is not None
    assert record.answer["choices"][0]["message"] == {"role": "assistant", "content": ANSWER}


def test_a_request_of_the_responses_api_is_read() -> None:
    output = [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": ANSWER}]}]
    usage = {"input_tokens": 21, "output_tokens": 6, "input_tokens_details": {"cached_tokens": 16}}
    row = {"request": {"model": "gpt-4o", "input": ASKED[1]["content"]}, "response": {"output": output, "usage": usage}}
    record = read_record(row)
    assert record.body["messages"] == [ASKED[1]]
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (21, 16, 6)
    assert record.answer is not None
    assert record.answer["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize(
    "row",
    [
        {**OPENAI, "status": 503, "response": None},
        {**OPENAI, "error": "timeout", "response": None},
        {**LITELLM, "status": "failure", "response": "{}"},
        {**LANGFUSE, "level": "ERROR", "output": None},
        {**HELICONE, "response_status": 500, "response_body": {"error": {"message": "no"}}},
    ],
)
def test_a_request_that_failed_is_read_as_one(row: dict[str, Any]) -> None:
    record = read_record(row)
    assert (record.ok, record.answer) == (False, None)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": 1}, "no messages and no prompt"),
        ({"prompt": "  "}, "no messages and no prompt"),
        ({"messages": [{"role": "user", "content": 7}]}, "a message without a readable content"),
        ({**LITELLM, "call_type": "aembedding"}, "no chat completion"),
        ({**LITELLM, "messages": "{}"}, "no messages and no prompt"),
        ({**LANGFUSE, "type": "SPAN"}, "no generation"),
        ({**HELICONE, "request_body": ""}, "no request body; export with bodies"),
        ({**HELICONE, "request_path": "/v1/embeddings"}, "no chat completion"),
        ({"prompt": "a", "time": "yesterday"}, "a time that cannot be read"),
    ],
)
def test_a_row_that_is_no_request_says_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadLineError, match=reason):
        read_record(row)


def test_options_in_the_cells_of_a_csv_are_numbers_and_json() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    row = {
        "prompt": "Why?",
        "model": "m",
        "temperature": "0.5",
        "max_tokens": "20",
        "tools": json.dumps(tools),
        "n": "",
    }
    body = read_record(row).body
    assert (body["temperature"], body["max_tokens"], body["tools"], "n" in body) == (0.5, 20, tools, False)


def test_a_system_prompt_beside_the_messages_is_one_of_them() -> None:
    row = {"request": {"model": "m", "system": "Be brief.", "messages": ASKED[1:]}}
    assert read_record(row).body["messages"] == ASKED
    assert "system" not in read_record(row).body


@pytest.mark.parametrize("units", [1, 10**3, 10**6, 10**9])
def test_a_time_is_read_in_seconds_or_any_thousandth_of_them(units: int) -> None:
    assert read_record({"prompt": "a", "time": int(NOON) * units}).time == NOON


@pytest.mark.parametrize("time", [0, "0", -5, 1, "1969-12-31T00:00:00Z", "0001-01-01", "2100-01-01", 10**30, 4.2e12])
def test_a_time_that_no_request_can_have_is_unknown(time: Any) -> None:
    assert read_record({"prompt": "a", "time": time}).time is None


@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens", "cached_tokens", "latency_s"])
def test_a_count_or_a_latency_that_no_request_can_have_is_unknown(field: str) -> None:
    assert getattr(read_record({"prompt": "a", field: 7}), field) == 7
    assert getattr(read_record({"prompt": "a", field: 1e300}), field) is None


@pytest.mark.parametrize(
    ("fields", "free"),
    [
        ({"cache_hit": "True", "spend": 0.0}, True),
        ({"cache_hit": True, "spend": None}, True),
        ({"cache_hit": "True"}, False),
        ({"cache_hit": "False", "spend": 0}, False),
        ({"spend": 0}, False),
    ],
)
def test_a_hit_of_litellms_cache_was_free(fields: dict[str, Any], free: bool) -> None:
    assert read_record({**LITELLM, **fields}).free is free


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "prompt_tokens": 30, "cached_tokens": 16, "cache_write_tokens": 9},
        {
            "request": BODY,
            "response": {
                "content": ANSWER,
                "usage": {"input_tokens": 5, "cache_read_input_tokens": 16, "cache_creation_input_tokens": 9},
            },
        },
        {
            **LANGFUSE,
            "usageDetails": {"input": 5, "cache_read_input_tokens": 16, "cache_creation_input_tokens": 9, "output": 6},
        },
        {**LANGFUSE, "usageDetails": {"input": 5, "input_cache_read": 16, "input_cache_creation": 9, "output": 6}},
    ],
)
def test_tokens_put_into_a_providers_cache_are_part_of_the_prompt_and_counted(row: dict[str, Any]) -> None:
    record = read_record(row)
    assert (record.prompt_tokens, record.cached_tokens, record.cache_write_tokens) == (30, 16, 9)
