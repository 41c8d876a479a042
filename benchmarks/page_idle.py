"""How soon the page answers, and what it takes while nobody uses it.

    python benchmarks/page_idle.py --write

Starts ``recurvid gui`` with an empty home folder, waits for the page, lets it rest, and adds up
the proportional set sizes of its processes: the page's own, and the worker's, which holds torch
and waits for a job. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

import psutil

RESULTS = Path(__file__).with_name("results")
PORT = 7988


def pss(process: psutil.Process) -> float:
    """MiB that a process takes, shared pages divided among those who share them."""
    return process.memory_full_info().pss / 2**20


def seconds_to_import(module: str) -> float:
    """Wall time of a fresh interpreter that imports one module."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.monotonic() - began


def measure(rest: float) -> dict[str, object]:
    """One start of the page."""
    with tempfile.TemporaryDirectory() as home:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "recurvid", "gui", "--port", str(PORT), "--home", home],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while True:
                try:
                    with urlopen(f"http://127.0.0.1:{PORT}/", timeout=5) as answer:
                        answer.read()
                    break
                except OSError:
                    time.sleep(0.05)
            first = time.monotonic() - began
            time.sleep(rest)
            page = psutil.Process(process.pid)
            workers = page.children(recursive=True)
            busy = [p.cpu_times() for p in (page, *workers)]
            time.sleep(10)
            after = [p.cpu_times() for p in (page, *workers)]
            used = sum(
                b.user + b.system - a.user - a.system for a, b in zip(busy, after, strict=True)
            )
            return {
                "seconds_until_the_page_answers": round(first, 2),
                "page_mib": round(pss(page), 1),
                "workers_mib": [round(pss(worker), 1) for worker in workers],
                "cpu_percent_idle": round(10 * used, 2),
            }
        finally:
            process.terminate()
            process.wait(60)


def main() -> None:
    """Measure and print, or keep the result."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rest", type=float, default=20, help="seconds before memory is read")
    options.add_argument("--write", action="store_true", help="keep it in benchmarks/results")
    asked = options.parse_args()
    result = {
        "what": "recurvid gui with an empty queue: start, memory and processor while idle",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f} while measuring",
        "python": platform.python_version(),
        **measure(asked.rest),
        "seconds_to_import_recurvid": round(seconds_to_import("recurvid"), 2),
        "seconds_to_import_the_page": round(seconds_to_import("recurvid.gui.serving"), 2),
    }
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if asked.write:
        (RESULTS / f"page-idle-{result['date']}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
