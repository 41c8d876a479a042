"""Sparse attention: what windows cost in likeness, what they save in arithmetic.

    python benchmarks/sparse_attention.py --arithmetic   # COMPUTED: 480x832 of the 13B model
    python benchmarks/sparse_attention.py                # the bundled model on a CPU, half an hour
    python benchmarks/sparse_attention.py --card         # attention alone at full size, an H100

1. arithmetic: pairs of query and key of a full-size step with windows over those without, bytes
   that gathering keys and values moves, and what both would take at the measured speed of
   FlashAttention 4 and at 2.5 TB/s. Computed, not measured.
2. step: relative L2 error of the bundled model's velocity against attention to everything, along
   videos made without windows, averaged over the photographs; with windows in single blocks; and
   two other designs, which were not taken: context and text that see only themselves, and windows
   through the noisy frames alone.
3. videos: PSNR and SSIM of the frames, before any codec, against those without windows; same seeds.
4. card: milliseconds of one attention call, gathering counted, and its error against the same
   windows on plain fp32 arithmetic.

The bundled model has few tokens: 8 x 18 a frame at its own size, where 480x832 of the released
ones has 30 x 52. Windows here are in proportion: 3x5+1 is to it what 10x13+4 is to those.

Writes sparse-attention-DATE.json and .svg (of --card sparse-attention-card-DATE.json) to $OUT or
benchmarks/results after each stage.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import torch  # noqa: E402
from cache_curve import PHOTOGRAPHS, Bench, likeness  # noqa: E402
from charts import scatter  # noqa: E402
from torch import Tensor  # noqa: E402

from recurvid.generation.request import GenerationRequest  # noqa: E402
from recurvid.ops.attention.backend import (  # noqa: E402
    AttentionBackend,
    AttentionSpec,
    TokenLayout,
)
from recurvid.ops.attention.local_windows import DENSE_DEPTH, sparse  # noqa: E402
from recurvid.ops.attention.reference import REFERENCE  # noqa: E402
from recurvid.ops.attention.registry import ATTENTION  # noqa: E402
from recurvid.ops.attention.sdpa import SDPA  # noqa: E402
from recurvid.ops.attention.windows import Windows  # noqa: E402

CPU = torch.device("cpu")
#: 480x832 with f1k1_x_g9_f1k1f2k2f16k4_td: 806 coarse tokens, 2 frames of the context at full
#: resolution and 9 noisy ones, 729 of the picture and 60 of a prompt.
FULL = TokenLayout(806, (11, 30, 52), 789)
HEADS, CHANNELS, BLOCKS = 24, 128, 60
#: FlashAttention 4 alone on an H100, TFLOP/s, and what copies reach there, bytes a second.
SPEED, COPIES = 714e12, 2.5e12
FULL_WINDOWS = ("10x13+2", "10x13+4", "10x13+7", "15x13+5", "15x26+5", "30x13+4", "30x13+7",
                "30x26+7")  # fmt: skip
SMALL_WINDOWS = ("3x5+1", "3x5+2", "4x9+2", "9x5+2")
CASES = (("forest0", "pan left"), ("coffee", "zoom in"), ("city10", "tilt up"),
         ("astronaut", "pan right"))  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arithmetic", action="store_true", help="only what is computed")
    parser.add_argument("--card", action="store_true", help="only attention on this machine's card")
    parser.add_argument("--tiny", action="store_true", help="with --card: small, on a CPU")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each video")
    parser.add_argument("--size", help="of the bundled model's videos (default: its own)")
    parser.add_argument("--windows", nargs="+", help="instead of those in this file")
    parser.add_argument("--percents", type=int, nargs="+", default=[0, 25, 50])
    parser.add_argument("--photographs", type=int, default=len(CASES))
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "command": " ".join(["python benchmarks/sparse_attention.py", *sys.argv[1:]]),
    }
    if args.card:
        measure_card(result, args)
        return 0
    result["arithmetic"] = {w: arithmetic(w) for w in args.windows or FULL_WINDOWS}
    for name, row in result["arithmetic"].items():
        print(f"{name:10} {told(row)}")
    if not args.arithmetic:
        measure_bundled(result, args)
    return 0


def told(row: dict[str, float]) -> str:
    return "  ".join(f"{key} {value:.3g}" for key, value in row.items())


def pairs(text: str, layout: TokenLayout) -> tuple[int, int]:
    """Pairs of query and key with windows, and tokens gathered as keys."""
    windows = Windows.parse(text)
    assert windows is not None
    axes, others = windows.axes(layout.grid), layout.context + layout.text
    count = size = near = 1
    for axis in axes:
        count, size, near = count * len(axis.starts), size * axis.size, near * axis.reach
    gathered = count * (others + near)
    return size * gathered + others * (others + layout.fine), gathered


def arithmetic(text: str, layout: TokenLayout = FULL) -> dict[str, float]:
    """A step of the 13B model: work and bytes beside those without windows, and computed times."""
    done, keys = pairs(text, layout)
    tokens = total(layout)
    whole = int(BLOCKS * DENSE_DEPTH)
    flop, row = 4 * HEADS * CHANNELS, 2 * HEADS * CHANNELS  # of a pair; bytes of a token in 16 bits
    dense, some = BLOCKS * tokens**2, whole * tokens**2 + (BLOCKS - whole) * done
    # Keys and values are read and written; queries and results too, and results once more.
    moved = (BLOCKS - whole) * row * (4 * keys + 6 * tokens)
    dense_ms, sparse_ms = (1000 * flop * n / SPEED for n in (dense, some))
    copy_ms = 1000 * moved / COPIES
    return {
        "pairs": some / dense,
        "tflop_saved": flop * (dense - some) / 1e12,
        "gb_moved": moved / 1e9,
        "computed_ms_dense": dense_ms,
        "computed_ms": sparse_ms + copy_ms,
        "computed_ms_of_copies": copy_ms,
    }


def measure_bundled(result: dict[str, Any], args: argparse.Namespace) -> None:
    """Errors of steps and of videos on a CPU."""
    cases = [(PHOTOGRAPHS / f"{name}.jpg", prompt) for name, prompt in CASES[: args.photographs]]
    request = GenerationRequest(seconds=args.seconds, steps=args.steps, size=args.size)
    bench = Bench("bundled", cases, request, "cpu")
    specs = args.windows or SMALL_WINDOWS
    result |= {"cases": [[p.name, prompt] for p, prompt in cases], "steps": args.steps,
               "seconds": args.seconds}  # fmt: skip
    with watched(bench) as calls:
        exact = bench.run(None)
    result["grids"] = sorted({str(section.grid) for _, section in calls})
    result["step"] = steps(bench, calls, specs, args.steps)
    save(result)
    rows: dict[str, Any] = {}
    result["videos"] = rows
    for spec in specs:
        for percent in args.percents:
            windows = Windows.parse(f"{spec}@{percent}")
            assert windows is not None
            made = with_windows(bench, windows)
            ratio, worst, similar = likeness(made.videos, exact.videos)
            share = [pairs(spec, layout)[0] / total(layout) ** 2 for layout in layouts(calls)]
            rows[str(windows)] = {
                "psnr": ratio, "worst": worst, "ssim": similar, "pairs": sum(share) / len(share)
            }  # fmt: skip
            print(f"{windows!s:12} {told(rows[str(windows)])}", flush=True)
            save(result)
    path = save(result)
    path.with_suffix(".svg").write_text(plot(result))


def total(layout: TokenLayout) -> int:
    return layout.context + layout.fine + layout.text


def layouts(calls: list[Any]) -> list[TokenLayout]:
    """One a call; the bundled model's prompts are one or two words."""
    found: list[TokenLayout] = []
    for _, section in calls:
        frames, rows, columns = section.grid
        coarse = section.rope.tokens - frames * rows * columns
        found.append(TokenLayout(coarse, section.grid, 2))
    return found


