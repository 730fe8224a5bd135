"""No two requests with a different scope ever share an entry: 100,000 pairs that differ in one place, drawn anew."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from app.cache import cache_key
from app.errors import InvalidRequestError
from app.wire import parse_body

PAIRS = 100_000
Body = dict[str, Any]
Path = tuple[Any, ...]

WORDS = "be brief|sei kurz|répondre|Ответ|答え|{}|[]|null|\\|\"|','|a|A|b|1|1.0|true| |\n|\u200b|e\u0301".split("|")
LOOK_ALIKE = str.maketrans("aeopcxAB", "аеорсхАВ")  # Latin and Cyrillic
NEUTRAL = ("metadata", "safety_identifier", "service_tier", "store", "stream", "stream_options", "user")
VALUES: list[Any] = [0, 1, 2, 0.5, True, False, "", "0", "1", "true", "null", "a", [], {}, [1], [True], {"a": 1}]


def copied(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def text(rng: random.Random) -> str:
    return "".join(rng.choices(WORDS, k=rng.randrange(4)))


def tool(rng: random.Random) -> Body:
    properties = {rng.choice("xyz"): {"type": rng.choice(["string", "number"]), "default": rng.choice(VALUES)}}
    function = {"name": rng.choice(["f", "g"]), "description": text(rng), "parameters": {"properties": properties}}
    return {"type": "function", "function": function}


def image(rng: random.Random) -> Body:
    return {"type": "image_url", "image_url": {"url": rng.choice("abc"), "detail": rng.choice(["low", "high"])}}


def turn(rng: random.Random) -> list[Body]:
    if rng.random() < 0.7:
        return [{"role": "user", "content": text(rng)}, {"role": "assistant", "content": text(rng)}]
    calls = [{"id": f"call_{rng.random()}", "type": "function", "function": {"name": name}} for name in "fg"]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": text(rng)} for call in calls]
    return [{"role": "user", "content": text(rng)}, {"role": "assistant", "tool_calls": calls}, *results]


def last(rng: random.Random) -> Body:
    if rng.random() < 0.6:
        return {"role": "user", "content": text(rng)}
    parts = [{"type": "text", "text": text(rng)} if rng.random() < 0.5 else image(rng) for _ in range(3)]
    return {"role": "user", "content": parts, "name": rng.choice("pq")}


FIELDS: dict[str, Callable[[random.Random], Any]] = {
    "temperature": lambda rng: rng.choice([0, 0.5, 1, 2]),
    "top_p": lambda rng: rng.choice([0, 0.5, 1]),
    "max_tokens": lambda rng: rng.choice([1, 2, 16]),
    "seed": lambda rng: rng.choice([-1, 0, 1, 2**70]),
    "n": lambda rng: rng.choice([1, 2]),
    "stop": lambda rng: rng.choice(["a", ["a"], ["a", "b"], ["b", "a"]]),
    "logit_bias": lambda rng: {"50256": rng.choice([-100, 1])},
    "tools": lambda rng: [tool(rng) for _ in range(rng.randrange(3))],
    "tool_choice": lambda rng: rng.choice(["none", "auto", {"type": "function", "function": {"name": "f"}}]),
    "response_format": lambda rng: rng.choice(
        [{"type": "text"}, {"type": "json_schema", "json_schema": {"name": "a", "schema": {"required": ["a", "b"]}}}]
    ),
    "invented_tomorrow": lambda rng: rng.choice(VALUES),
    "Temperature": lambda rng: rng.choice(VALUES),
}


def request(rng: random.Random) -> tuple[str, Body]:
    """Draw a tenant and what it asks."""
    system = [{"role": rng.choice(["system", "developer"]), "content": text(rng)}] * rng.randrange(2)
    earlier = [message for _ in range(rng.randrange(3)) for message in turn(rng)]
    body: Body = {"model": rng.choice(["auto", "mid"]), "messages": [*system, *earlier, last(rng)]}
    for name in rng.sample(sorted(FIELDS), rng.randrange(5)):
        body[name] = FIELDS[name](rng)
    return text(rng), body


def nodes(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every value of a JSON document with its path."""
    if path:
        yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from nodes(item, (*path, key))


