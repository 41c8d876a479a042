"""Which tile of our own attention, in 16 and in 8 bits, is fastest, beside the kernels of others?

    python benchmarks/fp8_attention.py            # H100: two minutes
    python benchmarks/fp8_attention.py --all      # every tile, also those that look slow
    python benchmarks/fp8_attention.py --only bf16:hopper,fp8:128x64 --others cudnn,cudnn-fp8

Two stages. First every tile runs at a small size, all at the same time and each in a process of its
own: that compiles it, and whoever is wrong, crashes or hangs is out. Then attention_speed.py times
those that are left at the model's size, one after the other. Results: attention-speed-DATE.json in
$OUT, which step_speed.py reads for "@best-16" (ours in bf16, or cuDNN's) and "@best-own" (8 bits).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import attention_speed  # noqa: E402
import own_tiles  # noqa: E402

OTHERS = ("cudnn", "cudnn-fp8", "saved:t128x128")
SMALL = (517, 1031, 24)  # queries, keys, heads: what is compiled for it serves the model's size


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="comma separated tiles, as bf16:hopper")
    parser.add_argument("--others", default=",".join(OTHERS), help="kernels to time beside them")
    parser.add_argument("--all", action="store_true", help="every tile there is")
    parser.add_argument("--seconds", type=float, default=110, help="for everything")
    parser.add_argument("--limit", type=float, default=45, help="seconds to compile and try one in")
    parser.add_argument("--try-one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.try_one:
        return try_one(args.try_one)
    end = time.perf_counter() + args.seconds
    found: dict[str, dict] = {}
    others = [name for name in args.others.split(",") if name]
    right = tried(chosen(args), min(args.limit, 0.6 * args.seconds), found)
    # Others first: a card that has none to compare with tells nothing.
    names = [*others, *right]
    while names and time.perf_counter() < end:
        names = attention_speed.run(names, found, 15, end, tiny=False)
        attention_speed.save(found, tiny=False)
    table(found)
    return 0


def chosen(args: argparse.Namespace) -> list[str]:
    """Names of backends, best guesses first."""
    if args.only:
        return [f"own:{name}" for name in args.only.split(",")]
    first = [f"own:{name}" for name in own_tiles.FIRST]
    known = own_tiles.backends()
    rest = [name for name in known if name not in first] if args.all else []
    return [name for name in (*first, *rest) if name in known]


def tried(names: list[str], limit: float, found: dict[str, dict]) -> list[str]:
    """Compile and check all at once; those that are right, in their order."""
    end = time.perf_counter() + limit
    running = {}
    for name in names:
        words = [sys.executable, __file__, "--try-one", name]
        running[name] = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    right = []
    for name, process in running.items():
        try:
            said = process.communicate(timeout=max(end - time.perf_counter(), 0.01))[0]
            fact = json.loads(said.splitlines()[-1]) if said.strip() else {"failed": "no word"}
        except subprocess.TimeoutExpired:
            process.kill()
            fact = {"failed": "no word in time"}
        except ValueError:
            fact = {"failed": said[-300:]}
        if fact.get("right"):
            right.append(name)
        else:
            found[name] = {"name": name, **fact}
            print(f"  {name:28} {str(fact)[:160]}", flush=True)
    return right


def try_one(name: str) -> int:
    """Compile one and compare it with plain arithmetic; a line of JSON."""
    import torch
    from model_parity_gpu import relative

    from recurvid.ops.attention.backend import AttentionSpec
    from recurvid.ops.attention.reference import REFERENCE

    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        backend = own_tiles.backends()[name]
        inputs = attention_speed.drawn(*SMALL, torch.device("cuda"))
        reason = backend.why_not(AttentionSpec.of(inputs[0], None))
        if reason is not None:
            raise RuntimeError(f"cannot be used: {reason}")
        out = backend(*inputs)
        # What is left without V's mean, which all kernels put back exactly, is what counts.
        mean = inputs[2].float().mean(1, keepdim=True)
        exact = REFERENCE(*(x.float() for x in inputs))
        error = relative(out.float() - mean, exact - mean)
        again = torch.equal(backend(*inputs), out)
        fact = {"error_small": error, "repeats": again, "right": error < 0.13 and again}
    except Exception as error:  # noqa: BLE001 - told, and the others go on
        fact = {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
    print(json.dumps(fact))
    sys.stdout.flush()
    os._exit(0)  # a context that a kernel has ruined may hang at its end


def table(found: dict[str, dict]) -> None:
    """All that were timed, the fastest first."""
    timed = sorted((fact for fact in found.values() if "ms" in fact), key=lambda fact: fact["ms"])
    print(f"\n{'kernel':30} {'ms':>7} {'TFLOP/s':>8} {'whole call':>11} {'error':>9} right")
    for fact in timed:
        print(f"{fact['name']:30} {fact['ms']:7.3f} {fact['tflops']:8.0f} {fact['call_ms']:11.3f}"
              f" {fact['error_full']:9.2e} {fact['right']}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