@contextmanager
def watched(bench: Bench) -> Iterator[list[Any]]:
    """Notes what the backbone is called with: (inputs, section) each."""
    backbone: Any = bench.components.backbone
    calls: list[Any] = []

    def note(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.append((inputs, named["section"]))

    hook = backbone.register_forward_pre_hook(note, with_kwargs=True)
    yield calls
    hook.remove()


def with_windows(bench: Bench, windows: Windows) -> Any:
    """The same videos with windows, through the sessions that a user's would run through."""
    backbone: Any = bench.components.backbone
    whole = bench.components
    backbone.attention = sparse(SDPA, windows)
    bench.components = replace(
        whole, runtime=replace(whole.runtime, sparse=windows), dense_attention=SDPA
    )
    vars(bench.components).update(backbone=backbone, codec=whole.codec)
    try:
        return bench.run(None)
    finally:
        backbone.attention, bench.components = SDPA, whole


def steps(bench: Bench, calls: list[Any], specs: list[str], count: int) -> dict[str, Any]:
    """Mean relative error of the velocity at each step of the first section of each video."""
    backbone: Any = bench.components.backbone
    sections = [calls[i : i + count] for i in range(0, len(calls), count)]
    each = len(sections) // len(bench.cases)
    first = sections[::each]
    which = sorted({round(i * (count - 1) / 5) for i in range(6)})
    exact = {
        (v, i): backbone(*s[i][0], section=s[i][1]) for v, s in enumerate(first) for i in which
    }

    def errors(kernel: AttentionBackend) -> dict[str, float]:
        row: dict[str, float] = {}
        for i in which:
            sigma = first[0][i][0][1].flatten()[0].item() / 1000
            found = [
                relative(backbone(*s[i][0], section=s[i][1], attention=kernel), exact[v, i])
                for v, s in enumerate(first)
            ]
            row[f"{sigma:.2f}"] = sum(found) / len(found)
        return row

    blocks = len(backbone.transformer_blocks) + len(backbone.single_transformer_blocks)
    middle = Windows.parse(specs[0])
    assert middle is not None
    kernels = {spec: sparse(SDPA, w) for spec in specs if (w := Windows.parse(spec))}
    kernels |= {
        f"{specs[0]}, context sees itself": closed_context(middle),
        f"{specs[0]}, noisy frames alone": noisy_alone(middle, 9),
    }
    kernels |= {f"{specs[0]}, block {i + 1} alone": one_block(middle, i, blocks)
                for i in range(blocks)}  # fmt: skip
    rows: dict[str, Any] = {}
    for name, kernel in kernels.items():
        rows[name] = errors(kernel)
        print(f"{name:32}", " ".join(f"{100 * e:6.2f}%" for e in rows[name].values()), flush=True)
    return rows


def closed_context(windows: Windows) -> AttentionBackend:
    """As the windows, but coarse context and text attend to themselves only."""

    def over(layout: TokenLayout, device: torch.device, _: float) -> AttentionBackend:
        inner = sparse(SDPA, windows).over(layout, device, 1.0)
        start, end = layout.context, layout.context + layout.fine

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            assert mask is None
            alone = SDPA(*(torch.cat([x[:, :start], x[:, end:]], dim=1) for x in (q, k, v)))
            out = inner(q, k, v)
            return torch.cat([alone[:, :start], out[:, start:end], alone[:, start:]], dim=1)

        return replace(SDPA, function=attend)

    return replace(SDPA, for_layout=over)


def noisy_alone(windows: Windows, frames: int) -> AttentionBackend:
    """Windows through the noisy frames; all of the context sees and is seen by everything."""

    def over(layout: TokenLayout, device: torch.device, _: float) -> AttentionBackend:
        _, rows, columns = layout.grid
        beside = (layout.grid[0] - frames) * rows * columns
        other = TokenLayout(layout.context + beside, (frames, rows, columns), layout.text)
        return sparse(SDPA, windows).over(other, device, 1.0)

    return replace(SDPA, for_layout=over)


def one_block(windows: Windows, number: int, blocks: int) -> AttentionBackend:
    """Windows in one of so many blocks."""

    def over(layout: TokenLayout, device: torch.device, depth: float) -> AttentionBackend:
        here = round(depth * blocks) == number + 1
        return sparse(SDPA, windows).over(layout, device, 1.0) if here else SDPA

    return replace(SDPA, for_layout=over)


def relative(a: Tensor, b: Tensor) -> float:
    """Relative L2 error of a against b."""
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def measure_card(result: dict[str, Any], args: argparse.Namespace) -> None:
    """One attention call of a block, with each kernel that runs here and each window."""
    from step_speed import kernel_ms

    device = CPU if args.tiny else torch.device("cuda")
    layout = TokenLayout(40, (3, 12, 20), 16) if args.tiny else FULL
    heads, dtype = (2, torch.float32) if args.tiny else (HEADS, torch.bfloat16)
    specs = args.windows or (("4x5+1", "4x5+2") if args.tiny else FULL_WINDOWS)
    shape = (1, total(layout), heads, CHANNELS)
    g = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(shape, generator=g, device=device, dtype=dtype) for _ in "qkv")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    result |= {"device": name, "tokens": shape[1], "grid": layout.grid, "kernels": {}}
    fast = ("flash4", "cudnn", "sdpa", "triton-fp8", "triton-int8", "cudnn-fp8", "sage")
    for kernel in (b for n, b in ATTENTION.items() if n in fast):
        if (reason := kernel.why_not(AttentionSpec.of(q, None))) is not None:
            result["kernels"][kernel.name] = {"cannot be used": reason}
            continue
        rows = result["kernels"].setdefault(kernel.name, {})
        rows["dense"] = {"ms": (dense := kernel_ms(partial(kernel, q, k, v), device))}
        print(f"{kernel.name:10} dense       {dense:7.3f} ms", flush=True)
        for spec in specs:
            row = rows[spec] = one_call(kernel, spec, layout, (q, k, v), kernel_ms)
            if "ms" in row:
                row["of_dense"] = row["ms"] / dense
            print(f"{kernel.name:10} {spec:10} {row}", flush=True)
            save(result, "card-")
    save(result, "card-")


