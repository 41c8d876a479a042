"""What diffusers takes for a section: steps of its FramePack transformer, and its VAE's decode.

    python benchmarks/peer_decode.py --out peer.json              # one GPU with 40 GiB free
    python benchmarks/peer_decode.py --out peer.json --what resident,offload
    python benchmarks/peer_decode.py --out peer.json --tiny       # any machine

Random weights of full size. "resident" has them on the card; "offload" streams blocks from pinned
memory under a cap of 6 GiB (diffusers' group offload with its own stream) and comes last; "vae"
decodes 9 latents and the 18 that the original decodes for every section after the first, whole in
space and in diffusers' tiles. whole_run.py runs this beside ours.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

GIB = 2**30
FULL: dict[str, Any] = {
    "num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 20,
    "num_single_layers": 40, "num_refiner_layers": 2, "text_embed_dim": 4096,
    "pooled_projection_dim": 768, "rope_axes_dim": (16, 56, 56), "image_proj_dim": 1152,
    "has_image_proj": True, "has_clean_x_embedder": True,
}  # fmt: skip
TINY = FULL | {
    "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1, "num_single_layers": 1,
    "text_embed_dim": 64, "rope_axes_dim": (4, 6, 6),
}  # fmt: skip
SECTION = 9


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--what", default="resident,vae,offload")
    parser.add_argument("--size", default="832x480")
    parser.add_argument("--cap", type=float, default=6.0, help="GiB for offload")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    width, height = map(int, args.size.split("x"))
    size = (height // 8, width // 8)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict[str, Any] = {"size": args.size}
    for name in args.what.split(","):
        try:
            if name == "vae":
                found["vae"] = decodes(size, device, tiny=args.tiny)
            else:
                found[name] = step(name, size, device, args)
        except Exception as error:  # noqa: BLE001 - the rest is worth having
            found[name] = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
        clean(device)
        print(f"diffusers {name}: {json.dumps(found[name])}", flush=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def step(how: str, size: tuple[int, int], device: str, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a step with the weights on the card, or streamed under a cap."""
    from diffusers import HunyuanVideoFramepackTransformer3DModel

    config = TINY if args.tiny else FULL
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = HunyuanVideoFramepackTransformer3DModel(**config)
    torch.set_default_dtype(torch.float32)
    offloaded = how == "offload" and device == "cuda"
    model.to_empty(device="cpu" if offloaded else device).eval().requires_grad_(False)
    for parameter in model.parameters():
        if offloaded:
            parameter.data.fill_(0.01)
        elif parameter.ndim > 1:
            parameter.data.normal_(0, 0.02)
        else:
            parameter.data.fill_(0.5)
    if offloaded:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(args.cap * GIB / total)
        model.enable_group_offload(
            onload_device=torch.device("cuda"), offload_device=torch.device("cpu"),
            offload_type="block_level", num_blocks_per_group=1, use_stream=True,
        )  # fmt: skip
    batch = inputs(config, size, device)
    return timed(lambda: model(**batch), device)


def inputs(config: dict[str, Any], size: tuple[int, int], device: str) -> dict[str, Any]:
    """One step in the inverted order: start, gap, 9 targets, history 1 + 2 + 16; 60 text tokens."""
    g = torch.Generator(device=device).manual_seed(1)
    half = torch.bfloat16

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, device=device, dtype=half)

    index = torch.arange(1 + 9 + SECTION + 1 + 2 + 16)
    start, _, target, one, two, four = index.split([1, 9, SECTION, 1, 2, 16])
    mask = torch.zeros(1, 512, device=device, dtype=torch.bool)
    mask[:, :60] = True
    return {
        "hidden_states": rand(1, 16, SECTION, *size),
        "timestep": torch.tensor([700.0], device=device, dtype=half),
        "encoder_hidden_states": rand(1, 512, config["text_embed_dim"]),
        "encoder_attention_mask": mask,
        "pooled_projections": rand(1, 768),
        "guidance": torch.tensor([10000.0], device=device, dtype=half),
        "image_embeds": rand(1, 729, 1152),
        "indices_latents": target,
        "latents_clean": rand(1, 16, 2, *size),
        "indices_latents_clean": torch.cat([start, one]),
        "latents_history_2x": rand(1, 16, 2, *size),
        "indices_latents_history_2x": two,
        "latents_history_4x": rand(1, 16, 16, *size),
        "indices_latents_history_4x": four,
        "return_dict": False,
    }


def decodes(size: tuple[int, int], device: str, *, tiny: bool) -> dict[str, Any]:
    """Milliseconds of 9 and of 18 latents, whole in space and tiled."""
    from diffusers import AutoencoderKLHunyuanVideo

    small: dict[str, Any] = (
        {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2}
        if tiny
        else {}
    )
    dtype = torch.float16 if device == "cuda" else torch.float32
    with torch.device(device):
        vae = AutoencoderKLHunyuanVideo(**small).eval().to(dtype)
    found: dict[str, Any] = {}
    for tiled in (False, True):
        (vae.enable_tiling if tiled else vae.disable_tiling)()
        for frames in (SECTION, 2 * SECTION):
            z = torch.randn(1, 16, frames, *size, device=device, dtype=dtype)
            name = f"{frames} {'tiled' if tiled else 'whole'}"
            found[name] = timed(lambda z=z: vae.decode(z), device, repeats=2)
            clean(device)
    return found


def timed(run: Callable[[], Any], device: str, repeats: int = 3) -> dict[str, Any]:
    """Median milliseconds after a warm-up, and peaks in GiB."""
    cuda = device == "cuda"
    run()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    found: dict[str, Any] = {"ms": sorted(times)[len(times) // 2], "ms_all": times}
    if cuda:
        found["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB
        found["allocated_gib"] = torch.cuda.max_memory_allocated() / GIB
    return found


def clean(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
