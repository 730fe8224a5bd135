from __future__ import annotations

from collections.abc import Sequence

import httpx2
import pytest

from app.api import build_api
from app.quality.audit import Pair
from app.schema import PartStatus
from app.tenants import Tenants, key_hash
from tests.fakes import CONFIG, FakeProvider, FakeQuality, controller

ADMIN, USER = {"authorization": "Bearer root"}, {"authorization": "Bearer mine"}
TENANTS = Tenants({key_hash("root"): "ops", key_hash("mine"): "acme"}, None, {key_hash("root")})
PAIR = Pair("p1", [{"role": "user", "content": "Why?"}], "local", "cheap", "dear", 7.0)


def client(quality: FakeQuality | None) -> httpx2.AsyncClient:
    async def parts() -> Sequence[PartStatus]:
        return ()

    async def metrics() -> bytes:
        return b""

    providers = {name: FakeProvider(name) for name in ("local", "mid", "top")}
    gateway = controller(None, providers, quality=quality)
    api = build_api(gateway, CONFIG, TENANTS, parts, metrics)
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=api), base_url="http://gateway")


@pytest.fixture
def quality() -> FakeQuality:
    return FakeQuality()


async def test_an_admin_sees_how_much_quality_is_kept_and_what_it_cost(quality: FakeQuality) -> None:
    quality.drawn, quality.added, quality.spent_usd = [True, True, False, False], [("local", False)], 0.25
    shown = (await client(quality).get("/v1/quality", headers=ADMIN)).json()
    assert shown["promised"] == 0.9
    assert shown["kept"]["estimate"] == 0.5
    assert shown["kept"]["lower"] <= 0.5 < shown["kept"]["upper"]
    assert (shown["tiers"]["local"]["checked"], shown["tiers"]["local"]["worse"]) == (1, 1)
    assert (shown["drawn"], shown["routed_down"], shown["spent_today_usd"]) == (4, 2, 0.25)


async def test_pairs_are_compared_once_and_counted(quality: FakeQuality) -> None:
    await quality.keep(PAIR)
    async with client(quality) as http:
        (shown,) = (await http.get("/v1/quality/pairs", headers=ADMIN)).json()["data"]
        best = "first" if shown["first"] == "dear" else "second"
        said = await http.post("/v1/quality/pairs/p1", json={"better": best}, headers=ADMIN)
        again = await http.post("/v1/quality/pairs/p1", json={"better": best}, headers=ADMIN)
    assert said.json() == {"id": "p1", "better": best}
    assert (again.status_code, quality.added) == (404, [("local", False)])


async def test_a_word_that_is_none_says_what_to_send(quality: FakeQuality) -> None:
    await quality.keep(PAIR)
    response = await client(quality).post("/v1/quality/pairs/p1", json={"better": "third"}, headers=ADMIN)
    assert (response.status_code, list(quality.waiting)) == (400, ["p1"])
    assert '"second" or "neither"' in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/quality", "/v1/quality/pairs"])
async def test_texts_of_all_tenants_take_an_admin_key(quality: FakeQuality, path: str) -> None:
    async with client(quality) as http:
        refused = [(await http.get(path, headers=headers)).status_code for headers in (USER, {})]
    assert refused == [403, 401]


async def test_where_nothing_is_checked_it_says_what_that_takes() -> None:
    response = await client(None).get("/v1/quality", headers=ADMIN)
    assert response.status_code == 404
    assert "takes `redis`" in response.json()["error"]["message"]
