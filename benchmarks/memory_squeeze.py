"""Does a run go on when another program takes the card's memory in the middle of a section?

    python benchmarks/memory_squeeze.py --vram 8 --take 2.5       # one GPU, 45 GB of disk
    python benchmarks/memory_squeeze.py --vram 12 --weights int8 --take 5 --give-back
    python benchmarks/memory_squeeze.py --tiny                    # any machine: tries the script

The 13B model with random weights under ``--vram`` GiB; a second process holds the rest of the card.
One section is denoised and a tile decoded undisturbed. Then the same section again: after step
``--after`` the second process takes ``--take`` GiB more, which the plan had counted on (with
``--give-back`` it lets them go at the end of the section). The run has to go on: with fewer blocks
on the card, to the same latents to the bit, and no step may fail. Another section and a decode
follow while the memory is still gone. On a CPU a step in the middle is told that memory is out.

Prints a verdict and writes memory-squeeze-*.json to $OUT or benchmarks/results; exit code 1 where
it failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import gc
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent), str(HERE)]

from card_memory import GIB  # noqa: E402
from model_parity_gpu import TINY, draw_inputs  # noqa: E402
from streaming_step import SCHEDULE, write_weights  # noqa: E402

from recurvid.generation.memory_plan import (  # noqa: E402
    DENOISE,
    MemoryQuestion,
    plan_memory,
)
from recurvid.memory.budget import CONTEXT, MemoryBudget  # noqa: E402
from recurvid.memory.machine import free_on  # noqa: E402
from recurvid.memory.residency import free, limit_allocator  # noqa: E402
from recurvid.models.converted import Conversion  # noqa: E402
from recurvid.models.packed_dit.config import PRESETS  # noqa: E402
from recurvid.models.packed_dit.in_pieces import Pieces  # noqa: E402
from recurvid.models.placed import PlacedDiT, Room, Streaming  # noqa: E402
from recurvid.ops.attention.backend import AttentionSpec  # noqa: E402
from recurvid.ops.attention.registry import attention_backend  # noqa: E402

BF16 = torch.bfloat16
TAKER = """
import sys, torch
held = []
def take(size):
    # Whatever can be had: whoever uses the card may be faster.
    while size > 2**24:
        for part in (2**30, 2**28, 2**26, 2**24):
            if part <= size:
                try:
                    held.append(torch.empty(part, dtype=torch.uint8, device="cuda"))
                    size -= part
                    break
                except torch.OutOfMemoryError:
                    torch.cuda.empty_cache()
        else:
            return
free = lambda: torch.cuda.mem_get_info()[0]
take(free() - int(float(sys.argv[1]) * 2**30))
print(free(), flush=True)
mark = len(held)
for line in sys.stdin:
    if line.startswith("take"):
        take(min(int(float(line.split()[1]) * 2**30), free() - 2**25))
    else:
        del held[mark:]
        torch.cuda.empty_cache()
    print(free(), flush=True)
