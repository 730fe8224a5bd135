"""The `tierwise` command."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from app import cli_bench
from app.console import LOCAL, PRODUCTION, JsonFile, console, prepared, report, say, write
from app.errors import GatewayError
from app.tenants import key_hash

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
train_app = typer.Typer(no_args_is_help=True, help="Train the models that Tierwise decides with.")
calibrate_app = typer.Typer(no_args_is_help=True, help="Set thresholds by a bound, on your own data.")
cache_app = typer.Typer(no_args_is_help=True, help="Look into the cache, and move it.")
ledger_app = typer.Typer(no_args_is_help=True, help="What was asked, decided and spent.")
app.add_typer(train_app, name="train")
app.add_typer(calibrate_app, name="calibrate")
app.add_typer(cache_app, name="cache")
app.add_typer(ledger_app, name="ledger")
app.add_typer(cli_bench.app, name="bench")

ConfigFile = Annotated[Path, typer.Option("--config", help="Whose cache, classifier and tiers to use.")]
Tenant = Annotated[str | None, typer.Option(help="Of this tenant alone.")]
Since = Annotated[str | None, typer.Option("--from", help="A day or a time, UTC; by default 24 hours earlier.")]
Until = Annotated[str | None, typer.Option("--until", help="A day or a time, UTC, not included; by default now.")]


@app.command()
def serve(config: Annotated[Path, typer.Argument(help="A file of configs/.")] = LOCAL) -> None:
    """Run the gateway of a configuration, with all it needs; Ctrl-C stops everything."""
    from app.config import read_serve_file
    from app.launch import Launcher

    file = read_serve_file(config)
    prepared()
    launcher = Launcher(file, say)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # set, so that a shell's `&` does not make us and our children deaf to it
    try:
        launcher.start()
        print(_READY.format(url=file.url), flush=True)
        launcher.watch()
    except KeyboardInterrupt:
        say("stopping")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        launcher.stop()


@app.command()
def apply(
    config: Annotated[Path, typer.Argument(help="A file of configs/.")],
    address: Annotated[
        str | None, typer.Option(help="Ray's dashboard, as http://HOST:8265; by default this machine's.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="The gateway, if it is on another host or port than that.")] = None,
) -> None:
    """Give a running gateway a changed configuration; replicas restart only for what they hold from their start."""
    from app.apply import apply as apply_file

    applied = apply_file(config, address, say, url=url)
    say(f"changed: {', '.join(applied.changed) or 'nothing'}")
    say("replicas were replaced" if applied.restarted else "no replica was restarted")


@app.command()
def prepare() -> None:
    """Prepare the bundled models, and what Serve is to run as HAProxy on a cluster; done once."""
    prepared()
    from app.bundled import state_dir
    from app.isolation import write_haproxy

    write_haproxy(state_dir() / "haproxy")


@app.command()
def key(
    tenant: Annotated[str, typer.Argument(help="Who the key is for.")],
    file: Annotated[Path, typer.Option(help="The key file that the configuration names.")] = Path("tenants.keys"),
    admin: Annotated[bool, typer.Option("--admin", help="May manage the cache of every tenant.")] = False,
) -> None:
    """Make an API key for a tenant: its hash is added to the file, the key itself is printed once."""
    secret = f"tw-{secrets.token_urlsafe(32)}"
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"{key_hash(secret)} {tenant}{' admin' if admin else ''}\n")
    file.chmod(0o600)
    print(secret)


@app.command()
def doctor(
    config: Annotated[Path, typer.Argument(help="A file of configs/.")] = LOCAL,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of lines.")] = False,
) -> None:
    """Check this machine for what a configuration needs; the exit status is 1 if there is a problem."""
    from app.doctor import as_lines, diagnose

    found = diagnose(config)
    print(json.dumps([asdict(finding) for finding in found], indent=2) if as_json else as_lines(found))
    sys.exit(any(finding.state == "problem" for finding in found))


@app.command("cache-eval")
def cache_eval(
    stream: Annotated[Path, typer.Argument(help='JSONL rows {"prompt"} in arrival order, with an "id" or not.')],
    out: Annotated[Path, typer.Option(help="Where the decisions go.")],
    config: ConfigFile = LOCAL,
    json_file: JsonFile = None,
) -> None:
    """Play a stream of prompts through the real cache decision; a miss is stored under its id."""
    from app.evaluation import evaluate_cache

    prepared()
    report(evaluate_cache(stream, out, config), json_file)


@app.command("cache-pairs")
def cache_pairs(
    pairs: Annotated[Path, typer.Argument(help='JSONL rows {"a", "b", "same": 0|1}, and a "kind".')],
    config: ConfigFile = LOCAL,
    json_file: JsonFile = None,
) -> None:
    """Decide labelled pairs: the same ones that are served and the different ones refused, by kind and by reason."""
    from app.pair_evaluation import evaluate_pairs

    prepared()
    report(evaluate_pairs(pairs, config), json_file)


@app.command("route-eval")
def route_eval(
    prompts: Annotated[Path, typer.Argument(help='JSONL rows {"prompt"}, with an "id" or not.')],
    out: Annotated[Path, typer.Option(help="Where the scores go.")],
    config: ConfigFile = LOCAL,
    json_file: JsonFile = None,
) -> None:
    """Score prompts with the real classifier and name the tier of each."""
    from app.evaluation import evaluate_routing

    prepared()
    report(evaluate_routing(prompts, out, config), json_file)


@app.command()
def replay(
    logs: Annotated[list[str], typer.Argument(metavar="LOG...", help="Files, folders or URLs: JSONL, CSV, Parquet.")],
    config: ConfigFile = LOCAL,
    columns: Annotated[
        str, typer.Option(help="Names of your columns: prompt=question,answer=reply,time=at,tenant=team,...")
    ] = "",
    out: Annotated[Path, typer.Option(help="The report, a page of HTML.")] = Path("replay.html"),
    json_file: JsonFile = None,
    write_config: Annotated[
        Path | None, typer.Option("--write-config", help="The configuration with the best settings goes here.")
    ] = None,
    redact: Annotated[bool, typer.Option("--redact", help="Write no text of any prompt.")] = False,
    picture: Annotated[Path | None, typer.Option(help="A PNG of the report's top, taken with Chromium.")] = None,
) -> None:
    """What the gateway would have saved on logs of yours, and got wrong: simulated here, nothing is sent anywhere."""
    from app.browser import photograph
    from app.replay.command import replay as play

    prepared()
    play(logs, config, columns, out, json_file, write_config, redact)
    say(f"the report is in {out}")
    if picture is not None:
        asyncio.run(photograph(out.absolute().as_uri(), picture, "svg", _PICTURE_PX))


@app.command("plan")
def plan(
    rps: Annotated[list[float] | None, typer.Option(min=0.01, help="Requests a second; can be repeated.")] = None,
    config: Annotated[Path, typer.Option(help="Whose tiers and prices to use.")] = PRODUCTION,
    service_times: Annotated[
        Path | None, typer.Option(help="Made by `tierwise bench service-times`; by default those that are shipped.")
    ] = None,
    assumptions: Annotated[Path | None, typer.Option(help="YAML with other `traffic` and `machines`.")] = None,
    json_file: JsonFile = None,
) -> None:
    """What a load takes: replicas, nodes, shards of Redis, GPUs, dollars; what runs out first; how long it waits."""
    from app.planning.command import SHIPPED, planned

    figures, shown = planned(rps or [10, 1000, 100_000], config, service_times or SHIPPED, assumptions)
    print(shown)
    write(figures, json_file)


@train_app.command("classifier")
def train_classifier(
    data: Annotated[list[Path], typer.Option(help="JSONL rows with outcomes: a folder or a file; can be repeated.")],
    base: Annotated[
        str | None, typer.Option(help="A Hugging Face encoder, by name or folder; by default the bundled MiniLM.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the model goes; by default, where it is found.")] = None,
    seed: int = 0,
    passes: Annotated[int, typer.Option(min=1, help="How often.")] = 2,
    quality: Annotated[
        float,
        typer.Option(min=0.01, max=0.9999, help="Share of the top tier's that 0.3 and 0.7 keep, at 95 % confidence."),
    ] = 0.9,
    json_file: JsonFile = None,
) -> None:
    """Fine-tune the encoder that scores difficulty. An interrupted training goes on after its last pass."""
    from app.classifier.encoder import WEIGHTS
    from app.classifier.train import train

    prepared()
    report(train(data, out or WEIGHTS, base, seed, passes, quality=quality, say=say), json_file)


@train_app.command("verifier")
def train_verifier(
    data: Annotated[Path, typer.Option(help='JSONL rows {"a", "b", "same": 0|1}, plain or gzipped.')],
    out: Annotated[Path | None, typer.Option(help="Where the model goes; by default, where it is found.")] = None,
    pairs: Annotated[int, typer.Option(help="Pairs to learn from a pass, half of them made by Tierwise.")] = 100_000,
    passes: Annotated[int, typer.Option(min=1, help="How often; each makes its pairs anew.")] = 2,
    teacher: Annotated[
        Path | None, typer.Option(help="A sentence-transformers folder that tempers the labels; by default MiniLM.")
    ] = None,
    seed: int = 0,
    json_file: JsonFile = None,
) -> None:
    """Fine-tune the cross-encoder that decides whether one answer serves two texts. An interrupted one goes on."""
    from app.cache.train import train
    from app.cache.verifier import BUNDLED
    from app.embedding import SentenceTransformersConfig

    prepared()
    threads = os.cpu_count() or 1
    tempering = (
        SentenceTransformersConfig(kind="sentence-transformers", model=teacher, threads=threads) if teacher else None
    )
    report(train(data, out or BUNDLED, pairs, seed, passes, tempering, say), json_file)


@calibrate_app.command("router")
def calibrate_router(
    outcomes: Annotated[
        Path, typer.Argument(help="JSONL rows with `prompt` and what each tier's answer was worth, 0 to 1.")
    ],
    out: Annotated[Path, typer.Option(help="The file for `classifier.calibration`.")],
    quality: Annotated[float, typer.Option(min=0.01, max=0.9999, help="Of the top tier's quality, to keep.")] = 0.95,
    budget: Annotated[
        float | None, typer.Option("--budget", min=0, help="USD for 1,000 requests to stay under instead.")
    ] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of the bound.")] = 0.95,
    plot: Annotated[Path | None, typer.Option(help="A PNG of the cost-quality curve.")] = None,
    config: ConfigFile = LOCAL,
    json_file: JsonFile = None,
) -> None:
    """Pick the cheapest cut points that keep a share of the top tier's quality, by its lower confidence bound."""
    from app.router_evaluation import calibrate

    report(calibrate(outcomes, quality, budget, confidence, out, plot, config), json_file)


