"""A headless Chromium and a running page for the tests that drive it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)
SWITCHES = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip
PATIENCE = 180_000
"""Milliseconds that a browser waits for anything; machines of tests are slow and shared."""


def await_that(true: Callable[[], bool], seconds: float = PATIENCE / 1000) -> None:
    """Wait until something holds; a failed assertion when it does not come to that."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


@contextmanager
def page_process(home: Path, **environment: str) -> Generator[str]:
    """``recurvid gui`` in a process of its own; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {**os.environ, "RECURVID_HOME": str(home), "RECURVID_DEVICE": "cpu", **environment}
    log = home.parent / "page.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "recurvid", "gui", "--port", str(port)],
            env=settings, stdout=said, stderr=said, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}/"
            _await_answer(process, address, log)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.returncode == 0, log.read_text()


def _await_answer(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()
        with suppress(OSError), urlopen(f"{address}healthz", timeout=2):
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@dataclass
class Watched:
    """A browser's page, and everything it complained about or fetched from elsewhere."""

    page: Any
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    @staticmethod
    def open(browser: Any, address: str, *, script: str = "", **context: Any) -> Watched:
        """A fresh profile on the page, loaded; the script runs before anything of the page."""
        made = browser.new_context(**context)
        made.add_init_script(script)
        made.set_default_timeout(PATIENCE)
        watched = Watched(made.new_page())
        watched.page.on("console", watched._on_console)
        watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
        watched.page.on("request", watched._on_request)
        watched.load(address)
        return watched

    def load(self, address: str) -> None:
        """Go there and wait for the first answer of the store."""
        self.page.goto(address)
        self.page.wait_for_selector("#stage .rv-empty, #stage .rv-stage")

    def _on_console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.elsewhere.append(request.url)

    def fill(self, name: str, value: str) -> None:
        """Type into a field of the form; the drawer must be open for most."""
        self.page.locator(f"#field-{name} textarea, #field-{name} input[type=number]").first.fill(
            value
        )
        self.page.keyboard.press("Tab")

    def value(self, name: str) -> str:
        """What stands in a field of the form."""
        found = self.page.locator(f"#field-{name} textarea, #field-{name} input").first
        return str(found.input_value())

    def ask(self, picture: Path, **fields: str) -> None:
        """Fill the form and press Generate."""
        self.page.set_input_files("#picture input[type=file]", picture)
        self.page.wait_for_selector("#picture img")
        if not self.page.locator("#field-size").is_visible():
            self.page.click("#advanced > button")
            self.page.wait_for_selector("#field-size")
        for name, value in fields.items():
            self.fill(name, value)
        self.page.click("#generate")

    def do(self, what: str, where: str = "#stage") -> None:
        """Press one of our buttons."""
        self.page.click(f"{where} button[data-do={what}]")
