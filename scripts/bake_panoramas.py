"""HDR panoramas of @pmndrs/assets (base64 in JavaScript) to tone-mapped PNG files.

python scripts/bake_panoramas.py package/hdri OUT
"""

import base64
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image


def main():
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    for file in sorted(source.glob("*.exr.js")):
        match = re.search(r"base64,([A-Za-z0-9+/=]+)", file.read_text())
        with tempfile.NamedTemporaryFile(suffix=".exr") as exr:
            exr.write(base64.b64decode(match.group(1)))
            exr.flush()
            pixels = next(iter(OpenEXR.File(exr.name).channels().values())).pixels
        light = np.nan_to_num(pixels[..., :3].astype(np.float32)).clip(0)
        light *= 0.35 / (np.median(light) + 1e-6)
        shown = np.clip(light / (1 + 0.6 * light), 0, 1) ** (1 / 2.2)
        name = file.name.removesuffix(".exr.js")
        Image.fromarray((shown * 255).round().astype(np.uint8)).save(out / f"{name}.png")


if __name__ == "__main__":
    main()