@calibrate_app.command("cache")
def calibrate_cache(
    pairs: Annotated[Path, typer.Argument(help='JSONL rows {"a", "b", "same": 0|1}: stored text, new text.')],
    max_error_rate: Annotated[
        float, typer.Option(min=1e-4, max=0.5, help="Most wrong hits, as a share of hits.")
    ] = 0.01,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="Of the bound.")] = 0.95,
    out: Annotated[
        Path | None, typer.Option(help="The file for `cache.calibration`; by default the one that is there.")
    ] = None,
    config: ConfigFile = LOCAL,
    json_file: JsonFile = None,
) -> None:
    """Pick the loosest cache threshold whose false-hit rate stays under a limit, by its upper confidence bound."""
    from app.evaluation import calibrate_cache as calibrate

    report(calibrate(pairs, max_error_rate, confidence, out, config), json_file)


@cache_app.command("stats")
def cache_stats(config: ConfigFile = LOCAL, tenant: Tenant = None, json_file: JsonFile = None) -> None:
    """Count scopes, entries, vectors and bytes, by tenant."""
    from app.operate import cache_stats

    report(cache_stats(config, tenant), json_file)


@cache_app.command("export")
def cache_export(
    file: Annotated[Path, typer.Argument(help="JSONL; `.gz` is compressed.")],
    config: ConfigFile = LOCAL,
    tenant: Tenant = None,
) -> None:
    """Write every entry with its vectors to a file."""
    from app.operate import cache_export

    say(f"{cache_export(config, file, tenant)} entries in {file}")


