"""What the first video costs: the README's command with the bundled model, as a user types it.

    python benchmarks/demo_run.py                  6 s of video on one thread
    python benchmarks/demo_run.py --tiny           tries the script: half a second, two steps

A process of its own, loading included. Core seconds are those that the process spent computing,
which other programs change little; seconds of the clock are those of an idle machine only if the
load that is noted beside them is near 0. The peak is of the process's resident memory.

Writes demo-run-DATE.json to benchmarks/results, or to $OUT.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PICTURE = HERE.parent / "examples" / "valley.jpg"


def once(options: list[str], threads: int) -> dict[str, float]:
    """One run: seconds of the clock and of a core, GiB at the peak."""
    command = [sys.executable, "-m", "recurvid", "generate", str(PICTURE), *options]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "RECURVID_HOME": folder,
            "PYTHONPATH": str(HERE.parent / "src"),
        }
        subprocess.run([*command, "--quiet"], cwd=folder, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - begun,
        "core_seconds": sum(after[:2]) - sum(before[:2]),
        "peak_gib": after.ru_maxrss * unit / 2**30,
    }


def machine() -> dict[str, Any]:
    """What ran it."""
    processor = platform.processor() or platform.machine()
    names = Path("/proc/cpuinfo")
    if names.is_file():
        for line in names.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
        "load": os.getloadavg()[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    seconds = 0.5 if args.tiny else args.seconds
    options = ["--prompt", "pan left", "--seconds", f"{seconds:g}"]
    told = machine()
    tiny = ["--steps", "2", "--size", "64"] if args.tiny else []
    runs = [once([*options, *tiny], args.threads) for _ in range(args.repeats)]
    for run in runs:
        print(", ".join(f"{name} {value:.2f}" for name, value in run.items()))
    today = datetime.date.today().isoformat()
    said = f'recurvid generate examples/valley.jpg --prompt "pan left" --seconds {seconds:g}'
    result = {
        "date": today,
        "command": said,
        "threads": args.threads,
        "machine": told,
        "runs": runs,
        "core_seconds": min(run["core_seconds"] for run in runs),
        "peak_gib": max(run["peak_gib"] for run in runs),
    }
    folder = Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"demo-run-{'tiny-' if args.tiny else ''}{today}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
