"""Noise per section and from one generator."""

import pytest
import torch

from recurvid.errors import InputError
from recurvid.sampling.noise import (
    NOISE,
    SectionNoise,
    SequentialNoise,
    section_noise,
    section_seed,
)

SHAPE = (1, 16, 9, 6, 10)


def test_section_noise_does_not_depend_on_the_order():
    there = {i: SectionNoise(31337).draw(i, SHAPE) for i in range(5)}
    source = SectionNoise(31337)
    for i in (4, 0, 2, 2, 1, 3):
        assert torch.equal(source.draw(i, SHAPE), there[i])


def test_section_noise_differs_between_sections_and_seeds():
    drawn = [section_noise(seed, i, SHAPE) for seed in (0, 1, 2, 31337, 2**32) for i in range(4)]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert (a - b).abs().mean() > 1  # independent normals differ by 2 / sqrt(pi) on average


def test_section_noise_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    section_noise(1, 2, SHAPE)
    SequentialNoise(5).draw(0, SHAPE)
    assert torch.equal(torch.rand(4), expected)


def test_section_noise_is_the_same_for_ever():
    # Written out: a video made today is made again by a later version.
    expected = torch.tensor([-0.299751, -0.592766, 0.265883, -0.178161])
    torch.testing.assert_close(
        section_noise(31337, 3, (1, 1, 1, 2, 2)).flatten(), expected, atol=1e-5, rtol=0
    )


def test_section_noise_is_standard_normal_float32_on_the_cpu():
    noise = section_noise(5, 0, (1, 16, 9, 60, 104))
    assert noise.dtype == torch.float32
    assert noise.device.type == "cpu"
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01


def test_no_two_sections_of_a_video_share_what_the_cpu_generator_sees():
    # torch's CPU generator takes the low 32 bits of a seed only.
    generators = [torch.Generator().manual_seed(s) for s in (9, 9 + 2**32)]
    assert torch.equal(*(torch.randn(8, generator=g) for g in generators))
    low = {section_seed(31337, i) % 2**32 for i in range(100_000)}
    assert len(low) == 100_000


def test_sequential_noise_is_one_generator_as_the_original_draws_it():
    generator = torch.Generator("cpu").manual_seed(31337)
    source = SequentialNoise(31337)
    for i in range(3):
        expected = torch.randn(SHAPE, generator=generator, dtype=torch.float32)
        assert torch.equal(source.draw(i, SHAPE), expected)


def test_sequential_noise_goes_on_with_a_generator_that_was_used():
    generator = torch.Generator().manual_seed(1)
    posterior = torch.randn(1, 16, 1, 6, 10, generator=generator)
    after = SequentialNoise(generator).draw(0, SHAPE)
    again = torch.Generator().manual_seed(1)
    assert torch.equal(posterior, torch.randn(1, 16, 1, 6, 10, generator=again))
    assert torch.equal(after, torch.randn(SHAPE, generator=again))


def test_sequential_noise_winds_forward_over_sections_of_different_size():
    shapes = [(1, 16, 3, 6, 10), SHAPE, (1, 16, 1, 5, 3), SHAPE]
    whole = SequentialNoise(8)
    drawn = [whole.draw(i, shape) for i, shape in enumerate(shapes)]
    resumed = SequentialNoise(8)
    resumed.skip(shapes[:3])
    assert torch.equal(resumed.draw(3, shapes[3]), drawn[3])


def test_sequential_noise_refuses_a_section_out_of_order():
    source = SequentialNoise(8)
    source.draw(0, SHAPE)
    for wrong in (0, 2):
        with pytest.raises(ValueError, match="skip"):
            source.draw(wrong, SHAPE)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_sequential_noise_refuses_an_impossible_seed(seed):
    with pytest.raises(InputError, match="seed"):
        SequentialNoise(seed)


@pytest.mark.parametrize("name", sorted(NOISE))
def test_every_source_can_be_resumed(name):
    whole, resumed = NOISE[name](12), NOISE[name](12)
    drawn = [whole.draw(i, SHAPE) for i in range(4)]
    resumed.skip([SHAPE] * 2)
    assert torch.equal(resumed.draw(2, SHAPE), drawn[2])
    assert torch.equal(resumed.draw(3, SHAPE), drawn[3])
