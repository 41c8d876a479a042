"""Writes the bundled autoencoder as the linear code of its pictures, without training: a minute on
two cores.

    python scripts/fit_autoencoder.py --photos DIR [DIR ...] --out OUT
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from recurvid.checkpoints.int8 import save_quantized
from recurvid.training import autoencoder as ae
from recurvid.training.pictures import load_photographs


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--photos", type=Path, nargs="+", required=True)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    torch.manual_seed(0)
    pictures = torch.cat([load_photographs(folder).train for folder in a.photos])
    cpu = torch.device("cpu")
    model = ae.linear_start(ae.BUNDLED, pictures, cpu)
    with torch.no_grad():
        model = ae.with_statistics(model, pictures, np.random.default_rng(2), cpu)
    a.out.mkdir(parents=True, exist_ok=True)
    save_quantized(model.state_dict(), a.out / "vae.safetensors")
    (a.out / "vae.json").write_text(json.dumps(model.config.to_dict()) + "\n")
    print(f"latent scale {model.config.latent_std[0]}")


if __name__ == "__main__":
    main()
