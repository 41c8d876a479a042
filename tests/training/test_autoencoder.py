import numpy as np
import pytest
import torch

from recurvid.training import autoencoder as ae
from recurvid.training.linear_start import fit, install
from recurvid.training.pictures import collage, stack
from recurvid.vae.taehv import TAEHV, TAEHVConfig

SMALL = TAEHVConfig(
    latent_channels=12, encoder_width=24, decoder_widths=(24, 24, 24, 24), patch_size=8,
    encoder_space_strides=(1, 1, 1), decoder_space_scales=(1, 1, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    rng = np.random.default_rng(0)
    soft = [np.kron(rng.integers(0, 255, (9, 18, 3)), np.ones((40, 40, 1))) for _ in range(2)]
    return stack([collage([p.astype(np.uint8) for p in soft], seed) for seed in range(3)])


@pytest.fixture(scope="module")
def clips(pictures: torch.Tensor) -> torch.Tensor:
    phase = ae.Phase(1.0, 8, 9, 64)
    return ae.draw_clips(pictures, np.random.default_rng(3), phase, torch.device("cpu"))


def error(model: TAEHV, clips: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model.decode(model.encode(clips)) - clips).square().mean())


def objective(model: TAEHV, clips: torch.Tensor) -> float:
    with torch.no_grad():
        z = model.encode(clips)
        return float(ae.reconstruction_loss(clips, model.decode(z), z))


def test_the_linear_start_is_the_principal_component_code(clips: torch.Tensor) -> None:
    """On stills, where all frames are equal, it must be as good as numpy's own components."""
    stills = clips[:, :, :1]
    blocks = stills[:, :, 0].unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5)
    rows = blocks.reshape(-1, 192).numpy()
    centred = rows - rows.mean(0)
    _, values, _ = np.linalg.svd(centred, full_matrices=False)
    best = float((values[12:] ** 2).sum() / rows.size)
    model = ae.fresh(SMALL)
    code = fit(stills, 12, 12)
    install(model, code)
    for name, p in model.named_parameters():  # leave the linear part alone
        if ".conv.4." in name:
            torch.nn.init.zeros_(p)
    # the soft clamp of the decoder bends the largest latents a little
    assert best <= error(model, stills) <= best * 1.3 + 1e-4


def test_it_begins_far_ahead_of_random_weights(clips: torch.Tensor) -> None:
    started = ae.fresh(SMALL)
    install(started, fit(clips, 12, 12))
    assert error(started, clips) < 0.2 * error(ae.fresh(SMALL), clips)


def test_training_lowers_the_error(pictures: torch.Tensor, clips: torch.Tensor) -> None:
    run = ae.AutoencoderRun(
        steps=40, lr=3e-3, compile=False, phases=(ae.Phase(1.0, 4, 5, 32),), config=SMALL, ema=0.5
    )
    torch.manual_seed(0)
    start = ae.fresh(SMALL)
    before = error(start, clips)
    model = ae.train(pictures, run, torch.device("cpu"), start=start)
    assert error(model, clips) < 0.5 * before
    with torch.no_grad():
        z = model.encode(clips)
    assert float(z.square().mean().sqrt()) == pytest.approx(1, abs=0.4)


def test_decoding_in_pieces_is_decoding_at_once(clips: torch.Tensor) -> None:
    model = ae.fresh(SMALL).eval()
    with torch.no_grad():
        z = model.encode(clips)
        whole = model.decode(z)
        first, memory = model.decode_piece(z[:, :, :2], {})
        rest, _ = model.decode_piece(z[:, :, 2:], memory)
    assert torch.allclose(torch.cat([first, rest], 2)[:, :, 3:], whole, atol=1e-5)


def test_a_picture_alone_is_latent_zero_of_its_clip(clips: torch.Tensor) -> None:
    model = ae.fresh(SMALL).eval()
    with torch.no_grad():
        alone, together = model.encode(clips[:, :, :1]), model.encode(clips)
    assert torch.allclose(alone, together[:, :, :1], atol=1e-5)


def test_the_decoder_can_be_trained_alone(pictures: torch.Tensor, clips: torch.Tensor) -> None:
    start = ae.fresh(SMALL)
    install(start, fit(clips, 12, 12))
    before = {name: value.clone() for name, value in start.state_dict().items()}
    run = ae.AutoencoderRun(
        steps=60, lr=3e-4, compile=False, phases=(ae.Phase(1.0, 4, 9, 64),), config=SMALL, ema=0.5,
        decoder_only=True, latent_noise=0.003,
    )  # fmt: skip
    plain = objective(start, clips)
    model = ae.train(pictures, run, torch.device("cpu"), start=start)
    after = model.state_dict()
    assert all(after[k].equal(v) for k, v in before.items() if k.startswith("encoder."))
    assert model.config == SMALL  # nor are latents scaled anew
    assert objective(model, clips) < plain


def test_noise_leaves_the_start_pictures_latent_alone() -> None:
    run = ae.AutoencoderRun(decoder_only=True, latent_noise=0.2)
    torch.manual_seed(0)
    noise = ae._latent_noise((64, 12, 3, 4, 4), run, torch.device("cpu"))
    assert not noise[:, :, 0].any()
    spread = noise[:, :, 1:].std((1, 2, 3, 4))
    assert spread.min() < 0.03
    assert 0.15 < spread.max() < 0.25
