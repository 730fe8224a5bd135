from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import ContextLengthError, InvalidRequestError, ModelNotFoundError
from app.schema import Completion, Usage
from app.wire import ChunkAssembler, chunks_of, error_body, fresh, last_user_text, parse_body
from tests.fakes import USAGE, answer, words_of

USER = {"role": "user", "content": "hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}


def parse(**fields: Any) -> dict[str, Any]:
    return parse_body(json.dumps({"model": "auto", "messages": [USER], **fields}).encode())


def assembled(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    assembler = ChunkAssembler()
    for chunk in chunks:
        assembler.add(chunk)
    return assembler.completion()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 3}, "model"),
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [USER, {"role": "wizard"}]}, "messages[1].role"),
        ({"messages": [{"content": "hello"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0.5}, "max_completion_tokens"),
        ({"stop": 1}, "stop"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"seed": "x"}, "seed"),
        ({"user": 1}, "user"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": 1}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ],
)
def test_a_field_that_cannot_be_served_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        parse(**fields)
    assert raised.value.param == param


@pytest.mark.parametrize("param", ["model", "messages"])
def test_a_missing_field_is_named(param: str) -> None:
    body = {"model": "auto", "messages": [USER]}
    del body[param]
    with pytest.raises(InvalidRequestError) as raised:
        parse_body(json.dumps(body).encode())
    assert raised.value.param == param


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'"hello"', b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000 + b"]" * 100_000]
)
def test_a_body_that_is_not_a_json_object_is_the_clients_error(raw: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse_body(raw)


def test_a_valid_body_passes_unchanged_with_fields_nobody_knows() -> None:
    body = {"model": "auto", "messages": [USER], "temperature": None, "invented_tomorrow": {"a": [1, None]}}
    assert parse_body(json.dumps(body).encode()) == body


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "system", "content": "be kind"}, USER], "hello"),
        ([USER, {"role": "assistant", "content": "hi"}], "hello"),
        ([{"role": "assistant", "content": "hi"}], "hi"),
        ([{"role": "user", "content": None}], ""),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}],
                }
            ],
            "a\nb",
        ),
    ],
)
def test_the_prompt_is_the_text_of_the_last_user_turn(messages: list[dict[str, Any]], text: str) -> None:
    assert last_user_text(messages) == text


@pytest.mark.parametrize(
    "completion",
    [
        answer("Hello there."),
        answer(None, tool_calls=[CALL, {**CALL, "id": "call_2"}], finish_reason="tool_calls"),
        answer(None, refusal="I cannot say."),
        answer("cut", finish_reason="length"),
    ],
    ids=["text", "tool calls", "refusal", "truncated"],
)
def test_a_completion_cut_into_chunks_is_put_together_again(completion: Completion) -> None:
    assert assembled(list(chunks_of(completion.body))) == completion.body


def test_words_that_come_one_by_one_are_one_answer() -> None:
    completion = answer("One two  three.\nFour.")
    chunks = list(words_of(completion.body))
    assert len(chunks) == 6
    assert assembled(chunks) == completion.body


def test_choices_are_put_together_by_index_in_whatever_order_they_come() -> None:
    body = answer().body
    other = {"index": 1, "message": {"role": "assistant", "content": "Or so."}, "finish_reason": "length"}
    two = {**body, "choices": [*body["choices"], other]}
    chunks = list(chunks_of(two))
    assert assembled([chunks[2], chunks[0], chunks[3], chunks[1], chunks[4]]) == two


