"""Pictures of pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.browser import photograph
from app.errors import ConfigError

PAGE = "<!doctype html><svg width=10 height=10></svg><p style='height: 3000px'>"


@pytest.mark.parametrize(("height", "pixels"), [(400, 400), (None, 3000)])
async def test_a_picture_has_as_much_of_the_page_as_is_asked(tmp_path: Path, height: int | None, pixels: int) -> None:
    pytest.importorskip("playwright.async_api", reason="Playwright is not installed")
    (tmp_path / "page.html").write_text(PAGE)
    picture = tmp_path / "pictures" / "page.png"
    try:
        await photograph((tmp_path / "page.html").as_uri(), picture, "svg", height)
    except ConfigError as error:
        pytest.skip(error.message)
    found = picture.read_bytes()
    assert found.startswith(b"\x89PNG")
    width, tall = (int.from_bytes(found[at : at + 4]) for at in (16, 20))
    assert width == 1360
    assert pixels <= tall < pixels + 200
