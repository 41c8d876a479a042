from inspect import unwrap

import paper_schedules
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurvid.errors import InputError, ScheduleError
from recurvid.packing import FrameGroup, Kernel, PackingSchedule

parse = PackingSchedule.parse
RELEASED = "f1k1_x_g9_f1k1f2k2f16k4_td"
K1, K2, K4 = Kernel(1, 2, 2), Kernel(2, 4, 4), Kernel(4, 8, 8)


def test_the_paper_has_thirty_rows():
    assert len(paper_schedules.TABLE_1) == len(set(paper_schedules.TABLE_1)) == 30


@pytest.mark.parametrize("text", paper_schedules.ALL)
def test_prints_back(text):
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


def test_released_inverted():
    schedule = parse(RELEASED)
    assert schedule.direction == "inverted"
    assert schedule.history == (FrameGroup(1, K1), FrameGroup(2, K2), FrameGroup(16, K4))
    assert schedule.anchors == schedule.anchors_before == (FrameGroup(1, K1),)
    assert (schedule.generated, schedule.history_frames, schedule.anchor_frames) == (9, 19, 1)
    assert (schedule.tail, schedule.has_gap, schedule.discretized) == ("td", True, False)
    assert schedule.kernels == (K4, K2, K1)


def test_f1():
    schedule = parse("f1k1_f16k4f2k2f1k1_g9")
    assert schedule.direction == "forward"
    assert schedule.history == (FrameGroup(16, K4), FrameGroup(2, K2), FrameGroup(1, K1))
    assert schedule.anchors_before == (FrameGroup(1, K1),)
    assert (schedule.tail, schedule.has_gap) == (None, False)


def test_endpoint():
    schedule = parse("td_f16k4f4k2f1k1_g9_x_f1k1")
    assert schedule.direction == "forward"
    assert schedule.history_frames == 21
    assert schedule.anchors_before == ()
    assert schedule.anchors == schedule.anchors_after == (FrameGroup(1, K1),)


def test_long_form_means_the_same_and_prints_as_written():
    long = parse("f1k1h2w2_x_g9_f1k1h2w2f2k2h4w4f16k4h8w8_td")
    assert long == parse(RELEASED)
    assert hash(long) == hash(parse(RELEASED))
    assert str(long) != RELEASED
    assert long.tokens(480, 832) == parse(RELEASED).tokens(480, 832)
    assert str(Kernel(4, 8, 8)) == "k4"
    assert str(Kernel(2, 4, 2)) == "k2h4w2"
    assert parse("f1k2h4w2_g1").history == (FrameGroup(1, Kernel(2, 4, 2)),)


def test_discretized_suffix_in_either_case():
    assert parse("f1k1_g9+d").discretized
    assert str(parse("f1k1_g9+d")) == "f1k1_g9+D"
    assert parse("f1k1_g9+d") == parse("f1k1_g9+D") != parse("f1k1_g9")


def test_a_kernel_needs_no_power_of_two():
    assert parse("f3k3_g1").history[0].kernel == Kernel(3, 6, 6)


def test_odd_spellings_that_are_fine():
    assert parse("g9").history == ()
    assert parse("g9_f1k1").direction == "inverted"
    assert parse("f1k1_x_g9").direction == "inverted"
    assert parse("g9_x_f1k1").direction == "forward"
    assert parse("td_f1k1_f2k2_g9").anchors == (FrameGroup(1, K1),)
    assert parse("f99999k1_g99999").history_frames == 99999


# The table of the paper's section 2: history frames, history tokens with padding at 480x832.
PADDED = [
    ("td_f8k8f4k4f2k2f1k1_g9", 15, 2082),
    ("td_f16k4f2k2f1k1_g9", 19, 2366),
    ("td_f16k4f4k2f1k1_g9", 21, 2756),
    ("td_f64k8f16k4f4k2f1k1_g9", 85, 2980),
    ("td_f512k16f64k8f8k2f1k1_g9", 585, 3600),
    ("td_f512k8f64k4f8k2f1k1_g9", 585, 6576),
    ("f1k1_x_g9_f1k1f2k2f4k4f8k8_td", 15, 2082),
    ("f1k1_x_g9_f1k1f2k2f16k4_td", 19, 2366),
    ("f1k1_x_g9_f1k1f4k2f16k4_td", 21, 2756),
    ("f1k1_x_g9_f1k1f4k2f16k4f64k8_td", 85, 2980),
    ("f1k1_x_g9_f1k1f8k2f64k8f512k16_td", 585, 3600),
    ("f1k1_x_g9_f1k1f8k2f64k4f512k8_td", 585, 6576),
]