def test_the_arguments_of_a_tool_call_are_put_together_from_their_pieces() -> None:
    def chunk(**call: Any) -> dict[str, Any]:
        return {"id": "1", "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, **call}]}}]}

    pieces = [
        chunk(id="call_1", type="function", function={"name": "weather", "arguments": ""}),
        chunk(function={"arguments": '{"city": '}),
        chunk(function={"arguments": '"Bern"}'}),
    ]
    assert assembled(pieces)["choices"][0]["message"]["tool_calls"] == [CALL]


def test_log_probabilities_survive_a_stream() -> None:
    body = answer("Hi").body
    body["choices"][0]["logprobs"] = {"content": [{"token": "Hi", "logprob": -0.1}]}
    assert assembled(list(chunks_of(body))) == body


def test_the_usage_comes_in_a_last_chunk_without_choices() -> None:
    *others, last = chunks_of(answer().body)
    assert (last["choices"], last["usage"]) == ([], answer().body["usage"])
    assert not any("usage" in chunk for chunk in others)


def test_every_chunk_says_what_it_is_and_only_the_last_of_a_choice_that_it_ends() -> None:
    first, last, _ = chunks_of(answer().body)
    assert {chunk["object"] for chunk in (first, last)} == {"chat.completion.chunk"}
    assert (first["choices"][0]["finish_reason"], last["choices"][0]["finish_reason"]) == (None, "stop")


def test_a_stream_that_broke_off_has_no_finish_and_no_usage() -> None:
    body = assembled(list(words_of(answer("One two three").body))[:2])
    assert body["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "One two "},
        "finish_reason": None,
    }
    assert Completion(body, "small").usage == Usage(0, 0)


def test_a_replayed_completion_has_an_id_of_its_own() -> None:
    stored = answer().body
    one, two = fresh(stored), fresh(stored)
    assert len({stored["id"], one["id"], two["id"]}) == 3
    assert one["created"] > stored["created"]
    assert one["choices"] == stored["choices"]


def test_a_replayed_call_of_a_tool_has_an_id_of_its_own() -> None:
    stored = answer(None, tool_calls=[CALL, {**CALL, "id": "call_2"}], finish_reason="tool_calls").body
    calls = [call for _ in range(2) for call in fresh(stored)["choices"][0]["message"]["tool_calls"]]
    assert len({"call_1", "call_2", *(call["id"] for call in calls)}) == 6
    assert [{**call, "id": "call_1"} for call in calls] == [CALL] * 4
    assert stored["choices"][0]["message"]["tool_calls"][0] == CALL


def test_the_prompt_of_a_replayed_completion_is_marked_as_cached() -> None:
    assert fresh(answer().body)["usage"] == {**USAGE, "prompt_tokens_details": {"cached_tokens": 100}}
    with_details = {**answer().body, "usage": {**USAGE, "prompt_tokens_details": {"audio_tokens": 7}}}
    assert fresh(with_details)["usage"]["prompt_tokens_details"] == {"audio_tokens": 7, "cached_tokens": 100}


def test_what_a_provider_adds_to_a_message_survives_a_stream() -> None:
    source = {"type": "url_citation", "url_citation": {"url": "https://example.com"}}
    body = answer("Bern.", annotations=[source], reasoning_content="The capital, so Bern.").body
    assert assembled(list(chunks_of(body))) == body

    def chunk(**delta: Any) -> dict[str, Any]:
        return {"id": "1", "choices": [{"index": 0, "delta": delta}]}

    pieces = [chunk(reasoning_content="So "), chunk(reasoning_content="Bern."), chunk(annotations=[source])] * 2
    message = assembled(pieces)["choices"][0]["message"]
    assert (message["reasoning_content"], message["annotations"]) == ("So Bern." * 2, [source] * 2)


def test_a_completion_that_does_not_name_its_model_is_replayed_all_the_same() -> None:
    body = {key: value for key, value in answer("Hi.").body.items() if key != "model"}
    assert assembled(list(chunks_of(body)))["choices"] == body["choices"]


def test_errors_have_openais_shape() -> None:
    assert error_body(ModelNotFoundError("no `x`")) == {
        "error": {"message": "no `x`", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    }
    assert error_body(ContextLengthError("too long"))["error"]["code"] == "context_length_exceeded"
