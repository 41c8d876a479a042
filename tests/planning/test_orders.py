from inspect import unwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recurvid.errors import InputError
from recurvid.packing import PackingSchedule, layout
from recurvid.planning import MAX_SECTIONS, ORDERS, implied_order, plan
from recurvid.sections import ABSENT, SectionPlan

parse = PackingSchedule.parse
INVERTED = "f1k1_x_g9_f1k1f2k2f16k4_td"
F1 = "f1k1_f16k4f2k2f1k1_g9"
VANILLA = "td_f16k4f2k2f1k1_g9"
ENDPOINT = "td_f16k4f2k2f1k1_g9_x_f1k1"
SCHEDULES = {
    "inverted": [INVERTED, "f1k1_x_g4_f1k1f2k2f16k4_td", "f1k1_x_g1_f1k1f2k2_td", "g3_f2k1"],
    "forward": [F1, VANILLA, "td_f16k4f2k2f1k1_g1", "f1k1_x_f2k1_g4", "g2", "f3k1_f1k1_g2"],
    "endpoint": [ENDPOINT, "td_f16k4f2k2f1k1_g1_x_f1k1", "f1k1_f1k1_g4_x_f2k1", "g2_x_f1k1"],
    "planned": [ENDPOINT, "td_f16k4f2k2f1k1_g4_x_f1k1", "td_f2k1_g1_x_f1k1", "g2_x_f1k1"],
}
PAIRS = [(order, text) for order, texts in SCHEDULES.items() for text in texts]


def targets(made: SectionPlan) -> list[tuple[int, ...]]:
    return [section.frames for section in made.sections]


def test_every_order_is_tried_here():
    assert set(SCHEDULES) == set(ORDERS)


# What each order makes, written out


def test_inverted_runs_from_the_end_to_the_start_picture():
    made = plan("inverted", parse(INVERTED), 3)
    assert made.latent_frames == 28
    assert made.given == (0,)
    assert made.schedule == INVERTED
    assert [section.target for section in made.sections] == [
        range(19, 28),
        range(10, 19),
        range(1, 10),
    ]
    assert [section.gap for section in made.sections] == [18, 9, 0]
    assert [section.anchors for section in made.sections] == [(0,)] * 3
    assert made.sections[0].history == (ABSENT,) * 19
    assert made.sections[1].history == (*range(19, 28), *[ABSENT] * 10)
    assert made.sections[2].history == (*range(10, 28), ABSENT)
    assert [section.index for section in made.sections] == [0, 1, 2]


@pytest.mark.parametrize(
    ("sections", "gaps", "exact"),
    [
        (1, [0], [0]),
        (2, [1, 0], [1, 0]),
        (3, [2, 1, 0], [2, 1, 0]),
        (4, [3, 2, 1, 0], [3, 2, 1, 0]),
        (5, [3, 2, 2, 1, 0], [4, 3, 2, 1, 0]),
        (6, [3, 2, 2, 2, 1, 0], [5, 4, 3, 2, 1, 0]),
        (9, [3, 2, 2, 2, 2, 2, 2, 1, 0], [8, 7, 6, 5, 4, 3, 2, 1, 0]),
    ],
)
def test_inverted_gaps_with_the_clamp_and_without(sections, gaps, exact):
    clamped = plan("inverted", parse(INVERTED), sections)
    assert [section.gap for section in clamped.sections] == [9 * gap for gap in gaps]
    true = plan("inverted", parse(INVERTED), sections, exact_gaps=True)
    assert [section.gap for section in true.sections] == [9 * gap for gap in exact]
    assert [section.target for section in true.sections] == [
        section.target for section in clamped.sections
    ]


def test_inverted_end_picture_is_for_the_first_section():
    made = plan("inverted", parse(INVERTED), 2, end_picture=True)
    assert made.given == (0, 19)
    assert made.sections[0].history == (19, *[ABSENT] * 18)
    assert made.sections[1].history == (*range(10, 19), *[ABSENT] * 10)


def test_inverted_anchors_at_the_end_are_the_last_frames_or_the_end_picture():
    schedule = parse("f1k1_x_g3_f2k1_f1k1_td")
    made = plan("inverted", schedule, 2)
    assert [section.anchors for section in made.sections] == [(0, ABSENT), (0, 6)]
    made = plan("inverted", schedule, 2, end_picture=True)
    assert [section.anchors for section in made.sections] == [(0, 7), (0, 7)]
    assert [section.history for section in made.sections] == [(7, ABSENT), (4, 5)]


def test_forward_ends_its_history_where_the_target_begins():
    made = plan("forward", parse(F1), 2)
    assert [section.target for section in made.sections] == [range(1, 10), range(10, 19)]
    assert made.sections[0].history == tuple(range(-18, 1))
    assert made.sections[1].history == tuple(range(-9, 10))
    assert [section.anchors for section in made.sections] == [(0,), (0,)]
    assert [section.gap for section in made.sections] == [0, 0]


