"""The OpenAPI description: examples that run, a page that needs nothing, answers as described."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.architecture.source import ROOT
from tests.server.live_server import Live, live

from recurvid.jobs.access import Access
from recurvid.server.examples import EXAMPLES, Example

KEY = "a-key-of-the-test"
needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("bash") is None, reason="needs curl and bash"
)


def job_for(server: Live, example: Example, owner: str) -> str:
    """A job in a state in which the example makes sense."""
    id = server.add(owner=owner).id
    tail = example.path.rsplit("/", 1)[-1]
    if tail in ("content", "end_picture", "preview", "so_far", "video", "thumbnail", "sheet",
                "events"):  # fmt: skip
        server.finish(server.claim())
    elif tail == "resume":
        server.store.cancel(id)
    return id


@needs_curl
@pytest.mark.parametrize("keyed", [False, True], ids=["open", "keyed"])
def test_every_example_runs(tmp_path: Path, keyed: bool):
    access = Access.of(KEY) if keyed else Access()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with live(tmp_path / "home", access) as server:
        headers = {"Authorization": f"Bearer {KEY}"} if keyed else {}
        described = server.client.get("/openapi.json", headers=headers).json()["paths"]
        for example in EXAMPLES:
            if example.path == "/api/events" and not keyed:
                continue  # five seconds each
            shown = described[example.path][example.method.lower()]["x-codeSamples"]
            (source,) = [s["source"] for s in shown if s["label"] == example.title]
            job = job_for(server, example, access.owners()[0])
            ran = subprocess.run(
                ["bash", "-c", source + " -w '%{stderr}%{http_code}'"],
                cwd=tmp_path,
                env={"SERVER": server.address, "JOB": job, "RECURVID_API_KEY": KEY,
                     "PATH": "/usr/bin:/bin", "no_proxy": "*"},
                capture_output=True,
                text=True,
                timeout=60,
            )  # fmt: skip
            assert re.search(r"20[0-6]", ran.stderr[-30:]), (source, ran.stderr, ran.stdout)
            assert ran.returncode == (28 if "-m 5" in source else 0), (source, ran.stderr)
            for rest in server.store.queue():
                server.store.delete(rest.id)
    assert (tmp_path / "valley.mp4").stat().st_size > 0
    assert (tmp_path / "head.mp4").stat().st_size == 1024


def test_every_operation_has_an_example(server: Live):
    described = server.client.get("/openapi.json").json()["paths"]
    operations = {(m.upper(), path) for path, methods in described.items() for m in methods}
    assert {(e.method, e.path) for e in EXAMPLES} == operations


def test_the_page_needs_nothing_from_elsewhere(server: Live):
    answer = server.client.get("/docs")
    text = answer.text
    assert answer.headers["content-type"].startswith("text/html")
    for word in ("src=", "<script", "@import", "url(", "http://", "https://", "<link"):
        assert word not in text, word
    for word in ("/v1/videos", "pan left", "cfg_rescale", "last-event-id"):
        assert word in text, word
    assert text.count("<details") == text.count("</details>") == len(EXAMPLES)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert server.client.get("/", follow_redirects=True).text == text


def test_operations_are_named_once(server: Live):
    paths = server.client.get("/openapi.json").json()["paths"]
    names = [o["operationId"] for methods in paths.values() for o in methods.values()]
    assert len(names) == len(set(names))
    assert "422" not in str([list(o["responses"]) for m in paths.values() for o in m.values()])
