"""The `tierwise bench` commands."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from app.console import PRODUCTION, JsonFile, prepared, report, say, write

app = typer.Typer(no_args_is_help=True, help="Measure, and print the README's tables.")


@app.command("overhead")
def bench_overhead(json_file: JsonFile = None, seconds: float = 5.0) -> None:
    """What Tierwise adds to an answer: exact hit, semantic hit and miss, before a scripted upstream."""
    from app.benchmark.overhead import measure

    prepared()
    report(measure(seconds, say), json_file)


@app.command("peers")
def bench_peers(json_file: JsonFile = None, seconds: float = 5.0) -> None:
    """Tierwise beside LiteLLM's proxy and a bare FastAPI pass-through: requests a second, latency, CPU, memory."""
    from app.benchmark.peers import measure

    prepared()
    report(measure(seconds, say), json_file)


@app.command("chaos")
def bench_chaos(
    requests: Annotated[int, typer.Option(min=100)] = 5000,
    faults: Annotated[float, typer.Option(min=0, max=1, help="Share of the upstream calls that fail.")] = 0.1,
    json_file: JsonFile = None,
) -> None:
    """Upstreams that fail and parts that are killed: what Tierwise answers, beside a bare `openai` client."""
    from app.benchmark.chaos import measure

    prepared()
    report(measure(requests, faults, say), json_file)


@app.command("survive")
def bench_survive(
    requests: Annotated[int, typer.Option(min=10, help="In flight at each kill.")] = 2000,
    parts: Annotated[list[str] | None, typer.Option("--part", help="Kill this alone; can be repeated.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Kill each of five parts of a cluster of three nodes: how many of the requests in flight are lost."""
    from app.benchmark.survive import measure, table

    prepared()
    figures = measure(requests, say, parts)
    print(table(figures))
    write(figures, json_file)


@app.command("cache")
def bench_cache(
    entries: Annotated[int, typer.Option(min=1, help="In one scope.")] = 100_000,
    answer_chars: Annotated[int, typer.Option(min=1, help="Of each stored answer.")] = 504,
    json_file: JsonFile = None,
) -> None:
    """The semantic cache with many entries in one scope: lookups by stage, memory, recall."""
    from app.benchmark.cache import measure

    prepared()
    report(measure(entries, answer_chars, say), json_file)


@app.command("service-times")
def bench_service_times(
    seconds: Annotated[float, typer.Option(min=1, help="Of each kind of request and of each load.")] = 10,
    json_file: JsonFile = None,
) -> None:
    """CPU time by part and kind of request, for `tierwise plan`, and how long answers take at three loads."""
    from app.benchmark.service_times import measure

    prepared()
    report(measure(seconds, say), json_file)


@app.command("soak")
def bench_soak(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long.")] = 60,
    load: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of the capacity that is measured first.")
    ] = 0.7,
    plot: Annotated[Path | None, typer.Option(help="Where the graph goes, as PNG.")] = None,
    json_file: JsonFile = None,
) -> None:
    """A steady load for a long time: what grows, and whether it slows down."""
    from app.benchmark import soak

    prepared()
    figures = soak.measure(minutes, load, say)
    if plot is not None:
        soak.plot(figures, plot)
    report(figures, json_file)


@app.command("log")
def bench_log(
    file: Annotated[Path, typer.Argument(help="JSONL, for `tierwise replay`.")],
    requests: Annotated[int, typer.Option(min=1, help="In its month.")] = 20_000,
    distinct: Annotated[bool, typer.Option("--distinct", help="Number the prompts, so that each is another.")] = False,
) -> None:
    """A month's log of our own making: 2,044 product prompts, some asked often, all sent to gpt-4-32k."""
    from app.benchmark.log import write_log

    report(write_log(file, requests, distinct), None)


@app.command("dashboard")
def bench_dashboard(
    port: Annotated[int, typer.Option(help="On loopback.")] = 8001,
    picture: Annotated[Path | None, typer.Option(help="Take a PNG with Chromium, and end.")] = None,
) -> None:
    """The dashboard over a generated month, to look at; nothing on it is measured."""
    from app.benchmark.dashboard import show

    with suppress(KeyboardInterrupt):
        asyncio.run(show(port, picture))


@app.command("shape")
def bench_shape(
    tasks: Annotated[int | None, typer.Option(min=1, help="Ask fewer of them, for a quick look.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    target_url: Annotated[
        str | None, typer.Option(help="A gateway that runs, with these profiles; its key in TIERWISE_API_KEY.")
    ] = None,
    config: Annotated[Path, typer.Option("--config", help="Whose profiles and first tier to use.")] = Path(
        "configs/shape.yaml"
    ),
    out: Annotated[Path | None, typer.Option(help="Where the answers go, as JSONL.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Answers of the local model with and without a profile: output tokens, how many are valid and how many correct."""
    from app.benchmark.shape import measure, table

    prepared()
    figures = measure(say, config, tasks, concurrency, target_url, out)
    print(table(figures))
    write(figures, json_file)


@app.command("router")
def bench_router(
    dev: Annotated[
        list[Path],
        typer.Argument(
            help="JSONL rows with a `prompt`, the `tier` it needs, what tiers' answers were worth: files, folders."
        ),
    ],
    train: Annotated[
        list[Path] | None,
        typer.Option(help="What the learning baselines learn from: a file or a folder; can be repeated."),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(help='Another router\'s rows {"prompt", "score"}, cut at 0.3 and 0.7; can be repeated.'),
    ] = None,
    config: Annotated[Path, typer.Option(help="Whose classifier, tiers and prices to use.")] = PRODUCTION,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the measured rows and each router's scores, for other scorers.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """The classifier on prompts with known outcomes, beside chance, length, key words and learning baselines."""
    from app.benchmark.router import measure
    from app.benchmark.router_table import TABLE_WIDTH, table

    prepared()
    figures = measure(dev, train or [], scores or [], config, say, out)
    report(figures, json_file)
    Console(stderr=True, width=TABLE_WIDTH).print(table(figures))


@app.command("case-study")
def bench_case_study(
    requests: Annotated[int, typer.Option(min=100)] = 20_000,
    speed: Annotated[
        float, typer.Option(min=1, help="How much faster than the machine's clock the case's clock runs.")
    ] = 10.0,
    seed: int = 0,
    data: Annotated[
        Path | None, typer.Option(help="Prompts of known meaning; by default ../shared/data, else our own.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Where the log of the run without Tierwise goes.")] = None,
    json_file: JsonFile = None,
) -> None:
    """A case of cost and latency, played with and without Tierwise before scripted models; what replay said of it."""
    from app.benchmark.case_study.command import DATA, measure
    from app.benchmark.case_study.table import TABLE_WIDTH, table

    prepared()
    figures = measure(requests, speed, seed, data or (DATA if DATA.is_dir() else None), log, say)
    Console(width=TABLE_WIDTH).print(table(figures))
    write(figures, json_file)
