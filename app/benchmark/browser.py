"""A real Chromium: Playwright's own, or the one that this machine has."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
