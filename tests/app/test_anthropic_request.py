"""Chat completions' requests as Anthropic's Messages."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from app.errors import InvalidRequestError, UnfitError
from app.providers import AnthropicProviderConfig
from app.providers.anthropic_request import message_request
from app.providers.anthropic_schema import AnswerTool, output_schema
from app.providers.claude import reasoning_by, structured_by, takes_sampling

HI: list[Any] = [{"role": "user", "content": "hi"}]
PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather.", "parameters": PARAMETERS},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
FREE: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "integer"}}
LONG = "word " * 1000
MARK = {"type": "ephemeral"}


def asked(
    messages: list[Any] = HI, model: str = "claude-haiku-4-5", config: dict[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    """Translate a request for a target of some configuration."""
    target = AnthropicProviderConfig.model_validate({"kind": "anthropic", "model": model, **(config or {})})
    return message_request({"model": "auto", "messages": messages, **fields}, target.claude())[0]


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(said: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **fields}


# Conversations


def test_system_and_developer_messages_are_the_system_prompt() -> None:
    params = asked([{"role": "system", "content": "Be brief."}, *HI, {"role": "developer", "content": "In French."}])
    assert params["system"] == [text("Be brief."), text("In French.")]
    assert params["messages"] == [user(text("hi"))]


def test_parts_are_blocks_and_blank_texts_are_left_out() -> None:
    parts = [
        {"type": "text", "text": " "},
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"}},
        {"type": "text", "text": "What is it?"},
    ]
    (turn,) = asked([{"role": "user", "content": parts}])["messages"]
    assert turn["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "BBBB"}},
        text("What is it?"),
    ]


def test_calls_and_all_their_results_are_one_turn_each() -> None:
    odd = {**CALL, "id": "functions.weather:1"}
    called = {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, odd]}
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in (CALL, odd)]
    turns = asked([*HI, called, *results, {"role": "user", "content": "And?"}])["messages"]
    use = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Bern"}}
    assert turns[1]["content"] == [text("Let me see."), use, {**use, "id": "functions_weather_1"}]
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": [text("sunny")]}
    assert turns[2] == user(result, {**result, "tool_use_id": "functions_weather_1"}, text("And?"))


def test_a_result_may_be_empty_and_arguments_malformed() -> None:
    broken = {**CALL, "function": {"name": "weather", "arguments": '{"city": '}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": ""}
    turns = asked([*HI, {"role": "assistant", "content": None, "tool_calls": [broken]}, result])["messages"]
    assert turns[1]["content"][0]["input"] == {"malformed_arguments": '{"city": '}
    assert turns[2] == user({"type": "tool_result", "tool_use_id": "call_1"})


# Options


def test_options_have_their_places() -> None:
    params = asked(stop="END", temperature=1.7, user="u1", max_tokens=9, max_completion_tokens=7, seed=1, store=True)
    assert params == {
        "model": "claude-haiku-4-5",
        "messages": [user(text("hi"))],
        "max_tokens": 7,
        "extra_body": {"temperature": 1.0},
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
    }


def test_a_request_without_a_limit_gets_the_configured_one() -> None:
    assert asked()["max_tokens"] == 8192
    assert asked(config={"max_tokens": 5})["max_tokens"] == 5


def test_temperature_goes_before_top_p_and_neither_to_a_model_that_takes_none() -> None:
    assert asked(temperature=0, top_p=0.5)["extra_body"] == {"temperature": 0}
    assert asked(top_p=0.5)["extra_body"] == {"top_p": 0.5}
    assert "extra_body" not in asked(model="claude-opus-4-7", temperature=0)
    assert "extra_body" in asked(model="claude-opus-4-7", temperature=0, config={"sampling": True})


@pytest.mark.parametrize(
    ("model", "sampling", "structured", "reasoning"),
    [
        ("claude-instant-1.2", True, "tool", "off"),
        ("claude-3-5-sonnet-20241022", True, "tool", "off"),
        ("claude-3-7-sonnet-latest", True, "tool", "budget"),
        ("claude-opus-4-20250514", True, "tool", "budget"),
        ("claude-opus-4-1", True, "schema", "budget"),
        ("claude-haiku-4-5-20251001", True, "schema", "budget"),
        ("claude-sonnet-4-6", True, "schema", "effort"),
        ("claude-opus-4-7", False, "schema", "effort"),
        ("claude-sonnet-5", False, "schema", "effort"),
        ("my-deployment", False, "schema", "effort"),
    ],
)
def test_what_a_model_takes_hangs_on_its_generation(
    model: str, sampling: bool, structured: str, reasoning: str
) -> None:
    assert (takes_sampling(model), structured_by(model), reasoning_by(model)) == (sampling, structured, reasoning)


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, {"type": "tool", "name": "weather"}),
    ],
)
def test_tools_and_how_they_are_chosen(fields: dict[str, Any], choice: dict[str, Any] | None) -> None:
    params = asked(tools=[TOOL], **fields)
    assert params["tools"] == [{"name": "weather", "input_schema": PARAMETERS, "description": "Weather."}]
    assert params.get("tool_choice") == choice


def test_a_strict_tool_stays_strict_where_the_model_can_be_held_to_it() -> None:
    strict = {"type": "function", "function": {"name": "now", "strict": True}}
    assert asked(tools=[strict])["tools"] == [{"name": "now", "input_schema": {"type": "object"}, "strict": True}]
    assert "strict" not in asked(model="claude-opus-4-0", tools=[strict])["tools"][0]


@pytest.mark.parametrize(
    ("fields", "limit", "budget"),
    [
        ({"reasoning_effort": "high"}, 8192 + 16384, 16384),
        ({"reasoning_effort": "high", "max_completion_tokens": 5000}, 5000, 5000 - 1024),
        ({"reasoning_effort": "low", "max_completion_tokens": 2047}, 2047, None),
        ({"reasoning_effort": "minimal"}, 8192, None),
        ({"reasoning_effort": "high", "config": {"reasoning": "off"}}, 8192, None),
        ({"reasoning_effort": "low", "tools": [TOOL], "tool_choice": "required"}, 8192, None),
    ],
)
def test_effort_is_a_budget_of_thought_that_leaves_room_for_the_answer(
    fields: dict[str, Any], limit: int, budget: int | None
) -> None:
    params = asked(temperature=0.5, **fields)
    thinking = {"type": "enabled", "budget_tokens": budget} if budget else None
    assert (params["max_tokens"], params.get("thinking")) == (limit, thinking)
    assert ("extra_body" in params) == (budget is None)  # the API takes no temperature with thinking


def test_effort_is_effort_where_the_model_decides_how_long_to_think() -> None:
    params = asked(model="claude-sonnet-4-6", reasoning_effort="medium", response_format=schema_format(PARAMETERS))
    assert (params["thinking"], params["output_config"]["effort"]) == ({"type": "adaptive"}, "medium")
    assert params["output_config"]["format"]["type"] == "json_schema"
    minimal = asked(model="claude-sonnet-4-6", reasoning_effort="minimal")
    assert (minimal["output_config"], "thinking" in minimal) == ({"effort": "low"}, False)


def test_results_of_tools_are_read_without_thinking() -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    turns = [*HI, {"role": "assistant", "tool_calls": [CALL]}, result]
    assert "thinking" not in asked(turns, reasoning_effort="high", tools=[TOOL])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities[1]"),
        ({"stop": ["\n"]}, "stop"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"messages": [*HI, {"role": "assistant", "content": "I"}]}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_the_api_does_not_give_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnfitError, match="claude-haiku-4-5") as raised:
        asked(**fields)
    assert raised.value.param == param


@pytest.mark.parametrize("fields", [{"n": 1}, {"logprobs": False}, {"logit_bias": {}}, {"modalities": ["text"]}])
def test_fields_that_ask_for_nothing_are_left_out(fields: dict[str, Any]) -> None:
    assert asked(**fields) == asked()


# JSON


def test_a_schema_is_the_apis_structured_output() -> None:
    nullable = {"type": ["string", "null"], "description": "Where."}
    params = asked(response_format=schema_format({"type": "object", "properties": {"city": nullable}}))
    assert params["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "properties": {
                "city": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "Where."},
            },
            "additionalProperties": False,
        },
    }


@pytest.mark.parametrize(
    "schema",
    [
        FREE,
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "array", "items": FREE}}},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {"a": {"$ref": "#/definitions/A"}}, "definitions": {"A": {"type": "null"}}},
    ],
)
def test_a_schema_that_structured_output_would_narrow_is_a_tool(schema: dict[str, Any]) -> None:
    before = copy.deepcopy(schema)
    assert output_schema(schema) is None
    params = asked(response_format=schema_format(schema))
    assert params["tools"][0]["input_schema"] == schema == before
    name = params["tools"][0]["name"]
    assert params["tool_choice"] == {"type": "tool", "name": name, "disable_parallel_tool_use": True}


def test_the_answers_tool_stands_beside_others() -> None:
    fields: dict[str, Any] = {"tools": [TOOL], "response_format": schema_format(FREE)}
    params = asked(**fields)
    assert ([tool["name"] for tool in params["tools"]], params["tool_choice"]) == (
        ["weather", "give_answer"],
        {"type": "any"},
    )
    assert asked(**fields, tool_choice="none")["tool_choice"]["name"] == "give_answer"
    forced = asked(**fields, tool_choice={"type": "function", "function": {"name": "weather"}})
    assert (len(forced["tools"]), forced["tool_choice"]) == (1, {"type": "tool", "name": "weather"})


def test_an_answer_that_is_no_object_is_wrapped_in_one() -> None:
    tool = AnswerTool.of({"type": "array", "items": {"$ref": "#/$defs/A"}, "$defs": {"A": {"type": "string"}}})
    fields = tool.definition["input_schema"]
    assert fields["properties"] == {"answer": {"type": "array", "items": {"$ref": "#/$defs/A"}}}
    assert fields["$defs"] == {"A": {"type": "string"}}
    assert json.loads(tool.answer({"answer": ["ä"]})) == ["ä"]


def test_any_json_object_is_asked_for_in_words() -> None:
    params = asked([{"role": "system", "content": "Be brief."}, *HI], response_format={"type": "json_object"})
    assert params["system"][0] == text("Be brief.")
    assert "JSON object" in params["system"][1]["text"]


# Prompt caching


def marks(params: dict[str, Any]) -> list[str]:
    """Name the blocks that are marked."""
    places = [("tools", params.get("tools", [])), ("system", params.get("system", []))]
    places += [(f"turn {i}", turn["content"]) for i, turn in enumerate(params["messages"])]
    return [place for place, blocks in places for block in blocks if block.get("cache_control") == MARK]


def test_the_system_prompt_is_marked_with_the_tools_before_it() -> None:
    system = [{"role": "system", "content": LONG}, *HI]
    assert marks(asked(system)) == ["system"]
    assert marks(asked(system, tools=[TOOL])) == ["system"]
    wordy = {"type": "function", "function": {**TOOL["function"], "description": LONG}}
    assert marks(asked(system, tools=[TOOL, wordy])) == ["tools", "system"]
    assert marks(asked(tools=[wordy])) == ["tools"]


def test_a_conversation_is_marked_before_its_last_exchange() -> None:
    turns = [{"role": "user", "content": LONG}, {"role": "assistant", "content": "yes"}]
    assert marks(asked(turns[:1])) == []
    assert marks(asked([*turns, *HI])) == ["turn 0"]
    assert marks(asked([*turns, *turns, *HI])) == ["turn 2"]


def test_what_comes_before_a_mark_is_the_same_in_the_next_request() -> None:
    turns = [{"role": "user", "content": LONG}, {"role": "assistant", "content": "yes"}, *HI]
    now, later = asked(turns), asked([*turns, {"role": "assistant", "content": "ok"}, *HI])
    assert (marks(now), marks(later)) == (["turn 0"], ["turn 2"])
    for params in (now, later):
        for turn in params["messages"]:
            turn["content"][-1].pop("cache_control", None)
    assert later["messages"][:3] == now["messages"]


def test_short_prompts_are_not_marked_nor_any_where_that_is_turned_off() -> None:
    assert marks(asked([{"role": "system", "content": "Be brief."}, *HI])) == []
    long = [{"role": "system", "content": LONG}, *HI]
    assert marks(asked(long, config={"prompt_caching": False})) == []
    assert marks(asked(long, config={"prompt_caching_from_tokens": 5000})) == []


def test_a_malformed_request_is_the_clients_error() -> None:
    with pytest.raises(InvalidRequestError) as raised:
        asked([{"role": "user", "content": [{"type": "text"}]}])
    assert raised.value.param == "messages[0].content[0]"
