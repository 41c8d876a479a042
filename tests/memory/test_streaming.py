from __future__ import annotations

import copy
import gc
import threading

import pytest
import torch
from tests.memory.streams import LateCopies, Model, stream_of

from recurvid.errors import ComponentError
from recurvid.memory import sources
from recurvid.memory.streaming import StreamedBlocks

KINDS = pytest.mark.parametrize("kind", ["mapped", "pinned"])


def streamed(kind: str = "mapped", **options):
    """The same model twice: resident, and streamed. Names and values are those of the first."""
    torch.manual_seed(0)
    model = Model().eval().requires_grad_(False)
    twin = copy.deepcopy(model)
    stream = stream_of(twin, kind, **options)
    twin.first = StreamedBlocks(stream, 0, 3)
    twin.second = StreamedBlocks(stream, 3, 4)
    return model, twin, stream


@KINDS
@pytest.mark.parametrize("resident", [(), (0,), (1, 4, 6), tuple(range(7))])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_same_bits_as_resident(kind: str, resident: tuple[int, ...], slots: int):
    model, twin, _ = streamed(kind, resident=resident, slots=slots, copies=LateCopies())
    for seed in range(3):
        x = torch.randn(2, 6, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            assert twin(x).equal(model(x))


@KINDS
def test_never_more_than_slots_live(kind: str):
    _, twin, stream = streamed(kind, resident=(2,), slots=2)
    most = 0
    for _ in range(2):
        for blocks in (twin.first, twin.second):
            for block in blocks:
                most = max(most, len(stream.live))
                assert stream.device_bytes == stream_bytes(stream, 2)
                block(torch.ones(6))
    assert most == 2


def stream_bytes(stream, slots: int) -> int:
    """Written out: LayerNorm of 20, 6x20 and 20x6 linears, 6 numbers; each in steps of 256."""
    big = 512 + 256 + 256 + 256 + 512 + 256 + 256
    assert big == 2304
    return (slots + len(stream.resident)) * big


@KINDS
def test_room_is_taken_once_and_before_anything_is_computed(
    kind: str, monkeypatch: pytest.MonkeyPatch
):
    """Blocks that came one by one would lie among activations and leave gaps between them."""
    model, twin, stream = streamed(kind, resident=(0, 1, 4, 6), slots=2)
    taken: list[int] = []
    empty = stream._empty
    monkeypatch.setattr(stream, "_empty", lambda size: taken.append(size) or empty(size))
    blocks = iter(twin.first)
    next(blocks)
    small = 7 * 256  # with 9 hidden numbers
    assert taken == [2 * 2304 + 2 * small + 2 * 2304] == [stream.device_bytes]
    blocks.close()  # pyright: ignore  (a generator: gives all of it back)
    for _ in range(2):
        assert torch.equal(twin(torch.ones(6)), model(torch.ones(6)))
    assert len(taken) == 2
    pieces = {
        next(block.parameters()).untyped_storage().data_ptr() for block in list(twin.first)[:2]
    }
    assert len(pieces) == 1


def test_next_block_is_copied_before_this_one_is_handed_out():
    _, twin, stream = streamed("pinned")
    twin(torch.ones(6))  # everything is pinned now
    held = iter(twin.first)
    next(held)
    assert stream.live == {0, 1}
    next(held)
    assert stream.live == {1, 2}
    next(held)
    assert stream.live == {2, 3}  # the first of the second list


def test_after_the_last_block_the_first_is_on_its_way():
    _, twin, stream = streamed("pinned")
    twin(torch.ones(6))
    assert stream.live == {0, 1}


@KINDS
def test_nothing_is_left_after_an_exception(kind: str):
    model, twin, stream = streamed(kind, resident=(1,))

    def broken() -> None:
        for number, block in enumerate(twin.first):
            block(torch.ones(6))
            if number == 1:
                raise KeyError("no")

    with pytest.raises(KeyError):
        broken()
    gc.collect()
    assert (stream.live, stream.device_bytes) == (frozenset(), 0)
    with torch.no_grad():
        assert twin(torch.ones(6)).equal(model(torch.ones(6)))


def test_nothing_is_left_while_an_exception_is_held_if_released():
    _, twin, stream = streamed(resident=(1,))
    held = iter(twin.first)
    next(held)
    next(held)
    assert stream.device_bytes > 0
    stream.release()
    assert stream.device_bytes == 0


def test_an_error_while_loading_leaves_nothing():
    _, twin, stream = streamed()
    source = stream.source
    staged = source.staged

    def fails(block: int):
        if block == 2:
            raise OSError("the disk is gone")
        return staged(block)

    source.staged = fails  # type: ignore[method-assign]
    with pytest.raises(OSError, match="gone"):
        twin(torch.ones(6))
    assert stream.device_bytes == 0
    source.staged = staged  # type: ignore[method-assign]
    twin(torch.ones(6))


def test_weights_rest_on_the_host_under_their_names():
    model, twin, _ = streamed()
    twin(torch.ones(6))
    state = twin.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert [n for n, _ in twin.named_parameters()] == [n for n, _ in model.named_parameters()]


def test_shrinking_gives_up_resident_blocks_then_a_slot_then_says_why():
    model, twin, stream = streamed(resident=(0, 2, 4, 6))
    with torch.no_grad():
        expected = model(torch.ones(6))
        sizes: list[tuple[int, int]] = []
        for _ in range(3):
            assert twin(torch.ones(6)).equal(expected)
            sizes.append((len(stream.resident), stream.slots))
            stream.shrink()
        assert twin(torch.ones(6)).equal(expected)
    assert sizes == [(4, 2), (2, 2), (0, 2)]
    assert stream.slots == 1
    with pytest.raises(ComponentError, match="out of device memory"):
        stream.shrink()


def test_slices_stream_as_transformers_takes_them():
    model, twin, stream = streamed()
    x = torch.ones(6)
    part = twin.first[:2]
    assert len(part) == 2
    y, z = x, x
    with torch.no_grad():
        for block in part:
            assert stream.live
            y = block(y)
        for block in model.first[:2]:
            z = block(z)
    assert y.equal(z)


def test_moving_the_model_leaves_its_blocks_alone():
    _, twin, _ = streamed()
    twin.to(torch.float64)
    assert twin.head.weight.dtype == torch.float64
    assert {p.dtype for p in twin.first.parameters()} == {torch.float32}


def test_a_block_compiles_whole():
    model, twin, _ = streamed()
    torch._dynamo.reset()
    compiled = 0

    def counting(graph, inputs):
        nonlocal compiled
        from torch._dynamo.backends.registry import lookup_backend

        compiled += 1
        return lookup_backend("aot_eager")(graph, inputs)

    run = torch.compile(lambda block, x: block(x), backend=counting, fullgraph=True)
    with torch.no_grad():
        for _ in range(2):
            x = y = torch.ones(6)
            for ours, theirs in zip(twin.first, model.first, strict=True):
                x, y = run(ours, x), theirs(y)
            assert x.equal(y)
    assert compiled == 1  # one graph for all blocks of a shape, and for both steps


def test_reading_threads_end_with_their_source():
    others = set(threading.enumerate())  # of models that other tests have not let go of yet

    def reading() -> list[str]:
        mine = set(threading.enumerate()) - others
        return [t.name for t in mine if t.name.startswith("recurvid-blocks")]

    _, twin, stream = streamed()
    twin(torch.ones(6))
    assert reading()
    stream.release()
    stream.source.close()
    assert not reading()
    twin(torch.ones(6))  # and come again


def test_a_patient_stream_keeps_what_it_has_when_stopped_early():
    model, twin, stream = streamed("pinned", resident=(1,), patient=True)
    with torch.no_grad():
        expected = model(torch.ones(6))
        twin(torch.ones(6))
        before = stream.device_bytes
        for block in twin.first:
            block(torch.ones(6))
            break
        gc.collect()
        assert stream.device_bytes == before > 0
        assert all(p.is_cpu for p in twin.first[0].parameters())
        assert twin(torch.ones(6)).equal(expected)
    assert stream.device_bytes == before


@pytest.mark.parametrize("slots", [1, 2])
def test_a_block_is_read_once_a_pass(monkeypatch: pytest.MonkeyPatch, slots: int):
    read: list[int] = []
    fill = sources.fill

    def counting(flat, layout, tensors, pool):
        read.append(id(tensors["shift"]))
        return fill(flat, layout, tensors, pool)

    monkeypatch.setattr(sources, "fill", counting)
    _, twin, _ = streamed("mapped", resident=(2,), slots=slots)
    for _ in range(5):
        twin(torch.ones(6))
    # Six blocks are streamed, one comes to stay; at the end some wait for the next pass.
    assert 5 * 6 + 1 <= len(read) <= 5 * 6 + 1 + 3
    assert max(read.count(block) for block in set(read)) <= 6