def one_call(
    kernel: AttentionBackend,
    spec: str,
    layout: TokenLayout,
    inputs: tuple[Tensor, Tensor, Tensor],
    timer: Callable[..., float],
) -> dict[str, Any]:
    """Time of a kernel in windows, plain and compiled, and its error in two heads."""
    device, windows = inputs[0].device, Windows.parse(spec)
    assert windows is not None
    try:
        inside = sparse(kernel, windows).over(layout, device, 1.0)
        few = [x[:, :, :2].float() for x in inputs]
        want = sparse(REFERENCE, windows).over(layout, device, 1.0)(*few)
        row: dict[str, Any] = {"error": relative(inside(*inputs)[:, :, :2], want)}
        row["eager_ms"] = timer(partial(inside, *inputs), device)
        backend = "inductor" if device.type == "cuda" else "eager"
        compiled = torch.compile(inside.function, fullgraph=True, backend=backend)
        row["ms"] = timer(partial(compiled, *inputs, None), device)
        row["pairs"] = pairs(spec, layout)[0] / total(layout) ** 2
        return row
    except Exception as error:  # noqa: BLE001 - the list must go on
        return {"failed": f"{type(error).__name__}: {str(error)[:200]}"}


def plot(result: dict[str, Any]) -> str:
    """PSNR over the pairs of a sparse step; a colour a share of dense steps."""
    points: dict[str, list[tuple[float, float, str]]] = {}
    for name, row in result["videos"].items():
        spec, _, percent = name.partition("@")
        if row["psnr"] is not None:
            place = (100 * row["pairs"], row["psnr"], spec)
            points.setdefault(f"first {percent} % of steps dense", []).append(place)
    title = f"Windows, bundled model, {result['steps']} steps, {len(result['cases'])} videos"
    return scatter(
        f"{title}, {result['date']}",
        points,
        ("pairs of query and key in a sparse step, % of a dense one", "PSNR against dense, dB"),
    )


def save(result: dict[str, Any], kind: str = "") -> Path:
    """Write everything known so far."""
    folder = Path(os.environ.get("OUT") or HERE / "results")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sparse-attention-{kind}{result['date']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


if __name__ == "__main__":
    sys.exit(main())
