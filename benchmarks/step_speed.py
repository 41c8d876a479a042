"""How fast is one step, in which form, at which error, beside diffusers in the same process?

    python benchmarks/step_speed.py                    # one H100 with 72 GiB free, under 9 minutes
    python benchmarks/step_speed.py --variants kernels,int8,int8+fp8-attention
    python benchmarks/step_speed.py --weights-like peer    # errors on weights drawn more mildly
    python benchmarks/step_speed.py --variants compiled-fused@best,compiled-fused%10x13+4@best
    python benchmarks/step_speed.py --tiny             # any machine: tries the script
    python benchmarks/step_speed.py --list

One set of random weights of the 13B model at 480x832 (18,755 tokens), as model_parity_gpu.py draws
it: biases of 0.02, norms near 1. "--weights-like peer" puts 0.5 into both: every block changes its
input less, and every error of rounding is smaller. In this order, so that a run that is cut off has
told the most:

1. fp32 output, the truth that every error is measured against.
2. checks: every kernel against plain arithmetic at small size.
3. kernels: time of single products and attentions at full size, against the card's ceilings.
4. variants: each is a model over the same weights; a row is printed as soon as it is known, and
   one step of diffusers is timed after each, so that a card that grows warm slows both.

"form@kernel" is a form with another attention kernel, "form%WINDOW" with sparse attention as
--sparse reads it (its share of dense steps left out), "form%WINDOW@kernel" both.

8-bit forms are those of a job: the first blocks of each kind stay in bf16. "int8-all" rounds them
too; results of before 2026-11-26 are of that kind, whatever their name.

A variant that fails says so and the next one goes on. Everything known so far is written to
step-speed-DATE.json in $OUT (or benchmarks/results) after each variant. No variant is begun with
less than --reserve seconds left of --seconds.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import own_tiles  # noqa: E402
import rounding_parts  # noqa: E402
import saved_kernels  # noqa: E402
from model_parity_gpu import TINY, Bench, device_name, relative  # noqa: E402

from recurvid.models.compiled import compile_blocks, fuse_products  # noqa: E402
from recurvid.models.packed_dit.config import PRESETS  # noqa: E402
from recurvid.models.packed_dit.model import PackedDiT  # noqa: E402
from recurvid.models.quantized import KEPT, quantize  # noqa: E402
from recurvid.ops.attention.backend import AttentionBackend, AttentionSpec  # noqa: E402
from recurvid.ops.attention.eight_bit import simulated  # noqa: E402
from recurvid.ops.attention.local_windows import sparse  # noqa: E402
from recurvid.ops.attention.reference import REFERENCE  # noqa: E402
from recurvid.ops.attention.registry import ATTENTION  # noqa: E402
from recurvid.ops.attention.windows import Windows  # noqa: E402
from recurvid.ops.linear import products  # noqa: E402
from recurvid.ops.linear.epilogues import linear_gelu, linear_of_two  # noqa: E402
from recurvid.ops.linear.layers import EightBitLinear  # noqa: E402
from recurvid.ops.linear.rounding import to_e4m3, to_int8  # noqa: E402
from recurvid.ops.linear.tma_int8 import int8_tma_linear, int8_tma_product  # noqa: E402
from recurvid.ops.linear.triton_int8 import AVAILABLE as TRITON  # noqa: E402
from recurvid.ops.linear.triton_int8 import (  # noqa: E402
    int8_fused_product,
    int8_linear,
    round_rows,
)
from recurvid.ops.norm_rope import Stream, norm_rope  # noqa: E402
from recurvid.ops.rope import RopeTable, apply_rope  # noqa: E402

GIB = 2**30
TOKENS, WIDTH = 18_755, 3072
# Arithmetic of one step in TFLOP, and what the card has been measured to do (TFLOP/s).
LINEAR, ATTEND = 255.0, 259.0
TARGETS = {"bf16": 1.45, "8-bit linears": 1.7, "8-bit linears and attention": 2.0}


@dataclass(frozen=True)
class Variant:
    """One form of the model.

    Attributes:
        form: of the wide layers, or None for the model's own bf16.
        product: what multiplies in place of the form's own; "best" of our int8 kernels, as the
            kernels stage has found; None is what the form itself takes here, as a job would.
        compiled: whether the blocks are compiled; a mode of torch.compile, or "" for the default.
        prepared: modulation vectors, prompt, packed context and RoPE made before.
        fused: GELU and the sum of two products in the library's own epilogue; for int8, GELU,
            joining and rounding in one kernel of ours.
        graph: whether the card gets the whole step as one recorded graph.
        kept: first blocks of each kind that stay in bf16; as a job has it unless said.
        windows: of sparse attention, or None for attention to everything.
    """

    attention: str = "cudnn"
    form: str | None = None
    product: Callable[..., torch.Tensor] | str | None = None
    compiled: str | None = ""
    prepared: bool = True
    fused: bool = False
    graph: bool = False
    kept: int = KEPT
    windows: Windows | None = None


VARIANTS: dict[str, Variant] = {
    "eager": Variant("sdpa", compiled=None, prepared=False),
    "eager-cudnn": Variant(compiled=None),
    "compiled": Variant(),
    "fp8": Variant(form="fp8", product=products.fp8_row_product),
    "int8-fused": Variant(form="int8", fused=True),
    "int8+fp8-attention": Variant("cudnn-fp8", "int8", fused=True),
    "fp8-fused": Variant(form="fp8", fused=True),
    "int8": Variant(form="int8", product="best"),
    "compiled-fused": Variant(fused=True),
    "fp8-after": Variant(form="fp8", product=products.fp8_product),
    "int8-torch": Variant(form="int8", product=products.int8_product),
    "fp8+fp8-attention": Variant("cudnn-fp8", "fp8", products.fp8_product),
    "bf16+fp8-attention": Variant("cudnn-fp8"),
    "compiled-sdpa": Variant("sdpa"),
    "eager-fused": Variant(compiled=None, fused=True),
    "int8-eager": Variant(form="int8", compiled=None, fused=True),
    "int8-all": Variant(form="int8", fused=True, kept=0),
    "int8-graph": Variant(form="int8", fused=True, graph=True),
    # By name only: they cost minutes, are slower by design, or need a library.
    "compiled-tuned": Variant(compiled="max-autotune-no-cudagraphs"),
    "int8-tuned": Variant(
        form="int8", product=products.int8_product, compiled="max-autotune-no-cudagraphs"
    ),
    "int8-weights": Variant(form="int8-weights"),
    "nf4": Variant(form="nf4"),
    "sage": Variant("sage"),
    "flash2": Variant("flash2"),
    "flash3": Variant("flash3"),
    "torch-flash": Variant("torch-flash"),
}
ON_REQUEST = list(VARIANTS)[list(VARIANTS).index("compiled-tuned") :]
#: What "@best..." chooses from: kernels whose name begins so, as attention_speed.py has timed them.
BEST = {"best": ("saved:t", "cudnn", "flash"), "best-qk8": ("saved:qk8",), "best-8": ("saved:f8",),
        "best-16": ("own:bf16", "gluon", "cudnn"), "best-own": ("own:fp8", "own:int8"),
        "best-own-int8": ("own:int8",)}  # fmt: skip
STAGES = ("checks", "kernels", "parts", "kept")
DEFAULT = ["checks", "kernels", *(name for name in VARIANTS if name not in ON_REQUEST)]


def main() -> int:
    args = parse_args()
    if args.list:
        print("\n".join([*DEFAULT, *(f"{name}  (on request)" for name in ON_REQUEST)]))
        return 0
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_grad_enabled(False)
    run = Run(args)
    run.begin()
    for name in args.names:
        run.guarded(name)
    run.finish()
    return 1 if run.failed else 0


def named(name: str) -> Variant:
    """A variant by name: "form", "form%WINDOW", "form@kernel" or "form%WINDOW@kernel"."""
    name, _, attention = name.partition("@")
    form, _, windows = name.partition("%")
    variant = VARIANTS[form]
    variant = replace(variant, attention=attention) if attention else variant
    return replace(variant, windows=Windows.parse(windows)) if windows else variant


def form_of(name: str) -> str:
    """What stands before "@" and "%"."""
    return re.split("[@%]", name, maxsplit=1)[0]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", help=f"comma separated; default: {','.join(DEFAULT)}")
    parser.add_argument("--list", action="store_true", help="names of all variants")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--device", help="default: cuda, or cpu with --tiny and no GPU")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each")
    parser.add_argument("--seconds", type=float, default=520, help="for everything")
    parser.add_argument("--reserve", type=float, default=50, help="no variant is begun with less")
    parser.add_argument("--backend", help="of torch.compile (default: inductor; tiny: aot_eager)")
    parser.add_argument("--go-on", action="store_true", help="add to the file of today")
    parser.add_argument("--weights-like", choices=("ours", "peer"), default="ours")
    parser.add_argument("--no-truth", action="store_true", help="no fp32 pass: 25 s less")
    args = parser.parse_args()
    args.names = args.variants.split(",") if args.variants else DEFAULT
    known = (*STAGES, *VARIANTS)
    if unknown := [name for name in args.names if form_of(name) not in known]:
        parser.error(f"unknown variants {', '.join(unknown)}; see --list")
    if args.device is None:
        args.device = "cpu" if args.tiny and not torch.cuda.is_available() else "cuda"
    args.backend = args.backend or ("aot_eager" if args.device == "cpu" else "inductor")
    return args


class Run:
    """Models, what is known so far, and the clock."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.start = args, time.perf_counter()
        self.device = torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        self.failed: list[str] = []
        self.baseline: list[float] = []
        self.result: dict[str, Any] = {
            "device": device_name(args.device),
            "torch": torch.__version__,
            "date": datetime.date.today().isoformat(),
            "command": " ".join(sys.argv),
            "weights_like": args.weights_like,
            "targets": TARGETS,
            "arithmetic_tflop": {"linear": LINEAR, "attention": ATTEND},
            "variants": {},
        }

    def begin(self) -> None:
        """Weights, the fp32 truth, the bf16 output, and diffusers' time."""
        import diffusers

        config, size = (TINY, (12, 20)) if self.args.tiny else (PRESETS["13b"], (60, 104))
        self.path = self.place()
        if self.args.go_on and self.path.is_file():
            self.result = json.loads(self.path.read_text())
        self.bench = Bench(config, size, self.args.device)
        if self.args.weights_like == "peer":
            redraw(self.bench.model)
        self.say("weights drawn")
        self.truth = None if self.args.no_truth else self.bench.ours().cpu()
        self.say("fp32 truth")
        self.bench.to_bf16()
        self.bf16 = self.bench.ours().cpu()
        theirs = self.bench.diffusers().cpu()
        self.result["diffusers"] = diffusers.__version__
        for _ in range(3 if self.cuda else 1):
            self.baseline.append(self.timed(self.bench.diffusers))
        self.result["diffusers_error"] = self.errors(theirs)
        self.result["cudnn"] = torch.backends.cudnn.version() if self.cuda else None
        print(f"{'variant':22} {'ms':>7} {'ratio':>6} {'err fp32':>9} {'err bf16':>9}"
              f" {'first s':>8} {'peak GiB':>8} {'weights':>8}", flush=True)  # fmt: skip
        self.row("diffusers", {"ms": self.base_ms, "ratio": 1.0, **self.errors(theirs)})
        self.save()

    def guarded(self, name: str) -> None:
        """Run one stage or variant; whatever happens, the next one can go on."""
        left = self.args.seconds - (time.perf_counter() - self.start)
        if left < self.args.reserve:
            self.result["variants"][name] = {"skipped": f"{left:.0f} s left"}
            print(f"{name:22} skipped: {left:.0f} s left", flush=True)
            return
        try:
            if name in ("parts", "kept"):
                tried = {"parts": rounding_parts.TRIED, "kept": rounding_parts.TRIED_KEPT}
                self.result[name] = self.parts(tried[name])
            elif name in STAGES:
                stage = {"checks": checks, "kernels": kernels}[name]
                self.result[name] = stage(self.device)
            else:
                self.variant(name, named(name))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the list must go on
            self.failed.append(name)
            said = f"{type(error).__name__}: {str(error).strip()[:400]}"
            self.result["variants"][name] = {
                "failed": said,
                "trace": traceback.format_exc()[-3000:],
            }
            print(f"{name:22} FAILED {said.splitlines()[0][:150]}", flush=True)
            self.start_anew_if_lost(name)
        self.clean()
        self.save()

    def start_anew_if_lost(self, name: str) -> None:
        """A kernel that reads out of bounds ends the process's CUDA context: go on in a new one."""
        try:
            self.wait()
        except Exception:  # noqa: BLE001
            rest = self.args.names[self.args.names.index(name) + 1 :]
            left = self.args.seconds - (time.perf_counter() - self.start)
            self.save()
            if rest and left > 2 * self.args.reserve:
                print(f"  the card's context is lost after {name}; {', '.join(rest)} in a new one",
                      flush=True)  # fmt: skip
                words = [sys.executable, __file__, "--variants", ",".join(rest), "--go-on"]
                words += ["--seconds", f"{left:.0f}", "--repeats", str(self.args.repeats)]
                words += ["--weights-like", self.args.weights_like]
                os.execv(sys.executable, [*words, *["--no-truth"] * self.args.no_truth])
            sys.exit(1)

    def variant(self, name: str, variant: Variant) -> None:
        """Build, check, time and profile one form of the model."""
        attention = self.attention(variant.attention)
        if variant.attention != attention.name:
            print(f"    attention: {attention.name}", flush=True)
        torch.cuda.reset_peak_memory_stats() if self.cuda else None
        model, facts = self.build(replace(variant, attention=attention.name))
        if variant.windows is not None:
            facts["windows"] = str(variant.windows)
            attention = sparse(attention, variant.windows)
        step = self.step_of(model, variant, attention)
        begun = time.perf_counter()
        out = step()
        self.wait()
        facts["first_s"] = time.perf_counter() - begun
        facts |= self.errors(out)
        facts |= tiles()
        step = recorded(step) if variant.graph and self.cuda else step
        step()
        times = [self.timed(step) for _ in range(self.args.repeats if self.cuda else 1)]
        facts["ms"], facts["ms_all"] = middle(times), times
        self.baseline.append(self.timed(self.bench.diffusers))
        facts["ms_diffusers_after"] = self.baseline[-1]
        facts["ratio"] = self.base_ms / facts["ms"]
        if self.cuda:
            facts["peak_gib"] = (torch.cuda.max_memory_allocated() - self.beside(model)) / GIB
            facts["graphs"] = torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)
        self.result["variants"][name] = facts
        self.row(name, facts)
        self.save()
        if self.cuda:
            facts["profile"] = profile(step)
            seen = facts["profile"]
            words = ", ".join(f"{k} {v:.0f} ms" for k, v in seen["ms"].items())
            print(f"    {words}; first to last {seen['span_ms']:.0f} ms, of these busy"
                  f" {sum(seen['ms'].values()):.0f}", flush=True)  # fmt: skip

    def parts(self, tried: list[tuple[str, str]]) -> dict[str, dict[str, float]]:
        """Errors with the products of some layers rounded in some way, uncompiled."""
        found: dict[str, dict[str, float]] = {}
        for way, kind in tried:
            if time.perf_counter() - self.start > self.args.seconds - self.args.reserve:
                break
            model = sharing(self.bench.model)
            count = rounding_parts.simulate(model, rounding_parts.WAYS[way], kind)
            out = self.step_of(model, Variant(prepared=False), self.attention("cudnn"))()
            found[f"{way}: {kind}"] = {"layers": count, **self.errors(out)}
            words = ", ".join(f"{k} {v:.4f}" for k, v in self.errors(out).items())
            print(f"  {way:30} {kind:18} {count:4} layers: {words}", flush=True)
            del model, out
            self.clean()
        return found

    def build(self, variant: Variant) -> tuple[PackedDiT, dict[str, Any]]:
        """A model over the same weights, converted and compiled."""
        model = sharing(self.bench.model)
        facts: dict[str, Any] = {"attention": variant.attention, "form": variant.form}
        if variant.form is not None:
            converted = quantize(model, variant.form, self.device, kept=variant.kept)
            facts["rounded_layers"] = len(converted.names)
            facts["weights_gib"] = converted.bytes_after / GIB
            for module in model.modules():
                if isinstance(module, EightBitLinear) and variant.product is not None:
                    module.product = self.product(variant.product)
            facts["product"] = getattr(self.product(variant.product), "__name__", "its own")
        fuse_products(model, on=variant.fused)
        if variant.compiled is not None:
            options: dict[str, Any] = {"backend": self.args.backend, "dynamic": False}
            options["fused"] = variant.fused
            if variant.compiled and self.args.backend == "inductor":
                options["mode"] = variant.compiled
            compile_blocks(model, **options)
        return model, facts

    def product(self, wanted: Callable[..., torch.Tensor] | str | None):
        """What multiplies; for "best" the int8 kernel whose products took the least time."""
        if not isinstance(wanted, str):
            return wanted
        known = self.result.get("kernels", {})

        def total(kernel: str) -> float:
            rows = [row for name, row in known.items() if name.startswith(f"{kernel} ")]
            fine = rows and all(isinstance(row, dict) for row in rows)
            return sum(row["ms"] for row in rows) if fine else float("inf")

        tma = total("int8 tma") < total("int8 triton")
        return int8_tma_product if tma else int8_fused_product

    def step_of(self, model: PackedDiT, variant: Variant, attention: AttentionBackend):
        """One step as a job runs it."""
        target, timestep, conditioning, context = self.bench._our_inputs()
        made: dict[str, Any] = {}
        if variant.prepared:
            made["prompt"] = model.with_vectors(model.embed_prompt(conditioning, timestep))
            made["section"] = model.embed_section(context, target)
        inputs = (target, timestep, conditioning, context)
        return lambda: model(*inputs, attention=attention, **made)

    def attention(self, name: str) -> AttentionBackend:
        """The kernel; on a CPU something that can stand in for it."""
        spec = AttentionSpec(self.device.type, torch.bfloat16, 128)
        known = {**ATTENTION, **saved_kernels.backends(), **own_tiles.backends()}
        name = self.fastest(BEST[name]) if name in BEST and self.cuda else name
        reason = known[name].why_not(spec) if name in known else "there is no such kernel"
        if reason is None:
            return known[name]
        if self.cuda:
            raise RuntimeError(f"attention {name}: {reason}")
        if name == "cudnn-fp8":
            return AttentionBackend(
                "simulated", lambda q, k, v, _: simulated(q, k, v), lambda _: ""
            )
        return ATTENTION["sdpa"]

    def fastest(self, begin: tuple[str, ...]) -> str:
        """The fastest right kernel whose name begins so, by attention_speed.py's file."""
        fresh, kept = (
            sorted(folder.glob("attention-speed-2*.json"))
            for folder in (self.path.parent, HERE / "results")
        )
        known = json.loads((fresh or kept)[-1].read_text())
        fit = {n: f["ms"] for n, f in known.items() if n.startswith(begin) and f.get("right")}
        fit = {n: ms for n, ms in fit.items() if n != "cudnn-fp8"}
        if not fit:
            raise RuntimeError(f"no kernel named {' or '.join(begin)}... has been found right")
        return min(fit, key=lambda n: fit[n])

    def beside(self, model: PackedDiT) -> int:
        """Bytes of the bf16 model that a converted one does not share: they only lie there."""
        mine = {p.data_ptr() for p in model.parameters()}
        others = (p for p in self.bench.model.parameters() if p.data_ptr() not in mine)
        return sum(p.numel() * p.itemsize for p in others)

    def errors(self, out: torch.Tensor) -> dict[str, float]:
        """Relative L2 error against the fp32 truth and against our own bf16."""
        found = {"error_bf16": relative(out.cpu(), self.bf16)}
        if self.truth is not None:
            found["error_fp32"] = relative(out.cpu(), self.truth)
        return found

    @property
    def base_ms(self) -> float:
        """diffusers, the median of all its steps so far."""
        return middle(self.baseline)

    def timed(self, step: Callable[[], Any]) -> float:
        """Milliseconds of one step."""
        self.wait()
        begun = time.perf_counter()
        step()
        self.wait()
        return 1000 * (time.perf_counter() - begun)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def clean(self) -> None:
        """Let go of a variant's weights and compiled code."""
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def say(self, what: str) -> None:
        self.wait()
        print(f"  {time.perf_counter() - self.start:5.0f} s  {what}", flush=True)

    def row(self, name: str, facts: dict[str, Any]) -> None:
        def cell(key: str, width: int, digits: int) -> str:
            value = facts.get(key)
            return " " * width if value is None else f"{value:{width}.{digits}f}"

        error = [
            f"{facts[k]:9.5f}" if k in facts else " " * 9 for k in ("error_fp32", "error_bf16")
        ]
        print(f"{name:22} {cell('ms', 7, 0)} {cell('ratio', 6, 3)} {' '.join(error)} "
              f"{cell('first_s', 8, 1)} {cell('peak_gib', 8, 1)} {cell('weights_gib', 8, 1)}"
              f"   [{time.perf_counter() - self.start:.0f} s]", flush=True)  # fmt: skip

    def place(self) -> Path:
        """The file that everything known is written to."""
        folder = Path(os.environ.get("OUT") or HERE / "results")
        folder.mkdir(parents=True, exist_ok=True)
        kind = "tiny-" * self.args.tiny + "peer-" * (self.args.weights_like == "peer")
        return folder / f"step-speed-{kind}{self.result['date']}.json"

    def save(self) -> None:
        self.result |= {"ms_diffusers": self.base_ms, "ms_diffusers_all": self.baseline}
        self.path.write_text(json.dumps(self.result, indent=1) + "\n")

    def finish(self) -> None:
        """The whole table once more, against the median of all of diffusers' steps."""
        print(f"\ndiffusers eager: {self.base_ms:.0f} ms, median of {len(self.baseline)}")
        for name, facts in self.result["variants"].items():
            if "ms" in facts:
                facts["ratio"] = self.base_ms / facts["ms"]
                self.row(name, facts)
            else:
                print(f"{name:22} {facts.get('failed') or facts.get('skipped')}"[:170])
        self.save()
        print(f"written: {self.path}", flush=True)


