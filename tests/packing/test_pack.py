import paper_schedules
import pytest
import torch

from recurvid.errors import ComponentError, InputError
from recurvid.latents import LatentFrames
from recurvid.packing import Packed, PackingSchedule, pack, pack_batch
from recurvid.planning import implied_order, plan
from recurvid.sections import ABSENT, Section

parse = PackingSchedule.parse
RELEASED = parse("f1k1_x_g9_f1k1f2k2f16k4_td")
F1 = parse("f1k1_f16k4f2k2f1k1_g9")


def numbered(positions, *, batch=1, height=8, width=8) -> LatentFrames:
    """Latents whose every value is its timeline position plus 1000; sample i adds i * 10000."""
    values = torch.tensor([float(p) + 1000 for p in positions])
    offsets = 10000.0 * torch.arange(batch)
    data = (values + offsets[:, None]).view(batch, 1, -1, 1, 1).repeat(1, 2, 1, height, width)
    return LatentFrames.of(data, list(positions))


def content(packed: Packed, sample: int = 0) -> dict[str, list[float]]:
    """Kernel -> the (constant) value of each frame."""
    return {
        str(group.kernel): group.frames.data[sample, 1, :, 3, 4].tolist()
        for group in packed.context.groups
    }


def indices(packed: Packed, sample: int = 0) -> dict[str, list[int]]:
    return {
        str(group.kernel): group.frames.index[sample].tolist() for group in packed.context.groups
    }


def test_first_inverted_section_sees_the_start_picture_and_zeros():
    section = plan("inverted", RELEASED, 2).sections[0]
    packed = pack(RELEASED, section, numbered([0]))
    assert content(packed) == {"k4": [0.0] * 16, "k2": [0.0] * 2, "k1": [1000, 0]}
    assert list(content(packed)) == ["k4", "k2", "k1"]  # the order of the model's tokens
    assert indices(packed)["k1"] == [0, 19]
    assert packed.target_index.tolist() == [[10, 11, 12, 13, 14, 15, 16, 17, 18]]
    assert packed.target_index.dtype == torch.int64


def test_last_inverted_section_sees_what_comes_after_it():
    section = plan("inverted", RELEASED, 2).sections[1]
    # In any order: sections arrive from the end.
    packed = pack(RELEASED, section, numbered([10, 11, 12, 13, 14, 15, 16, 17, 18, 0]))
    assert content(packed) == {
        "k4": [1013, 1014, 1015, 1016, 1017, 1018, *[0] * 10],
        "k2": [1011, 1012],
        "k1": [1000, 1010],
    }
    assert indices(packed) == {
        "k4": [13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28],
        "k2": [11, 12],
        "k1": [0, 10],
    }


def test_first_f1_section_sees_the_start_picture_twice():
    section = plan("forward", F1, 1).sections[0]
    packed = pack(F1, section, numbered([0]))
    assert content(packed) == {"k4": [0.0] * 16, "k2": [0.0] * 2, "k1": [1000, 1000]}
    assert indices(packed)["k1"] == [0, 19]


def test_third_f1_section():
    section = plan("forward", F1, 3).sections[2]
    packed = pack(F1, section, numbered(range(19)))
    assert content(packed) == {
        "k4": [*range(1000, 1016)],
        "k2": [1016, 1017],
        "k1": [1000, 1018],
    }


def test_end_picture_replaces_the_newest_history_of_the_first_section_only():
    made = plan("inverted", RELEASED, 2, end_picture=True)
    assert made.given == (0, 19)
    packed = pack(RELEASED, made.sections[0], numbered([0, 19]))
    assert content(packed) == {"k4": [0.0] * 16, "k2": [0.0] * 2, "k1": [1000, 1019]}
    packed = pack(RELEASED, made.sections[1], numbered([0, *range(10, 20)]))
    assert content(packed)["k4"] == [1013, 1014, 1015, 1016, 1017, 1018, *[0] * 10]


def test_nothing_that_is_being_made_is_seen():
    section = Section(0, range(1, 10), 0, tuple(range(5, 24)), (3,))
    packed = pack(RELEASED, section, numbered(range(24)))
    assert content(packed)["k1"] == [0, 0]
    assert content(packed)["k2"] == [0, 0]
    assert content(packed)["k4"] == [0, 0, *range(1010, 1024)]


def test_absent_is_zero_and_nan_does_not_leak_into_it():
    frames = numbered([0])
    frames.data.fill_(float("nan"))
    section = Section(0, range(1, 10), 0, (ABSENT,) * 19, (ABSENT,))
    packed = pack(RELEASED, section, frames)
    assert all((group.frames.data == 0).all() for group in packed.context.groups)