def counts(body: Body, path: Path) -> bool:
    """Whether a path is part of the scope: ids of calls are but names, and the last text is what is matched."""
    is_last = path[:2] == ("messages", len(body["messages"]) - 1)
    the_text = is_last and (path[2:] == ("content",) or path[-1] == "text")
    return path not in (("messages",), ("messages", len(body["messages"]) - 1)) and not (
        the_text or path[-1] in ("id", "tool_call_id")
    )


def different(rng: random.Random, value: Any) -> Any:
    """Draw a value of another meaning, as alike as can be."""
    alike: list[Any]
    if isinstance(value, str):
        alike = [f"{value}x", f" {value}", value.swapcase(), value.translate(LOOK_ALIKE), value[1:], [value]]
        alike += [unicodedata.normalize(form, value) for form in ("NFC", "NFD", "NFKC")]
    elif isinstance(value, int | float):
        alike = [value + 1, -value, bool(value), int(value), str(value), json.dumps(value), [value]]
    elif isinstance(value, list):
        alike = [value[::-1], value[1:], value * 2, [value], {"0": value}, json.dumps(value)]
    else:
        alike = [{**value, "more": 0}, dict(list(value.items())[1:]), [value], json.dumps(value)]
    alike += VALUES
    while same(other := rng.choice(alike), value):
        pass
    return other


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON; `json` tells 1 from true and from "1", as it must."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def changed(rng: random.Random, tenant: str, body: Body, paths: list[Path]) -> tuple[str, Body]:
    """Change one place: a tenant, a value at one of `paths`, a field that comes or goes."""
    if rng.random() < 0.1:
        other = str(different(rng, tenant))
        return (other if other != tenant else f"{tenant}x"), body
    body = copied(body)
    if rng.random() < 0.1:
        body[f"{rng.choice(sorted(FIELDS))}_"] = rng.choice(VALUES)
        return tenant, body
    path = rng.choice(paths)
    holder = body
    for key in path[:-1]:
        holder = holder[key]
    removable = isinstance(holder, dict) and path[-1] not in ("role", "content", "model")
    if removable and rng.random() < 0.2:
        del holder[path[-1]]
    else:
        holder[path[-1]] = different(rng, holder[path[-1]])
    return tenant, body


def meaning(tenant: str, body: Body) -> str:
    """Write down all that the scope stands for, in a way of its own."""
    messages = copied(body["messages"])
    ids: list[Any] = []
    for message in messages:
        calls = [(call, "id") for call in message.get("tool_calls", ())]
        for holder, key in (*calls, (message, "tool_call_id")):
            if key in holder:
                ids += [holder[key]] if holder[key] not in ids else []
                holder[key] = ids.index(holder[key])
    content = messages[-1]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not 1 < sum("text" in part for part in parts) < len(parts):
        parts = [{**part, "text": ""} if "text" in part else part for part in parts]
    messages[-1]["content"] = parts
    options = {key: value for key, value in body.items() if key not in (*NEUTRAL, "messages")}
    return json.dumps([tenant, messages, options], sort_keys=True)


def test_a_hundred_thousand_pairs_that_differ_in_one_place_never_share_a_scope() -> None:
    rng = random.Random(11)
    meanings: dict[str, str] = {}
    pairs = 0
    while pairs < PAIRS:
        tenant, body = request(rng)
        scope = cache_key(body, tenant).scope
        assert meanings.setdefault(scope, meaning(tenant, body)) == meaning(tenant, body)
        paths = [path for path, _ in nodes(body) if counts(body, path)]
        for _ in range(20):
            others_tenant, others_body = changed(rng, tenant, body, paths)
            try:
                other = cache_key(parse_body(msgspec.json.encode(others_body)), others_tenant).scope
            except InvalidRequestError:
                continue
            assert other != scope, (tenant, body, others_tenant, others_body)
            written = meaning(others_tenant, others_body)
            assert meanings.setdefault(other, written) == written  # nor is it that of any request before
            pairs += 1
    assert len(meanings) > PAIRS / 2