def sharing(model: PackedDiT) -> PackedDiT:
    """Another model over the same parameters."""
    with torch.device("meta"):
        other = PackedDiT(model.config)
    other.load_state_dict(model.state_dict(), strict=True, assign=True)
    return other.eval().requires_grad_(False)


def redraw(model: PackedDiT) -> None:
    """As peer benchmarks draw weights, in place: matrices of 0.02, all else 0.5."""
    g = torch.Generator(device=model.proj_out.weight.device).manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.02, generator=g)
            parameter.copy_(parameter.bfloat16())
        else:
            parameter.fill_(0.5)


def recorded(step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A step that has run before as one graph of the card, and what replays it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()

    def replayed() -> torch.Tensor:
        graph.replay()
        return out

    return replayed


def tiles() -> dict[str, Any]:
    """Which tiles our int8 kernel has found fastest, by size."""
    from recurvid.ops.linear import tma_int8

    kernel = getattr(tma_int8, "tma_kernel", None)
    found = getattr(kernel, "cache", {})
    return {"tiles": {str(key[:3]): str(config) for key, config in found.items()}} if found else {}


def checks(device: torch.device) -> dict[str, Any]:
    """Kernels against plain arithmetic, on fresh random numbers, at sizes that do not fit tiles."""
    found: dict[str, Any] = {}
    g = torch.Generator(device=device).manual_seed(int(time.time()))

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, device=device)

    def check(name: str, limit: float, got: Callable[[], torch.Tensor], want: torch.Tensor) -> None:
        try:
            error = relative(got(), want)
        except (Exception, SystemExit) as problem:  # noqa: BLE001
            found[name] = f"{type(problem).__name__}: {str(problem)[:200]}"
            print(f"  check {name:28} FAILED {found[name][:110]}", flush=True)
            return
        found[name] = {"error": error, "limit": limit, "passed": error <= limit}
        verdict = "ok" if error <= limit else "WRONG"
        print(f"  check {name:28} {error:.2e} (limit {limit:.0e}) {verdict}", flush=True)

    x, w, b = rand(1037, 3072), rand(1552, 3072), rand(1552)
    (x8, xs), (w8, ws) = to_int8(x), to_int8(w)
    exact = products.plain_product(x8.double(), xs, w8.double(), ws, b)
    check("int8 torch", 1e-5, lambda: products.int8_product(x8, xs, w8, ws, b), exact)
    if TRITON and device.type == "cuda":
        fused = partial(int8_linear, x8, xs, w8, ws, b)
        check("int8 triton", 3e-3, lambda: fused(torch.bfloat16, False), exact)
        bent = F.gelu(exact, approximate="tanh")
        check("int8 triton GELU", 3e-3, lambda: fused(torch.bfloat16, True), bent)
        tma = partial(int8_tma_linear, x8, xs, w8, ws, b, torch.bfloat16)
        check("int8 tma", 3e-3, tma, exact)
        a, c = rand(517, 3072).bfloat16(), rand(517, 12288).bfloat16()
        joined = torch.cat([a.double(), F.gelu(c.double(), approximate="tanh")], dim=-1)
        check("round rows of two", 2e-2, lambda: undone(*round_rows(a, c, True)), joined)
        check("rows of two, fp8", 4e-2, lambda: undone(*round_rows(a, c, True, True)), joined)
        q, text, turn, still = (rand(*n, 128) for n in ((1, 999, 24), (1, 77, 24), (), ()))
        table = RopeTable(rand(1, 1076, 64), rand(1, 1076, 64))
        want = torch.cat([F.rms_norm(q, (128,), turn), F.rms_norm(text, (128,), still)], dim=1)
        one = partial(norm_rope, Stream(q.bfloat16(), turn), Stream(text.bfloat16(), still), table)
        check("norm and phases", 5e-3, one, apply_rope(want, table))
    (x8, xs), (w8, ws) = to_e4m3(x), to_e4m3(w)
    exact = products.plain_product(x8.double(), xs, w8.double(), ws, b)
    check("fp8 scaled by rows", 5e-3, lambda: products.fp8_row_product(x8, xs, w8, ws, b), exact)
    check("fp8 scaled after", 5e-3, lambda: products.fp8_product(x8, xs, w8, ws, b), exact)

    layer = torch.nn.Linear(3072, 512, device=device, dtype=torch.bfloat16)
    y = x.bfloat16() * 3
    bent = F.gelu(
        F.linear(y.double(), layer.weight.double(), layer.bias.double()), approximate="tanh"
    )
    check("GELU in the product", 5e-3, lambda: linear_gelu(layer, y), bent)
    straight = F.linear(y.double(), layer.weight.double(), layer.bias.double())
    check(
        "sum of two products", 5e-3, lambda: linear_of_two(layer, y[:, :512], y[:, 512:]), straight
    )

    q, k, v = (rand(1, n, 3, 128).bfloat16() for n in (517, 1031, 1031))
    exact = REFERENCE(q.double(), k.double(), v.double())
    for name, backend in ATTENTION.items():
        reason = backend.why_not(AttentionSpec.of(q, None))
        if reason is not None:
            found[f"attention {name}"] = f"cannot be used: {reason}"
            print(f"  check attention {name:18} cannot be used: {reason}", flush=True)
        else:
            limit = 1e-2 if backend.exact else 0.1
            check(f"attention {name}", limit, partial(backend, q, k, v), exact)
    return found


