"""The page driven in a real browser, with the bundled model behind it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.e2e.browser import CHROMIUM, Watched, await_that

pytest.importorskip("gradio", reason="the page needs the extra gui")
pytest.importorskip("playwright.sync_api", reason="needs playwright")

from recurvid.generation.request import GenerationRequest
from recurvid.jobs.states import Job, JobState
from recurvid.jobs.store import JobStore

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

PICTURE = Path(__file__).parents[2] / "examples" / "valley.jpg"
LONG = {"prompt": "pan right", "seconds": "6", "size": "96", "steps": "40"}
# A video dropped on the page, where it was not even meant to be: on the picture.
DROP = """text => {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "someone's video.mp4", { type: "video/mp4" }));
    const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
    document.querySelector("#picture").dispatchEvent(drop);
}"""
COPY = """async () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 96, height: 64 });
    const pen = canvas.getContext("2d");
    for (const [colour, x] of [["#f00", 0], ["#00f", 48]]) {
        pen.fillStyle = colour;
        pen.fillRect(x, 0, 48, 64);
    }
    const png = await new Promise(done => canvas.toBlob(done, "image/png"));
    await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
}"""
SHORT = {"prompt": "pan left", "seconds": "1", "size": "64", "steps": "2"}


def only(store: JobStore) -> Job:
    (job,) = store.list()
    return job


def done(store: JobStore) -> Job:
    await_that(lambda: only(store).state is JobState.DONE)
    return only(store)


def test_a_picture_becomes_a_video_that_plays(view: Watched, store: JobStore):
    view.ask(PICTURE, **SHORT)
    view.page.wait_for_selector("#stage .rv-badge.rv-done")
    video = view.page.locator("#stage video")
    view.page.wait_for_function("document.querySelector('#stage video').readyState >= 2")
    job = only(store)
    assert job.plan is not None
    assert video.evaluate("v => v.duration") == pytest.approx(job.plan.seconds, abs=0.1)
    assert video.evaluate("v => [v.videoWidth, v.videoHeight]") == [job.width, job.height]
    assert job.request == GenerationRequest(prompt="pan left", seconds=1.0, size="64", steps=2)
    view.page.get_by_role("tab", name="History").click()
    assert "pan left" in view.page.inner_text("#history .rv-card")
    with view.page.expect_download() as download:
        view.page.click("#history .rv-card a[download]")
    assert download.value.path().read_bytes()[4:8] == b"ftyp"


def test_a_running_job_is_watched_stopped_and_continued(
    view: Watched, store: JobStore, browser: Any, address: str
):
    view.ask(PICTURE, **LONG)
    preview = view.page.locator("#stage .rv-preview img")
    first = preview.get_attribute("src")
    view.page.wait_for_selector(f"#stage .rv-preview img:not([src='{first}'])")
    assert view.page.locator("#stage .rv-section").count() == 2
    # The inverted order: the first section that is made is the last one in time.
    running = view.page.locator("#stage .rv-section.rv-running")
    assert running.inner_text() == "1"
    assert "end is made first" in view.page.inner_text("#stage .rv-timeline")

    view.page.reload()
    view.page.wait_for_selector("#stage .rv-badge.rv-running")
    second = Watched.open(browser, address, locale="en-US")
    second.page.wait_for_selector("#stage .rv-preview img")
    assert second.errors == []

    view.page.wait_for_selector("#stage .rv-film video")
    view.page.wait_for_selector("#stage .rv-section.rv-done")
    view.do("cancel")
    view.page.wait_for_selector("#stage .rv-badge.rv-cancelled")
    second.page.wait_for_selector("#stage .rv-badge.rv-cancelled")
    second.page.context.close()
    kept = only(store).progress.done_sections
    assert kept == (0,)
    assert view.page.locator("#stage .rv-section.rv-done").count() == 1

    view.do("resume")
    view.page.wait_for_selector("#stage .rv-badge.rv-done")
    assert only(store).attempts == 2


def test_the_stage_stays_in_sight_beside_a_long_form(view: Watched):
    view.page.click("#advanced > button")
    view.page.wait_for_selector("#field-size")
    view.page.evaluate("window.scrollTo(0, 900)")
    view.page.wait_for_function("scrollY > 500")
    assert (
        0 <= view.page.evaluate("document.querySelector('#stage').getBoundingClientRect().top") < 60
    )
    field = view.page.locator("#field-seed").evaluate(
        "e => getComputedStyle(e.closest('.form')).backgroundColor"
    )
    assert field == "rgba(0, 0, 0, 0)", "no grey block around each field"


def test_settings_come_back_out_of_a_dropped_video(view: Watched, store: JobStore):
    asked = GenerationRequest(
        prompt="the camera pans left", seconds=1.5, size="64", steps=3, seed=2**60 + 1, crf=21,
        step_cache="taylor",
    )  # fmt: skip
    job = store.add(asked, PICTURE)
    done(store)
    video = store.video(job.id)
    assert video is not None
    view.page.evaluate(DROP, base64.b64encode(video.read_bytes()).decode())
    view.page.wait_for_function(
        "document.querySelector('#field-prompt textarea').value === 'the camera pans left'"
    )
    view.page.click("#advanced > button")
    view.page.wait_for_selector("#field-seed")
    shown = {name: view.value(name) for name in ("seconds", "seed", "size", "steps", "crf")}
    assert shown == {
        "seconds": "1.5",
        "seed": str(2**60 + 1),
        "size": "64",
        "steps": "3",
        "crf": "21",
    }
    view.page.set_input_files("#picture input[type=file]", PICTURE)
    view.page.wait_for_selector("#picture img")
    view.page.click("#generate")
    await_that(lambda: len(store.list()) == 2)
    again = store.list()[0]
    # The video holds the request with the model's defaults filled in.
    assert all(
        getattr(again.request, name) == getattr(asked, name)
        for name in ("prompt", "seconds", "size", "steps", "seed", "crf", "step_cache")
    )


def test_a_video_of_someone_else_is_refused_in_words(view: Watched, tmp_path: Path):
    other = tmp_path / "other.png"
    other.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    view.page.click("#presets-drawer > button")
    view.page.wait_for_selector("#replay input[type=file]", state="attached")
    view.page.set_input_files("#replay input[type=file]", other)
    view.page.wait_for_selector("text=carries no settings of RecurVid")


def test_the_queue_is_rearranged(view: Watched, store: JobStore):
    store.add(GenerationRequest(seconds=6.0, size="96", steps=200), PICTURE, title="long")
    for number in (1, 2, 3):
        store.add(
            GenerationRequest(seconds=1.0, size="64", steps=2), PICTURE, title=f"job {number}"
        )
    view.page.get_by_role("tab", name="Queue").click()
    view.page.wait_for_function("document.querySelectorAll('#queue .rv-row').length === 4")
    view.page.wait_for_selector("#queue .rv-row .rv-running")
    view.page.wait_for_selector("#queue [data-ready], #queue[data-ready]")

    def row(title: str) -> Any:
        return view.page.locator("#queue .rv-row", has_text=title)

    row("job 3").locator("[data-do=up]").click()
    await_that(lambda: [job.title for job in store.queue()] == ["job 1", "job 3", "job 2"])
    row("job 1").locator("[data-do=down]").click()
    await_that(lambda: [job.title for job in store.queue()] == ["job 3", "job 1", "job 2"])
    row("job 2").locator("[data-do=duplicate]").click()
    await_that(lambda: [job.title for job in store.queue()][-2:] == ["job 2", "job 2"])
    row("job 1").locator("[data-do=delete]").click()
    assert len(store.queue()) == 4, "a first click only asks"
    # Both clicks at once: the question stands for five seconds, which may be over by now.
    row("job 1").locator("[data-do=delete]").evaluate("it => { it.click(); it.click(); }")
    await_that(lambda: "job 1" not in [job.title for job in store.queue()])
    row("job 3").locator("[data-do=edit]").click()
    view.page.wait_for_selector("#stop-editing")
    view.fill("prompt", "changed")
    view.page.click("#generate")
    await_that(lambda: store.queue()[0].request.prompt == "changed")
    assert store.queue()[0].request.steps == 2


@pytest.fixture
def equipped(browser: Any, address: str, store: JobStore) -> Iterator[Watched]:
    """The page in a browser with a camera, and a picture to paste: red, blue on the right."""
    watched = Watched.open(
        browser, address, locale="en-US",
        permissions=["camera", "clipboard-read", "clipboard-write"],
    )  # fmt: skip
    watched.page.evaluate(COPY)
    yield watched
    watched.page.context.close()
    assert watched.errors == []


def taken(view: Watched, store: JobStore) -> Image.Image:
    """The start picture of the job that the form makes now."""
    view.page.wait_for_selector("#picture img")
    view.page.click("#generate")
    await_that(lambda: len(store.list()) == 1)
    with Image.open(store.picture(only(store).id)) as image:
        return image.convert("RGB")


def assert_is_pasted(image: Image.Image) -> None:
    assert image.size == (96, 64)
    assert [image.getpixel((x, 32)) for x in (10, 86)] == [(255, 0, 0), (0, 0, 255)]


def test_a_picture_is_taken_with_the_camera(equipped: Watched, store: JobStore):
    page = equipped.page
    page.click("#picture [aria-label='Capture from camera']")
    page.click("#picture >> text=Click to Access Webcam")
    page.wait_for_function(
        "document.querySelector('#picture video')?.readyState >= 2 &&"
        " document.querySelector('#picture video').videoWidth > 0"
    )
    seen = page.evaluate("(v => [v.videoWidth, v.videoHeight])(document.querySelector('video'))")
    page.click("#picture [aria-label='capture photo']")
    image = taken(equipped, store)
    assert image.size == tuple(seen)
    assert len(image.getcolors(image.width * image.height) or []) > 2, "not a black picture"


def test_a_picture_is_pasted_with_the_keyboard(equipped: Watched, store: JobStore):
    equipped.page.focus("#field-prompt textarea")
    equipped.page.keyboard.press("Control+V")
    assert_is_pasted(taken(equipped, store))


def test_a_picture_is_pasted_over_another_from_another_tab(equipped: Watched, store: JobStore):
    page = equipped.page
    page.set_input_files("#picture input[type=file]", PICTURE)
    page.wait_for_selector("#picture img")
    first = page.evaluate("document.querySelector('#picture img').src")
    page.get_by_role("tab", name="History").click()
    page.wait_for_selector("#history .rv-empty")
    page.keyboard.press("Control+V")
    page.wait_for_function(
        "first => document.querySelector('#picture img')?.src !== first", arg=first
    )
    assert page.is_visible("#picture")
    assert_is_pasted(taken(equipped, store))


def test_a_picture_is_pasted_with_the_button(equipped: Watched, store: JobStore):
    equipped.page.click("#picture [aria-label='Paste from clipboard']")
    assert_is_pasted(taken(equipped, store))


def test_text_is_pasted_as_text(equipped: Watched, store: JobStore):
    page = equipped.page
    page.evaluate("navigator.clipboard.writeText('pan right')")
    page.focus("#field-prompt textarea")
    page.keyboard.press("Control+V")
    assert equipped.value("prompt") == "pan right"
    assert page.locator("#picture img").count() == 0


def test_a_folder_of_pictures_becomes_jobs(view: Watched, store: JobStore, tmp_path: Path):
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(PICTURE.read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    view.fill("prompt", "pan right")
    view.page.click("#advanced > button")
    view.page.wait_for_selector("#field-size")
    view.fill("size", "64")
    view.fill("steps", "2")
    view.fill("seconds", "1")
    view.page.get_by_role("tab", name="Queue").click()
    view.page.click("#batch-drawer > button")
    view.page.wait_for_selector("#batch-files input[type=file]", state="attached")
    view.page.set_input_files("#batch-files input[type=file]", sorted(tmp_path.iterdir()))
    view.page.wait_for_selector("#batch-files >> text=broken")
    view.page.click("#batch-start")
    view.page.wait_for_selector("text=2 jobs queued")
    view.page.wait_for_selector("text=1 refused")
    assert [job.title for job in store.list(newest_first=False)] == ["a", "b"]
    assert {job.request.size for job in store.list()} == {"64"}


def test_what_a_user_types_is_text_everywhere(view: Watched, store: JobStore):
    nasty = "<img src=x onerror=\"document.title='hit'\"> {{value}} ${document.title='hit'} `"
    store.add(
        GenerationRequest(prompt=nasty, seconds=1.0, size="64", steps=1), PICTURE, title=nasty
    )
    done(store)
    view.page.wait_for_selector("#stage .rv-badge.rv-done")
    assert view.page.inner_text("#stage .rv-prompt") == nasty
    view.page.get_by_role("tab", name="History").click()
    view.page.click("#history summary")
    assert nasty in view.page.inner_text("#history .rv-card")
    assert view.page.title() == "RecurVid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_scrolls_sideways(
    browser: Any, address: str, store: JobStore, scheme: str
):
    store.add(GenerationRequest(prompt="x" * 300, seconds=1.0, size="64", steps=1), PICTURE)
    done(store)
    phone: dict[str, Any] = {
        "viewport": {"width": 360, "height": 780},
        "is_mobile": True,
        "has_touch": True,
    }
    view = Watched.open(browser, address, locale="en-US", color_scheme=scheme, **phone)
    view.page.wait_for_selector("#stage .rv-badge.rv-done")
    for drawer in ("end-drawer", "advanced", "how-drawer", "presets-drawer", "help-drawer"):
        view.page.click(f"#{drawer} > button")
    view.page.wait_for_selector("#help .rv-quote")
    for tab in ("Create", "Queue", "History", "Models"):
        view.page.get_by_role("tab", name=tab).click()
        view.page.wait_for_timeout(200)
        width = view.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, tab
    background = view.page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = (
        sum(int(part) for part in background.removeprefix("rgb(").rstrip(")").split(",")) / 3
    )
    assert (lightness < 60) == (scheme == "dark")
    assert view.errors == []
    view.page.context.close()


@pytest.mark.parametrize(
    ("locale", "button", "help"),
    [("ja-JP", "生成", "主役"), ("zh-CN", "生成", "主体"), ("fr-FR", "Generate", "subject")],
)
def test_languages(browser: Any, address: str, locale: str, button: str, help: str):
    view = Watched.open(browser, address, locale=locale)
    assert view.page.inner_text("#generate").strip() == button
    view.page.click("#help-drawer > button")
    view.page.wait_for_selector("#help .rv-quote")
    assert help in view.page.inner_text("#help")
    view.page.click("#how-drawer > button")
    automatic = {"ja-JP": "自動", "zh-CN": "自动", "fr-FR": "automatic"}[locale]
    view.page.wait_for_function(
        "word => document.querySelector('#how-weights input')?.value === word", arg=automatic
    )
    assert view.errors == []
    view.page.context.close()


def test_the_keyboard_reaches_everything_in_order(view: Watched):
    view.page.evaluate("document.activeElement.blur()")
    seen: list[str] = []
    where = """() => { const e = document.activeElement;
        const own = e.closest('[id^=field-],#picture,#generate,#advanced,#how-drawer,'
            + '#presets-drawer,#help-drawer,#end-drawer,[role=tab]');
        return e.dataset.dark ? 'dark' : own ? (own.id || own.textContent.trim()) : '' }"""
    for _ in range(60):
        view.page.keyboard.press("Tab")
        name = view.page.evaluate(where)
        if name and (not seen or seen[-1] != name):
            seen.append(name)
    wanted = ["dark", "picture", "field-prompt", "field-seconds", "generate", "end-drawer",
              "advanced", "how-drawer", "presets-drawer", "help-drawer"]  # fmt: skip
    found = [name for name in seen if name in wanted]
    assert found[: len(wanted)] == wanted
    view.page.focus("#advanced > button")
    view.page.keyboard.press("Enter")
    view.page.wait_for_selector("#field-schedule")


def test_an_example_fills_the_prompt_and_a_preset_the_form(view: Watched):
    view.page.click("#help-drawer > button")
    view.page.click("#help [data-prompt] >> nth=0")
    assert "fox" in view.value("prompt")
    view.page.click("#presets-drawer > button")
    view.page.click("#preset input")
    view.page.click("[role=option] >> nth=0")
    view.page.click("#preset-apply")
    view.page.click("#advanced > button")
    view.page.wait_for_function("document.querySelector('#field-size textarea')?.value === '320'")
    assert "fox" in view.value("prompt"), "a preset leaves the prompt alone"
    assert view.value("step_cache") == "teacache"


def test_no_picture_is_a_sentence(view: Watched, store: JobStore):
    view.page.click("#generate")
    view.page.wait_for_selector("text=Add a start picture first")
    assert store.list() == []


def test_the_log_is_json_and_tells_no_prompt(view: Watched, home: Path):
    view.ask(PICTURE, **{**SHORT, "prompt": "pan left past hidden-word"})
    view.page.wait_for_selector("#stage .rv-badge.rv-done")
    log = (home.parent / "page.log").read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    clicks = [line for line in lines if line.get("path") == "/gradio_api/queue/join"]
    assert {line["message"] for line in clicks} == {"request"}
    assert any(line["message"].startswith("job video_") for line in lines), "of the worker too"
    assert "hidden-word" not in log
