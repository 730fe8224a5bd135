"""The dashboard's figures, and its page in a real Chromium, over a real Redis."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis

from app.api import build_api
from app.browser import chromium
from app.cache import RedisConfig, RedisStore
from app.cache.bounds import EVERYWHERE, RedisBounds
from app.config import GatewayConfig
from app.dashboard import Dashboard
from app.dashboard.figures import targets
from app.dashboard.periods import steps_of
from app.embedded_redis import EmbeddedRedis
from app.errors import ConfigError, InvalidRequestError
from app.ledger import LedgerConfig
from app.ledger.calls import CallCounts, Called, calls
from app.ledger.record import Record, audited
from app.ledger.rollup import hour_of, slot_of
from app.ledger.store import RedisLedger
from app.quality.store import RedisQuality
from app.routing import TierConfig
from app.schema import PartStatus
from app.tenants import OpenTenants, Tenants, key_hash
from app.tier.shared import breakers_key
from tests.fakes import CONFIG, controller
from tests.serving import served

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

NOW = time.time()
HOUR, DAY = 3600, 86400
KEYS = Tenants({key_hash("root"): "ops", key_hash("a"): "acme"}, None, {key_hash("root")})
ADMIN, ACME = ({"authorization": f"Bearer {key}"} for key in ("root", "a"))
OPEN = OpenTenants().build()
HOSTILE = "<img src=x onerror=alert(1)>"
EVERY_TARGET = GatewayConfig.model_validate(
    {
        **CONFIG.model_dump(mode="json", exclude_defaults=True),
        "tiers": [
            {**tier.model_dump(mode="json", exclude_defaults=True), "targets": [{"model": model, "api_key_env": None}]}
            for tier, model in zip(CONFIG.tiers, ("small", "medium", "large"), strict=True)
        ],
    }
)


@pytest.fixture
async def store(redis: EmbeddedRedis) -> AsyncIterator[RedisStore]:
    async with Redis.from_url(redis.url) as client:
        await client.flushall()
    store = RedisConfig(timeout_s=5).build(url=redis.url)
    yield store
    await store.close()


@pytest.fixture
def ledger(store: RedisStore) -> RedisLedger:
    return RedisLedger(store, LedgerConfig())


@pytest.fixture
def board(store: RedisStore) -> Dashboard:
    return Dashboard(EVERY_TARGET, store, watched=True)


def record(at: float = NOW, **fields: Any) -> Record:
    plain = {"tenant": "acme", "tier": "mid", "model": "medium", "cache": "miss", "reason": "no candidate"}
    money = {"cost_usd": 0.25, "without_usd": 1.0, "latency_s": 0.5, "stages": {"model": 0.5}}
    return Record(time=at, **{**plain, **money, "route": "score", "score": 0.5, **fields})


def hit(at: float = NOW, **fields: Any) -> Record:
    return record(at, tier="cache", cache="hit", reason="exact", route="cache", cost_usd=0.0, **fields)


def failure(at: float = NOW) -> Record:
    none = {"tier": "none", "model": "", "cache": "", "reason": "", "route": "", "score": None}
    return record(at, **none, cost_usd=0.0, without_usd=0.0, status=503, error="upstream_error", finished=False)


def api(board: Dashboard | None, tenants: Tenants = KEYS) -> FastAPI:
    async def parts() -> Sequence[PartStatus]:
        return ()

    async def metrics() -> bytes:
        return b""

    return build_api(controller(None, {}), CONFIG, tenants, parts, metrics, dashboard=board)


def client(board: Dashboard | None, tenants: Tenants = KEYS) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=api(board, tenants), raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway")


# Figures


@pytest.mark.parametrize(
    ("name", "count", "step_s"), [("1h", 12, 300), ("24h", 24, HOUR), ("7d", 168, HOUR), ("30d", 30, DAY)]
)
def test_a_range_is_whole_steps_up_to_the_present_one(name: str, count: int, step_s: int) -> None:
    steps = steps_of(name, NOW)
    assert len(steps) == len({step.name for step in steps}) == count
    assert steps[-1].start <= NOW < steps[-1].end
    assert {step.end - step.start for step in steps} == {step_s}


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="1h, 24h, 7d, 30d"):
        steps_of("2h", NOW)


@pytest.mark.redis
async def test_the_figures_are_the_sums_of_the_range_and_of_all_time(ledger: RedisLedger, board: Dashboard) -> None:
    old = [record(NOW - 3 * DAY, tenant="globex", cost_usd=2.0, without_usd=4.0)]
    await ledger.write("w", 1, [*old, record(), hit(), failure(), audited(NOW, "cached answer", "acme", "mid", 0.125)])
    day, week = await board.figures("24h"), await board.figures("7d")
    assert (day["total"]["requests"], week["total"]["requests"]) == (3, 4)
    assert day["total"]["saved_usd"] == 2.0 - 0.25 - 0.125
    assert (day["total"]["hit_rate"], day["total"]["errors"]) == (0.5, {"upstream_error": 1})
    assert week["so_far"] == {
        "since": int(NOW - 3 * DAY), "requests": 4, "cost_usd": 2.375, "without_usd": 6.0, "saved_usd": 3.625
    }  # fmt: skip
    assert [(row["tenant"], row["requests"], row["cost_usd"], row["saved_usd"]) for row in week["top_tenants"]] == [
        ("globex", 1, 2.0, 2.0),
        ("acme", 3, 0.375, 1.625),
    ]
    assert [row["tier"] for row in day["latest"]][:4] == ["mid", "none", "cache", "mid"]
    assert "prompt" not in day["latest"][0]


@pytest.mark.redis
@pytest.mark.parametrize(("name", "ago_s"), [("1h", 1800), ("24h", 5 * HOUR), ("7d", 3 * DAY), ("30d", 20 * DAY)])
async def test_each_range_shows_a_request_in_its_step(
    ledger: RedisLedger, board: Dashboard, name: str, ago_s: int
) -> None:
    await ledger.write("w", 1, [record(NOW - ago_s)])
    columns = (await board.figures(name))["series"]
    place = columns["requests"].index(1)
    start = columns["time"][place]
    assert start <= NOW - ago_s < start + columns["step_s"]
    assert (columns["cost_usd"][place], columns["without_usd"][place], columns["tiers"]["mid"][place]) == (0.25, 1.0, 1)
    assert sum(columns["requests"]) == sum(columns["tiers"]["mid"]) == 1


@pytest.mark.redis
async def test_ranges_that_are_read_in_turn_do_not_add_up(ledger: RedisLedger, board: Dashboard) -> None:
    await ledger.write("w", 1, [record(NOW - 20 * DAY), record(NOW - 5 * HOUR), record()])
    counts = [(await board.figures(name))["total"]["requests"] for name in ("7d", "24h", "30d", "1h", "7d")]
    assert counts == [2, 2, 3, 1, 2]


@pytest.mark.redis
async def test_what_comes_late_into_a_step_that_is_over_is_seen_after_a_while(
    ledger: RedisLedger, store: RedisStore
) -> None:
    now = [NOW]
    board = Dashboard(EVERY_TARGET, store, watched=False, now=lambda: now[0])
    seen = []
    for number, passed_s in enumerate((0, 5, 400)):
        now[0] = NOW + passed_s
        await ledger.write("w", number + 1, [record(NOW - 5 * HOUR), record(NOW)])
        seen.append((await board.figures("7d"))["total"]["requests"])
    assert seen == [2, 3, 6]


@pytest.mark.redis
async def test_bounds_are_shown_with_their_intervals(store: RedisStore, board: Dashboard) -> None:
    bounds, quality = RedisBounds(store, 0.5, 0.95), RedisQuality(store, 0.5, 0.95)
    for correct in (True, True, True, False):
        await bounds.add(EVERYWHERE, "hits", correct, everywhere=False)
        await quality.draw(down=True)
        await quality.add("mid", correct, drawn_at={})
    shown = await board.figures("24h")
    false_hits, kept = shown["false_hits"], shown["quality"]["kept"]
    assert (false_hits["estimate"], false_hits["checked"], false_hits["wrong"]) == (0.25, 4, 1)
    assert 0 < false_hits["lower"] < 0.25 < false_hits["upper"] < 1
    assert kept["lower"] < kept["estimate"] == 0.75 < kept["upper"]
    assert shown["quality"]["tiers"]["mid"]["worse"] == 1


@pytest.mark.redis
async def test_targets_are_shown_with_their_calls_and_breakers(
    store: RedisStore, board: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = CallCounts("mid", store)
    for result in ("ok", "timeout", "ok", "rate limit", "timeout"):
        counts.record("medium", result)
    await counts.tell()
    await counts.tell()
    await store.run(lambda client: client.hset(breakers_key("mid"), "medium", NOW + 600))
    await store.run(lambda client: client.hset(breakers_key("top"), "large", NOW - 5))
    rows = {row["target"]: row for row in (await board.figures("1h"))["targets"]}
    assert (rows["medium"]["calls"], rows["medium"]["errors"]) == (5, {"rate limit": 1, "timeout": 2})
    assert {name: row["state"] for name, row in rows.items()} == {
        "small": "closed",
        "medium": "open",
        "large": "half-open",
    }
    assert rows["medium"]["ends_in_s"] == pytest.approx(600, abs=60)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    keyless = await Dashboard(CONFIG, store, watched=False).figures("1h")
    assert {row["state"] for row in keyless["targets"]} == {"no key"}


@pytest.mark.parametrize("others", [[], [{"model": "small", "api_key_env": None}]])
def test_a_local_model_with_targets_beside_it_is_shown_as_one(others: list[dict[str, Any]]) -> None:
    fields = {"name": "local", "max_score": 1.0, "llm": {"model": "models/own"}, "targets": others}
    rows = targets([TierConfig.model_validate(fields)], {Called("local", "own", "ok"): 3}, {"local": {"own": 9.0}}, 1.0)
    shown = [(row["target"], row["state"], row["calls"]) for row in rows]
    assert shown == ([("own", "open", 3), ("small", "closed", 0)] if others else [("own", "local", None)])


@pytest.mark.redis
async def test_calls_that_redis_did_not_take_are_told_the_next_time(redis: EmbeddedRedis, store: RedisStore) -> None:
    away = RedisConfig(timeout_s=0.1).build(url="redis://127.0.0.1:1/0")
    counts = CallCounts("mid", away)
    counts.record("medium", "ok")
    with pytest.raises(Exception, match=r"(?i)redis"):
        await counts.tell()
    counts._store = store
    counts.record("medium", "ok")
    await counts.tell()
    for period in (slot_of(NOW), hour_of(NOW)):
        found = await calls(store, [period, slot_of(NOW + 300), hour_of(NOW + HOUR)])
        assert found == {Called("mid", "medium", "ok"): 2}
    await away.close()


# Over HTTP


@pytest.mark.redis
@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/dashboard", ADMIN, 200),
        ("/v1/dashboard?range=30d", ADMIN, 200),
        ("/v1/dashboard?range=2h", ADMIN, 400),
        ("/v1/dashboard", ACME, 403),
        ("/v1/dashboard", {}, 401),
        ("/dashboard", {}, 200),
        ("/dashboard/page.js", {}, 200),
        ("/dashboard/uplot/LICENSE", {}, 200),
        ("/dashboard/../reading.py", {}, 404),
        ("/dashboard/%2e%2e/reading.py", {}, 404),
        ("/dashboard/nothing.js", {}, 404),
    ],
)
async def test_the_page_is_for_everybody_and_the_figures_for_admins(
    board: Dashboard, path: str, headers: dict[str, str], status: int
) -> None:
    async with client(board) as http:
        assert (await http.get(path, headers=headers)).status_code == status


@pytest.mark.redis
async def test_without_keys_the_figures_are_open_as_all_else_is(board: Dashboard) -> None:
    async with client(board, OPEN) as http:
        assert (await http.get("/v1/dashboard")).json()["range"] == "24h"


async def test_the_page_may_load_its_own_files_alone() -> None:
    async with client(None) as http:
        pages = [await http.get(path) for path in ("/dashboard", "/dashboard/page.js", "/dashboard/style.css")]
    policies = {page.headers["content-security-policy"] for page in pages}
    assert len(policies) == 1
    assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policies.pop()
    assert not re.search(r"(src|href)=\"(https?:)?//|<script>|style=", pages[0].text)


async def test_without_a_ledger_it_says_what_that_takes() -> None:
    async with client(None, OPEN) as http:
        response = await http.get("/v1/dashboard")
    assert (response.status_code, "takes `redis`" in response.json()["error"]["message"]) == (404, True)


async def test_while_redis_is_away_it_says_so() -> None:
    store = RedisConfig(timeout_s=0.2).build(url="redis://127.0.0.1:1/0")
    async with client(Dashboard(EVERY_TARGET, store, watched=True), OPEN) as http:
        response = await http.get("/v1/dashboard")
    await store.close()
    assert (response.status_code, "cannot be read from Redis" in response.json()["error"]["message"]) == (503, True)


# In a real Chromium


@dataclass
class Watched:
    """A page, and what it did that it must not do."""

    page: Page
    url: str
    wrong: list[str] = field(default_factory=list)

    async def text(self, selector: str) -> str:
        return re.sub(r"\s+", " ", await self.page.inner_text(selector))

    async def says(self, selector: str, text: str) -> None:
        """Wait until an element says something."""
        from playwright.async_api import expect

        await expect(self.page.locator(selector).first).to_contain_text(text, timeout=20_000)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    playwright_api = pytest.importorskip("playwright.async_api", reason="Playwright is not installed")
    async with playwright_api.async_playwright() as playwright, contextlib.AsyncExitStack() as stack:
        try:
            yield await stack.enter_async_context(chromium(playwright))
        except ConfigError as error:
            pytest.skip(error.message)


@contextlib.asynccontextmanager
async def opened(browser: Browser, application: FastAPI, **look: Any) -> AsyncIterator[Watched]:
    """Open the page; at the end it must have loaded nothing from elsewhere and said nothing on the console."""
    async with served(application) as url:
        page = await browser.new_page(**look)
        watched = Watched(page, url)
        page.on("console", lambda said: watched.wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: watched.wrong.append(str(error)))
        page.on("request", lambda asked: watched.wrong.append(asked.url) if not asked.url.startswith(url) else None)
        await page.goto(f"{url}/dashboard")
        yield watched
        await page.close()
    assert watched.wrong == []


@pytest.fixture
async def busy(ledger: RedisLedger, store: RedisStore) -> None:
    """An hour, a day and a month of requests, with names that would do harm if they were read as HTML."""
    latest = [record(request_id=f"{n}") for n in range(3)] + [hit(tenant=HOSTILE), failure()]
    await ledger.write("w", 1, [record(NOW - 20 * DAY), record(NOW - 5 * HOUR, tier="top", model="large"), *latest])
    await store.run(lambda client: client.hset(breakers_key("mid"), "medium", NOW + 600))


LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "device_scale_factor": 2},
}


@pytest.mark.redis
@pytest.mark.parametrize("look", LOOKS)
async def test_the_page_shows_the_figures_on_every_screen(
    browser: Browser, board: Dashboard, busy: None, look: str
) -> None:
    async with opened(browser, api(board, OPEN), **LOOKS[look]) as watched:
        await watched.says("#status", "live")
        assert "$3.75" not in await watched.text("#saved")
        assert "$4.00" in await watched.text("#saved")
        assert "20.0 %" in (await watched.text("#hits")).replace("\u00a0", " ")
        assert (await watched.text("#errors")).startswith("Errors 1 ")
        assert HOSTILE in await watched.text("#tenants")
        assert "open" in await watched.text("#targets tr:has-text('medium')")
        assert "miss: no candidate" in await watched.text("#decisions")
        assert await watched.page.locator("#board img").count() == 0
        assert await watched.page.locator("canvas").count() == 2
        width = await watched.page.evaluate("document.documentElement.scrollWidth")
        assert width <= LOOKS[look]["viewport"]["width"]
        page_colour = await watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert page_colour == {"dark": "rgb(17, 20, 23)"}.get(look, "rgb(244, 245, 247)")


# Counts the colours of a picture, as 0xRRGGBB.
COLOURS = """async png => {
    const image = new Image();
    image.src = `data:image/png;base64,${png}`;
    await image.decode();
    const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
    context.drawImage(image, 0, 0);
    const {data} = context.getImageData(0, 0, image.width, image.height);
    const colours = {};
    for (let at = 0; at < data.length; at += 4) {
        const colour = (data[at] << 16) | (data[at + 1] << 8) | data[at + 2];
        colours[colour] = (colours[colour] ?? 0) + 1;
    }
    return [image.width, image.height, colours];
}"""


@dataclass(frozen=True)
class Picture:
    """A picture of a page: its size in pixels, and how many of them have which colour."""

    width: int
    height: int
    colours: Mapping[int, int]

    @property
    def brightness(self) -> float:
        """The mean over all pixels and channels, from 0 to 255."""
        told = sum(sum(colour.to_bytes(3)) * count for colour, count in self.colours.items())
        return told / 3 / (self.width * self.height)

    def share(self, colour: int) -> float:
        return self.colours.get(colour, 0) / (self.width * self.height)


async def pictured(browser: Browser, png: Path) -> Picture:
    page = await browser.new_page()
    content = base64.b64encode(png.read_bytes()).decode()  # noqa: ASYNC240
    width, height, colours = await page.evaluate(COLOURS, content)
    await page.close()
    return Picture(width, height, {int(colour): count for colour, count in colours.items()})


@pytest.mark.redis
async def test_pictures_of_the_page_are_drawn_in_light_in_dark_and_on_a_phone(
    browser: Browser, board: Dashboard, busy: None, tmp_path: Path
) -> None:
    found: dict[str, Picture] = {}
    for look, options in LOOKS.items():
        async with opened(browser, api(board, OPEN), **options) as watched:
            await watched.says("#status", "live")
            await watched.page.wait_for_selector("canvas")
            await watched.page.screenshot(path=tmp_path / f"{look}.png", full_page=True)
        found[look] = await pictured(browser, tmp_path / f"{look}.png")
    light, dark, phone = found["light"], found["dark"], found["phone"]
    assert (light.width, dark.width, phone.width) == (1280, 1280, 2 * 390)
    assert phone.height / 2 > light.height > 900  # one column, and each more than a screen
    for picture in found.values():
        assert len(picture.colours) > 200  # letters and lines have smooth edges: no blank page
    assert min(light.share(0xF4F5F7), phone.share(0xF4F5F7), dark.share(0x111417)) > 0.1
    assert dark.brightness < 64 < 192 < light.brightness


@pytest.mark.redis
async def test_another_range_is_shown_at_once_and_new_requests_without_a_reload(
    browser: Browser, board: Dashboard, ledger: RedisLedger, busy: None
) -> None:
    async with opened(browser, api(board, OPEN)) as watched:
        await watched.says("#requests b", "6")
        await watched.page.keyboard.press("Tab")
        await watched.page.keyboard.press("ArrowRight")
        await watched.page.keyboard.press("ArrowRight")
        await watched.says("#requests b", "7")
        assert await watched.page.locator("#ranges input:checked").get_attribute("value") == "30d"
        await ledger.write("x", 1, [record(time.time(), tenant="latecomer")])
        await watched.says("#requests b", "8")
        await watched.says("#decisions tbody tr", "latecomer")


@pytest.mark.redis
async def test_a_key_is_asked_for_and_kept_out_of_the_address(browser: Browser, board: Dashboard, busy: None) -> None:
    async with opened(browser, api(board)) as watched:
        for key, answer in (("wrong", "Incorrect API key"), ("a", "takes an admin key")):
            await watched.page.fill("#key", key)
            await watched.page.keyboard.press("Enter")
            await watched.says("#refused", answer)
        assert not await watched.page.is_visible("#board")
        await watched.page.fill("#key", "root")
        await watched.page.keyboard.press("Enter")
        await watched.says("#status", "live")
        await watched.page.reload()
        await watched.says("#requests b", "6")
        assert "root" not in watched.page.url
        await watched.page.click("#leave")
        assert await watched.page.is_visible("#login")
        assert await watched.page.evaluate("sessionStorage.length") == 0
        # what the browser itself says of an answer of 401 or 403
        watched.wrong = [said for said in watched.wrong if "status of 40" not in said]


@pytest.mark.redis
async def test_while_redis_is_away_the_page_says_so_and_comes_back_by_itself(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        store = RedisConfig(timeout_s=2, retry_after_s=0.1).build(url=server.url)
        await RedisLedger(store, LedgerConfig()).write("w", 1, [record(time.time())])
        async with opened(browser, api(Dashboard(EVERY_TARGET, store, watched=True), OPEN)) as watched:
            await watched.says("#requests b", "1")
            await asyncio.to_thread(server.stop)
            await watched.says("#trouble", "cannot be read from Redis")
            await watched.says("#status", "as of")
            await asyncio.to_thread(server.start)
            await watched.says("#status", "live")
            assert not await watched.page.is_visible("#trouble")
            watched.wrong = [said for said in watched.wrong if "status of 503" not in said]
        await store.close()
