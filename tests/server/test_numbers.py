"""Metrics and logs."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import time
from collections.abc import Iterator

import pytest
from tests.server.live_server import PLAN, Live

from recurvid.jobs.claims import Claims
from recurvid.jobs.logs import JsonLines, log_to


def numbers(server: Live) -> dict[str, float]:
    text = server.client.get("/metrics").text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_what_the_queue_holds(own_server: Live):
    for seconds in (2.0, 3.0):
        own_server.add(seconds=seconds)
    own_server.store.cancel(own_server.add().id)
    own_server.claim()
    found = numbers(own_server)
    states = {s: found[f'recurvid_jobs{{state="{s}"}}'] for s in ("queued", "running", "cancelled",
              "done", "failed", "interrupted")}  # fmt: skip
    assert states == {"queued": 1, "running": 1, "cancelled": 1, "done": 0, "failed": 0,
                      "interrupted": 0}  # fmt: skip
    assert found["recurvid_queue_length"] == 1
    assert found["recurvid_queue_seconds"] == 3
    assert found["recurvid_queue_paused"] == 0
    assert found['recurvid_worker_alive{device="cpu"}'] == 1
    assert found["recurvid_disk_free_bytes"] > 1e6


def test_what_was_made(own_server: Live):
    own_server.add()
    claim = own_server.claim()
    own_server.step(claim, 1)
    time.sleep(1.5)  # the follower looks once a second
    own_server.step(claim, 3)
    time.sleep(1.5)
    own_server.finish(claim)
    until = time.monotonic() + 10
    found = numbers(own_server)
    while not found.get('recurvid_jobs_ended_total{state="done"}') and time.monotonic() < until:
        time.sleep(0.1)
        found = numbers(own_server)
    assert found['recurvid_jobs_ended_total{state="done"}'] == 1
    assert found["recurvid_frames_total"] == PLAN.frames
    assert found["recurvid_video_seconds_total"] == PLAN.seconds
    assert found["recurvid_steps_total"] == 2
    assert found["recurvid_step_seconds_count"] == 2
    assert 1.4 < found["recurvid_step_seconds_sum"] < 4


def test_the_format_is_that_of_prometheus(own_server: Live):
    own_server.store.cancel(own_server.add().id)
    answer = own_server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    pattern = r'[a-z_]+(\{[a-z]+="[^"\n]*"(,[a-z]+="[^"\n]*")*\})? \S+'
    for line in answer.text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or re.fullmatch(pattern, line), line


def test_servers_of_one_process_count_apart(own_server: Live, server: Live):
    assert own_server is not server
    Claims(own_server.store)
    own_server.add()
    assert numbers(own_server)["recurvid_queue_length"] == 1
    assert numbers(server)["recurvid_queue_length"] == 0


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = handlers, level


def test_logs_are_json_lines(root_logger: logging.Logger):
    stream = io.StringIO()
    log_to(stream)
    logger = logging.getLogger("recurvid.test")
    logger.info("a %s", "word", extra={"status": 200, "path": "/\x1b[31m\nx\u2028"})
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("it failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["message"], first["level"], first["status"]) == ("a word", "info", 200)
    assert first["path"] == "/\x1b[31m\nx\u2028"
    assert "\x1b" not in stream.getvalue()
    assert "ValueError: bad" in second["trace"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["at"])


def test_logging_is_set_up_by_programs_only():
    assert not any(isinstance(h.formatter, JsonLines) for h in logging.getLogger().handlers)
    assert "recurvid.jobs.logs" in sys.modules
