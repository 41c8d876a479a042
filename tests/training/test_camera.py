"""The camera moves as its caption says: checked by optical flow, which knows nothing of paths."""

import numpy as np
import pytest
import torch

from recurvid.evaluation.motion import measure_motion
from recurvid.training.camera import MOVES, MoveRange, draw_paths, render
from recurvid.training.captions import caption
from recurvid.training.pictures import collage, stack

SIZE = (96, 128)


def clips_of(wanted: str, count: int = 3, frames: int = 17) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 255, (45, 90, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    pictures = stack([collage([noise], seed) for seed in range(2)])
    path, moves, _ = draw_paths(
        60, rng, pictures=2, frames=frames, size=SIZE,
        speeds=MoveRange(pan=(0.8, 1.0), zoom=(0.008, 0.01), still_share=0.1),
    )  # fmt: skip
    rows = [i for i, move in enumerate(moves) if move == wanted][:count]
    assert rows
    made = []
    for row in rows:
        clip = render(pictures, path.part(slice(row, row + 1)), frames, SIZE)[0]
        made.append(((clip.permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy())
    return made


@pytest.mark.parametrize(
    ("move", "axis", "sign"),
    [
        ("pan left", "right", 1),
        ("pan right", "right", -1),
        ("tilt up", "down", 1),
        ("tilt down", "down", -1),
        ("zoom in", "outward", 1),
        ("zoom out", "outward", -1),
    ],
)
def test_flow_follows_the_name(move: str, axis: str, sign: int) -> None:
    for clip in clips_of(move):
        motion = measure_motion(clip)
        assert sign * getattr(motion, axis) > 1.5, motion


def test_still_is_still() -> None:
    for clip in clips_of("still"):
        assert np.abs(clip[0].astype(int) - clip[-1]).max() <= 1


def test_clips_have_the_asked_shape_and_range() -> None:
    picture = torch.randint(0, 256, (1, 3, 360, 720), dtype=torch.uint8)
    path, _, _ = draw_paths(2, np.random.default_rng(0), pictures=1, frames=5, size=SIZE)
    clip = render(picture, path, 5, SIZE)
    assert clip.shape == (2, 3, 5, *SIZE)
    assert clip.min() >= -1
    assert clip.max() <= 1


def test_captions_never_name_another_direction() -> None:
    rng = np.random.default_rng(0)
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up"}
    for move in MOVES:
        for _ in range(200):
            words = caption(move, float(rng.random()), rng).replace(",", "").split()
            for way, other in opposite.items():
                if move.endswith(way):
                    assert other not in words


def test_a_collage_is_its_seed() -> None:
    photo = np.random.default_rng(1).integers(0, 255, (360, 720, 3), dtype=np.uint8)
    assert np.array_equal(collage([photo], 3), collage([photo], 3))
    assert not np.array_equal(collage([photo], 3), collage([photo], 4))
