"""What a profile is worth: tasks asked of the local model with and without one.

The tasks are shipped: extraction, classification and formatting, ten for each of ten profiles. Without a profile a task
is sent as teams send it, in words, with room for 256 tokens, and its answer is read by a forgiving script. With one, it
is sent with the header `x-tierwise-profile` in place of that limit, and its answer must follow the profile's schema.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import openai
from scipy import stats

from app.benchmark.lenient import lenient, same, strict
from app.benchmark.running import gateway, on_free_port
from app.config import ServeFile, read_serve_file
from app.errors import ConfigError
from app.jsonl import read_rows
from app.pricing import Price

CONFIG = Path("configs/shape.yaml")
TASKS = Path(__file__).with_name("shape_tasks.jsonl")
_MAX_TOKENS = 256  # of an answer without a profile
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Task:
    """A task, and the value that its answer should have."""

    kind: str
    profile: str
    messages: Sequence[Mapping[str, str]]
    expected: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        prompt_tokens: Of the request that gave the answer.
        output_tokens: Of the answer, and of those it took the place of.
        cut: Whether a limit ended it.
        schema: What became of the JSON asked for, as `x-tierwise-schema` says.
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    cut: bool = False
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer that was read."""

    task: Task
    answer: Answer
    valid: bool
    correct: bool


