"""No click is lost: not while a list is drawn anew, not while the page's stream of answers ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.e2e.browser import CHROMIUM, Watched, await_that

pytest.importorskip("gradio", reason="the page needs the extra gui")
pytest.importorskip("playwright.sync_api", reason="needs playwright")

from recurvid.generation.request import GenerationRequest
from recurvid.jobs.store import JobStore

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

PICTURE = Path(__file__).parents[2] / "examples" / "valley.jpg"
# A browser that hears of the end of the stream of answers only when the test lets it.
SLOW_END = """(() => {
    const send = window.fetch;
    window.released = new Promise(go => { window.release = go; });
    window.fetch = async (resource, options) => {
        const answer = await send(resource, options);
        if (!String(resource.url ?? resource).includes("/queue/data")) return answer;
        const source = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        const coder = new TextEncoder();
        const body = new ReadableStream({
            async pull(page) {
                const { value, done } = await source.read();
                if (done) return page.close();
                for (const part of value.split(/(?<=\\n\\n)/)) {
                    if (part.includes("close_stream")) {
                        window.ends = (window.ends ?? 0) + 1;
                        await window.released;
                    }
                    page.enqueue(coder.encode(part));
                }
            },
            cancel: why => {
                window.dropped = true;
                return source.cancel(why);
            },
        });
        return new Response(body, { status: answer.status, headers: answer.headers });
    };
})();"""


@pytest.fixture
def busy(store: JobStore) -> JobStore:
    """The queue with a long job that runs, and three that wait behind it."""
    store.add(GenerationRequest(seconds=20.0, size="96", steps=200), PICTURE, title="long")
    for number in (1, 2, 3):
        store.add(
            GenerationRequest(seconds=1.0, size="64", steps=2), PICTURE, title=f"job {number}"
        )
    return store


def open_queue(page: Any) -> None:
    page.get_by_role("tab", name="Queue").click()
    page.wait_for_selector("#queue [data-ready], #queue[data-ready]")
    page.wait_for_selector("#queue .rv-row .rv-running")
    rows(page, 4)


def rows(page: Any, count: int) -> None:
    page.wait_for_function(
        "count => document.querySelectorAll('#queue .rv-row').length === count", arg=count
    )


def row(page: Any, title: str) -> Any:
    return page.locator("#queue .rv-row", has_text=title)


def waiting(store: JobStore) -> list[str]:
    return [job.title for job in store.queue() if job.title != "long"]


def hold(page: Any, title: str, do: str) -> None:
    """Press a button of a row and keep it pressed."""
    row(page, title).locator(f"[data-do={do}]").hover()
    page.mouse.down()


def test_an_answer_comes_though_the_stream_was_ending(browser: Any, address: str, busy: JobStore):
    view = Watched.open(browser, address, script=SLOW_END, locale="en-US")
    page = view.page
    open_queue(page)
    row(page, "job 2").locator("[data-do=duplicate]").click()
    page.wait_for_function("window.ends === 1")
    assert waiting(busy) == ["job 1", "job 2", "job 3", "job 2"]
    with page.expect_response("**/queue/join*") as joined:
        row(page, "job 3").locator("[data-do=edit]").click()
    joined.value.finished()
    page.wait_for_timeout(500)  # for the page to note that the event was taken
    page.evaluate("window.release()")
    page.wait_for_selector("#stop-editing")
    page.click("#stop-editing")
    page.wait_for_selector("#stop-editing", state="hidden")
    assert not page.evaluate("window.dropped"), "the server would drop events with the stream"
    assert view.errors == []
    page.context.close()


def test_a_press_means_the_job_that_was_pressed(view: Watched, busy: JobStore):
    page = view.page
    open_queue(page)
    hold(page, "job 2", "duplicate")
    (first,) = (job for job in busy.queue() if job.title == "job 1")
    busy.delete(first.id)
    rows(page, 3)
    page.mouse.up()  # where job 3 stands now
    await_that(lambda: len(waiting(busy)) == 3)
    assert waiting(busy) == ["job 2", "job 3", "job 2"]


def test_a_press_counts_though_its_row_has_moved_away(view: Watched, busy: JobStore):
    page = view.page
    open_queue(page)
    hold(page, "job 3", "duplicate")
    (first,) = (job for job in busy.queue() if job.title == "job 1")
    busy.delete(first.id)
    rows(page, 3)
    page.mouse.up()  # where no row is any more
    await_that(lambda: len(waiting(busy)) == 3)
    assert waiting(busy) == ["job 2", "job 3", "job 3"]


def test_who_moves_away_has_thought_better_of_it(view: Watched, busy: JobStore):
    page = view.page
    open_queue(page)
    hold(page, "job 1", "duplicate")
    row(page, "job 2").locator("h4").hover()
    page.mouse.up()
    row(page, "job 2").locator("[data-do=duplicate]").focus()
    page.keyboard.press("Enter")
    await_that(lambda: len(waiting(busy)) == 4)
    assert waiting(busy) == ["job 1", "job 2", "job 3", "job 2"]
