"""The tile grid's arithmetic, its memory, and what a resumed stream decodes again."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.vae.tiny_vae import inverted_sections, tiny_hunyuan
from torch import Tensor

from recurvid.latents import LatentFrames
from recurvid.vae.codec import PixelFrames, merged, missing
from recurvid.vae.hunyuan import HunyuanCodec
from recurvid.vae.tiling import TileGrid, TileStream, fade_in


class CountingDecoder:
    """Stands for a network: repeats each latent, and remembers what it was asked to decode."""

    def __init__(self):
        self.starts: list[int] = []

    def __call__(self, latents: Tensor) -> Tensor:
        self.starts.append(int(latents[0, 0, 0, 0, 0]))
        frames = latents.repeat_interleave(4, dim=2)[:, :, 3:]
        return frames.expand(-1, 3, -1, -1, -1)


def numbered(positions: range) -> LatentFrames:
    """Latents whose value is their position."""
    data = torch.arange(positions.start, positions.stop, dtype=torch.float32)
    return LatentFrames.of(data.view(1, 1, -1, 1, 1), positions)


def collect(stream: TileStream, order: list[range]) -> list[PixelFrames]:
    return [run for positions in order for run in stream.push(numbered(positions))]


def test_grid_of_two_sections_written_out():
    grid = TileGrid(19)
    assert [grid.latents(tile) for tile in grid.tiles] == [
        range(5),
        range(3, 8),
        range(6, 11),
        range(9, 14),
        range(12, 17),
        range(15, 19),
    ]
    assert [grid.frames(tile) for tile in grid.tiles] == [
        range(13),
        range(13, 25),
        range(25, 37),
        range(37, 49),
        range(49, 61),
        range(61, 73),
    ]
    assert grid.head(0) == range(0)
    assert (grid.head(5), grid.body(5)) == (range(61, 65), range(65, 73))


@pytest.mark.parametrize(
    ("order", "starts"),
    [
        ([range(10, 19), range(1, 10), range(1)], [12, 15, 3, 6, 9, 0]),
        ([range(1), range(1, 10), range(10, 19)], [0, 3, 6, 9, 12, 15]),
    ],
    ids=["inverted", "forward"],
)
def test_each_tile_is_decoded_once(order: list[range], starts: list[int]):
    decoder = CountingDecoder()
    found = collect(TileStream(decoder, TileGrid(19)), order)
    assert decoder.starts == starts
    assert sorted(i for run in found for i in run.frames) == list(range(73))


def test_frames_of_one_push_touch_and_wait_for_their_neighbour():
    stream = TileStream(CountingDecoder(), TileGrid(19))
    first = list(stream.push(numbered(range(10, 19))))
    assert (first[0].start, first[-1].frames.stop) == (53, 73)  # 49..52 wait for tile 9
    second = list(stream.push(numbered(range(10))))
    assert (second[0].start, second[-1].frames.stop) == (0, 53)
    for before, after in itertools.pairwise(second):
        assert before.frames.stop == after.start


@pytest.mark.parametrize("forward", [False, True])
def test_what_is_held_does_not_grow(forward: bool):
    sections = inverted_sections(60)
    order = [range(1), *(reversed(sections) if forward else sections)]
    stream = TileStream(CountingDecoder(), TileGrid(541))
    held = []
    for positions in order:
        for _ in stream.push(numbered(positions)):
            pass
        held.append((len(stream._latents), len(stream._heads), len(stream._tails)))
    assert max(latents for latents, _, _ in held) <= 6
    assert max(heads for _, heads, _ in held) <= 1
    assert max(tails for _, _, tails in held) <= 1
    assert held[-1] == (0, 0, 0)


def test_latents_are_copied_not_kept_alive():
    stream = TileStream(CountingDecoder(), TileGrid(19))
    section = numbered(range(10, 19))
    list(stream.push(section))
    section.data.fill_(float("nan"))
    rest = list(stream.push(numbered(range(10))))
    assert all(torch.isfinite(run.data).all() for run in rest)


@pytest.mark.parametrize("order", ["inverted", "forward"])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_resume_gives_the_same_bits_and_repeats_only_the_border(order: str, done: int):
    codec = HunyuanCodec(tiny_hunyuan(seed=4))
    latents = torch.randn(1, 4, 28, 2, 2)
    sections = inverted_sections(3)
    sections = [range(1), *(sections if order == "inverted" else reversed(sections))]

    def run(stream: TileStream, cut: int | None = None) -> dict[int, Tensor]:
        frames: dict[int, Tensor] = {}
        for positions in sections[:cut]:
            part = LatentFrames.of(latents[:, :, positions.start : positions.stop], positions)
            for piece in stream.push(part):
                frames |= dict(zip(piece.frames, piece.data, strict=True))
        return frames

    uninterrupted = run(codec.stream(28))
    before = run(codec.stream(28), cut=done)
    finished = [range(min(before), max(before) + 1)] if before else []
    decoded: list[int] = []
    original = codec.decode_tile
    codec.decode_tile = lambda z: decoded.append(z.shape[2]) or original(z)  # type: ignore
    after = run(codec.stream(28, finished))
    assert not set(before) & set(after)
    for number, frame in uninterrupted.items():
        assert torch.equal(frame, (before | after)[number])
    whole_tiles = len(codec.grid(28).tiles)
    ready = sum(
        all(any(i in s for s in sections[:done]) for i in codec.grid(28).latents(tile))
        for tile in codec.grid(28).tiles
    )
    assert len(decoded) <= whole_tiles - ready + 1


def test_everything_finished_decodes_nothing():
    decoder = CountingDecoder()
    stream = TileStream(decoder, TileGrid(19), [range(40), range(40, 73)])
    assert collect(stream, [range(19)]) == []
    assert decoder.starts == []
    assert len(stream._latents) == 0


def test_a_position_outside_or_twice_is_refused():
    stream = TileStream(CountingDecoder(), TileGrid(10))
    stream.push(numbered(range(1, 10)))
    with pytest.raises(ValueError, match="latent 9 was pushed before"):
        stream.push(numbered(range(9, 10)))
    with pytest.raises(ValueError, match="latent 10 is outside"):
        stream.push(numbered(range(10, 11)))


def test_push_takes_the_latents_before_it_is_iterated():
    stream = TileStream(CountingDecoder(), TileGrid(5))
    stream.push(numbered(range(1, 5)))
    assert [run.start for run in stream.push(numbered(range(1)))] == [0, 13]


def test_fade_in_weights_written_out():
    faded = fade_in(torch.zeros(1, 1, 4, 1, 1), torch.ones(1, 1, 4, 1, 1))
    assert faded.flatten().tolist() == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("finished", "left"),
    [
        ([], [range(5, 10)]),
        ([range(20)], []),
        ([range(7)], [range(7, 10)]),
        ([range(6, 7), range(9, 30)], [range(5, 6), range(7, 9)]),
        ([range(20, 30), range(7, 7)], [range(5, 10)]),
    ],
)
def test_missing(finished: list[range], left: list[range]):
    assert missing(range(5, 10), finished) == left


def test_merged():
    parts = [range(7, 9), range(3), range(3, 5), range(4, 4), range(8, 12), range(20, 21)]
    assert merged(parts) == (range(5), range(7, 12), range(20, 21))
    assert merged([]) == ()


@pytest.mark.parametrize(("length", "stride", "blend"), [(5, 3, 4), (7, 4, 8), (4, 2, 4)])
def test_every_grid_covers_its_timeline_once(length: int, stride: int, blend: int):
    for latent_frames in range(1, 70):
        grid = TileGrid(latent_frames, length, stride, blend)
        parts = [part for tile in grid.tiles for part in (grid.head(tile), grid.body(tile))]
        assert [i for part in parts for i in part] == list(range(4 * latent_frames - 3))
        for latent in range(latent_frames):
            expected = [tile for tile in grid.tiles if latent in grid.latents(tile)]
            assert list(grid.over(latent)) == expected


def test_uint8_rounds_and_clamps():
    data = torch.tensor([-2.0, -1.0, 0.0, 1.0, 1.5]).view(5, 1, 1, 1).expand(5, 3, 1, 1)
    pixels = PixelFrames(7, data).uint8()
    assert pixels.shape == (5, 1, 1, 3)
    assert pixels.dtype is torch.uint8
    assert pixels[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