def read_tasks(number: int | None = None) -> list[Task]:
    """Read the shipped tasks, or as many of them, spread over the profiles."""
    fields = ("kind", "profile", "messages", "expected")
    tasks = [Task(*(row[name] for name in fields)) for _, row in read_rows(TASKS, *fields)]
    number = len(tasks) if number is None else min(number, len(tasks))
    return [tasks[i * len(tasks) // number] for i in range(number)]


def measure(
    say: Callable[[str], None],
    config: Path = CONFIG,
    number: int | None = None,
    concurrency: int = 8,
    target_url: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Ask the tasks without and with their profiles.

    Args:
        config: Whose profiles to use, and whose first tier to pin; its price must be of output tokens alone.
        number: Of tasks; all by default.
        target_url: A running gateway of that configuration; by default one is started.
        out: JSONL rows, one for each answer, with its task and what was made of it.

    Returns:
        `token_cut` (the share of output tokens saved), `valid_share`, `correct_share` and `correct_interval` of the
        shaped answers, and under `shaped`, `unshaped` and `kinds` what they come from.

    Raises:
        ConfigError: The configuration lacks a profile or the price, or the gateway refused a task.
    """
    file = read_serve_file(config)
    tasks = read_tasks(number)
    _check(file, tasks)
    with contextlib.ExitStack() as stack:
        if target_url is None:
            file = on_free_port(file, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            stack.enter_context(gateway(file, say))
        url = (target_url or file.url).rstrip("/").removesuffix("/v1")
        found, said = asyncio.run(_measure(url, file, tasks, concurrency, say))
    if out is not None:
        out.write_text("".join(f"{json.dumps(row)}\n" for row in said), "utf-8")
    return found


def _check(file: ServeFile, tasks: Sequence[Task]) -> None:
    for name in sorted({task.profile for task in tasks}):
        if name not in file.config.profiles or file.config.profiles[name].json_schema is None:
            raise ConfigError(f"`{file.path}` needs profiles.{name} with a `json_schema`")
    for model in file.config.tiers[0].models():
        price = _price(file, model)
        if price.usd_per_1m_input_tokens or not price.usd_per_1m_output_tokens:
            raise ConfigError(
                f"`{file.path}`: the price of `{model}` must be one of output tokens alone, to count them"
            )


def _price(file: ServeFile, model: str) -> Price:
    return file.config.prices()[model].at(datetime.now(UTC).date())


async def _measure(
    url: str, file: ServeFile, tasks: Sequence[Task], concurrency: int, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    key = os.environ.get("TIERWISE_API_KEY", "unused")
    turns: dict[str, list[Scored]] = {}
    seconds: dict[str, float] = {}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, timeout=_TIMEOUT_S, max_retries=0) as client:
        for turn in ("unshaped", "shaped"):
            say(f"{len(tasks)} tasks, {turn}")
            started = time.perf_counter()
            places = asyncio.Semaphore(concurrency)
            asked = (_ask(client, file, task, places, shaped=turn == "shaped") for task in tasks)
            turns[turn] = await asyncio.gather(*asked)
            seconds[turn] = round(time.perf_counter() - started, 1)
    found = figures(turns["unshaped"], turns["shaped"])
    said = [{"turn": turn, **asdict(scored)} for turn, answers in turns.items() for scored in answers]
    return {**found, "seconds": seconds, "model": next(iter(file.config.tiers[0].models()))}, said


async def _ask(
    client: openai.AsyncOpenAI, file: ServeFile, task: Task, places: asyncio.Semaphore, *, shaped: bool
) -> Scored:
    tier = file.config.tiers[0]
    body: dict[str, Any] = {"model": tier.name, "messages": list(task.messages), "temperature": 0}
    headers = {"cache-control": "no-store"}
    if shaped:
        headers["x-tierwise-profile"] = task.profile
    else:
        body["max_tokens"] = _MAX_TOKENS
    async with places:
        try:
            raw = await client.chat.completions.with_raw_response.create(**body, extra_headers=headers)
        except openai.OpenAIError as error:
            raise ConfigError(f"the gateway did not answer a task of {task.profile}: {error}") from error
    completion = raw.parse()
    (choice,), usage = completion.choices, completion.usage
    usd_per_token = _price(file, raw.headers["x-tierwise-model"]).usd_per_1m_output_tokens / 1e6
    answer = Answer(
        choice.message.content or "",
        usage.prompt_tokens if usage else 0,
        round(float(raw.headers["x-tierwise-cost-usd"]) / usd_per_token),
        choice.finish_reason == "length",
        raw.headers.get("x-tierwise-schema"),
    )
    return scored(task, file.config.profiles[task.profile].json_schema or {}, answer, shaped=shaped)


def scored(task: Task, schema: Mapping[str, Any], answer: Answer, *, shaped: bool) -> Scored:
    """Read an answer: a shaped one must be JSON and follow the schema, another is read leniently."""
    value = (strict if shaped else lenient)(schema, answer.text)
    return Scored(task, answer, value is not None, same(value, task.expected))


def figures(unshaped: Sequence[Scored], shaped: Sequence[Scored]) -> dict[str, Any]:
    """Sum up the answers to the same tasks, all of them and by kind."""
    found = _compared(unshaped, shaped)
    kinds = {
        kind: _compared([s for s in unshaped if s.task.kind == kind], [s for s in shaped if s.task.kind == kind])
        for kind in dict.fromkeys(s.task.kind for s in shaped)
    }
    best = {key: found["shaped"][key] for key in ("valid_share", "correct_share", "correct_interval")}
    return {"token_cut": found["token_cut"], **best, **found, "kinds": kinds}


def _compared(unshaped: Sequence[Scored], shaped: Sequence[Scored]) -> dict[str, Any]:
    before, after = _summed(unshaped), _summed(shaped)
    cut = 1 - after["output_tokens"] / before["output_tokens"]
    return {"tasks": len(shaped), "token_cut": round(cut, 4), "unshaped": before, "shaped": after}


def _summed(answers: Sequence[Scored]) -> dict[str, Any]:
    valid, correct = sum(s.valid for s in answers), sum(s.correct for s in answers)
    return {
        "output_tokens": sum(s.answer.output_tokens for s in answers),
        "prompt_tokens": sum(s.answer.prompt_tokens for s in answers),
        "valid_share": round(valid / len(answers), 4),
        "valid_interval": _interval(valid, len(answers)),
        "correct_share": round(correct / len(answers), 4),
        "correct_interval": _interval(correct, len(answers)),
        "cut": sum(s.answer.cut for s in answers),
        "schema": dict(Counter(s.answer.schema for s in answers if s.answer.schema)),
    }


def _interval(successes: int, trials: int) -> list[float]:
    """Return Wilson's 95 % interval of a share."""
    interval = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return [round(interval.low, 4), round(interval.high, 4)]


def table(found: Mapping[str, Any]) -> str:
    """Return the figures as a table of Markdown."""
    lines = ["| tasks | | output tokens | valid | correct (95 % interval) |", "|---|---|---|---|---|"]
    for name, row in {"all": found, **found["kinds"]}.items():
        lines.append(_line(f"{name}, {row['tasks']}", "as it comes", row["unshaped"], ""))
        lines.append(_line("", "with a profile", row["shaped"], f" ({-row['token_cut']:+.0%})"))
    return "\n".join(lines)


def _line(name: str, turn: str, of: Mapping[str, Any], saved: str) -> str:
    low, high = of["correct_interval"]
    correct = f"{of['correct_share']:.1%} ({low:.1%} to {high:.1%})"
    return f"| {name} | {turn} | {of['output_tokens']:,}{saved} | {of['valid_share']:.1%} | {correct} |"
