"""What does streaming cost a step? Resident, pinned and mapped, in one process on one card.

    python benchmarks/streaming_step.py --cap 5.2       # one GPU with 30 GiB free, 36 GB of disk
    python benchmarks/streaming_step.py --cap 5.0 --size 640x640
    python benchmarks/streaming_step.py --tiny          # any machine, seconds: tries the script

The 13B model with random weights, prompt and section made before, as in a job. For bf16 and int8,
eager and compiled:

1. resident: all blocks stay (and the modulation is gone, as always): the time to compare with;
2. pinned: as many resident as ``--cap`` GiB in all allow, the others from pinned memory;
3. mapped: the same, the others from the memory-mapped file through the ring.

Before them one step of diffusers, eager, all on the card, where it is installed. Outputs must be
equal to the bit to those of the resident model in the same form; where they are not, how far they
are and whether a variant's last step repeats its first tell copies that come too late (no repeat)
from kernels chosen by time when compiled again (repeats). ``--deterministic`` lets the compiler
choose none by time. Targets: pinned at most 1.05 of
resident, mapped in page cache at most 1.3. Prints a row a variant and rewrites
streaming-step-*.json in $OUT or benchmarks/results after each; begins none with less than
``--reserve`` seconds left of ``--seconds``.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.util
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent), str(HERE)]

from full_size import write_file  # noqa: E402
from model_parity_gpu import TINY, draw_inputs, relative  # noqa: E402

from recurvid.generation.memory_plan import DENOISE, MemoryQuestion, phase_needs  # noqa: E402
from recurvid.memory.budget import CONTEXT, GIB, MemoryBudget, PhaseNeed, place_phase  # noqa: E402
from recurvid.memory.host_buffer import HostBuffer  # noqa: E402
from recurvid.memory.residency import free, limit_allocator  # noqa: E402
from recurvid.models.compiled import compile_blocks, fuse_products  # noqa: E402
from recurvid.models.converted import Conversion  # noqa: E402
from recurvid.models.packed_dit.config import PRESETS  # noqa: E402
from recurvid.models.packed_dit.in_pieces import Pieces  # noqa: E402
from recurvid.models.packed_dit.model import PackedDiT  # noqa: E402
from recurvid.models.placed import PlacedDiT, Streaming  # noqa: E402
from recurvid.ops.attention.backend import AttentionSpec  # noqa: E402
from recurvid.ops.attention.registry import attention_backend  # noqa: E402
from recurvid.ops.linear.layers import EightBitLinear  # noqa: E402
from recurvid.ops.linear.tma_int8 import int8_tma_product  # noqa: E402

TARGETS = {"pinned": 1.05, "mapped": 1.3}
SCHEDULE = "f1k1_x_g9_f1k1f2k2f16k4_td"
BF16 = torch.bfloat16


@dataclass(frozen=True)
class Variant:
    """How the model is kept and run."""

    form: str
    way: str
    compiled: bool

    @property
    def base(self) -> str:
        """The variant that it is compared with."""
        return name_of(Variant(self.form, "resident", self.compiled))


def name_of(variant: Variant) -> str:
    form = {"auto": "bf16"}.get(variant.form, variant.form)
    return f"{form}-{variant.way}" + ("-compiled" if variant.compiled else "")


# The most telling first: a run that is cut off has told the most.
VARIANTS = {
    name_of(v): v
    for v in (
        Variant(form, way, compiled)
        for form, compiled in (("auto", False), ("int8", True), ("auto", True), ("int8", False))
        for way in ("resident", "pinned", "mapped")
    )
}


def main() -> int:
    args = parse_args()
    torch.set_grad_enabled(False)
    run = Run(args)
    run.begin()
    for name in args.names:
        run.guarded(name)
    return run.finish()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cap", type=float, default=5.2, help="GiB in all, CUDA's own included")
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--variants", help=f"comma separated; default: {','.join(VARIANTS)}")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--ring", type=int, default=3, help="pinned buffers of the mapped source")
    parser.add_argument("--threads", type=int, default=0, help="that fill them; 0: by cores")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=540, help="for everything")
    parser.add_argument("--reserve", type=float, default=45, help="no variant is begun with less")
    parser.add_argument("--backend", help="of torch.compile (default: inductor; cpu: aot_eager)")
    parser.add_argument("--expandable", action="store_true", help="torch's expandable segments")
    parser.add_argument("--deterministic", action="store_true", help="choose no kernel by time")
    parser.add_argument("--no-peer", action="store_true", help="leave diffusers out")
    parser.add_argument("--work", type=Path, default=Path("/tmp/recurvid-memory-cap"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.names = args.variants.split(",") if args.variants else list(VARIANTS)
    if unknown := [name for name in args.names if name not in VARIANTS]:
        parser.error(f"unknown variants {', '.join(unknown)}; known: {', '.join(VARIANTS)}")
    args.backend = args.backend or ("aot_eager" if args.device == "cpu" else "inductor")
    if args.expandable:  # read when CUDA is first used
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    if args.deterministic:  # read when the compiler is first imported
        os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"
    args.pixels = (96, 160) if args.tiny else tuple(int(n) for n in args.size.split("x"))[::-1]
    return args


class Run:
    """Weights, inputs, what is known so far, and the clock."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.start = args, time.perf_counter()
        self.device = torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        self.config = TINY if args.tiny else PRESETS["13b"]
        self.allowed = int(args.cap * GIB) - CONTEXT
        self.truth: dict[str, torch.Tensor] = {}
        self.conversions: dict[str, tuple[Conversion, Path | None]] = {}
        height, width = args.pixels
        self.result: dict = {
            "card": torch.cuda.get_device_name() if self.cuda else "cpu",
            "torch": torch.__version__, "date": datetime.date.today().isoformat(),
            "command": " ".join(["python benchmarks/streaming_step.py", *sys.argv[1:]]),
            "expandable": args.expandable, "deterministic": args.deterministic,
            "cap_gib": args.cap, "size": f"{width}x{height}",
            "targets": TARGETS, "variants": {},
        }  # fmt: skip

    def begin(self) -> None:
        height, width = self.args.pixels
        self.weights = write_weights(self.args.work, self.config, tiny=self.args.tiny)
        self.say("weights are on disk")
        drawn = draw_inputs(self.config, (height // 8, width // 8), self.device)
        half = {"device": self.device, "dtype": BF16}
        # The timestep stays float32, as in a job.
        self.inputs = [x if torch.is_tensor(x) else x.to(**half) for x in drawn]
        spec = AttentionSpec(self.device.type, BF16, self.config.attention_head_dim)
        self.attention = attention_backend(self.args.attention, spec)
        self.result["attention"] = self.attention.name
        if self.cuda:
            self.result["bus_gb_s"] = bus_speed()
            print(f"  host to device, pinned: {self.result['bus_gb_s']:.1f} GB/s", flush=True)
        if not self.args.no_peer and importlib.util.find_spec("diffusers"):
            self.peer()
        self.save()

    def peer(self) -> None:
        """One step of diffusers, eager, all weights on the card."""
        import diffusers

        fields = {k: v for k, v in self.config.to_dict().items() if k != "context_kernels"}
        with torch.device("meta"):
            theirs = diffusers.HunyuanVideoFramepackTransformer3DModel.from_config(fields)
        source = Conversion(self.weights, "auto", BF16).source
        state = {name: source.tensor(name).to(self.device) for name in theirs.state_dict()}
        theirs.load_state_dict(state, strict=True, assign=True)
        theirs.eval().requires_grad_(False)
        del state
        self.say("diffusers is on the card")
        step = partial(diffusers_step, theirs, self.inputs)
        self.theirs = step().cpu()
        times = [self.timed(step) for _ in range(4)][1:]
        self.result["diffusers"] = {"ms": middle(times), "ms_all": times,
                                    "version": diffusers.__version__}  # fmt: skip
        print(f"{'diffusers eager':24} {middle(times):8.0f} ms", flush=True)
        del theirs, step
        gc.collect()
        free(self.device)

    def guarded(self, name: str) -> None:
        left = self.args.seconds - (time.perf_counter() - self.start)
        if left < self.args.reserve:
            self.result["variants"][name] = {"skipped": f"{left:.0f} s left"}
            print(f"{name:24} skipped: {left:.0f} s left", flush=True)
            return
        try:
            facts = self.variant(VARIANTS[name])
            self.result["variants"][name] = facts
            print(f"{name:24} {json.dumps(facts)}", flush=True)
        except Exception as error:  # noqa: BLE001 - the list must go on
            said = f"{type(error).__name__}: {str(error).strip()[:400]}"
            trace = traceback.format_exc()[-3000:]
            self.result["variants"][name] = {"failed": said, "trace": trace}
            print(f"{name:24} FAILED {said}\n{trace[-1500:]}", flush=True)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        gc.collect()
        free(self.device)
        self.save()

    def variant(self, variant: Variant) -> dict:
        """Build, check and time one way of keeping the weights."""
        streaming = self.streaming(variant)
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            total = torch.cuda.get_device_properties(self.device).total_memory
            limit_allocator(self.device, total if variant.way == "resident" else self.allowed)
        model = PlacedDiT(self.model(variant), self.device, streaming)
        try:
            return self.measured(variant, model)
        finally:
            model.leave()
            model.stream.source.close()
            model.stream.arrivals.close()

    def measured(self, variant: Variant, model: PlacedDiT) -> dict:
        target, timestep, conditioning, context = self.inputs
        begun = time.perf_counter()
        model.prepare(conditioning, [timestep])
        section = model.embed_section(context, target)
        facts: dict = {"prepare_s": round(time.perf_counter() - begun, 2)}
        step = lambda: model(target, timestep, conditioning, context, section=section)  # noqa: E731
        begun = time.perf_counter()
        out = step()
        self.wait()
        facts["first_s"] = round(time.perf_counter() - begun, 2)
        graphs = self.graphs()
        step()
        retries = self.retries()
        times = [self.timed(step) for _ in range(self.args.repeats)]
        section = model.embed_section(context, target)  # as the next section does
        last = step()
        name = name_of(variant)
        truth = self.truth.setdefault(variant.base, out.cpu())
        base = self.result["variants"].get(variant.base, {})
        facts |= {
            "ms": round(middle(times), 1), "ms_all": [round(t, 1) for t in times],
            "equal": bool(out.cpu().equal(truth)), "repeats": bool(last.equal(out)),
            "from_resident": relative(out.cpu().float(), truth.float()),
            "resident_blocks": len(model.stream.resident),
            "slots": model.stream.slots, "recompiled": self.graphs() - graphs,
            "host_buffers_gib": round(host_bytes(model) / GIB, 2),
        }  # fmt: skip
        streamed = sum(
            layout.size
            for number, layout in enumerate(model.stream.source.layouts)
            if number not in model.stream.resident
        )
        facts["streamed_gb"] = round(streamed / 1e9, 2)
        if self.cuda:
            facts["alloc_retries"] = self.retries() - retries  # each waits for the card
            facts["bus_ms"] = round(streamed / self.result["bus_gb_s"] / 1e6, 1)
            facts["reserved_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 3)
            facts["allocated_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 3)
        if name == variant.base or "ms" in base:
            facts["of_resident"] = round(facts["ms"] / base.get("ms", facts["ms"]), 3)
        if "diffusers" in self.result:
            facts["of_diffusers"] = round(self.result["diffusers"]["ms"] / facts["ms"], 3)
            facts["from_diffusers"] = relative(out.cpu().float(), self.theirs.float())
        return facts

    def model(self, variant: Variant) -> PackedDiT:
        """On its memory maps; rounded weights are written to a file first."""
        if variant.form not in self.conversions:
            conversion = Conversion(self.weights, variant.form, BF16)
            begun = time.perf_counter()
            kept = self.args.work / "home" / "weights"
            path = conversion.write(kept, self.device) if conversion.size else None
            self.conversions[variant.form] = conversion, path
            if path is not None:
                seconds = time.perf_counter() - begun
                self.result[f"convert_{variant.form}_s"] = round(seconds, 1)
                print(f"  {conversion.size / 1e9:.1f} GB in {variant.form} written in "
                      f"{seconds:.1f} s", flush=True)  # fmt: skip
        conversion, path = self.conversions[variant.form]
        model = conversion.load(path)
        model.attention = self.attention
        at_once = self.need(variant).at_once
        model.pieces = Pieces(at_once) if at_once else None  # of all variants, to compare bits
        if variant.form == "int8" and self.cuda:
            fuse_products(model)
            for module in model.modules():
                if isinstance(module, EightBitLinear):
                    module.product = int8_tma_product
        if variant.compiled:
            compile_blocks(model, backend=self.args.backend, dynamic=False)
        return model

    def need(self, variant: Variant) -> PhaseNeed:
        height, width = self.args.pixels
        question = MemoryQuestion(SCHEDULE, height, width, steps=1, weights=variant.form)
        budget = MemoryBudget(int(self.args.cap * GIB))
        needs = phase_needs(budget, question, self.config)
        return next(need for need in needs if need.name == DENOISE)

    def streaming(self, variant: Variant) -> Streaming:
        need = self.need(variant)
        if variant.way == "resident":
            return Streaming(resident=len(need.blocks))
        plan = place_phase(need, self.allowed)
        count = 2 if self.args.tiny else len(plan.resident)
        return Streaming(
            count, max(1, plan.slots), variant.way == "pinned", self.args.ring, self.args.threads
        )

    def retries(self) -> int:
        """How often the allocator had to give back what it kept, to find room."""
        return torch.cuda.memory_stats().get("num_alloc_retries", 0) if self.cuda else 0

    def graphs(self) -> int:
        return torch._dynamo.utils.counters["stats"].get("unique_graphs", 0)

    def timed(self, step) -> float:
        """Milliseconds of one step."""
        self.wait()
        begun = time.perf_counter()
        step()
        self.wait()
        return 1000 * (time.perf_counter() - begun)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def say(self, what: str) -> None:
        self.wait()
        print(f"  {time.perf_counter() - self.start:5.0f} s  {what}", flush=True)

    def save(self) -> None:
        folder = Path(os.environ.get("OUT") or HERE / "results")
        folder.mkdir(parents=True, exist_ok=True)
        kind = "tiny" if self.args.tiny else f"{self.result['size']}-{self.args.cap:g}"
        path = folder / f"streaming-step-{kind}-{self.result['date']}.json"
        path.write_text(json.dumps(self.result, indent=1) + "\n")
        self.result["file"] = str(path)

    def finish(self) -> int:
        """The table once more, and what missed its target."""
        missed = []
        print(f"\n{'variant':24} {'ms':>7} {'of resident':>11} {'x diffusers':>11} {'equal':>6} "
              f"{'reserved':>8} {'host':>6} {'blocks':>6}")  # fmt: skip
        for name, facts in self.result["variants"].items():
            if "ms" not in facts:
                print(f"{name:24} {facts.get('failed') or facts.get('skipped')}"[:150])
                missed += [name] if "failed" in facts else []
                continue
            print(f"{name:24} {facts['ms']:7.0f} {facts.get('of_resident', 0):11.3f} "
                  f"{facts.get('of_diffusers', 0):11.3f} {facts['equal']!s:>6} "
                  f"{facts.get('reserved_gib', 0):8.2f} {facts['host_buffers_gib']:6.2f} "
                  f"{facts['resident_blocks']:6}")  # fmt: skip
            limit = TARGETS.get(VARIANTS[name].way, 1.0)
            late = not self.args.tiny and facts.get("of_resident", 1.0) > limit
            if late or not (facts["equal"] and facts["repeats"]) or facts["recompiled"]:
                missed.append(name)
        self.result |= {"missed": missed, "seconds": round(time.perf_counter() - self.start)}
        self.save()
        print("missed:", ", ".join(missed) or "nothing", f"\nwritten: {self.result['file']}")
        return int(bool(missed))


def host_bytes(model: PlacedDiT) -> int:
    """Pinned buffers of a model."""
    sources = {id(s): s for s in (model.stream.source, model.stream.arrivals)}
    return sum(source.buffer_bytes for source in sources.values())  # type: ignore[attr-defined]


def diffusers_step(theirs, inputs) -> torch.Tensor:
    target, timestep, conditioning, context = inputs
    k4, k2, k1 = (group.frames for group in context.groups)
    return theirs(
        hidden_states=target.data, timestep=timestep,
        encoder_hidden_states=conditioning.text, encoder_attention_mask=conditioning.text_mask,
        pooled_projections=conditioning.pooled, image_embeds=conditioning.image,
        guidance=conditioning.guidance * 1000, indices_latents=target.index[0],
        latents_clean=k1.data, indices_latents_clean=k1.index[0],
        latents_history_2x=k2.data, indices_latents_history_2x=k2.index[0],
        latents_history_4x=k4.data, indices_latents_history_4x=k4.index[0], return_dict=False,
    )[0]  # fmt: skip


def bus_speed() -> float:
    """GB/s of a copy of 512 MiB from pinned memory."""
    size = 512 * 2**20
    host, card = HostBuffer(size, pin=True), torch.empty(size, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(5):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        card.copy_(host.data, non_blocking=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    host.close()
    return size / min(times) / 1e9


def write_weights(work: Path, config, *, tiny: bool) -> Path:
    """The transformer's folder; memory_cap.py's where that was there before."""
    path = work / ("tiny-step" if tiny else "full") / "transformer"
    if not (path / "model.safetensors").is_file():
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(config.to_dict()))
        with torch.device("meta"):
            shapes = {k: list(v.shape) for k, v in PackedDiT(config).state_dict().items()}
        write_file(path / "model.safetensors", shapes, BF16)
    return path


def middle(values: list[float]) -> float:
    """The median; the upper one of two."""
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    sys.exit(main())