def test_vanilla_has_no_anchor():
    made = plan("forward", parse(VANILLA), 2)
    assert [section.anchors for section in made.sections] == [(), ()]
    assert made.sections[1].history == tuple(range(-9, 10))


def test_forward_with_a_gap_keeps_the_true_distance():
    made = plan("forward", parse("f1k1_x_f2k1_g3"), 3)
    assert [section.gap for section in made.sections] == [0, 1, 4]
    assert made.sections[2].history == (5, 6)


def test_endpoint_as_figure_2_draws_it():
    # 15 frames in 5 runs of 3, the first of them the start picture: 1 14 15 | 2 3 4 | 5 6 7 | …
    made = plan("endpoint", parse("td_f16k4f2k2f1k1_g3_x_f1k1"), 5)
    assert targets(made) == [(1, 14, 15), (2, 3, 4), (5, 6, 7), (8, 9, 10), (11, 12, 13)]
    assert [section.lead for section in made.sections] == [(1,), (), (), (), ()]
    assert [section.gap for section in made.sections] == [12, 9, 6, 3, 0]
    assert [section.anchors for section in made.sections] == [
        (ABSENT,),
        (14,),
        (14,),
        (14,),
        (14,),
    ]
    assert made.sections[0].history == tuple(range(-18, 1))
    assert made.sections[4].history == tuple(range(-8, 11))
    ended = plan("endpoint", parse("td_f1k1_g3_x_f1k1"), 5, end_picture=True)
    assert ended.given == (0, 16)
    assert ended.sections[0].anchors == (16,)


def test_endpoint_of_single_frames():
    made = plan("endpoint", parse("td_f2k1_g1_x_f1k1"), 3)
    assert targets(made) == [(3,), (1,), (2,)]
    assert [section.history for section in made.sections] == [(-1, 0), (-1, 0), (0, 1)]
    assert [section.anchors for section in made.sections] == [(ABSENT,), (3,), (3,)]
    assert [section.gap for section in made.sections] == [0, 1, 0]


def test_planned_makes_endpoints_and_then_the_gaps():
    made = plan("planned", parse("td_f3k1_g3_x_f1k1"), 6, endpoints=2)
    assert targets(made) == [
        (1, 8, 9),
        (10, 17, 18),
        (2, 3, 4),
        (5, 6, 7),
        (11, 12, 13),
        (14, 15, 16),
    ]
    assert [section.gap for section in made.sections] == [6, 6, 3, 0, 3, 0]
    # The second endpoint follows the first, whose own past is not there yet.
    assert made.sections[1].history == (ABSENT, 8, 9)
    assert [section.anchors for section in made.sections] == [
        (ABSENT,),
        (ABSENT,),
        (8,),
        (8,),
        (17,),
        (17,),
    ]
    assert made.sections[4].history == (8, 9, 10)


def test_planned_with_one_endpoint_is_endpoint():
    one = plan("planned", parse(ENDPOINT), 7, endpoints=1)
    assert one.sections == plan("endpoint", parse(ENDPOINT), 7).sections


@pytest.mark.parametrize(("sections", "endpoints"), [(1, 1), (4, 1), (5, 2), (8, 2), (20, 5)])
def test_planned_sets_an_endpoint_every_four_sections(sections, endpoints):
    made = plan("planned", parse(ENDPOINT), sections)
    assert len([section for section in made.sections if section.lead]) == endpoints
    assert max(section.gap for section in made.sections) <= 27


def test_prompts_follow_the_timeline_and_not_the_order():
    made = plan("inverted", parse(INVERTED), 4, prompt_starts=(0, 14, 24))
    assert [(section.target.start, section.prompt) for section in made.sections] == [
        (28, 2),
        (19, 1),
        (10, 1),
        (1, 0),
    ]
    planned = plan("planned", parse(ENDPOINT), 4, prompt_starts=(0, 20))
    assert [section.prompt for section in planned.sections] == [0, 1, 0, 1]


def test_implied_orders():
    assert implied_order(parse(INVERTED)) == "inverted"
    assert implied_order(parse(F1)) == implied_order(parse(VANILLA)) == "forward"
    assert implied_order(parse(ENDPOINT)) == "endpoint"


# Refusals


@pytest.mark.parametrize(
    ("order", "schedule"),
    [
        ("inverted", F1),
        ("inverted", ENDPOINT),
        ("forward", INVERTED),
        ("forward", ENDPOINT),
        ("endpoint", VANILLA),
        ("endpoint", INVERTED),
        ("planned", F1),
    ],
)
def test_a_schedule_of_another_kind_is_refused(order, schedule):
    with pytest.raises(InputError, match=f"order {order} needs .* not {schedule}"):
        plan(order, parse(schedule), 2)


