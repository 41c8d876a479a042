import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurvid.errors import InputError
from recurvid.latents import LatentGeometry
from recurvid.packing import PackingSchedule
from recurvid.planning import MAX_SECTIONS, Duration, duration

RELEASED = PackingSchedule.parse("f1k1_x_g9_f1k1f2k2f16k4_td")
G4 = PackingSchedule.parse("td_f16k4f2k2f1k1_g4")


@pytest.mark.parametrize(
    ("seconds", "sections", "generated", "frames"),
    [
        (0.01, 1, 37, 1),
        (1, 1, 37, 30),
        (37 / 30, 1, 37, 37),
        (38 / 30, 2, 73, 38),
        (3, 3, 109, 90),
        (5, 5, 181, 150),
        (60, 50, 1801, 1800),
        (120, 100, 3601, 3600),
    ],
)
def test_smallest_number_of_sections_trimmed(seconds, sections, generated, frames):
    assert duration(seconds, 30, RELEASED) == Duration(
        sections, sections * 9 + 1, generated, frames, 30
    )


@pytest.mark.parametrize(
    ("seconds", "frames"),
    # max(round(seconds * 30 / 36), 1) sections of 36 frames and one; 3, 5.4 and 1.8 s tie to even.
    [(0.1, 37), (1, 37), (1.8, 73), (3, 73), (4.2, 145), (5, 145), (5.4, 145), (60, 1801)],
)
def test_whole_sections_as_the_original(seconds, frames):
    asked = duration(seconds, 30, RELEASED, whole_sections=True)
    assert asked.frames == asked.generated_frames == frames
    assert asked.sections == (frames - 1) // 36


def test_other_rates_sections_and_autoencoders():
    assert duration(5, 12, G4) == Duration(4, 17, 65, 60, 12)
    assert duration(5, 12, G4, LatentGeometry(temporal_stride=8)) == Duration(2, 9, 65, 60, 12)
    assert duration(5, 12, G4).seconds == 5
    assert duration(3, 30, RELEASED, whole_sections=True).seconds == pytest.approx(73 / 30)


def test_a_part_of_a_frame_counts_but_rounding_noise_does_not():
    assert 8.3 * 30 > 249
    assert duration(8.3, 30, RELEASED).frames == 249
    assert duration(2.04, 12, RELEASED).frames == 25  # 24.48


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, -math.inf])
def test_impossible_lengths_and_rates(bad):
    with pytest.raises(InputError, match="seconds must be a positive number"):
        duration(bad, 30, RELEASED)
    with pytest.raises(InputError, match="fps must be a positive number"):
        duration(5, bad, RELEASED)
    with pytest.raises(InputError, match="too long"):
        duration(1e300, 30, RELEASED)


@given(st.floats(1e-3, 1000), st.floats(0.5, 240), st.integers(1, 16))
def test_covers_what_was_asked_with_not_one_section_more(seconds, fps, generated):
    made = duration(seconds, fps, PackingSchedule.parse(f"f1k1_g{generated}"))
    assert 1 <= made.sections <= MAX_SECTIONS
    assert made.generated_frames == 4 * generated * made.sections + 1
    assert made.frames <= made.generated_frames
    assert made.frames >= seconds * fps - 1e-6
    assert made.frames < seconds * fps + 1
    if made.sections > 1:
        assert 4 * generated * (made.sections - 1) + 1 < made.frames