@pytest.mark.parametrize(("text", "frames", "tokens"), PADDED)
def test_padded_table_of_the_paper(text, frames, tokens):
    schedule = parse(text)
    assert schedule.history_frames == frames
    count = schedule.tokens(480, 832)
    assert count.history == tokens
    assert count.target == 14040
    assert count.total == tokens + 14040 + 1560 * schedule.anchor_frames


def test_released_costs_17966_and_says_of_what():
    count = parse(RELEASED).tokens(480, 832)
    assert count.total == 17966
    assert count.groups == {
        "anchor f1k1": 1560,
        "target g9": 14040,
        "history f1k1": 1560,
        "history f2k2": 390,
        "history f16k4": 416,
    }
    assert parse("f1k1_f16k4f2k2f1k1_g9").tokens(480, 832).total == 17966
    assert parse(RELEASED).tokens(512, 768).target == 9 * 1536


def test_repeated_groups_are_counted_apart():
    count = parse("f1k1f1k1h4w2f1k1h4w4f1k1h4w2f1k1_g1").tokens(480, 832)
    assert count.groups == {
        "history f1k1": 1560,
        "history f1k1h4w2": 780,
        "history f1k1h4w4": 390,
        "history f1k1h4w2 #2": 780,
        "history f1k1 #2": 1560,
        "target g1": 1560,
    }


def test_tail_tokens():
    td, ta, tc = (f"{tail}_f16k4f2k2f1k1_g9" for tail in ("td", "ta", "tc"))
    assert parse(td).tokens(480, 832, tail_frames=40).total == 16406
    assert parse(tc).tokens(480, 832, tail_frames=40).total == 16406 + 1
    assert parse(ta).tokens(480, 832, tail_frames=40).total == 16406 + 10  # 2x4 pixels, k4: 40/4
    assert parse(ta).tokens(480, 832).total == 16406


@pytest.mark.parametrize("size", [(480, 833), (481, 832), (488, 832), (0, 832), (8, 8), (-16, 16)])
def test_sizes_that_do_not_divide_are_refused(size):
    with pytest.raises(InputError, match="multiples of 16"):
        parse(RELEASED).tokens(*size)


MALFORMED = [
    ("", 0, "nothing there"),
    ("f1k1", 0, "no gN"),
    ("g9_g9", 3, "second gN"),
    ("f1k1_g9_f1k1", 8, "both sides"),
    ("f0k1_g9", 1, "from 1 on"),
    ("f1k0_g9", 3, "from 1 on"),
    ("g0", 1, "from 1 on"),
    ("f01k1_g9", 1, "leading zeros"),
    ("f1k1h3w2_g9", 5, "height must be even"),
    ("f1k1h2w3_g9", 7, "width must be even"),
    ("f1k1h2_g9", 6, "kernel's width"),
    ("f1k1w2_g9", 4, "unexpected 'w'"),
    ("f1_g9", 2, "expected a kernel"),
    ("fk1_g9", 1, "expected a number"),
    ("f1k_g9", 3, "expected a number"),
    ("f1k1_g", 5, "expected a number"),
    ("_g9", 0, "expected fNkM"),
    ("g9_", 2, "a field is missing"),
    ("f1k1__g9", 5, "expected fNkM"),
    ("f1k1 _g9", 4, "unexpected ' '"),
    (" f1k1_g9", 0, "unexpected ' '"),
    ("f1k1_g9\n", 7, "unexpected"),
    ("F1k1_g9", 0, "unexpected 'F'"),
    ("f1k1_G9", 5, "unexpected 'G'"),
    ("tp_f1k1_g9", 1, "expected td, ta or tc"),
    ("f1k1_td_g9", 5, "tail needs history"),
    ("td_g9", 0, "tail needs history"),
    ("f1k1_td_f2k1_g9", 5, "first field"),
    ("f1k1_g9_td", 8, "first field"),
    ("td_f1k1_x_g9_f1k1", 0, "last field"),
    ("td_td_f1k1_g9", 3, "first field"),
    ("x_g9", 0, "both sides"),
    ("g9_x", 3, "both sides"),
    ("td_x_f1k1_g9", 3, "both sides"),
    ("f1k1_x_x_g9", 7, "second x"),
    ("f1k1_x_g9_x_f1k1", 10, "second x"),
    ("f1k1_g9+", 7, "expected D"),
    ("f1k1_g9+DD", 9, "unexpected 'D'"),
    ("f1k1+D_g9", 6, "unexpected '_'"),
    ("f100000k1_g9", 1, "at most 99999"),
    ("f" + "9" * 5000 + "k1_g9", 1, "at most 99999"),
    ("f\u0661k1_g9", 1, "expected a number"),
    ("f1\u00b2k1_g9", 2, "expected a kernel"),
    ("f1k1f4s2_g5", 6, "expected a kernel"),  # Lyra 2's spatial memory
]


