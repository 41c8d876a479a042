"""Puts trained weights into the package: int8 storage, configurations beside.

python scripts/export_bundled.py --vae VAE_DIR --backbone DIT_DIR [--to src/recurvid/bundled]
"""

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file

from recurvid.checkpoints.int8 import save_quantized
from recurvid.encoders.small import SmallTextConfig, to_json
from recurvid.models.packed_dit.config import PackedDiTConfig

LIMIT = 32 * 2**20


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--vae", type=Path, required=True)
    p.add_argument("--backbone", type=Path, required=True)
    p.add_argument("--to", type=Path, default=Path("src/recurvid/bundled"))
    a = p.parse_args()
    a.to.mkdir(parents=True, exist_ok=True)
    for name in ("vae.safetensors", "vae.json"):
        (a.to / name).write_bytes((a.vae / name).read_bytes())
    state = {}
    for shard in sorted(a.backbone.glob("dit*.safetensors")):
        state.update(load_file(shard))
    for prefix, name in (("backbone.", "dit"), ("text.", "text")):
        part = {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
        save_quantized(part, a.to / f"{name}.safetensors")
    report = json.loads((a.backbone / "dit_report.json").read_text())
    config = PackedDiTConfig.from_dict(report["config"])
    (a.to / "dit.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    (a.to / "text.json").write_text(to_json(SmallTextConfig()) + "\n")
    sizes = {f.name: f.stat().st_size for f in sorted(a.to.glob("*.safetensors"))}
    total = sum(sizes.values())
    print(sizes, f"{total / 2**20:.2f} MiB")
    if total > LIMIT:
        raise SystemExit(f"{total} bytes of weights: over the limit of {LIMIT}")


if __name__ == "__main__":
    main()
