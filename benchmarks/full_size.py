"""Random weights of the released model on disk, full size in its layout; or tiny ones.

python benchmarks/full_size.py            # into --work, 42 GB; whole_run.py writes them itself
"""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent)]

SHAPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


def write_weights(folder: Path, *, tiny: bool) -> None:
    """A folder a role, once. Values repeat every 64 MB: neither speed nor memory asks for them."""
    if (folder / "done").is_file():
        return
    started = time.perf_counter()
    if tiny:
        from tests.checkpoints.layouts import remote

        remote(folder)
        (folder / "done").touch()
        return
    from diffusers import AutoencoderKLHunyuanVideo
    from tests.checkpoints.layouts import write_tokenizers
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        LlamaConfig,
        LlamaModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    from recurvid.encoders import image, text
    from recurvid.models.packed_dit.config import PRESETS
    from recurvid.models.packed_dit.model import PackedDiT

    half, brain = torch.float16, torch.bfloat16
    with torch.device("meta"):
        models = {
            "transformer": (PackedDiT(PRESETS["13b"]), brain),
            "text_encoder": (LlamaModel(LlamaConfig(**text._LLAMA_3_8B)), half),
            "text_encoder_2": (CLIPTextModel(CLIPTextConfig(**text._CLIP_L)), half),
            "image_encoder": (SiglipVisionModel(SiglipVisionConfig(**image._SO400M)), half),
            "vae": (AutoencoderKLHunyuanVideo(), half),
        }
    for role, (model, dtype) in models.items():
        path = folder / role
        path.mkdir(parents=True, exist_ok=True)
        if role == "transformer":
            (path / "config.json").write_text(json.dumps(PRESETS["13b"].to_dict()))
        elif role == "vae":
            config = {k: v for k, v in model.config.items() if not k.startswith("_")}
            config["_class_name"] = "AutoencoderKLHunyuanVideo"
            (path / "config.json").write_text(json.dumps(config))
        else:
            model.config.save_pretrained(path)
        shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
        if not (path / "model.safetensors").is_file():
            write_file(path / "model.safetensors", shapes, dtype)
        print(f"  {role}: {(path / 'model.safetensors').stat().st_size / 1e9:.1f} GB", flush=True)
    write_tokenizers(folder / "tokenizer", folder / "tokenizer_2")
    (folder / "feature_extractor").mkdir(exist_ok=True)
    (folder / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    (folder / "done").touch()
    print(f"  weights written in {time.perf_counter() - started:.0f} s", flush=True)


def write_file(path: Path, shapes: dict[str, list[int]], dtype: torch.dtype) -> None:
    """A safetensors file of normal values of 0.02, norms' weights included."""
    pattern = (0.02 * torch.randn(2**25, generator=torch.Generator().manual_seed(0))).to(dtype)
    data = memoryview(pattern.view(torch.uint8).numpy())
    header, end = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": SHAPES[dtype], "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    partial = path.with_suffix(".partial")
    head = struct.pack("<Q", len(text)) + text
    with partial.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + end)

        def write(start: int) -> None:
            part = data[: min(len(data), end - start)]
            while part:  # a system call writes 2 GiB at most, and may write less than asked
                done = os.pwrite(file.fileno(), part, len(head) + start)
                part, start = part[done:], start + done

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(write, range(0, end, len(data))))
    partial.replace(path)


def model_paths(args: argparse.Namespace) -> dict[str, Path]:
    from recurvid.checkpoints.known import ROLES

    if not args.tiny:
        return {role: args.work / "full" / role for role in ROLES}
    from tests.checkpoints import layouts

    root = args.work / "tiny"
    paths = {role: root / layouts.HUNYUAN / role for role in ROLES}
    paths |= {role: root / layouts.REDUX / role for role in ("image_encoder", "feature_extractor")}
    return paths | {"transformer": root / layouts.INVERTED}


def main() -> int:
    """Only write them: a second command can do so while another has the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/recurvid-memory-cap"))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    write_weights(args.work / ("tiny" if args.tiny else "full"), tiny=args.tiny)
    return 0


if __name__ == "__main__":
    sys.exit(main())