@pytest.mark.parametrize(("text", "position", "reason"), MALFORMED, ids=lambda v: repr(v)[:30])
def test_malformed_points_at_the_character(text, position, reason):
    with pytest.raises(ScheduleError, match=reason) as caught:
        parse(text)
    assert caught.value.position == position
    assert caught.value.text == text


ALPHABET = "fkghwxtdac_+D0123456789"
texts = st.one_of(
    st.text(max_size=30),
    st.text(ALPHABET, max_size=20),
    st.lists(
        st.sampled_from(["td", "ta", "tc", "x", "g1", "g9", "f1k1", "f2k2h4w4f1k1", "f16k4", ""]),
        max_size=6,
    ).map("_".join),
)


@given(texts)
def test_any_text_round_trips_or_is_pointed_at(text):
    try:
        schedule = parse(text)
    except ScheduleError as caught:
        error = caught
    else:
        assert str(schedule) == text.replace("+d", "+D")
        assert schedule.tokens(64, 96).total > 0
        return
    assert 0 <= error.position < max(1, len(text))
    assert error.pointer().splitlines()[-1].endswith("^")
    assert "\n" not in str(error)


kernels = st.builds(
    lambda t, h, w: f"k{t}h{2 * h}w{2 * w}", *[st.integers(1, 40)] * 3
) | st.integers(1, 40).map(lambda t: f"k{t}")
groups = st.builds(lambda n, kernel: f"f{n}{kernel}", st.integers(1, 600), kernels)
runs = st.lists(groups, min_size=1, max_size=4).map("".join)
tails = st.sampled_from(["td", "ta", "tc"])


@given(st.one_of(st.none(), tails), runs, st.integers(1, 40), st.one_of(st.none(), runs))
def test_every_schedule_of_the_grammar_parses(tail, history, generated, anchors):
    forwards = [tail, history, f"g{generated}", *(["x", anchors] if anchors else [])]
    text = "_".join(field for field in forwards if field)
    schedule = parse(text)
    assert str(schedule) == text
    assert schedule.tail == tail
    assert "".join(map(str, schedule.history)) == history
    assert "".join(map(str, schedule.anchors)) == (anchors or "")
    backwards = [*([anchors, "x"] if anchors else []), f"g{generated}", history, tail]
    mirrored = "_".join(field for field in backwards if field)
    assert str(parse(mirrored)) == mirrored
    assert parse(mirrored).direction == "inverted"
    assert parse(mirrored).tokens(64, 96).total == schedule.tokens(64, 96).total


@pytest.mark.parametrize("thing", [None, 9, b"g9", ["g9"]])
def test_what_is_no_text_is_refused(thing):
    with pytest.raises(InputError, match="a packing schedule is a text"):
        unwrap(parse)(thing)  # past the types that tests check
