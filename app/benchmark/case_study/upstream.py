"""The scripted models of the case: HTTP servers that answer as fast as the models were published to, and are none of
them.

`python -m app.benchmark.case_study.upstream PORT SCRIPT`, the latter a JSON file of a `Script`. GET /calls gives the
calls since it was last asked. What they answer is literal:

- Each question's answer names its meaning, so that an answer that belongs to another question can be told.
- Without a `response_format`, it is as many words as the script says, the same for the same meaning, cut at
  `max_tokens`.
- With a JSON schema, it is the smallest object of the schema's properties: of an `enum` one value, of a number 0, of
  a string the meaning. So what a profile saves here follows from the script, and says nothing about a model.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from app.shaping.tokens import count_tokens

TOKENIZER = "gpt-4"  # by which the tokens of all models are counted
_SPREAD = 0.25  # of the logarithm of a latency
_WORDS = (
    "time year people way day man thing world life hand part child eye place work week case point company number "
    "group problem fact water room money story month lot right study book job word business issue side kind head "
    "house service friend father power hour game line end member law car city name team minute idea body back face "
    "level office door health person art war history party result change morning reason research girl guy food "
    "moment air force"
).split()


class Pace(msgspec.Struct, frozen=True):
    """How fast a model is."""

    first_token_s: float
    output_tokens_per_s: float


class Script(msgspec.Struct, frozen=True):
    """What the upstreams do.

    Attributes:
        speed: What latencies are divided by.
        fault_rate: Share of the calls that fail: half by a status of 500, half by a connection that is cut.
        paces: By model.
        answers: By the text of a question: its meaning, and the tokens of its unshaped answer.
    """

    speed: float
    fault_rate: float
    paces: Mapping[str, Pace]
    answers: Mapping[str, tuple[str, int]]
    seed: int = 0


class Call(msgspec.Struct, frozen=True):
    """A call that was made.

    Attributes:
        started: By the machine's monotonic clock, as `ended`.
        scripted_s: What it was to take, by the case's clock.
    """

    text: str
    model: str
    started: float
    ended: float
    scripted_s: float
    prompt_tokens: int
    completion_tokens: int
    ok: bool


class ScriptedModels:
    """Answers chat completions for every model of a script."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._draw = random.Random(script.seed)
        self._calls: list[Call] = []

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer after the model's time, or fail."""
        started = time.monotonic()
        body = msgspec.json.decode(await request.read())
        asked, model = body["messages"][-1]["content"], body["model"]
        prompt_tokens = sum(count_tokens(message["content"], TOKENIZER) for message in body["messages"])
        text, cut = reply(body, *self._script.answers[asked])
        tokens, pace = count_tokens(text, TOKENIZER), self._script.paces[model]
        kind = self._draw.random() / self._script.fault_rate if self._script.fault_rate else 1.0
        noise = self._draw.lognormvariate(-(_SPREAD**2) / 2, _SPREAD)
        scripted_s = noise * (pace.first_token_s + (tokens / pace.output_tokens_per_s if kind >= 1 else 0.0))
        await asyncio.sleep(max(0.0, started + scripted_s / self._script.speed - time.monotonic()))
        spent = (prompt_tokens, tokens) if kind >= 1 else (0, 0)
        self._calls.append(Call(asked, model, started, time.monotonic(), scripted_s, *spent, kind >= 1))
        if kind < 0.5:
            return web.json_response({"error": {"message": "scripted failure", "type": "server_error"}}, status=500)
        if kind < 1:
            assert request.transport
            request.transport.abort()
            return web.Response(status=500)
        return web.json_response(_completion(model, text, cut, prompt_tokens, tokens))

    async def calls(self, _: web.Request) -> web.Response:
        """Give the calls since this was last asked."""
        calls, self._calls = self._calls, []
        return web.Response(body=msgspec.json.encode(calls), content_type="application/json")


def reply(body: Mapping[str, Any], meaning: str, tokens: int) -> tuple[str, bool]:
    """Return the answer to a request, and whether its limit cut it."""
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        text = msgspec.json.encode(_smallest(form["json_schema"]["schema"], meaning)).decode()
    else:
        draw = random.Random(meaning)
        text = " ".join([f"[{meaning}]", *draw.choices(_WORDS, k=max(1, tokens - 5))])
    limit = body.get("max_tokens")
    if limit is None or count_tokens(text, TOKENIZER) <= limit:
        return text, False
    words = text.split(" ")
    while words and count_tokens(" ".join(words), TOKENIZER) > limit:
        words.pop()
    return " ".join(words), True


def _smallest(schema: Mapping[str, Any], meaning: str) -> Any:
    if "enum" in schema:
        return random.Random(meaning).choice(schema["enum"])
    if schema.get("type") == "object":
        return {name: _smallest(form, meaning) for name, form in schema["properties"].items()}
    return 0 if schema.get("type") == "number" else meaning


def _completion(model: str, text: str, cut: bool, prompt_tokens: int, tokens: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
    choice = {"index": 0, "message": message, "finish_reason": "length" if cut else "stop"}
    head = {"id": "chatcmpl-scripted", "object": "chat.completion", "created": 0, "model": model}
    return {**head, "choices": [choice], "usage": usage}


def main(port: int, script: Path) -> None:
    """Serve until killed."""
    models = ScriptedModels(msgspec.json.decode(script.read_bytes(), type=Script))
    app = web.Application()
    app.router.add_post("/v1/chat/completions", models.complete)
    app.router.add_get("/calls", models.calls)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
