"""A real Chromium: Playwright's own, or the one that this machine has; and the pictures it takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import ConfigError

if TYPE_CHECKING:
    from playwright.async_api import Browser, Playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@asynccontextmanager
async def chromium(playwright: Playwright) -> AsyncIterator[Browser]:
    """Start a browser for as long as the context lasts.

    Raises:
        ConfigError: There is none.
    """
    found = next(filter(None, map(shutil.which, (playwright.chromium.executable_path, *_NAMES))), None)
    if found is None:
        raise ConfigError("there is no Chromium: `playwright install chromium`, or your system's package `chromium`")
    sandbox = os.getuid() != 0  # root, as in containers, has none
    browser = await playwright.chromium.launch(executable_path=found, chromium_sandbox=sandbox)
    try:
        yield browser
    finally:
        await browser.close()


async def photograph(url: str, picture: Path, ready: str, height: int | None = None) -> None:
    """Write a PNG of a page, once it has an element.

    Args:
        ready: The element's selector.
        height: Pixels from the top; by default the whole page.

    Raises:
        ConfigError: Playwright or a browser is missing.
    """
    try:
        from playwright.async_api import async_playwright
    except ImportError as error:
        raise ConfigError(f"a picture takes Playwright: pip install 'tierwise[test]' ({error})") from error
    async with async_playwright() as playwright, chromium(playwright) as browser:
        page = await browser.new_page(viewport={"width": 1360, "height": height or 900}, color_scheme="light")
        await page.goto(url)
        await page.wait_for_selector(ready)
        picture.parent.mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=picture, full_page=height is None)
