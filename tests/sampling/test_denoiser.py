"""Guidance over denoisers, compared with diffusers' own rescale."""

import pytest
import torch

from recurvid.sampling.denoiser import guided, velocity_to_denoised


def from_velocity(velocity):
    return lambda x, sigma: velocity_to_denoised(x, velocity, sigma)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(7)
    x, cond, uncond = torch.randn(3, 2, 4, 3, 5, 6, generator=generator, dtype=torch.float64)
    return x, 1.7 * cond + 0.3, 0.6 * uncond


@pytest.mark.parity
@pytest.mark.parametrize("sigma", [1.0, 0.4, 1e-3])
@pytest.mark.parametrize("rescale", [0.0, 0.35, 0.7, 1.0])
def test_guidance_and_rescale_equal_diffusers(pair, sigma, rescale):
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    x, cond, uncond = pair
    mixed = uncond + 4.5 * (cond - uncond)
    expected = x - sigma * rescale_noise_cfg(mixed, cond, guidance_rescale=rescale)

    denoise = guided(from_velocity(cond), from_velocity(uncond), 4.5, rescale)
    actual = denoise(x, torch.tensor(sigma, dtype=torch.float64))
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


def test_scale_one_never_asks_the_negative_prompt(pair):
    x, cond, _ = pair

    def forbidden(x, sigma):
        raise AssertionError("the negative branch ran")

    sigma = torch.tensor(0.5)
    actual = guided(from_velocity(cond), forbidden, 1.0, 0.7)(x, sigma)
    torch.testing.assert_close(actual, x - 0.5 * cond)


def test_scale_zero_is_the_negative_prompt(pair):
    x, cond, uncond = pair
    actual = guided(from_velocity(cond), from_velocity(uncond), 0.0)(x, torch.tensor(0.5))
    torch.testing.assert_close(actual, x - 0.5 * uncond)


def test_rescale_of_a_constant_velocity_stays_finite():
    x = torch.zeros(1, 2, 1, 2, 2)
    flat = from_velocity(torch.ones_like(x))
    assert torch.isfinite(guided(flat, flat, 3.0, 1.0)(x, torch.tensor(0.5))).all()


def test_half_precision_velocity_is_widened():
    x = torch.randn(1, 4, 2, 3, 3)
    velocity = torch.randn(1, 4, 2, 3, 3).bfloat16()
    denoised = velocity_to_denoised(x, velocity, torch.tensor(0.3))
    assert denoised.dtype == torch.float32
    torch.testing.assert_close(denoised, x - 0.3 * velocity.float())


def test_one_sigma_a_sample():
    x, velocity = torch.randn(2, 3, 4, 2, 5, 5)
    sigma = torch.tensor([0.1, 0.5, 0.9])
    denoised = velocity_to_denoised(x, velocity, sigma)
    for i, level in enumerate((0.1, 0.5, 0.9)):
        torch.testing.assert_close(denoised[i], x[i] - level * velocity[i])
