"""A gateway of its own before a scripted upstream: what its ledger says, what a budget refuses, what a stop leaves."""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from app.config import read_serve_file
from app.embedded_redis import EmbeddedRedis
from app.launch import Launcher
from app.operate_ledger import ledger_export, ledger_summary
from app.ports import free_port
from app.tenants import key_hash
from tests.upstream import Script, Upstream
from tests.waiting import eventually

pytestmark = pytest.mark.serve
BENCH = Path(__file__).parents[2] / "configs" / "bench.yaml"
KEYS = {name: f"tw-{name}" for name in ("ops", "acme", "thrifty", "careful")}
BUDGETS = {
    "thrifty": {"usd_per_day": 1e-6},
    "careful": {"usd_per_day": 1e-6, "step_down_at": 1, "step_down_to": "local", "refuse_at": None},
}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, upstream: Upstream) -> Path:
    raw = yaml.safe_load(BENCH.read_text("utf-8"))
    raw["http_options"]["port"] = free_port()
    arguments = raw["applications"][0]["args"]
    arguments["tenants"] = {"kind": "keys", "file": str(tmp_path / "tenants.keys")}
    arguments["budgets"] = BUDGETS
    arguments["cache"] = {**arguments.get("cache", {}), "audit": {"share": 0.0}}  # a check is a record too
    arguments["routing"] = {**arguments.get("routing", {}), "quality": {"share": 0.0}}
    for tier in arguments["tiers"]:
        tier["targets"][0]["base_url"] = upstream.url
    lines = [f"{key_hash(key)} {name}{' admin' if name == 'ops' else ''}\n" for name, key in KEYS.items()]
    (tmp_path / "tenants.keys").write_text("".join(lines))
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_the_ledger_equals_the_metrics_keeps_budgets_and_outlives_a_stop(
    config: Path, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = read_serve_file(config)
    launcher = Launcher(file, print, tmp_path / "state")
    try:
        launcher.start()
        answered = ask_of_every_kind(file.url, upstream)
        assert eventually(lambda: summary(file.url)["total"]["requests"] == answered + 2, 5), summary(file.url)
        shown = summary(file.url)["total"]
        assert shown["errors"] == {"model_not_found": 1, "invalid_request_error": 1, "client_gone": 1}
        assert eventually(lambda: metric(file.url, "requests") == answered, 60), metrics(file.url)
        assert metric(file.url, "cost_usd") == pytest.approx(shown["cost_usd"], abs=1e-9)
        assert metric(file.url, "saved_usd") == pytest.approx(shown["without_usd"] - shown["cost_usd"], abs=1e-9)
        for kind in ("prompt", "completion"):
            assert metric(file.url, "tokens", f'kind="{kind}"') == shown[f"{kind}_tokens"]
        assert Counter(shown["decisions"]) == decisions_counted(file.url)
        assert eventually(lambda: dashboard_agrees(file.url), 10), get(file.url, "dashboard")
        spend_budgets(file.url)
        before = summary(file.url)["total"]["requests"]
        with client(file.url, "acme") as acme:
            for number in range(50):
                chat(acme, f"the last question, number {number}")
    finally:
        launcher.stop()
    with EmbeddedRedis(tmp_path / "state" / "redis") as redis:
        monkeypatch.setenv("TIERWISE_REDIS_URL", redis.url)
        after = ledger_summary(config, None, None, None, None)["total"]["requests"]
        assert after - before >= 50
        assert ledger_export(config, f"sqlite:///{tmp_path / 'ledger.db'}", None, None) == after


def dashboard_agrees(url: str) -> bool:
    """Whether the dashboard says what the ledger says, and has the calls that stand behind it."""
    with urllib.request.urlopen(f"{url}/dashboard") as page:
        assert "default-src 'none'" in page.headers["content-security-policy"]
    shown = get(url, "dashboard")
    calls = sum(target["calls"] for target in shown["targets"])
    return bool(shown["total"] == summary(url)["total"] and calls > 0)


def ask_of_every_kind(url: str, upstream: Upstream) -> int:
    """Ask for answers of every kind, and for two refusals; return how many answers there were."""
    with client(url, "acme") as acme:
        for model in ("auto", "top", "top"):
            chat(acme, "Who reads the meters?", model=model)
        assert eventually(lambda: chat(acme, "Who reads the meters?", model="top") == "hit", 5)
        acme.embeddings.create(model="minilm", input="three words long")
        for _ in range(2):
            for _ in acme.chat.completions.create(
                model="top", messages=[{"role": "user", "content": "Stream it."}], stream=True
            ):
                pass
        upstream.scripts["scripted-top"] = Script(chunk_delay_s=0.5)  # the client is gone before it ends
        with acme.chat.completions.create(
            model="top", messages=[{"role": "user", "content": "Leave it."}], stream=True
        ) as left:
            next(iter(left))
        del upstream.scripts["scripted-top"]
        with pytest.raises(openai.NotFoundError):
            chat(acme, "hi", model="gpt-17")
        with pytest.raises(openai.BadRequestError):
            chat(acme, "hi", temperature="hot")
    records = get(url, "ledger/recent?limit=100")["data"]
    assert eventually(lambda: len(get(url, "ledger/recent?limit=100")["data"]) >= 10, 5), records
    records = get(url, "ledger/recent?limit=100")["data"]
    assert len({record["request_id"] for record in records}) == len(records)
    assert "meters" not in json.dumps(records)
    return sum(record["status"] == 200 for record in records)


def spend_budgets(url: str) -> None:
    """Spend two tenants' budgets with a request each: one is refused from then on, one steps down."""
    hard: Any = {
        "model": "auto",
        "messages": [{"role": "user", "content": "Prove the theorem on prime numbers, in full."}],
    }
    fresh = {"cache-control": "no-store"}
    with client(url, "thrifty") as thrifty, client(url, "careful") as careful:
        for asking in (thrifty, careful):
            first = asking.chat.completions.with_raw_response.create(**hard, extra_headers=fresh)
            assert (first.headers["x-tierwise-tier"], first.headers["x-tierwise-budget-state"]) == ("top", "ok")

        def route() -> str:
            raw = careful.chat.completions.with_raw_response.create(**hard, extra_headers=fresh)
            return str(raw.headers["x-tierwise-route"])

        assert eventually(lambda: route() == "budget", 10)
        assert eventually(lambda: refusal(thrifty, hard, fresh) is not None, 10)
        error = refusal(thrifty, hard, fresh)
    assert error is not None
    assert (error.code, error.response.headers["x-tierwise-budget-state"]) == ("budget_exceeded", "refuse")
    assert int(error.response.headers["retry-after"]) > 0


def refusal(asking: openai.OpenAI, body: Any, headers: dict[str, str]) -> openai.RateLimitError | None:
    try:
        asking.chat.completions.create(**body, extra_headers=headers)
    except openai.RateLimitError as error:
        return error
    return None


def client(url: str, tenant: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=KEYS[tenant], max_retries=0)


def chat(asking: openai.OpenAI, text: str, **fields: Any) -> str:
    """Ask, and return what the cache decided."""
    body = {"model": "mid", "messages": [{"role": "user", "content": text}], **fields}
    return str(asking.chat.completions.with_raw_response.create(**body).headers["x-tierwise-cache"])


def get(url: str, path: str) -> dict[str, Any]:
    request = urllib.request.Request(f"{url}/v1/{path}", headers={"authorization": f"Bearer {KEYS['ops']}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        found: dict[str, Any] = json.load(response)
        return found


def summary(url: str) -> dict[str, Any]:
    return get(url, "ledger/summary")


def metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        return str(response.read().decode())


def metric(url: str, name: str, label: str = "") -> float:
    """Sum a metric over all of its labels, or where one is as given."""
    lines = re.findall(rf"(?m)^ray_tierwise_{name}(?:_total)?{{(.*)}} (\S+)$", metrics(url))
    return sum(float(value) for labels, value in lines if label in labels)


def decisions_counted(url: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for labels, value in re.findall(r"(?m)^ray_tierwise_requests(?:_total)?{(.*)} (\S+)$", metrics(url)):
        found[labels.partition('cache="')[2].partition('"')[0]] += int(float(value))
    return found
