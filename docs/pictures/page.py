"""Take the pictures of the page: a real page with real jobs, in a headless Chromium.

    python docs/pictures/page.py

Takes some minutes, for the videos in them are made first.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tests.e2e.browser import CHROMIUM, SWITCHES, Watched, page_process  # noqa: E402

from recurvid.generation.request import GenerationRequest  # noqa: E402
from recurvid.jobs.states import JobState  # noqa: E402
from recurvid.jobs.store import JobStore  # noqa: E402

VALLEY = ROOT / "examples" / "valley.jpg"
EXAMPLE = ROOT / "src" / "recurvid" / "bundled" / "example.jpg"
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
LARGEST = 300_000
MIDWAY = """() => document.querySelectorAll('#stage .rv-section.rv-done').length === 2
    && /step (1[5-9]|[23][0-9]) /.test(document.querySelector('#stage .rv-preview')?.innerText)"""


def main() -> None:
    """Make some videos, then take every picture."""
    with tempfile.TemporaryDirectory() as folder, page_process(Path(folder) / "home") as address:
        store = JobStore(Path(folder) / "home")
        for title, picture, prompt, seconds in (
            ("example", EXAMPLE, "pan left, slowly", 3.0),
            ("valley", VALLEY, "pan left", 4.0),
            ("valley", VALLEY, "The camera pans right over the misty valley", 4.0),
        ):
            request = GenerationRequest(prompt=prompt, seconds=seconds, size="256", steps=12)
            store.add(request, picture, title=title)
        until(lambda: store.counts()[JobState.DONE] == 3)
        prompt = "Mist drifts through the valley in the evening. The camera pans right, slowly."
        store.add(GenerationRequest(prompt=prompt, seconds=9.0, size="256", steps=30), VALLEY,
                  title="valley at dusk")  # fmt: skip
        for seed in (1, 2):
            request = GenerationRequest(prompt="pan left, slowly", seconds=6.0, seed=seed)
            store.add(request, EXAMPLE, title=f"example {seed}")
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
            take(browser, address)
            browser.close()
        for job in store.list():
            if job.state.is_active:
                store.cancel(job.id)


def take(browser: Any, address: str) -> None:
    """Every picture, while a job runs."""
    page = Watched.open(browser, address, locale="en-US", viewport=DESKTOP).page
    page.set_input_files("#picture input[type=file]", VALLEY)
    page.wait_for_selector("#picture img")
    page.fill("#field-prompt textarea", "Mist drifts through the valley. The camera pans right.")
    # The last section of three: far enough to show all that there is to see.
    page.wait_for_function(MIDWAY, timeout=600_000)
    page.wait_for_timeout(1000)
    shot(page, "page-create")
    for tab in ("Queue", "History", "Models"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(1500)
        if tab == "Models":
            page.fill("#memory-vram textarea, #memory-vram input", "12")
            page.click("#memory-draw")
            page.wait_for_selector("#memory-plan h4:has-text('12.0 GiB')", timeout=120_000)
        shot(page, f"page-{tab.lower()}")
    for name, context in (
        ("page-dark", {"locale": "en-US", "color_scheme": "dark", "viewport": DESKTOP}),
        ("page-japanese", {"locale": "ja-JP", "viewport": DESKTOP}),
        ("page-phone", {"locale": "en-US", "viewport": PHONE, "device_scale_factor": 2}),
    ):
        page = Watched.open(browser, address, **context).page
        page.wait_for_selector("#stage .rv-badge")
        if name == "page-phone":
            page.locator("#stage").scroll_into_view_if_needed()
        page.wait_for_timeout(4000)
        shot(page, name)


def shot(page: Any, name: str) -> None:
    """One picture, with few enough colours to be small."""
    file = HERE / f"{name}.png"
    page.screenshot(path=file)
    with Image.open(file) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
    small.save(file, optimize=True)
    size = file.stat().st_size
    print(f"{name}: {size / 1000:.0f} kB")
    assert size < LARGEST, name


def until(true: Any, seconds: float = 900) -> None:
    """Wait for something."""
    last = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < last
        time.sleep(0.5)


if __name__ == "__main__":
    main()
