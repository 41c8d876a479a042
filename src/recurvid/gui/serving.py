"""Serving the page: one door, a folder of its own for uploads, and an end that leaves nothing."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request

from recurvid.errors import ComponentError, InputError
from recurvid.gui import media
from recurvid.gui.app import build
from recurvid.gui.downloads import Downloads
from recurvid.gui.gate import Gate, Sessions
from recurvid.gui.machine import Machine
from recurvid.gui.page import Page
from recurvid.gui.presets import Presets
from recurvid.gui.theme import CSS, theme
from recurvid.gui.vision import Vision
from recurvid.gui.words import translations
from recurvid.jobs.access import Access
from recurvid.jobs.store import JobStore
from recurvid.settings import prepare_gradio

_EVENTS_AT_ONCE = 16


@dataclass(frozen=True)
class Door:
    """Where the page listens, and who comes in.

    Attributes:
        host: address of this machine.
        port: None for the first free one from 7860.
        share: a public address through Gradio's tunnel.
        inbrowser: open a browser.
    """

    access: Access
    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    inbrowser: bool = False

    def check(self, *, without_key: bool = False) -> None:
        """Raise before strangers could come in.

        Raises:
            InputError: with what to do.
        """
        self.access.refuse_open(self.host, without_key=without_key)
        if self.share and not self.access.required:
            raise InputError(
                "--share makes the page public: set RECURVID_API_KEY or give --api-key-file; "
                "visitors are asked for that key"
            )


@dataclass(frozen=True)
class Served:
    """A page that is being served.

    Attributes:
        local: its address on this machine.
        public: its address through the tunnel, if it is shared.
    """

    local: str
    public: str | None


@contextmanager
def served(
    store: JobStore, door: Door, *, vision: Vision | None = None, device: str = "auto"
) -> Generator[Served]:
    """Serve the page while the context is open.

    Raises:
        ComponentError: the port is taken, or the tunnel cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="recurvid-page-") as uploads:
        prepare_gradio(Path(uploads))
        sessions = Sessions(door.access)
        page = Page(
            store=store,
            sessions=sessions,
            presets=Presets(store.home / "presets.json"),
            downloads=Downloads(),
            machine=Machine(),
            vision=vision,
            device=device,
        )
        blocks = build(page)
        blocks.queue(default_concurrency_limit=_EVENTS_AT_ONCE)
        try:
            yield _launched(blocks, page, door)
        finally:
            page.downloads.close()
            blocks.close(verbose=False)


def wait_for(stopped: threading.Event, poll: Callable[[], bool] = lambda: False) -> None:
    """Return when the event is set, or ``poll`` says so."""
    while not stopped.wait(0.5):
        if poll():
            return


def _launched(blocks: gr.Blocks, page: Page, door: Door) -> Served:
    def owner(request: Request) -> str | None:
        return page.sessions.owner(request.headers, request.cookies)

    gate = Middleware(Gate, page.sessions, host=door.host, share=door.share)
    routes = media.routes(page.store, owner)
    try:
        _, local, public = blocks.launch(
            server_name=door.host,
            server_port=door.port,
            share=door.share,
            inbrowser=door.inbrowser,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            footer_links=[],
            run_history=False,
            allowed_paths=[],
            max_file_size=page.store.limits.upload_bytes,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            strict_cors=True,
            app_kwargs={"routes": routes, "middleware": [gate], "docs_url": None,
                        "redoc_url": None, "openapi_url": None},
            i18n=translations(),
            theme=theme(),
            css=CSS.read_text("utf-8"),
        )  # fmt: skip
    except OSError as error:
        where = f"port {door.port}" if door.port else "the ports from 7860 on"
        raise ComponentError(
            f"the page cannot listen on {door.host}, {where}: {error.strerror or 'taken'}; "
            "choose another with --port"
        ) from error
    if door.share and not public:
        raise ComponentError("no public address: Gradio's tunnel could not be reached")
    return Served(local.rstrip("/") + "/", public)