def test_an_empty_timeline_gives_zeros():
    empty = LatentFrames(torch.zeros(2, 3, 0, 4, 6), torch.zeros(2, 0, dtype=torch.int64))
    packed = pack(RELEASED, plan("inverted", RELEASED, 1).sections[0], empty)
    assert [tuple(group.frames.data.shape) for group in packed.context.groups] == [
        (2, 3, 16, 4, 6),
        (2, 3, 2, 4, 6),
        (2, 3, 2, 4, 6),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_keeps_dtype_and_leaves_the_timeline_alone(dtype):
    timeline = numbered(range(19)).to(device="cpu", dtype=dtype)
    before = timeline.data.clone()
    packed = pack(F1, plan("forward", F1, 3).sections[2], timeline)
    assert {group.frames.data.dtype for group in packed.context.groups} == {dtype}
    for group in packed.context.groups:
        group.frames.data.zero_()
    assert torch.equal(timeline.data, before)


def test_gradients_reach_the_timeline():
    timeline = numbered([0])
    timeline.data.requires_grad_()
    packed = pack(F1, plan("forward", F1, 1).sections[0], timeline)
    torch.stack([group.frames.data.sum() for group in packed.context.groups]).sum().backward()
    assert timeline.data.grad is not None
    assert (timeline.data.grad == 2).all()  # anchor and newest history


def test_a_batch_may_mix_gaps_and_timelines():
    first, second = plan("inverted", RELEASED, 3).sections[1:]
    timeline = numbered(range(28), batch=2)
    shuffled = LatentFrames(timeline.data, torch.stack([timeline.index[0], timeline.index[1] + 1]))
    both = pack_batch(RELEASED, [first, second], shuffled)
    alone = [
        pack(RELEASED, section, LatentFrames(shuffled.data[i : i + 1], shuffled.index[i : i + 1]))
        for i, section in enumerate((first, second))
    ]
    assert both.target_index.tolist() == [
        [10, 11, 12, 13, 14, 15, 16, 17, 18],
        [1, 2, 3, 4, 5, 6, 7, 8, 9],
    ]
    assert content(both, 0)["k1"] == [1000, 1019]
    assert content(both, 1)["k1"] == [0, 11009]  # sample 1 holds position p at p - 1, and no 0
    for sample, single in enumerate(alone):
        assert content(both, sample) == content(single)
        assert indices(both, sample) == indices(single)


def test_groups_of_one_kernel_do_not_share_a_token():
    schedule = parse("f3k2f1k1f1k2f1k1_g1")
    section = Section(0, range(7, 8), 0, (1, 2, 3, 4, 5, 6), ())
    packed = pack(schedule, section, numbered(range(1, 7)))
    assert content(packed) == {"k2": [1001, 1002, 1003, 1003, 1005, 1005], "k1": [1004, 1006]}
    assert indices(packed) == {"k2": [0, 1, 2, 2, 4, 4], "k1": [3, 5]}
    assert schedule.tokens(64, 64).history == 3 * 4 + 2 * 16


def test_long_kernels_are_ordered_by_size():
    schedule = parse("f1k1h8w8f1k1h8w4f1k1h4w4f1k1h4w2f1k1_g1")
    section = Section(0, range(5, 6), 0, (0, 1, 2, 3, 4), ())
    kernels = [str(group.kernel) for group in pack(schedule, section, numbered([0])).context.groups]
    assert kernels == ["k1h8w8", "k1h8w4", "k1h4w4", "k1h4w2", "k1"]


@pytest.mark.parametrize("text", paper_schedules.ALL)
def test_packed_tensors_have_as_many_tokens_as_the_schedule_counts(text):
    schedule = parse(text)
    section = plan(implied_order(schedule), schedule, 1).sections[0]
    frames = numbered([0], height=10, width=14)
    groups = pack(schedule, section, frames, discretize=lambda data: data).context.groups
    packed = sum(group.kernel.tokens(*group.frames.data.shape[2:]) for group in groups)
    count = schedule.tokens(80, 112)
    assert packed == count.total - count.target
    assert count.target == schedule.generated * 5 * 7


def test_a_foreign_section_is_refused():
    section = plan("forward", F1, 1).sections[0]
    with pytest.raises(InputError, match="section 0 was not planned for schedule td_f2k1_g9"):
        pack(parse("td_f2k1_g9"), section, numbered([0]))
    with pytest.raises(InputError, match="3 sections for a batch of 1"):
        pack_batch(F1, [section] * 3, numbered([0]))


def test_lead_comes_first():
    schedule = parse("td_f2k2f1k1_g3_x_f1k1")
    first, second = plan("endpoint", schedule, 2).sections
    packed = pack(schedule, first, numbered([0]))
    assert first.frames == (1, 5, 6)
    assert packed.target_index.tolist() == [[3, 7, 8]]
    assert content(packed) == {"k2": [0, 0], "k1": [1000, 0]}
    assert indices(packed) == {"k2": [0, 1], "k1": [2, 9]}
    packed = pack(schedule, second, numbered([0, 1, 5, 6]))
    assert second.frames == (2, 3, 4)
    assert content(packed) == {"k2": [0, 1000], "k1": [1001, 1005]}
    assert indices(packed) == {"k2": [0, 1], "k1": [2, 6]}


# Tails


def tail_of(text: str, sections: int, index: int, known, **size):
    schedule = parse(text)
    order = "inverted" if schedule.direction == "inverted" else "forward"
    section = plan(order, schedule, sections).sections[index]
    packed = pack(schedule, section, numbered(known, **size))
    usual = pack(parse(text.replace("ta", "td").replace("tc", "td")), section, numbered(known))
    extra = len(packed.context.groups) - len(usual.context.groups)
    return packed.context.groups[0] if extra else None


def test_a_short_past_has_no_tail():
    for tail in ("td", "ta", "tc"):
        assert tail_of(f"{tail}_f2k2f1k1_g3", 2, 0, [0]) is None


def test_deleted_tail_is_not_there():
    assert tail_of("td_f2k2f1k1_g3", 3, 2, range(7)) is None


def test_compressed_tail_is_one_token_of_the_mean():
    group = tail_of("tc_f2k2f1k1_g3", 3, 2, range(7))  # target 7.., slots 4 5 6, tail 0 1 2 3
    assert group is not None
    assert str(group.kernel) == "k2"
    assert group.frames.data.shape == (1, 2, 2, 4, 4)
    assert (group.frames.data == 1001.5).all()
    assert group.frames.index.tolist() == [[-1, -1]]
    assert group.kernel.tokens(2, 4, 4) == 1


def test_appended_tail_has_every_frame_small():
    group = tail_of("f1k1_x_g3_f1k1f2k2_ta", 3, 2, [0, *range(4, 10)], height=60, width=104)
    assert group is not None  # target 1 2 3, slots 4 5 6, tail 7 8 9
    assert str(group.kernel) == "k2"
    assert group.frames.data.shape == (1, 2, 4, 4, 4)  # 2x4 pixels, padded to whole kernels
    assert group.frames.data[0, 0, :, 0, 0].tolist() == [1007, 1008, 1009, 1009]
    assert group.frames.index.tolist() == [[7, 8, 9, 9]]
    tokens = parse("f1k1_x_g3_f1k1f2k2_ta").tokens(480, 832, tail_frames=3).groups["tail ta"]
    assert group.kernel.tokens(*group.frames.data.shape[2:]) == tokens == 2


def test_appended_tail_pools_by_32():
    schedule = parse("ta_f1k1_g1")
    data = torch.arange(64.0 * 96).view(1, 1, 1, 64, 96).repeat(1, 1, 3, 1, 1)
    section = plan("forward", schedule, 3).sections[2]  # target 3, slot 2, tail 0 1
    group = pack(schedule, section, LatentFrames.of(data, [0, 1, 2])).context.groups[0]
    top_left = torch.arange(64.0 * 96).view(64, 96)[:32, :32].double().mean().item()
    assert group.frames.data.shape == (1, 1, 2, 2, 4)  # 2x3 pixels, the width made even
    assert group.frames.data[0, 0, 0, 0].tolist() == pytest.approx(
        [top_left, top_left + 32, top_left + 64, top_left + 64]
    )


@pytest.mark.parametrize("height", [4, 12, 32, 34, 64, 66])
@pytest.mark.parametrize("width", [6, 32, 98])
def test_appended_tail_counts_as_the_schedule_says(height, width):
    schedule = parse("ta_f1k1_g1")
    section = plan("forward", schedule, 4).sections[3]
    packed = pack(schedule, section, numbered(range(4), height=height, width=width))
    group = packed.context.groups[0]
    assert group.frames.data[0, 0, :, -1, -1].tolist() == [1000, 1001, 1002]
    counted = schedule.tokens(8 * height, 8 * width, tail_frames=3).groups["tail ta"]
    assert group.kernel.tokens(*group.frames.data.shape[2:]) == counted
    assert (
        counted
        == 3 * {4: 1, 12: 1, 32: 1, 34: 1, 64: 1, 66: 2}[height] * {6: 1, 32: 1, 98: 2}[width]
    )


def test_the_anchor_is_no_tail():
    group = tail_of("tc_f1k1_f1k1_g1", 4, 3, range(4))  # target 4, slot 3, anchor 0, tail 1 2
    assert group is not None
    assert (group.frames.data == 1001.5).all()


def test_tails_of_one_batch_have_one_length():
    schedule = parse("tc_f1k1_g1")
    first, last = plan("forward", schedule, 2).sections
    with pytest.raises(InputError, match="one length"):
        pack_batch(schedule, [first, last], numbered([0, 1], batch=2))


# Discretisation


def test_discretized_needs_a_codebook():
    schedule = parse("f1k1_f2k2f1k1_g3+D")
    section = plan("forward", schedule, 1).sections[0]
    with pytest.raises(ComponentError, match="codebook"):
        pack(schedule, section, numbered([0]))
    packed = pack(schedule, section, numbered([0]), discretize=lambda data: data + 0.5)
    assert content(packed) == {"k2": [0, 0], "k1": [1000, 1000.5]}  # history only, zeros stay


def test_a_codebook_is_unused_without_the_suffix():
    section = plan("forward", F1, 1).sections[0]
    packed = pack(F1, section, numbered([0]), discretize=lambda data: data + 0.5)
    assert content(packed)["k1"] == [1000, 1000]