def shuffled(rng: random.Random, value: Any) -> Any:
    """Put the fields of every object in another order."""
    if isinstance(value, list):
        return [shuffled(rng, item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: shuffled(rng, value[key]) for key in rng.sample(list(value), len(value))}


def redelivered(rng: random.Random, body: Body) -> Body:
    """Ask the same in other words of JSON: what is neutral, null, a name or a spelling of a number changes."""
    ids = {value: f"other_{i}" for i, (path, value) in enumerate(nodes(body)) if path[-1] in ("id", "tool_call_id")}
    written = json.dumps(body)
    for old, new in ids.items():
        written = written.replace(json.dumps(old), json.dumps(new))
    other: Body = json.loads(written)
    other |= {key: float(value) for key, value in other.items() if type(value) is int and abs(value) < 2**53}
    other |= {name: rng.choice(VALUES) for name in rng.sample(NEUTRAL, 2)} | {"absent": None}
    other["messages"] = [{**message, "refusal": None} for message in other["messages"]]
    *_, asked = other["messages"]
    if isinstance(asked["content"], str):
        words = asked["content"]
        alike = [f" {words}\n", unicodedata.normalize("NFD", words), [{"type": "text", "text": words}]]
        asked["content"] = rng.choice(alike)
    return dict(shuffled(rng, other))


def test_ten_thousand_requests_that_ask_the_same_in_other_json_share_their_entry() -> None:
    rng = random.Random(12)
    for _ in range(10_000):
        tenant, body = request(rng)
        one, other = cache_key(body, tenant), cache_key(redelivered(rng, body), tenant)
        assert (one.scope, one.entry) == (other.scope, other.entry), body


def messages_with(*parts: Any) -> Body:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"model": "auto", "messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("left\nright", {"type": "image_url"}, ""), ("left", {"type": "image_url"}, "right")),
        (("left", {"type": "image_url"}, "right"), ("right", {"type": "image_url"}, "left")),
        (("left", {"type": "image_url"}), ({"type": "image_url"}, "left")),
    ],
)
def test_a_text_on_the_other_side_of_an_image_is_another_request(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert cache_key(messages_with(*one), "acme").scope != cache_key(messages_with(*other), "acme").scope


def test_texts_between_images_are_matched_exactly_and_one_beside_an_image_by_meaning() -> None:
    picture = {"type": "image_url"}
    assert not cache_key(messages_with("left", picture, "right"), "acme").semantic
    assert cache_key(messages_with("What is this?", picture, picture), "acme").semantic
    assert cache_key(messages_with("A report.", "Sum it up."), "acme").semantic


def conversation(*ids: str) -> Body:
    """Two calls of tools and their results, `ids` in the order call, call, result, result."""
    calls = [{"id": name, "type": "function", "function": {"name": f}} for name, f in zip(ids, "fg", strict=False)]
    results = [{"role": "tool", "tool_call_id": name, "content": "21"} for name in ids[2:]]
    return {
        "model": "auto",
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": calls}, *results],
    }


def test_which_result_belongs_to_which_call_counts_and_what_the_calls_are_named_does_not() -> None:
    scope = cache_key(conversation("a", "b", "a", "b"), "acme").scope
    assert cache_key(conversation("x", "a", "x", "a"), "acme").scope == scope
    for others in (("a", "b", "b", "a"), ("a", "b", "a", "a"), ("a", "a", "a", "a"), ("a", "b", "a", "c")):
        assert cache_key(conversation(*others), "acme").scope != scope
