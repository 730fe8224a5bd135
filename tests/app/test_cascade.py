from __future__ import annotations

from typing import Any

import pytest

from app.cascade import CascadeConfig, objection
from tests.fakes import answer

SCHEMA = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "required": ["city"]}}}


def logprobs(*values: float) -> dict[str, Any]:
    return {"content": [{"token": "x", "logprob": value} for value in values]}


@pytest.mark.parametrize(
    ("response_format", "text", "found"),
    [
        (None, "Paris.", None),
        (None, "  ", "empty"),
        (None, "I'm sorry, but I cannot help with that.", "refusal"),
        ({"type": "text"}, "Paris.", None),
        ({"type": "json_object"}, '{"city": "Paris"}', None),
        ({"type": "json_object"}, '["Paris"]', "schema"),
        ({"type": "json_object"}, "Paris", "schema"),
        (SCHEMA, '{"city": "Paris"}', None),
        (SCHEMA, '{"town": "Paris"}', "schema"),
    ],
)
def test_an_answer_that_is_none_or_not_as_asked_for_is_not_kept(
    response_format: dict[str, Any] | None, text: str, found: str | None
) -> None:
    assert objection({"response_format": response_format}, answer(text).body, 0.7) == found


def test_a_cut_answer_is_not_kept() -> None:
    assert objection({}, answer("Paris is", finish_reason="length").body, 0.7) == "truncated"
    assert objection({}, {"choices": []}, 0.7) == "truncated"


@pytest.mark.parametrize(("values", "found"), [((-0.1, -0.2), None), ((-0.1, -2.0), "unsure"), ((), None)])
def test_an_answer_whose_tokens_were_unlikely_is_not_kept(values: tuple[float, ...], found: str | None) -> None:
    completion = answer("Paris.")
    completion.body["choices"][0]["logprobs"] = logprobs(*values)
    assert objection({}, completion.body, 0.7) == found


def test_a_schema_that_is_none_is_for_the_provider_to_refuse() -> None:
    broken = {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
    assert objection({"response_format": broken}, answer('{"a": 1}').body, 0.7) is None


def test_it_may_be_on_for_named_tenants_alone() -> None:
    config = CascadeConfig(tenants=("acme",), margin=0.2)
    assert (config.margin_for("acme"), config.margin_for("other")) == (0.2, 0)
    assert CascadeConfig(enabled=True).margin_for("other") == 0.1
