"""How long the server takes to start, and what it holds while nothing is to be done.

.venv/bin/python benchmarks/server_idle.py            prints the figures
.venv/bin/python benchmarks/server_idle.py --save     writes results/server-idle-DATE.json

Start time is from the command to the first answer of /healthz. Memory is the proportional set size
(PSS) where the system tells it, else the resident one, once nothing has changed for some seconds;
of the worker also after a job, whose model it keeps for a while.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import date
from pathlib import Path

import psutil

from recurvid.generation.request import GenerationRequest
from recurvid.jobs.states import JobState
from recurvid.jobs.store import JobStore

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "src/recurvid/bundled/example.jpg"
SETTLE_SECONDS = 8.0


def megabytes(process: psutil.Process) -> dict[str, float]:
    full = process.memory_full_info()
    found = {"rss_mb": round(full.rss / 1e6, 1)}
    if hasattr(full, "pss"):
        found["pss_mb"] = round(full.pss / 1e6, 1)
    return found


def answer(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=5) as response:
        return response.read()


def one_job(home: Path) -> None:
    """Through the same home's queue: the smallest video of the bundled model."""
    store = JobStore(home)
    request = GenerationRequest(prompt="pan left", seconds=1.0, size="64x48", steps=2)
    id = store.add(request, PICTURE).id
    while (job := store.get(id)).state.is_active:
        time.sleep(0.2)
    assert job.state is JobState.DONE, job.error
    store.close()


def measure(home: Path) -> dict[str, object]:
    """One start, one rest, one end."""
    command = [sys.executable, "-m", "recurvid", "serve", "--port", "0", "--json", "--home", home]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    with open(os.devnull, "w") as nowhere:
        server = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE, stderr=nowhere, text=True, env=environment,
        )  # fmt: skip
    assert server.stdout is not None
    address = json.loads(server.stdout.readline())["address"]
    answer(f"{address}/healthz")
    started = time.monotonic() - began
    time.sleep(SETTLE_SECONDS)
    process = psutil.Process(server.pid)
    before = process.cpu_times()
    time.sleep(SETTLE_SECONDS)
    after = process.cpu_times()
    busy = (after.user + after.system - before.user - before.system) / SETTLE_SECONDS
    (worker,) = process.children()
    result = {
        "start_seconds": round(started, 2),
        "web_process": megabytes(process) | {"cpu_share": round(busy, 4),
                                             "threads": process.num_threads()},
        "worker_before_its_first_job": megabytes(worker),
    }  # fmt: skip
    one_job(home)
    time.sleep(SETTLE_SECONDS)
    result["worker_with_the_bundled_model_kept"] = megabytes(worker)
    leaving = time.monotonic()
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0
    result["stop_seconds"] = round(time.monotonic() - leaving, 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure(Path(folder) / str(number)) for number in range(options.runs)]
    result = {
        "date": date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, "
        f"load {os.getloadavg()[0]:.1f} while measuring",
        "python": platform.python_version(),
        "median_start_seconds": statistics.median(r["start_seconds"] for r in runs),
        "runs": runs,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"server-idle-{result['date']}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