"""


class Taker:
    """A process that holds the card down to so much, takes more on demand, and lets it go."""

    def __init__(self, left: float):
        command = [sys.executable, "-c", TAKER, str(left)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        print(f"  another process holds the card; {self.said():.2f} GiB are free", flush=True)

    def said(self) -> float:
        """GiB that are free now."""
        return int(self.process.stdout.readline()) / GIB

    def ask(self, what: str) -> float:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.said()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def main() -> int:
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="  %(levelname)s %(message)s")
    torch.set_grad_enabled(False)
    run = Run(args)
    try:
        run.all()
    except Exception as error:  # noqa: BLE001 - that is what is asked
        run.result["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
        run.result["trace"] = traceback.format_exc()[-3000:]
        print(run.result["trace"], flush=True)
    finally:
        if run.taker is not None:
            run.taker.close()
    return run.verdict()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vram", type=float, default=8.0)
    parser.add_argument("--take", type=float, default=2.5, help="GiB that are taken in mid-run")
    parser.add_argument("--after", type=int, default=2, help="steps before they are taken")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--give-back", action="store_true")
    parser.add_argument("--weights", default="auto", choices=("auto", "int8"))
    parser.add_argument("--pinned", action="store_true", help="streamed blocks in pinned memory")
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--work", type=Path, default=Path("/tmp/recurvid-memory-cap"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.pixels = (96, 160) if args.tiny else tuple(int(n) for n in args.size.split("x"))[::-1]
    return args


class Run:
    """The model under its budget, the other process, and what came of it."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.device = torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        self.taker: Taker | None = None
        self.result: dict = {
            "args": {k: str(v) for k, v in vars(args).items()}, "torch": torch.__version__,
            "card": torch.cuda.get_device_name() if self.cuda else "cpu", "sections": {},
        }  # fmt: skip

    def all(self) -> None:
        self.load()
        undisturbed = self.section("undisturbed", None)
        squeezed = self.section("squeezed", self.squeeze)
        self.result["equal"] = bool(squeezed.equal(undisturbed))
        after = self.section("after", None)
        self.result["equal_after"] = bool(after.equal(undisturbed))
        if self.args.give_back and self.taker is not None:
            print(f"  given back: {self.taker.ask('give'):.2f} GiB are free", flush=True)
            self.result["equal_given_back"] = bool(self.section("given back", None).equal(after))

    def load(self) -> None:
        args, config = self.args, TINY if self.args.tiny else PRESETS["13b"]
        path = write_weights(args.work, config, tiny=args.tiny)
        if self.cuda:
            self.taker = Taker(args.vram)
            there = (free_on(self.device) + CONTEXT) / GIB
            self.result["vram"] = min(args.vram, there)
        else:
            self.result["vram"] = args.vram
        height, width = args.pixels
        budget = MemoryBudget.of(self.result["vram"])
        question = MemoryQuestion(SCHEDULE, height, width, args.steps, weights=args.weights)
        denoise = plan_memory(budget, question, config).phase(DENOISE)
        limit_allocator(self.device, budget.allocator)
        conversion = Conversion(path, args.weights, BF16)
        kept = args.work / "home" / "weights"
        model = conversion.load(conversion.write(kept, self.device) if conversion.size else None)
        spec = AttentionSpec(self.device.type, BF16, config.attention_head_dim)
        model.attention = attention_backend("auto", spec)
        at_once = denoise.need.at_once
        model.pieces = Pieces(at_once) if at_once else None
        count = len(denoise.resident)
        streaming = Streaming(count, denoise.slots or 2, args.pinned)
        room = Room(denoise.need, lambda: min(budget.allocator, free_on(self.device)))
        self.model = PlacedDiT(model, self.device, streaming, room=room if self.cuda else None)
        drawn = draw_inputs(config, (height // 8, width // 8), self.device)
        half = {"device": self.device, "dtype": BF16}
        self.inputs = [x if torch.is_tensor(x) else x.to(**half) for x in drawn]
        times = torch.linspace(1000, 100, args.steps, device=self.device)
        self.timesteps = [t[None] for t in times]
        self.model.prepare(self.inputs[2], self.timesteps)
        print(f"  {count} blocks stay on the card", flush=True)

    def section(self, name: str, disturb) -> torch.Tensor:
        """All steps of a section, a plain Euler walk; its result on the CPU."""
        target, _, conditioning, context = self.inputs
        x, seconds = target.data.float(), []
        section = self.model.embed_section(context, target)
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        for number, timestep in enumerate(self.timesteps):
            if disturb is not None and number == self.args.after:
                disturb()
            begun = time.perf_counter()
            seen = dataclasses.replace(target, data=x.to(BF16))
            x = x - self.model(seen, timestep, conditioning, context, section=section) / 10
            if self.cuda:
                torch.cuda.synchronize()
            seconds.append(round(time.perf_counter() - begun, 3))
        self.result["sections"][name] = {
            "step_seconds": seconds, "resident": len(self.model.stream.resident),
            "slots": self.model.stream.slots,
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB if self.cuda else 0.0,
        }  # fmt: skip
        print(f"  {name}: {json.dumps(self.result['sections'][name])}", flush=True)
        gc.collect()
        free(self.device)
        return x.cpu()

    def squeeze(self) -> None:
        """Take memory that the plan had counted on."""
        if self.taker is not None:
            # What the allocator keeps for later is nobody's: between steps the other one gets it.
            self.model.leave()
            free(self.device)
            left = self.taker.ask(f"take {self.args.take}")
            print(f"  taken: {left:.2f} GiB are free", flush=True)
            return
        whole, calls = self.model.stream.visit, []

        def out_of_memory_once(numbers):
            calls.append(numbers)
            for block in whole(numbers):
                if len(calls) == 2:
                    calls.append(None)
                    raise torch.OutOfMemoryError("told so")
                yield block

        self.model.stream.visit = out_of_memory_once

    def verdict(self) -> int:
        sections = self.result["sections"]
        wrong = [
            name for name, value in self.result.items() if name.startswith("equal") and not value
        ]
        if "failed" in self.result:
            wrong.append(self.result["failed"])
        elif not sections["squeezed"]["resident"] < sections["undisturbed"]["resident"]:
            wrong.append("nothing was given up: take more")
        elif self.args.give_back and not (
            sections["given back"]["resident"] > sections["after"]["resident"]
        ):
            wrong.append("nothing was taken again")
        today = datetime.date.today().isoformat()
        self.result |= {"date": today, "wrong": wrong}
        folder = Path(os.environ.get("OUT") or HERE / "results")
        folder.mkdir(parents=True, exist_ok=True)
        kind = "tiny" if self.args.tiny else f"{self.args.vram:g}-{self.args.weights}"
        path = folder / f"memory-squeeze-{kind}-{today}.json"
        path.write_text(json.dumps(self.result, indent=1) + "\n")
        print(f"verdict: {'; '.join(wrong) or 'went on, to the same bits'}\nwritten: {path}")
        return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