def undone(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Rounded rows as they are meant."""
    return codes.double() * scale.double()


def kernels(device: torch.device) -> dict[str, Any]:
    """TFLOP/s of single kernels at the model's sizes, and their milliseconds."""
    tokens, width = (TOKENS, WIDTH) if device.type == "cuda" else (256, 128)
    found: dict[str, Any] = {}

    def timed(name: str, flop: float, call: Callable[[], Any]) -> None:
        try:
            ms = kernel_ms(call, device)
        except Exception as error:  # noqa: BLE001
            found[name] = f"{type(error).__name__}: {str(error)[:200]}"
            print(f"  {name:34} FAILED {found[name][:110]}", flush=True)
            return
        found[name] = {"ms": ms, "tflops": flop / ms / 1e9}
        print(f"  {name:34} {ms:8.3f} ms {flop / ms / 1e9:7.0f} TFLOP/s", flush=True)

    for k, n in ((width, width), (width, 4 * width), (4 * width, width), (5 * width, width)):
        x = torch.randn(tokens, k, device=device, dtype=torch.bfloat16)
        w = torch.randn(n, k, device=device, dtype=torch.bfloat16) * 0.02
        bias = torch.randn(n, device=device, dtype=torch.bfloat16)
        flop, size = 2.0 * tokens * k * n, f"{k}->{n}"
        timed(f"bf16 {size}", flop, partial(F.linear, x, w, bias))
        i8 = (*to_int8(x), *to_int8(w), bias)
        timed(f"int8 sums only {size}", flop,
              lambda a=i8: torch.ops.aten._int_mm(a[0], a[2].t()))  # fmt: skip
        if TRITON and device.type == "cuda":
            timed(f"int8 triton {size}", flop, partial(int8_linear, *i8, torch.bfloat16, False))
            timed(f"int8 tma {size}", flop, partial(int8_tma_linear, *i8, torch.bfloat16))
        f8 = (*to_e4m3(x), *to_e4m3(w), bias)
        timed(f"fp8 by rows {size}", flop, partial(products.fp8_row_product, *f8))
        if device.type == "cuda":
            one = torch.ones((), device=device)
            timed(f"fp8 by tensor {size}", flop, lambda a=f8, one=one: torch.ops.aten._scaled_mm(
                a[0], a[2].t(), one, one, None, None, torch.bfloat16, True))  # fmt: skip
    if TRITON and device.type == "cuda":
        a, c = (torch.randn(tokens, n, device=device).bfloat16() for n in (width, 4 * width))
        timed("round rows of two (not FLOP: bytes)", 3.0 * tokens * 5 * width,
              partial(round_rows, a, c, True))  # fmt: skip
    q, k, v = (torch.randn(1, tokens, 24, 128, device=device, dtype=torch.bfloat16) for _ in "qkv")
    flop = 4.0 * tokens * tokens * 24 * 128
    for name, backend in ATTENTION.items():
        big = name == "reference" and device.type == "cuda"
        if not big and backend.why_not(AttentionSpec.of(q, None)) is None:
            timed(f"attention {name}", flop, partial(backend, q, k, v))
    return found


def kernel_ms(call: Callable[[], Any], device: torch.device) -> float:
    """Median milliseconds of a kernel; about 0.3 s of work."""
    call()
    if device.type != "cuda":
        begun = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - begun)
    torch.cuda.synchronize()
    times: list[float] = []
    while sum(times) < 200 and len(times) < 100:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return middle(times)


KINDS = (
    ("attention", r"sdpa|fmha|flash|attention|attn|cutlass___call__|kernel_cutlass"),
    ("products", r"gemm|nvjet|cutlass|int8_kernel|tma_kernel|xmma|wgmma|cublas"),
    ("compiled", r"^triton"),
)


def profile(step: Callable[[], Any]) -> dict[str, Any]:
    """Where one step's time on the card goes: by kind of kernel, and the largest kernels."""
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    kinds: dict[str, float] = {}
    largest: list[tuple[float, int, str]] = []
    for event in seen.key_averages():
        ms = event.self_device_time_total / 1000
        if ms <= 0:
            continue
        kind = next((k for k, words in KINDS if re.search(words, event.key, re.I)), "other")
        kinds[kind] = kinds.get(kind, 0.0) + ms
        largest.append((round(ms, 2), event.count, event.key[:110]))
    times = [e.time_range for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    span = (max(t.end for t in times) - min(t.start for t in times)) / 1000
    return {"ms": kinds, "span_ms": span, "largest": sorted(largest, reverse=True)[:25]}


def middle(values: list[float]) -> float:
    """The median; the upper one of two."""
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    sys.exit(main())
