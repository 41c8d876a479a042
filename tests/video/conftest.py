from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from clips import moving_frames

from recurvid.video.encoders import VideoSettings
from recurvid.video.writer import SegmentWriter


@pytest.fixture
def settings() -> VideoSettings:
    return VideoSettings(Fraction(12), preset="ultrafast")


@pytest.fixture
def make_segments(tmp_path: Path, settings: VideoSettings) -> Callable[..., list[Path]]:
    def make(*lengths: int, using: VideoSettings = settings, **size: int) -> list[Path]:
        first, paths = 0, []
        for number, length in enumerate(lengths):
            paths.append(tmp_path / f"segment{number:04}.mp4")
            with SegmentWriter(paths[-1], using) as writer:
                writer.write(moving_frames(first, length, **size))
            first += length
        return paths

    return make
