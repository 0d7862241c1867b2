"""A headless Chromium, its pages without a network beyond this machine, and axe-core."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# As root, Chromium has no sandbox; it also looks up hosts of its maker unless it is told not to.
FLAGS = ["--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
WIDTHS = {"desktop": (1280, 900), "phone": (390, 800)}


def find_browser() -> str | None:
    """The program of a Chromium: of the variable CHROMIUM, of the system, or Playwright's own."""
    for name in (os.environ.get("CHROMIUM", ""), *NAMES):
        if name and (found := shutil.which(name)):
            return found
    own = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH", Path.home() / ".cache/ms-playwright"))
    return next((str(path) for path in sorted(own.glob("chromium-*/chrome-linux*/chrome"))), None)


def why_no_browser() -> str | None:
    """Why no page can be tested here; None if it can."""
    return None if find_browser() else "no Chromium (install it, or name it in CHROMIUM)"


@dataclass
class Watched:
    """A page, and what should never happen on it."""

    page: Any
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def assert_clean(self) -> None:
        """No error on the console, no request to another host, nothing wider than the window."""
        assert self.errors == []
        assert self.foreign == []
        wide = self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        assert not wide, "the page scrolls sideways"


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A Chromium of Playwright."""
    from playwright.sync_api import sync_playwright

    flags = FLAGS + (["--no-sandbox"] if os.geteuid() == 0 else [])
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=find_browser(), args=flags)
        try:
            yield launched
        finally:
            launched.close()


@contextlib.contextmanager
def opened(
    browser: Any, address: str, width: str = "desktop", scheme: str = "light"
) -> Iterator[Watched]:
    """A page at an address. Requests to another host fail and are remembered."""
    size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(10_000)
    watched = Watched(page)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on(
        "console",
        lambda line: watched.errors.append(line.text) if line.type == "error" else None,
    )
    own = address.split("#")[0].rstrip("/")
    root = own.split("/", 3)
    origin = own if own.startswith("file:") else "/".join(root[:3])

    def route(route: Any) -> None:
        url = route.request.url
        if url.startswith((origin, "data:", "blob:")):
            route.continue_()
        else:
            watched.foreign.append(url)
            route.abort()

    page.route("**/*", route)
    page.goto(address)
    try:
        yield watched
    finally:
        context.close()


def violations(page: Any) -> list[str]:
    """What axe-core finds wrong for people who see little or use a keyboard."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}" for one in found]
