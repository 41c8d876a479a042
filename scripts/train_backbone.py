"""Trains the bundled backbone and its text encoder on camera moves over photographs.

    python scripts/train_backbone.py --photos DIR [DIR ...] --vae VAE_DIR --out OUT --seconds 500

Writes averaged weights in shards of at most 15 MB and a report every minute and at the end, then
sheets of held-out samples while ``--look-seconds`` last. Whatever cuts a run short leaves what it
had learnt a minute before. Six files in all.
"""

import argparse
import json
import logging
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import train_autoencoder as tae
from PIL import Image
from safetensors.torch import load_file, save_file

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import dequantized
from recurvid.encoders.small import SmallTextEncoder
from recurvid.models.packed_dit.config import PRESETS
from recurvid.models.packed_dit.model import PackedDiT
from recurvid.training import backbone as bb
from recurvid.training.camera import MoveRange
from recurvid.training.clip_pool import BUNDLED_CLIPS, ClipShape, encode_clips, make_pool
from recurvid.training.pictures import load_photographs, stack
from recurvid.training.sample import SampleRun, sample_video

PROMPTS = ("pan left", "pan right", "zoom in", "zoom out", "tilt up", "the camera tilts down")


def save_shards(state, out, limit=15 * 2**20):
    shards, size = [{}], 0
    for name, value in state.items():
        value = value.detach().half().contiguous().cpu()
        if size + value.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    for i, shard in enumerate(shards):
        save_file(shard, out / f"dit{i}.safetensors")


def load_start(folder):
    """Weights of an earlier run's shards, or of a folder in the bundled layout."""
    state = {}
    if (folder / "dit.json").is_file():
        for prefix, name in (("backbone.", "dit"), ("text.", "text")):
            stored = dequantized(open_checkpoint(folder / f"{name}.safetensors"))
            state |= {prefix + key: stored.tensor(key) for key in stored.keys()}  # noqa: SIM118
    else:
        for f in sorted(folder.glob("dit*.safetensors")):
            state.update(load_file(f))
    return {k: v.float() for k, v in state.items()}


@torch.no_grad()
def samples(model, vae, stills, device, order, steps, until):
    """Rows of frames, (3, h, w) each, of held-out pictures."""
    rows = []
    for i, still in enumerate(stills):
        if time.monotonic() > until:
            break
        start = encode_clips(still[None, :, None].to(device), vae).float()
        for prompt in (PROMPTS[(2 * i) % 6], PROMPTS[(2 * i + 1) % 6]):
            run = SampleRun(order=order, steps=steps, seed=i)
            latents = sample_video(model, start, prompt, run)
            video = vae.decode(latents.to(device))[0].clamp(-1, 1).cpu()
            rows.append(video[:, [0, 12, 24, 36, 48, 60, 72]].permute(0, 2, 1, 3).flatten(2))
    return rows


