"""Every attention kernel that can be had here: is it right, and how fast at the model's size?

    python benchmarks/attention_speed.py                # H100: a minute
    python benchmarks/attention_speed.py --only cudnn,saved:t128x176
    python benchmarks/attention_speed.py --tiny         # any machine: tries the script

Inputs are as a model's: q and k out of an RMS norm, V with a part that all tokens share. Errors
are against fp64 arithmetic at 517 queries and 1,031 keys, and against cuDNN's bf16 at full size.
A kernel may crash or hang, so each runs in a process that is ended after --limit seconds without
a word, and the next ones go on in a new one. Everything known is in attention-speed-DATE.json, in
$OUT or benchmarks/results, after each process.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import queue
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

TOKENS, HEADS, CHANNELS = 18_755, 24, 128
TINY_TOKENS, TINY_HEADS = 256, 2
LIMITS = {True: 1e-2, False: 0.1}  # of the error, by exactness


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="comma separated names")
    parser.add_argument("--limit", type=float, default=25, help="seconds without a word")
    parser.add_argument("--seconds", type=float, default=100, help="for everything")
    parser.add_argument("--tiny", action="store_true", help="a short one on the CPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child.split(","), tiny=args.tiny)
    names = args.only.split(",") if args.only else candidates()
    end = time.perf_counter() + args.seconds
    found: dict[str, dict] = {}
    while names and time.perf_counter() < end:
        names = run(names, found, args.limit, end, tiny=args.tiny)
        save(found, tiny=args.tiny)
    return 0


def candidates() -> list[str]:
    """Names worth trying, the surest first."""
    import saved_kernels

    from recurvid.ops.attention.registry import ATTENTION

    saved = sorted(saved_kernels.names(), key=lambda n: (not n.startswith("t128x1"), n))
    given = [n for n in ATTENTION if n not in ("reference", "sdpa", "torch-efficient")]
    return [*given, *(f"saved:{name}" for name in saved)]


def run(
    names: list[str], found: dict[str, dict], limit: float, end: float, *, tiny: bool
) -> list[str]:
    """One process for these kernels; returns those that it has not come to."""
    words = [sys.executable, __file__, "--child", ",".join(names), *["--tiny"] * tiny]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(process, said), daemon=True).start()
    current, how = names[0], "its process ended"
    patience = 3 * limit  # until the first word: imports
    while True:
        try:
            line = said.get(timeout=max(min(patience, end - time.perf_counter()), 0.01))
        except queue.Empty:
            how = "no word in time"
            break
        if not line:
            break
        if not line.startswith("{"):
            continue
        fact, patience = json.loads(line), limit
        current = fact["name"]
        if "begun" not in fact:
            found[current] = fact
            print(told(fact), flush=True)
    process.kill()
    process.wait()
    if current not in found:
        found[current] = {"name": current, "failed": how}
        print(told(found[current]), flush=True)
    return names[names.index(current) + 1 :]


def listen(process: subprocess.Popen[str], said: queue.SimpleQueue[str]) -> None:
    """Hand on what a process says, line by line; at its end an empty one."""
    assert process.stdout is not None
    for line in process.stdout:
        said.put(line)
    said.put("")


def told(fact: dict) -> str:
    name = f"  {fact['name']:22}"
    if "failed" in fact:
        return f"{name} {fact['failed'][:130]}"
    return (
        f"{name} {fact['ms']:7.3f} ms {fact['tflops']:5.0f} TFLOP/s, whole call"
        f" {fact['call_ms']:7.3f} ms, error {fact['error']:.2e} small, {fact['error_full']:.2e}"
        f" full, first call {fact['first_s']:.1f} s {'' if fact['right'] else 'WRONG'}"
    )


def save(found: dict[str, dict], *, tiny: bool) -> None:
    folder = Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    name = f"attention-speed-{'tiny-' * tiny}{datetime.date.today()}.json"
    (folder / name).write_text(json.dumps(found, indent=1) + "\n")


def child(names: list[str], *, tiny: bool) -> int:
    """Try the kernels; a line of JSON when one begins and when it is known."""
    import own_tiles
    import saved_kernels
    import torch

    from recurvid.ops.attention.registry import ATTENTION

    torch.set_grad_enabled(False)
    known = {**ATTENTION, **saved_kernels.backends(), **own_tiles.backends()}
    device = torch.device("cpu" if tiny else "cuda")
    tokens, heads = (TINY_TOKENS, TINY_HEADS) if tiny else (TOKENS, HEADS)
    inputs = [drawn(517, 1031, 3, device), drawn(tokens, tokens, heads, device)]
    truth = ATTENTION["reference"](*(x.double() for x in inputs[0]))
    full = ATTENTION["sdpa" if tiny else "torch-flash"](*inputs[1])
    for name in names:
        print(json.dumps({"name": name, "begun": True}), flush=True)
        try:
            fact = tried(known[name], inputs, truth, full)
        except Exception as error:  # noqa: BLE001 - the next kernel must have its turn
            fact = {"failed": f"{type(error).__name__}: {str(error)[:600]}"}
        print(json.dumps({"name": name, **fact}), flush=True)
        finish(device)
    return 0


def finish(device) -> None:
    """Wait for a card."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def drawn(queries: int, keys: int, heads: int, device) -> tuple:
    """q, k (normed) and v of batch 1, bf16."""
    import torch

    def rand(n: int) -> torch.Tensor:
        return torch.randn(1, n, heads, CHANNELS, device=device)

    q, k = (torch.nn.functional.rms_norm(rand(n), (CHANNELS,)) for n in (queries, keys))
    k = k + 0.5 * rand(1)
    return q.bfloat16(), k.bfloat16(), (rand(keys) + 2 * rand(1)).bfloat16()


def tried(backend, inputs, truth, full) -> dict:
    """Errors, time of the kernel alone (where the call shows it) and of the whole call."""
    from model_parity_gpu import relative
    from step_speed import kernel_ms

    from recurvid.ops.attention.backend import AttentionSpec

    small, large = inputs
    reason = backend.why_not(AttentionSpec.of(small[0], None))
    if reason is not None:
        return {"failed": f"cannot be used: {reason}"}
    begun = time.perf_counter()
    error = relative(backend(*small), truth)
    device = small[0].device
    finish(device)
    first = time.perf_counter() - begun
    error_full = relative(backend(*large), full)
    call = kernel_ms(partial(backend, *large), device)
    ms = longest_kernel(partial(backend, *large)) if device.type == "cuda" else call
    tokens, heads = large[0].shape[1:3]
    flop = 4.0 * tokens * tokens * heads * CHANNELS
    right = error <= LIMITS[backend.exact] and error_full <= LIMITS[backend.exact]
    return {"ms": ms, "tflops": flop / ms / 1e9, "call_ms": call, "error": error, "right": right,
            "error_full": error_full, "first_s": first, "exact": backend.exact}  # fmt: skip


def longest_kernel(call) -> float:
    """Milliseconds of the longest kernel of a call: the mean of ten."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        for _ in range(10):
            call()
        torch.cuda.synchronize()
    longest = max(seen.key_averages(), key=lambda event: event.self_device_time_total)
    return longest.self_device_time_total / longest.count / 1000


if __name__ == "__main__":
    sys.exit(main())
