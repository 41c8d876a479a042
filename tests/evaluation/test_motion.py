import numpy as np
import pytest
from PIL import Image, ImageFilter

from recurvid.errors import InputError
from recurvid.evaluation.motion import measure_motion
from recurvid.evaluation.quality import psnr


def texture(height: int, width: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))


def shifted(frames: int, dx: float, dy: float = 0.0) -> np.ndarray:
    big = texture(400, 600)
    made = []
    for t in range(frames):
        x, y = 250 - dx * t, 150 - dy * t
        made.append(np.asarray(big.transform((160, 120), Image.Transform.AFFINE, (1, 0, x, 0, 1, y),
                                             Image.Resampling.BICUBIC)))  # fmt: skip
    return np.stack(made)


def test_a_known_shift_is_measured() -> None:
    motion = measure_motion(shifted(25, 1.5, -0.5))
    assert motion.right == pytest.approx(36, abs=2)
    assert motion.down == pytest.approx(-12, abs=2)
    assert motion.length == pytest.approx(38, abs=3)
    assert motion.flicker < 0.05


def test_to_and_fro_is_flicker() -> None:
    there = shifted(13, 2)
    motion = measure_motion(np.concatenate([there, there[::-1]]))
    assert abs(motion.right) < 2
    assert motion.flicker > 0.8


def test_a_still_does_not_move() -> None:
    assert measure_motion(np.repeat(shifted(1, 0), 9, 0)).length < 0.2


def test_one_frame_is_refused() -> None:
    with pytest.raises(InputError, match="two frames"):
        measure_motion(shifted(1, 0))


def test_psnr_of_a_known_error() -> None:
    a = np.full((8, 8, 3), 100, np.uint8)
    assert psnr(a, a) == float("inf")
    assert psnr(a, a + 10) == pytest.approx(20 * np.log10(25.5), abs=1e-9)