def save_sheet(rows, file):
    """All rows below each other, as one picture."""
    width = max(row.shape[-1] for row in rows)
    rows = [torch.nn.functional.pad(row, (0, width - row.shape[-1]), value=-1.0) for row in rows]
    array = ((torch.cat(rows, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(file, quality=88)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--photos", type=Path, nargs="+", required=True)
    p.add_argument("--vae", type=Path, required=True)
    p.add_argument("--tests", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--start", type=Path, help="folder of an earlier run to go on from")
    p.add_argument("--zoom-share", type=float, default=1 / 3, help="of the clips that move")
    p.add_argument("--seed", type=int, default=0, help="of clips, noise and order")
    p.add_argument(
        "--seconds", type=float, default=480, help="from start to last step, set-up included"
    )
    p.add_argument("--clips", type=float, default=1.0, help="times the usual number of clips")
    p.add_argument("--collages", type=int, default=160)
    p.add_argument("--batch", type=int, default=48)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--muon-lr", type=float, default=1.5e-3)
    p.add_argument("--look-seconds", type=float, default=30)
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--tiny", action="store_true")
    a = p.parse_args()
    began = time.monotonic()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    a.out.mkdir(parents=True, exist_ok=True)
    sets = [load_photographs(folder) for folder in a.photos]
    photos, held = torch.cat([s.train for s in sets]), sets[0].held
    tae.SHARED["photos"] = [np.asarray(x) for x in photos.permute(0, 2, 3, 1)]
    first = 1000 * (1 + a.seed)
    with ProcessPoolExecutor() as pool:
        made = list(
            pool.map(
                tae.make_collage, range(first, first + (2 if a.tiny else a.collages)), chunksize=4
            )
        )
    pictures = torch.cat([photos, photos, stack(made)]).to(device)
    vae = tae.load_vae(a.vae, device)
    shapes = [replace(shape, count=round(shape.count * a.clips)) for shape in BUNDLED_CLIPS]
    if a.tiny:
        shapes = [ClipShape(4, 73, (64, 64)), ClipShape(3, 145, (32, 64))]
    speeds = MoveRange(zoom_share=a.zoom_share)
    pools = [
        make_pool(pictures, vae, shape, seed=i + 100 * a.seed, speeds=speeds)
        for i, shape in enumerate(shapes)
    ]
    print(
        f"pools after {time.monotonic() - began:.0f} s: {[tuple(x.latents.shape) for x in pools]} "
        f"std {pools[0].latents.float().std():.2f}",
        flush=True,
    )
    config = PRESETS["bundled"]
    if a.tiny:
        config = replace(config, num_attention_heads=2, num_layers=1, num_single_layers=1)
    backbone = PackedDiT(config)
    backbone.init_weights()
    model = bb.Trained(backbone, SmallTextEncoder()).to(device)
    if a.start:
        model.load_state_dict(load_start(a.start))
    print(f"{sum(x.numel() for x in model.parameters()) / 1e6:.1f} M parameters", flush=True)
    run = bb.BackboneRun(
        seconds=a.seconds,
        batch=2 if a.tiny else a.batch,
        lr=a.lr,
        muon_lr=a.muon_lr,
        compile=not (a.tiny or a.no_compile),
        seed=a.seed,
    )
    wide = [tae.fitted(h, 64, 128) if a.tiny else tae.fitted(h, 128, 288) for h in held[5:8]]
    losses, state = [], {"saved": time.monotonic()}
    stills = [tae.F192(h) if not a.tiny else tae.F192(h)[:, ::3, ::3] for h in held[1:4]]
    for f in sorted(a.tests.iterdir())[:2] if a.tests else []:
        s = tae.F192(torch.from_numpy(np.array(Image.open(f).convert("RGB"))).permute(2, 0, 1))
        stills.append(s if not a.tiny else s[:, ::3, ::3])
    final = bb.Trained(PackedDiT(config), SmallTextEncoder()).to(device).eval()

    def save(average):
        average.copy_to(final)
        save_shards(final.state_dict(), a.out)
        report = {"losses": losses, "seconds": a.seconds, "config": config.to_dict()}
        (a.out / "dit_report.json").write_text(json.dumps(report))

    def look():
        steps, until = (4 if a.tiny else 20), time.monotonic() + a.look_seconds
        rows = []
        for pictures, order in ((stills, "inverted"), (wide, "inverted"), (stills, "forward")):
            rows += samples(final, vae, pictures, device, order, steps, until)
        if rows:
            save_sheet(rows, a.out / "samples.jpg")

    def at_step(step, loss, average):
        losses.append((step, round(loss, 4), round(time.monotonic() - began)))
        if time.monotonic() - state["saved"] > 60:
            save(average)
            state["saved"] = time.monotonic()

    average = bb.train(model, pools, run, at_step, began)
    save(average)
    look()
    for s, value, t in losses[:: max(1, len(losses) // 25)]:
        print(f"step {s} loss {value} at {t} s")
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0
    print(f"all: {time.monotonic() - began:.0f} s, {peak:.1f} GiB")


if __name__ == "__main__":
    main()
