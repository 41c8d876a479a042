"""Serving the page: one door, a folder of its own for uploads, and an end that leaves nothing."""

from __future__ import annotations

import secrets
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import gradio as gr
import h11
import uvicorn
from fastapi import FastAPI
from gradio import networking
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from recurvid.errors import ComponentError
from recurvid.gui import media
from recurvid.gui.app import build
from recurvid.gui.door import Door
from recurvid.gui.downloads import Downloads
from recurvid.gui.gate import Gate, Sessions
from recurvid.gui.leftovers import uploads_folder
from recurvid.gui.machine import Machine
from recurvid.gui.page import Page
from recurvid.gui.presets import Presets
from recurvid.gui.theme import ANSWERS, style, theme
from recurvid.gui.vision import Vision
from recurvid.gui.words import translations
from recurvid.jobs.arrivals import MOST_CONNECTIONS, TimedHeaders
from recurvid.jobs.store import JobStore
from recurvid.settings import prepare_gradio

_EVENTS_AT_ONCE = 16
_FIRST_PORT = 7860
_GRACE = 2


class TimedProtocol(TimedHeaders, H11Protocol):
    """HTTP/1.1 that waits only so long for headers."""

    idle = h11.IDLE


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
    with (
        closing(_listening(door)) as listening,
        uploads_folder() as uploads,
    ):
        prepare_gradio(uploads)
        page = Page(
            store=store,
            sessions=Sessions(door.access),
            presets=Presets(store.home / "presets.json"),
            downloads=Downloads(),
            machine=Machine(),
            vision=vision,
            device=device,
        )
        server = uvicorn.Server(_settings_for(application(page, door)))
        thread = threading.Thread(target=server.run, args=([listening],), name="page", daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.02)
            port = listening.getsockname()[1]
            yield Served(_address(door.host, port), _tunnel(port) if door.share else None)
        finally:
            page.downloads.close()
            server.should_exit = True
            thread.join()


def application(page: Page, door: Door) -> FastAPI:
    """The page as an application: the gate around media, and Gradio's own.

    A policy of no other origin stands in the outer application, because Gradio, left to itself,
    lets every site read a page that is not on loopback.
    """

    def owner(request: Request) -> str | None:
        return page.sessions.owner(request.headers, request.cookies)

    outer = FastAPI(
        openapi_url=None,
        middleware=[
            Middleware(
                Gate,
                page.sessions,
                host=door.host,
                share=door.share,
                full=page.store.short_of_disk,
            ),
            Middleware(CORSMiddleware, allow_origins=[]),
        ],
        routes=[*media.routes(page.store, owner)],
    )
    blocks = build(page)
    blocks.queue(default_concurrency_limit=_EVENTS_AT_ONCE)
    return gr.mount_gradio_app(
        outer,
        blocks,
        path="/",
        server_name=door.host,
        footer_links=[],
        run_history=False,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        allowed_paths=[],
        max_file_size=page.store.limits.upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        i18n=translations(),
        theme=theme(),
        css=style(),
        show_error=False,  # what nobody foresaw may name paths
        head=f"<script>{ANSWERS.read_text('utf-8')}</script>",
    )


def _settings_for(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        limit_concurrency=MOST_CONNECTIONS,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=_GRACE,  # open pages listen for as long as they are open
    )


def _listening(door: Door) -> socket.socket:
    """A socket on the port that was asked for, or on the first free one.

    Raises:
        ComponentError: in one line.
    """
    ports = (door.port,) if door.port else range(_FIRST_PORT, _FIRST_PORT + 100)
    problem: OSError | None = None
    for port in ports:
        try:
            where = socket.getaddrinfo(door.host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
            listening = socket.socket(where[0], socket.SOCK_STREAM)
        except OSError as error:
            problem = error
            break
        try:
            if sys.platform != "win32":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where[4])
            listening.listen(128)
        except OSError as error:
            listening.close()
            problem = error
        else:
            return listening
    asked = f"port {door.port}" if door.port else f"any port from {_FIRST_PORT} on"
    said = (problem.strerror if problem else None) or "taken"
    raise ComponentError(
        f"the page cannot listen on {door.host}, {asked}: {said}; choose another with --port"
    )


def _address(host: str, port: int) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host.strip("[]"), host)
    return (
        f"http://[{name}]:{port}/" if ":" in name and "[" not in name else f"http://{name}:{port}/"
    )


def _tunnel(port: int) -> str:
    try:
        return networking.setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
    except Exception as error:
        raise ComponentError("no public address: Gradio's tunnel could not be made") from error
