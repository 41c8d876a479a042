"""Options of the commands that listen, the page and the server: declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recurvid.cli.machine import DEVICES
from recurvid.cli.options import path

LOOPBACK = "127.0.0.1"

HostOption = Annotated[
    str,
    typer.Option(
        "--host",
        "--server",  # as the original calls it
        metavar="ADDRESS",
        help="Address to listen on; anything but this machine itself needs a key.",
    ),
]
HomeOption = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        metavar="DIR",
        help="Folder of the queue and its videos (default: RECURVID_HOME, or the cache).",
    ),
]
WorkersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device", help=f"Device of a worker: {DEVICES}. Give it again for a second one."
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        metavar="FILE",
        help="Keys, one a line, each with jobs of its own. RECURVID_API_KEY is one more.",
    ),
]
OpenOption = Annotated[
    bool, typer.Option("--allow-open", help="Listen beyond this machine without any key.")
]
