"""What lies on a card and in a process, and another process that holds the rest of the card."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

GIB = 2**30

#: The claim for 6 GiB: torch's allocator, and all that the process takes of the card.
LIMITS = {"reserved_gib": 4.7, "device_gib": 5.3}
#: Process memory without page cache: in 8 bits, and as the file has them.
PROCESS_GIB = {"int8": 12.0, "fp8": 12.0, "int8-weights": 12.0, "auto": 16.0}

HOG = """
import sys, time, torch
left, chunks = float(sys.argv[1]) * 2**30, []
for size in (2**30, 2**28, 2**26, 2**24):
    while torch.cuda.mem_get_info()[0] - size > left:
        chunks.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
print(torch.cuda.mem_get_info()[0], flush=True)
sys.stdin.read()
"""


class Hog:
    """A process that holds the card's memory until so many GiB are free."""

    def __init__(self, vram: float):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOG, str(vram)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.free = int(self.process.stdout.readline())
        print(f"  another process holds the card; {self.free / GIB:.2f} GiB are free", flush=True)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def exceeded(peaks: dict[str, float], limits: dict[str, float]) -> list[str]:
    """The limits that peaks are above, by name."""
    return [name for name, limit in limits.items() if peaks.get(name, 0.0) > limit]


def free_bytes() -> int:
    """Free on the card that torch calls the first, asked by another process.

    So this one opens no context; the asking one's, which is gone when the run begins, is not
    counted where the driver's own tool can be asked about the same card.
    """
    text = "import torch; print(torch.cuda.mem_get_info()[0]); "
    text += "print(torch.cuda.get_device_properties(0).uuid)"
    first, card = subprocess.check_output([sys.executable, "-c", text], text=True).split()
    return max(int(first), free_by_driver(card) or 0)


def free_by_driver(card: str) -> int | None:
    """Free bytes of the card of this UUID, whatever CUDA_VISIBLE_DEVICES says; None: unknown."""
    query = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.check_output(query, text=True).splitlines()
        free = {line.split(",")[0].strip(): line.split(",")[1] for line in lines}
        return next((int(mib) * 2**20 for uuid, mib in free.items() if uuid.endswith(card)), None)
    except (OSError, ValueError, IndexError, subprocess.CalledProcessError):
        return None


def process_memory() -> dict[str, int]:
    """Bytes of this process: anonymous (pinned by registration included), shared, file-backed."""
    found = {}
    names = {"RssAnon": "anonymous", "RssShmem": "shared", "RssFile": "file", "VmLck": "locked",
             "VmPin": "pinned", "VmRSS": "rss", "VmHWM": "rss_peak", "VmSwap": "swap"}  # fmt: skip
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in names:
            found[names[name]] = int(value.split()[0]) * 1024
    return found


class Watch:
    """Samples of everything, five times a second, in a thread."""

    def __init__(self, path: Path, device: torch.device, free_before: int):
        self.path, self.device, self.free_before = path, device, free_before
        self.phase, self.began = "start", time.perf_counter()
        self.seconds: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def enter(self, phase: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self.began
        print(f"  {self.phase}: {now - self.began:.1f} s", flush=True)
        self.phase, self.began = phase, now

    def close(self) -> None:
        self.enter("end")
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self.path.open("a") as file:
            while not self._stop.wait(0.2):
                file.write(json.dumps(self._sample()) + "\n")
                file.flush()

    def _sample(self) -> dict:
        sample = {"t": round(time.time(), 2), "phase": self.phase, **process_memory()}
        if self.device.type == "cuda" and torch.cuda.is_initialized():
            sample["reserved"] = torch.cuda.memory_reserved()
            sample["reserved_peak"] = torch.cuda.max_memory_reserved()
            # torch's own pinned memory, which the system may count as no page of the process.
            host = getattr(torch.cuda, "host_memory_stats", dict)()
            sample["host_allocator"] = host.get("allocated_bytes.current", 0)
            sample["device"] = max(0, self.free_before - torch.cuda.mem_get_info()[0])
        return sample
