import pytest
from hypothesis import given
from hypothesis import strategies as st
from released_layouts import FORWARD, INVERTED, INVERTED_BY_SECTIONS

from recurvid.errors import InputError
from recurvid.packing import Layout, PackingSchedule, layout
from recurvid.planning import plan

parse = PackingSchedule.parse
RELEASED = parse("f1k1_x_g9_f1k1f2k2f16k4_td")
F1 = parse("f1k1_f16k4f2k2f1k1_g9")
ENDPOINT = parse("td_f16k4f2k2f1k1_g9_x_f1k1")


def as_scripts(made: Layout):
    """The indices in the words of the released scripts: clean, target, 2x, 4x."""
    by_kernel = {"k1": [], "k2": [], "k4": []}
    for slots in made.groups:
        by_kernel[str(slots.group.kernel)] += slots.index
    return by_kernel["k1"], list(made.target), by_kernel["k2"], by_kernel["k4"]


@pytest.mark.parametrize("sections", range(1, 61))
def test_inverted_as_the_released_script(sections):
    letters = INVERTED_BY_SECTIONS[sections - 1]
    assert len(letters) == sections
    made = plan("inverted", RELEASED, sections).sections
    assert len(made) == sections
    for section, letter in zip(made, letters, strict=True):
        assert as_scripts(layout(RELEASED, section.gap)) == INVERTED[letter]


@pytest.mark.parametrize("sections", range(1, 61))
def test_f1_as_the_released_script(sections):
    made = plan("forward", F1, sections).sections
    assert len(made) == sections
    for section in made:
        assert as_scripts(layout(F1, section.gap)) == FORWARD


def test_exact_gaps_are_the_true_distances():
    made = plan("inverted", RELEASED, 60, exact_gaps=True).sections
    assert as_scripts(layout(RELEASED, made[0].gap))[:2] == (
        [0, 541],
        [532, 533, 534, 535, 536, 537, 538, 539, 540],
    )
    assert [section.gap for section in made[-7:]] == [54, 45, 36, 27, 18, 9, 0]


def test_vanilla_has_no_anchor():
    made = layout(parse("td_f16k4f2k2f1k1_g9"))
    assert made.anchors == ()
    assert made.history == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
    assert made.target == (19, 20, 21, 22, 23, 24, 25, 26, 27)


def test_endpoint_anchor_lies_behind_the_gap():
    made = layout(ENDPOINT, 12)
    assert made.target == (19, 20, 21, 22, 23, 24, 25, 26, 27)
    assert made.anchors == (40,)
    assert layout(ENDPOINT, 0).anchors == (28,)


def test_a_lead_lies_before_the_gap_and_the_rest_behind_it():
    made = layout(ENDPOINT, 12, lead=1)
    assert made.history == tuple(range(19))
    assert made.target == (19, 32, 33, 34, 35, 36, 37, 38, 39)
    assert made.anchors == (40,)


def test_slots_by_group():
    made = layout(RELEASED, 9)
    assert [(slots.role, str(slots.group), slots.index[0]) for slots in made.groups] == [
        ("anchor", "f1k1", 0),
        ("history", "f1k1", 19),
        ("history", "f2k2", 20),
        ("history", "f16k4", 22),
    ]


@pytest.mark.parametrize(
    ("schedule", "gap", "lead"),
    [(F1, 9, 0), (RELEASED, -1, 0), (RELEASED, 9, 1), (F1, 0, 1), (ENDPOINT, 0, 9)],
)
def test_impossible_layouts_are_refused(schedule, gap, lead):
    with pytest.raises(InputError, match=r"no room for a gap|a lead needs"):
        layout(schedule, gap, lead=lead)


@given(st.integers(0, 2000), st.integers(0, 8))
def test_indices_count_through_and_skip_the_gap_only(gap, lead):
    made = layout(ENDPOINT, gap, lead=lead)
    indices = [*made.history, *made.target, *made.anchors]
    assert indices == sorted(set(indices))
    assert indices[-1] == len(indices) - 1 + gap
