"""``recurvid gui``: the web page."""

from __future__ import annotations

import logging
import signal
import threading
import webbrowser
from importlib.util import find_spec
from typing import Annotated

import typer

from recurvid.cli.listening import (
    LOOPBACK,
    HomeOption,
    HostOption,
    KeyFileOption,
    OpenOption,
    WorkersOption,
)
from recurvid.cli.options import QuietOption
from recurvid.cli.output import Output
from recurvid.cli.queue_home import open_store
from recurvid.errors import ComponentError
from recurvid.settings import settings


def gui(
    host: HostOption = LOOPBACK,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="Port (default: the first free one from 7860)."),
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="A public address through Gradio's tunnel; needs a key.")
    ] = False,
    inbrowser: Annotated[bool, typer.Option("--inbrowser", help="Open a browser.")] = False,
    home: HomeOption = None,
    device: WorkersOption = None,
    api_key_file: KeyFileOption = None,
    allow_open: OpenOption = False,
    quiet: QuietOption = False,
) -> None:
    """Open the page in which videos are made; its jobs go on when the page is closed."""
    if find_spec("gradio") is None:
        raise ComponentError("the page needs Gradio: pip install 'recurvid[gui]'")
    from recurvid.gui.door import Door
    from recurvid.jobs.access import Access

    here = settings()
    door = Door(Access.of(here.api_key, api_key_file), host, port, share)
    door.check(without_key=allow_open)
    # Gradio takes seconds to load.
    from recurvid.gui.serving import served
    from recurvid.gui.vision import Vision
    from recurvid.jobs.logs import log_to
    from recurvid.jobs.supervisor import Supervisor

    log_to(level=logging.WARNING if quiet else logging.INFO)
    vision = None
    if here.vision_url:
        vision = Vision(here.vision_url, here.vision_model, here.vision_key)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    output = Output(False, quiet)
    store = open_store((home or here.home).expanduser().absolute())
    stopped = _stopped_by_signals()
    with (
        Supervisor(store.home, tuple(device or [here.device]), json_logs=True),
        served(store, door, vision=vision, device="auto") as page,
    ):
        output.result.print(f"page: {page.local}", markup=False, soft_wrap=True)
        if page.public:
            output.result.print(f"public: {page.public}", markup=False, soft_wrap=True)
        if inbrowser:
            webbrowser.open(page.local)
        stopped.wait()
        output.note("stopping: the running step is finished first")


def _stopped_by_signals() -> threading.Event:
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    return stopped
