"""``recurvid serve`` as a process: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cli.command import process, run

from recurvid.jobs.store import JobStore

Capsys = pytest.CaptureFixture[str]
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@contextmanager
def serving(home: Path, *options: str, **environment: str) -> Generator[dict[str, Any]]:
    """A server on a free port: its process, address and the lines of its log."""
    environment = {"RECURVID_HOME": str(home), **environment}
    running = process("serve", "--port", "0", "--json", *options, cwd=home.parent, **environment)
    assert running.stdout is not None
    assert running.stderr is not None
    lines: list[str] = []
    reader = threading.Thread(target=lines.extend, args=(running.stderr,), daemon=True)
    reader.start()
    try:
        said = running.stdout.readline()
        assert said, "".join(lines)
        yield {"process": running, "log": lines, **json.loads(said)}
    finally:
        if running.poll() is None:
            running.kill()
        running.wait(30)
        reader.join(10)


@posix
def test_it_starts_and_ends(tmp_path: Path):
    with serving(tmp_path / "home") as server:
        assert server["event"] == "serving"
        assert server["address"].startswith("http://127.0.0.1:")
        assert httpx.get(f"{server['address']}/healthz").json() == {"status": "ok"}
        httpx.get(f"{server['address']}/api/queue?word=hidden-word")
        server["process"].send_signal(signal.SIGTERM)
        assert server["process"].wait(60) == 0
    log = [json.loads(line) for line in server["log"]]
    assert [line["path"] for line in log if line["message"] == "request"] == ["/api/queue"]
    assert "hidden-word" not in "".join(server["log"])
    assert "Traceback" not in "".join(server["log"])


@posix
def test_ctrl_c_ends_it_too_while_somebody_listens(tmp_path: Path):
    with serving(tmp_path / "home") as server:
        address = f"{server['address']}/api/events"
        with httpx.stream("GET", address, timeout=60) as stream:
            server["process"].send_signal(signal.SIGINT)
            list(stream.iter_lines())
        assert server["process"].wait(60) == 0


def test_the_web_process_has_no_torch():
    code = (
        "import sys\n"
        "import recurvid.cli.main, recurvid.server.app, recurvid.server.serving\n"
        "import recurvid.jobs.supervisor, recurvid.jobs.access, recurvid.jobs.logs\n"
        "print([m for m in ('torch', 'transformers', 'diffusers', 'av', 'gradio') "
        "if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_importing_the_package_loads_no_server():
    code = (
        "import recurvid, recurvid.generation, recurvid.cli.main, sys\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('fastapi', 'uvicorn', 'starlette', "
        "'gradio', 'pydantic', 'prometheus_client') or m.startswith(('recurvid.server', "
        "'recurvid.gui'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def refused(capsys: Capsys, *options: str | Path, code: int) -> str:
    ran = run(capsys, "serve", *options)
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    return ran.err


def test_a_port_in_use(capsys: Capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused(capsys, "--port", port, code=5)
    assert port in said
    assert "--port" in said


def test_a_host_that_is_none_of_ours(capsys: Capsys):
    refused(capsys, "--host", "no.such.host.invalid", "--allow-open", code=2)
    refused(capsys, "--host", "192.0.2.1", "--allow-open", "--port", "0", code=5)


def test_a_home_that_cannot_be_written(capsys: Capsys, tmp_path: Path):
    (tmp_path / "file").write_text("")
    said = refused(capsys, "--home", tmp_path / "file", "--port", "0", code=3)
    assert "--home" in said


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_beyond_loopback_a_key_is_needed(capsys: Capsys, host: str):
    assert "RECURVID_API_KEY" in refused(capsys, "--host", host, "--port", "0", code=2)


def test_bad_key_files(capsys: Capsys, tmp_path: Path):
    (tmp_path / "short").write_text("abc\n")
    (tmp_path / "empty").write_text("# nothing\n")
    for name in ("missing", "short", "empty"):
        said = refused(capsys, "--api-key-file", tmp_path / name, code=2)
        assert name in said
        assert "abc" not in said.replace(str(tmp_path), "")


def test_a_missing_extra_is_named(capsys: Capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("recurvid.cli.serve.find_spec", lambda name: None)
    assert "recurvid[server]" in refused(capsys, code=5)


@posix
def test_keys_and_open_hosts(tmp_path: Path):
    key = "a-key-of-the-test"
    with serving(tmp_path / "home", "--host", "0.0.0.0", RECURVID_API_KEY=key) as server:
        address = server["address"].replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{address}/docs").status_code == 401
        assert httpx.get(f"{address}/docs", auth=("any", key)).status_code == 200
        assert httpx.get(f"{address}/healthz").status_code == 200
        server["process"].send_signal(signal.SIGTERM)
        assert server["process"].wait(60) == 0
    assert key not in "".join(server["log"])


@posix
def test_two_servers_share_a_home(tmp_path: Path):
    """The second one serves the same jobs; the worker stays the first one's."""
    with serving(tmp_path / "home") as first, serving(tmp_path / "home") as second:
        store = JobStore(tmp_path / "home")
        until = time.monotonic() + 60
        url = f"{first['address']}/metrics"
        while 'alive{device="auto"} 1.0' not in httpx.get(url).text and time.monotonic() < until:
            time.sleep(0.1)
        assert 'alive{device="auto"} 1.0' in httpx.get(f"{second['address']}/metrics").text
        for server in (first, second):
            assert httpx.get(f"{server['address']}/api/queue").json()["waiting"] == []
        store.close()
