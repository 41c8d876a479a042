"""One page in a process, one browser, and a fresh view of it for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.browser import CHROMIUM, SWITCHES, Watched, await_that, page_process

if TYPE_CHECKING:
    from recurvid.jobs.store import JobStore


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page") / "home"


@pytest.fixture(scope="module")
def address(home: Path) -> Iterator[str]:
    with page_process(home) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright import sync_api as playwright

    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield made
        made.close()


@pytest.fixture
def store(home: Path, address: str) -> Iterator[JobStore]:
    """The page's own queue, emptied afterwards so that no test waits for another's job."""
    from recurvid.jobs.store import JobStore

    opened = JobStore(home)
    yield opened
    for job in opened.list():
        if job.state.is_active:
            opened.cancel(job.id)
    await_that(lambda: not any(job.state.is_active for job in opened.list()))
    for job in opened.list():
        opened.delete(job.id)
    opened.close()


@pytest.fixture
def view(browser: Any, address: str, store: JobStore) -> Iterator[Watched]:
    """The page, in English and at desktop size; whatever it complained about fails the test."""
    watched = Watched.open(
        browser, address, locale="en-US", viewport={"width": 1300, "height": 900}
    )
    yield watched
    watched.page.context.close()
    assert watched.errors == []
    assert watched.elsewhere == []
