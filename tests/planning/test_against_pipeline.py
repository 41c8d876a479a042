"""Plan, layout and pack together against diffusers' own section loop, up to 60 sections."""

import pytest
import torch
from stub_pipeline import END, START, run

from recurvid.latents import LatentFrames
from recurvid.packing import PackingSchedule, pack
from recurvid.planning import plan

pytestmark = pytest.mark.parity

CASES = [
    ("inverted", "f1k1_x_g9_f1k1f2k2f16k4_td", "inverted_anti_drifting", False),
    ("inverted", "f1k1_x_g9_f1k1f2k2f16k4_td", "inverted_anti_drifting", True),
    ("forward", "f1k1_f16k4f2k2f1k1_g9", "vanilla", False),
]


def packed_as_pipeline(order: str, text: str, sections: int, end_picture: bool):
    """The same run with our planner and packer, in the pipeline's words."""
    schedule = PackingSchedule.parse(text)
    made = plan(order, schedule, sections, end_picture=end_picture)
    timeline = {0: START} | ({made.latent_frames: END} if end_picture else {})
    shown = []
    for section in made.sections:
        data = torch.tensor(list(timeline.values())).view(1, 1, -1, 1, 1).expand(1, 1, -1, 2, 2)
        packed = pack(schedule, section, LatentFrames.of(data, list(timeline)))
        noise = [100.0 * (section.index + 1) + i for i in range(9)]
        entry = {"indices_latents": packed.target_index[0].tolist()}
        for group, name in zip(
            packed.context.groups, ("history_4x", "history_2x", "clean"), strict=True
        ):
            entry[f"latents_{name}"] = group.frames.data[0, 0, :, 0, 0].tolist()
            entry[f"indices_latents_{name}"] = group.frames.index[0].tolist()
        shown.append(entry)
        timeline |= dict(zip(section.frames, noise, strict=True))
    return shown


@pytest.mark.parametrize(("order", "text", "sampling", "end_picture"), CASES)
def test_every_section_is_shown_what_the_pipeline_shows(order, text, sampling, end_picture):
    for sections in (*range(1, 11), 23, 60):
        theirs = run(sampling, sections, end_picture=end_picture)
        ours = packed_as_pipeline(order, text, sections, end_picture)
        assert len(theirs) == sections
        assert ours == theirs, f"{order} with {sections} sections"
