"""What the page asks of others: the doctor, the vision endpoint, the download process."""

from __future__ import annotations

import base64
import io
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar

import pytest

pytest.importorskip("gradio", reason="the page needs the extra gui")

from PIL import Image
from tests.gui.jobs import PICTURE

from recurvid.checkpoints.known import KNOWN
from recurvid.errors import ComponentError, InputError
from recurvid.gui import fetching, models_panel
from recurvid.gui.downloads import Download, Downloads
from recurvid.gui.machine import Machine
from recurvid.gui.vision import Vision
from recurvid.gui.words import LANGUAGES

ENGLISH = LANGUAGES["en"]
FOUND = {
    "attention": [{"name": "sdpa", "why_not": None}, {"name": "sage", "why_not": "<no>"}],
    "devices": [{"device": "cpu", "name": "a cpu"}],
}
PLAN = {
    "model": "framepack", "size": "832x480", "vram": 8 * 2**30, "ram": 2**30, "disk": 37_000_000,
    "does_not_fit": [],
    "phases": [
        {"name": "denoise", "device": 4 * 2**30, "weights": 2**30, "resident_bytes": 2**30,
         "slot_bytes": 2**30, "work": 2**30},
    ],
}  # fmt: skip


def wait_until(true: Any) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_machine_is_looked_at_once():
    asked: list[tuple[str, ...]] = []

    def run(arguments):
        asked.append(tuple(arguments))
        return FOUND

    machine = Machine(run)
    assert ENGLISH("kernels.looking") in models_panel.kernels(machine, ENGLISH)
    machine.look()
    wait_until(lambda: machine.found)
    machine.look()
    assert (asked, machine.kernels()) == ([()], ["sdpa"])
    drawn = models_panel.kernels(machine, ENGLISH)
    assert "&lt;no&gt;" in drawn
    assert all(form in drawn for form in models_panel.FORMS)
    assert "cpu a cpu" in drawn
    assert drawn.count("<caption>") == 2
    machine.look(again=True)
    wait_until(lambda: len(asked) == 2)


def test_a_machine_that_cannot_be_looked_at_says_so():
    def run(arguments):
        raise InputError("no doctor")

    machine = Machine(run)
    machine.look()
    wait_until(lambda: machine.error)
    assert "no doctor" in models_panel.kernels(machine, ENGLISH)


def test_a_plan_is_asked_for_and_drawn_to_scale():
    asked: list[tuple[str, ...]] = []

    def run(arguments):
        asked.append(tuple(arguments))
        return PLAN

    drawn = models_panel.memory_plan(Machine(run).plan("framepack", "832x480", 8.0), ENGLISH)
    assert asked == [("--model", "framepack", "--size", "832x480", "--vram", "8")]
    assert drawn.count('width="12.50"') == 4
    assert "4.0 GiB of 8.0 GiB used" in drawn
    assert ENGLISH("memory.fits") in drawn
    short = models_panel.memory_plan({**PLAN, "does_not_fit": ["decode"]}, ENGLISH)
    assert "Does not fit:<ul><li>decode</li></ul>" in short


def test_a_machine_without_a_card_is_planned_for_a_small_one():
    asked: list[tuple[str, ...]] = []

    def run(arguments):
        asked.append(tuple(arguments))
        if "--vram" not in arguments:
            raise InputError("no CUDA device here; give --vram GIB")
        return PLAN

    assert Machine(run).plan("framepack", "832x480", None) is PLAN
    assert asked[-1][-2:] == ("--vram", "6")


@pytest.mark.parametrize(("model", "size"), [("--help", ""), ("/etc", ""), ("framepack", "; ls")])
def test_nothing_that_is_typed_becomes_an_option(model: str, size: str):
    with pytest.raises(InputError):
        Machine(lambda arguments: pytest.fail("ran")).plan(model, size, None)