@pytest.mark.parametrize("sections", [0, -1, MAX_SECTIONS + 1])
def test_impossible_numbers_of_sections(sections):
    with pytest.raises(InputError, match="a video has 1 to"):
        plan("inverted", parse(INVERTED), sections)


@pytest.mark.parametrize("sections", [1.5, "2", None, True])
def test_what_is_no_number_of_sections(sections):
    with pytest.raises(InputError, match="a video has 1 to"):
        unwrap(plan)("inverted", parse(INVERTED), sections)  # past the types that tests check


def test_other_refusals():
    with pytest.raises(InputError, match="unknown order 'sideways'; there are endpoint, forward"):
        plan("sideways", parse(F1), 1)
    with pytest.raises(InputError, match="end picture needs"):
        plan("forward", parse(F1), 1, end_picture=True)
    for starts in ((), (1,), (0, 0), (0, 9, 5)):
        with pytest.raises(InputError, match="ascending"):
            plan("forward", parse(F1), 3, prompt_starts=starts)
    for endpoints in (0, 4):
        with pytest.raises(InputError, match="one a section"):
            plan("planned", parse(ENDPOINT), 3, endpoints=endpoints)


# Properties


lengths = st.integers(1, 60) | st.sampled_from([500, 1999, 2000])


def check_history(order, schedule, section, known, *, hidden):
    """Every slot beside the run whose frame exists is filled with that frame."""
    if order == "inverted":
        beside = range(section.target.stop, section.target.stop + schedule.history_frames)
    else:
        beside = range(section.frames[0] - schedule.history_frames, section.frames[0])
    for slot, position in zip(section.history, beside, strict=True):
        exists = position < 0 or (position in known and position != hidden)
        assert slot == (position if exists else ABSENT)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PAIRS), lengths, st.booleans(), st.data())
def test_frames_are_made_once_and_context_is_there_when_needed(pair, sections, exact, data):
    order, text = pair
    schedule = parse(text)
    end = data.draw(st.booleans()) and order != "forward"
    endpoints = data.draw(st.integers(1, sections)) if order == "planned" else None
    made = plan(order, schedule, sections, exact_gaps=exact, end_picture=end, endpoints=endpoints)
    length = made.latent_frames
    assert length == sections * schedule.generated + 1
    assert len(made.sections) == sections
    known = set(made.given)
    assert known == ({0, length} if end else {0})
    for number, section in enumerate(made.sections):
        assert section.index == number
        assert len(section.history) == schedule.history_frames
        assert len(section.anchors) == schedule.anchor_frames
        assert len(section.frames) == schedule.generated
        assert not known.intersection(section.frames), "made twice"
        for position in (*section.history, *section.anchors):
            # Zero history: before the start, or emptied because it does not exist (yet).
            assert position in known or position < 0
        if order in ("inverted", "forward") or schedule.generated > 1:  # g1: a test of its own
            check_history(order, schedule, section, known, hidden=length if number else None)
        known.update(section.frames)
    assert known == {*range(length), *made.given}


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(PAIRS), lengths)
def test_tokens_and_layout_size_do_not_grow_with_the_length(pair, sections):
    order, text = pair
    schedule = parse(text)
    slots = set()
    for section in plan(order, schedule, sections).sections:
        made = layout(schedule, section.gap, lead=len(section.lead))
        slots.add((len(made.history), len(made.anchors), len(made.target)))
    assert slots == {(schedule.history_frames, schedule.anchor_frames, schedule.generated)}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([p for p in PAIRS if p[0] in ("endpoint", "planned")]), st.integers(1, 60))
def test_endpoint_orders_keep_every_distance_true(pair, sections):
    """Between frames that exist, RoPE distances equal timeline distances."""
    order, text = pair
    schedule = parse(text)
    if schedule.generated == 1 or schedule.anchors_before:
        return  # no room for a lead; or a start anchor, which stays at index 0
    made = plan(order, schedule, sections)
    for section in made.sections:
        laid = layout(schedule, section.gap, lead=len(section.lead))
        positions = (*section.history, *section.frames, *section.anchors)
        indices = (*laid.history, *laid.target, *laid.anchors)
        shifts = {i - p for i, p in zip(indices, positions, strict=True) if p != ABSENT}
        assert len(shifts) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300))
def test_exact_inverted_gaps_keep_every_distance_true(sections):
    schedule = parse(INVERTED)
    for section in plan("inverted", schedule, sections, exact_gaps=True).sections:
        laid = layout(schedule, section.gap)
        assert laid.anchors == section.anchors
        assert laid.target == section.frames
        for index, position in zip(laid.history, section.history, strict=True):
            assert position in (index, ABSENT)
