"""``recurvid serve``: the API, and the workers that make its videos."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
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
from recurvid.cli.options import JsonOption
from recurvid.cli.output import Output
from recurvid.cli.queue_home import open_store
from recurvid.errors import ComponentError
from recurvid.settings import settings

DEFAULT_PORT = 7861
_EXTRA = ("fastapi", "uvicorn", "pydantic", "python_multipart", "prometheus_client")


def serve(
    host: HostOption = LOOPBACK,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help=f"Port; 0 takes a free one (default: {DEFAULT_PORT})."),
    ] = DEFAULT_PORT,
    device: WorkersOption = None,
    api_key_file: KeyFileOption = None,
    allow_open: OpenOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve the API: OpenAI's /v1/videos, and /api with everything else."""
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise ComponentError(f"serve needs {missing[0]}: pip install 'recurvid[server]'")
    from recurvid.jobs.access import Access, needs_key
    from recurvid.jobs.logs import log_to
    from recurvid.jobs.supervisor import Supervisor
    from recurvid.server.app import LOOPBACK_NAMES, create_app, gate_for
    from recurvid.server.service import Service
    from recurvid.server.serving import address_of, listen
    from recurvid.server.serving import serve as run

    output = Output(as_json)
    access = Access.of(settings().api_key, api_key_file)
    access.refuse_open(host, without_key=allow_open)
    place = (home or settings().home).expanduser().absolute()
    store = open_store(place)
    with listen(host, port) as bound:
        log_to()
        address = address_of(host, bound)
        devices = tuple(device or [settings().device])
        with Supervisor(place, devices, store.limits, json_logs=True) as supervisor:
            service = Service(
                store, lambda: {one.device: one.alive for one in supervisor.workers()}
            )
            hosts = None if needs_key(host) else LOOPBACK_NAMES | {host.lower()}
            app = create_app(service, gate_for(service, access, hosts))
            run(app, bound, service.stopping, lambda: _announce(output, address, place))


def _announce(output: Output, address: str, home: Path) -> None:
    if output.as_json:
        output.record({"event": "serving", "address": address, "home": str(home)})
        return
    output.result.print(f"RecurVid serves {address}", markup=False)
    output.result.print(f"  for people: {address}/docs", markup=False)
    output.result.print(f"  for OpenAI clients: base_url={address}/v1", markup=False)
    output.result.print("  Ctrl-C ends it; what runs goes on at the next start", markup=False)