class Eyes(BaseHTTPRequestHandler):
    """A stand-in for a chat model with eyes; answers what the test says."""

    answer: ClassVar[tuple[int, Any]] = (200, {})
    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Eyes.asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
        code, value = Eyes.answer
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def eyes() -> Iterator[Vision]:
    server = HTTPServer(("127.0.0.1", 0), Eyes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Eyes.asked = []
    yield Vision(f"http://127.0.0.1:{server.server_port}/v1", "some-model", "secret")
    server.shutdown()
    server.server_close()


def test_a_picture_becomes_a_prompt(eyes: Vision):
    words = ' "The fox\n runs left." '
    Eyes.answer = (200, {"choices": [{"message": {"content": words}}]})
    assert eyes.prompt_for(PICTURE, "look") == "The fox runs left."
    (asked,) = Eyes.asked
    assert (asked["path"], asked["key"]) == ("/v1/chat/completions", "Bearer secret")
    text, picture = asked["messages"][0]["content"]
    assert text["text"] == "look"
    data = picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert max(image.size) <= 1024
    assert not image.getexif()


@pytest.mark.parametrize(
    "answer",
    [(500, {}), (302, {}), (200, {}), (200, b"not json"), (200, {"choices": []}),
     (200, {"choices": [{"message": {"content": None}}]}),
     (200, {"choices": [{"message": {"content": "  "}}]})],
)  # fmt: skip
def test_an_endpoint_that_fails_is_one_line(eyes: Vision, answer: tuple[int, Any]):
    Eyes.answer = answer
    with pytest.raises(ComponentError) as caught:
        eyes.prompt_for(PICTURE, "look")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_endpoint_there():
    with pytest.raises(ComponentError, match="does not answer"):
        Vision("http://127.0.0.1:1/v1", "m").prompt_for(PICTURE, "look")


def saying(*lines: str, code: int = 0, then: str = "") -> Downloads:
    """Downloads whose process prints lines and ends."""
    program = f"print({chr(10).join(lines)!r}, flush=True)\n{then}\nraise SystemExit({code})"
    return Downloads(lambda name: [sys.executable, "-c", program])


def state(downloads: Downloads) -> Download:
    found = downloads.state("framepack")
    assert found is not None
    return found


def test_a_download_tells_how_far_it_is():
    downloads = saying('{"size": 100}', '{"done": 40}', then="import time; time.sleep(60)")
    downloads.start("framepack")
    wait_until(lambda: state(downloads).done == 40)
    assert state(downloads) == Download(100, 40)
    drawn = models_panel.models(downloads, "", ENGLISH)
    assert 'aria-valuenow="40"' in drawn
    assert 'data-do="stop"' in drawn
    downloads.start("framepack")  # a second click starts no second process
    downloads.stop("framepack")
    wait_until(lambda: not state(downloads).running)
    assert state(downloads).error == "", "stopped is not failed"


def test_a_download_that_ends_well_and_one_that_does_not():
    good = saying("nonsense", '{"size": 5}', "[1]", '{"complete": true}')
    good.start("framepack")
    wait_until(lambda: not state(good).running)
    assert state(good) == Download(5, 0, running=False, complete=True)
    bad = saying('{"error": "no <network>"}', code=4)
    bad.start("framepack")
    wait_until(lambda: not state(bad).running)
    assert "no &lt;network&gt;" in models_panel.models(bad, "", ENGLISH)
    crashed = saying("", code=1)
    crashed.start("framepack")
    wait_until(lambda: not state(crashed).running)
    assert "unexpectedly" in state(crashed).error


@pytest.mark.parametrize("name", ["bundled", "org/name", "", "--help"])
def test_only_known_models_are_fetched(name: str):
    with pytest.raises(InputError):
        Downloads(lambda name: pytest.fail("started")).start(name)
    said: list[str] = []
    assert name == "bundled" or fetching.main([name], said.append) == 2


def test_licences_stand_before_every_download():
    downloads = saying("")
    closed = models_panel.models(downloads, "", ENGLISH)
    assert 'data-do="accept"' not in closed
    assert closed.count('data-do="get"') == 2
    opened = models_panel.models(downloads, "framepack", ENGLISH)
    assert opened.count('data-do="accept"') == 1
    for licence in KNOWN["framepack"].licences:
        assert licence.name in opened


def test_fetching_says_why_it_cannot():
    said: list[str] = []
    assert fetching.main(["framepack"], said.append) != 0, "the tests have no network"
    assert "error" in json.loads(said[-1])
