"""Trains the bundled autoencoder and writes weights, numbers and a sheet.

    python scripts/train_autoencoder.py --photos DIR [DIR ...] --out OUT --seconds 480

Photographs: public-domain ones of Debian's endless-sky-data (see NOTICE). A CUDA device makes it
minutes; `--tiny` runs a few seconds anywhere.
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
from PIL import Image, ImageOps

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import dequantized, save_quantized
from recurvid.training import autoencoder as ae
from recurvid.training.camera import draw_paths, render
from recurvid.training.pictures import collage, load_photographs, stack
from recurvid.vae.taehv import TAEHV, TAEHVConfig

SHARED = {}


def make_collage(seed):
    return collage(SHARED["photos"], seed)


def load_vae(folder, device):
    vae = TAEHV(TAEHVConfig.from_dict(json.loads((folder / "vae.json").read_text())))
    stored = dequantized(open_checkpoint(folder / "vae.safetensors"))
    vae.load_state_dict({name: stored.tensor(name).float() for name in stored.keys()})  # noqa: SIM118
    vae = vae.to(device).to(memory_format=torch.channels_last)
    return vae.eval().requires_grad_(False)


def psnr(a, b):
    return float(-10 * torch.log10(((a - b) / 2).pow(2).mean()))


@torch.no_grad()
def evaluate(model, held, tests, device, out):
    rows = {}
    rng = np.random.default_rng(99)
    path, _, _ = draw_paths(12, rng, pictures=len(held), frames=33, size=(192, 192))
    clips = torch.cat([render(held, p.to(device), 33, (192, 192)) for p in path.pieces(4)])
    outs = torch.cat([model.decode(model.encode(c[None])) for c in clips]).clamp(-1, 1)
    rows["held-out clips, 33 frames"] = np.mean(
        [psnr(a, b) for a, b in zip(clips, outs, strict=True)]
    )
    rows["held-out clips, last frame"] = np.mean(
        [psnr(a[:, -1], b[:, -1]) for a, b in zip(clips, outs, strict=True)]
    )
    torch.manual_seed(3)
    worn = []
    for c in clips:
        z = model.encode(c[None])
        noise = 0.15 * torch.randn_like(z)
        noise[:, :, 0] = 0
        worn.append(psnr(c, model.decode(z + noise)[0].clamp(-1, 1)))
    rows["held-out clips, latents with noise of 0.15"] = np.mean(worn)
    stills = [F192(h) for h in held.cpu()]
    values = [(psnr(s.to(device), one(model, s, device))) for s in stills]
    rows["held-out photographs, one frame: mean"] = np.mean(values)
    rows["held-out photographs, one frame: worst"] = np.min(values)
    tiles = []
    for name, s in tests.items():
        y = one(model, s, device)
        rows[name] = psnr(s.to(device), y)
        tiles.append(torch.cat([s, y.cpu()], 1))
    tiles += [torch.cat([s, one(model, s, device).cpu()], 1) for s in stills[:8]]
    sheet = torch.cat(tiles, 2)
    strip = torch.cat(
        [
            torch.cat([c[:, [0, 8, 16, 24, 32]].permute(0, 2, 1, 3).flatten(2) for c in (a, b)], 1)
            for a, b in list(zip(clips, outs, strict=True))[:3]
        ],
        1,
    ).cpu()
    for label, image in (("stills", sheet), ("clips", strip)) if out else ():
        array = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        Image.fromarray(array).save(out / f"ae_{label}.jpg", quality=92)
    return {k: round(float(v), 2) for k, v in rows.items()}


def F192(picture):
    return fitted(picture, 192, 192)


def fitted(picture, height, width):
    array = picture.permute(1, 2, 0).numpy()
    picture = ImageOps.fit(Image.fromarray(array), (width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


@torch.no_grad()
def one(model, s, device):
    return model.decode(model.encode(s.to(device)[None, :, None]))[0, :, 0].clamp(-1, 1)


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--photos", type=Path, nargs="+", required=True)
    p.add_argument("--tests", type=Path, help="folder of pictures to look at, never trained on")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--seconds", type=float, default=120)
    p.add_argument("--collages", type=int, default=500)
    p.add_argument("--start", type=Path, help="folder of an earlier run to go on from")
    p.add_argument("--lr", type=float, default=5e-4)
    p.add_argument("--noise", type=float, default=0.006, help="added to latents before decoding")
    p.add_argument("--batch", type=int, default=12)
    p.add_argument(
        "--decoder-only", action="store_true", help="keep the encoder, so that latents stay"
    )
    p.add_argument("--tiny", action="store_true")
    a = p.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = time.time()
    sets = [load_photographs(folder) for folder in a.photos]
    photos, held = torch.cat([s.train for s in sets]), sets[0].held
    SHARED["photos"] = [np.asarray(x) for x in photos.permute(0, 2, 3, 1)]
    with ProcessPoolExecutor() as pool:  # forks: the photographs are shared
        made = list(pool.map(make_collage, range(4 if a.tiny else a.collages), chunksize=4))
    pictures = torch.cat([photos, photos, stack(made)]).to(device)
    print(
        f"{len(photos)} photographs, {len(made)} collages, {time.time() - began:.0f} s", flush=True
    )
    tests = {}
    for f in sorted(a.tests.iterdir()) if a.tests else []:
        tests[f.stem] = F192(
            torch.from_numpy(np.array(Image.open(f).convert("RGB"))).permute(2, 0, 1)
        )
    run = ae.AutoencoderRun(
        seconds=a.seconds,
        lr=a.lr,
        latent_noise=a.noise,
        decoder_only=a.decoder_only,
        phases=(ae.Phase(1.0, a.batch, 25, 128),),
    )
    if a.tiny:
        tiny = (ae.Phase(0.6, 2, 9, 64), ae.Phase(0.4, 1, 17, 64))
        run = replace(run, compile=False, phases=tiny)
    start = None
    if a.start:
        start = load_vae(a.start, device).requires_grad_(True)
        before = evaluate(start, held.to(device), tests, device, None)
        print("before:", before, flush=True)
    if start is None:
        before = evaluate(
            ae.linear_start(run.config, pictures, device).to(device).eval(),
            held.to(device),
            tests,
            device,
            None,
        )
        print("linear start:", before, flush=True)
    losses = []
    model = ae.train(
        pictures,
        run,
        device,
        lambda s, value: losses.append((s, round(value, 4), round(time.time() - began))),
        start,
    )
    a.out.mkdir(parents=True, exist_ok=True)
    save_quantized(model.state_dict(), a.out / "vae.safetensors")
    (a.out / "vae.json").write_text(json.dumps(model.config.to_dict()))
    model = load_vae(a.out, device)  # what is shipped is what is measured
    rows = evaluate(model, held.to(device), tests, device, a.out)
    (a.out / "ae_report.json").write_text(
        json.dumps({"rows": rows, "losses": losses, "seconds": a.seconds})
    )
    for s, value, t in losses[:: max(1, len(losses) // 12)]:
        print(f"step {s} loss {value} at {t} s")
    for k, v in rows.items():
        print(f"{v:6.2f} dB  {k}")
    print(f"all: {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