@cache_app.command("import")
def cache_import(
    file: Annotated[Path, typer.Argument(help="What `tierwise cache export` wrote.")], config: ConfigFile = LOCAL
) -> None:
    """Store the entries of a file for as long as each had left."""
    from app.operate import cache_import

    done = cache_import(config, file, say)
    say(f"{done.stored} entries stored, {done.expired} had expired, {done.bad} lines were not readable")


@cache_app.command("clear")
def cache_clear(
    config: ConfigFile = LOCAL,
    tenant: Tenant = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Evict everything."""
    from app.operate import cache_clear

    if not yes:
        typer.confirm(f"Evict all answers {f'of {tenant}' if tenant else 'of every tenant'}?", abort=True)
    say(f"{cache_clear(config, tenant)} entries evicted")


@ledger_app.command("summary")
def ledger_summary(
    since: Since = None,
    until: Until = None,
    by: Annotated[str | None, typer.Option(help="hour, day, tenant, tier, model, decision or arm.")] = None,
    tenant: Tenant = None,
    config: ConfigFile = LOCAL,
    json_file: JsonFile = None,
) -> None:
    """Sum up requests, decisions, cost, savings, latency and errors of a period."""
    from app.operate_ledger import ledger_summary

    report(ledger_summary(config, since, until, by, tenant), json_file)


@ledger_app.command("compare")
def ledger_compare(
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
    config: ConfigFile = LOCAL,
    json_file: JsonFile = None,
) -> None:
    """Set the canary of a period beside the stable side, with intervals, and say what is beyond chance."""
    from app.ledger.compare import table
    from app.operate_ledger import ledger_comparison

    figures = ledger_comparison(config, since, until, tenant)
    print(table(figures))
    write(figures, json_file)


@ledger_app.command("export")
def ledger_export(
    to: Annotated[str, typer.Option(help="FILE.parquet, a database's URL, or env:NAME, a variable that holds one.")],
    since: Since = None,
    until: Until = None,
    config: ConfigFile = LOCAL,
) -> None:
    """Write the records of a period to a file or to a database."""
    from app.operate_ledger import ledger_export

    say(f"{ledger_export(config, to, since, until)} records exported")


def main() -> None:
    """Run the command; a failure we can name is one line, not a traceback."""
    try:
        app()
    except GatewayError as error:
        console.print(f"error: {error.message}", style="red", soft_wrap=True, markup=False)
        sys.exit(1)


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


_PICTURE_PX = 1500
_READY = """
Tierwise is ready at {url}   (Ctrl-C stops it)

curl {url}/v1/chat/completions -H 'content-type: application/json' \\
  -d '{{"model": "auto", "max_tokens": 60,
       "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

# Python
from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="unused")
messages = [dict(role="user", content="What is the capital of France?")]
answer = client.chat.completions.create(model="auto", messages=messages, max_tokens=60)
print(answer.choices[0].message.content)
"""
