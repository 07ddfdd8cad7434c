"""The pictures of both pages that the documents show: `python -m tests.pages.pictures`.

In the dependency group `browser`: `python3 -m uv run --isolated --group browser python -m
tests.pages.pictures`. Names of streams and sessions are drawn anew, so that no two are the same.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright import sync_api

from sim import explore
from sim.pages.page import Page, Told
from sim.pages.story import story_of
from tests.pages.programs import slot_that_is_lost
from tests.pages.served import served

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
SIZE = {"width": 1160, "height": 660}
BYTES_MAX = 150_000


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("there is no Chromium: apt-get install chromium")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # Before playwright, which keeps a loop in this thread.
        report = _report(Path(folder))
        with served() as server, sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            _take(browser, "counterexample", lambda page: page.goto(report.as_uri()))
            _take(browser, "server", lambda page: _chat(page, server.url))
            browser.close()
    for picture in FOLDER.glob("*.png"):
        size = picture.stat().st_size
        print(f"{size:>8} {picture}")
        if size > BYTES_MAX:
            sys.exit(f"{picture} has {size} bytes, more than {BYTES_MAX}: make the window smaller")


def _report(folder: Path) -> Path:
    report = explore(slot_that_is_lost)
    assert report.counterexample is not None
    told = Told.of("slots.py", story_of(slot_that_is_lost, report.counterexample))
    file = folder / "slots.html"
    Page("slots.py:program", report.verdict, report.reason, stories=[told]).write(file)
    return file


def _take(browser: Any, name: str, show: Any) -> None:
    context = browser.new_context(color_scheme="light", viewport=SIZE, reduced_motion="reduce")
    page = context.new_page()
    show(page)
    page.screenshot(path=FOLDER / f"{name}.png")
    context.close()


def _chat(page: Any, url: str) -> None:
    """A prompt that a newer one stops, one that is silent, and one that waits behind it."""
    page.goto(url)
    page.fill("#key", "devkey")
    page.press("#key", "Enter")
    page.wait_for_selector('option[value="fake:slow"]', state="attached")
    _send(page, 0, "Tell me everything about streams", "fake:slow")
    _send(page, 1, "And what if you say nothing?", "fake:hang-midstream")
    sync_api.expect(page.locator(".turn .answer").first).to_contain_text("word6", timeout=60_000)
    _send(page, 0, "In one sentence, please", "fake:normal")
    _send(page, 1, "I wait for my turn", "fake:normal", "enqueue")
    newest = page.locator(".session").first.locator(".turn .answer").last
    sync_api.expect(newest).to_contain_text("word18", timeout=60_000)


def _send(page: Any, number: int, text: str, model: str, strategy: str = "interrupt") -> None:
    session = page.locator(".session").nth(number)
    session.locator("select.model").select_option(model)
    session.locator("select.strategy").select_option(strategy)
    session.locator(".prompt").fill(text)
    session.locator(".prompt").press("Enter")


if __name__ == "__main__":
    main()
