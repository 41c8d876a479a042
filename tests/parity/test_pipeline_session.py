"""A whole session, from files on disk to latents on disk, against HunyuanVideoFramepackPipeline.

Everything is ours here: model files found by name, prompts and picture read by our encoders, the
picture by our autoencoder, noise drawn in sequence.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.parity.pipeline_runs import NEGATIVE, PROMPT, Run, Sides, pictures, planned, theirs
from torch import Tensor

from recurvid.events import Finished, SectionDone
from recurvid.generation.journal import Journal, Local
from recurvid.generation.opening import open_session
from recurvid.generation.request import GenerationRequest
from recurvid.generation.tensor_files import load_latents
from recurvid.settings import settings

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
MODELS = {"inverted": "framepack", "forward": "framepack-f1"}


@pytest.fixture
def models(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECURVID_MODELS", str(sides.root))
    settings.cache_clear()


def as_released(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the pipeline reads the picture in another way than the product, make it do the same.

    It samples the posterior, and it hands SigLIP's processor floats that are cut down to whole
    levels, so that some come out one lower.
    """
    pipeline = sides.pipeline

    def mean(image, latents=None, **unused):
        posterior = pipeline.vae.encode(image.unsqueeze(2)).latent_dist
        return posterior.mode() * pipeline.vae.config.scaling_factor

    def encode_image(image, device=None, dtype=None):
        levels = (image[0] * 127.5 + 127.5).round().to(torch.uint8)
        pixels = pipeline.feature_extractor(images=levels.numpy(), return_tensors="pt")
        return pipeline.image_encoder(**pixels).last_hidden_state

    monkeypatch.setattr(pipeline, "prepare_image_latents", mean)
    monkeypatch.setattr(pipeline, "encode_image", encode_image)


def request_of(run: Run, prompt: str) -> GenerationRequest:
    height, width = run.size
    return GenerationRequest(
        prompt=prompt,
        negative_prompt=NEGATIVE,
        seconds=(36 * run.sections + 1) / 30,
        seed=run.seed,
        model=MODELS[run.order],
        size=f"{width}x{height}",
        steps=run.steps,
        solver="euler",
        shift=run.shift,
        cfg_scale=run.cfg_scale,
        noise="sequential",
    )


def session(run: Run, folder: Path, prompt: str = PROMPT) -> Journal:
    paths = [folder / "start.png", folder / "end.png"]
    for path, picture in zip(paths, pictures(run), strict=True):
        Image.fromarray(picture).save(path)
    local = Local(str(folder / "out.mp4"), device="cpu", dtype="float32", offline=True)
    end = paths[1] if run.end_picture else None
    return Journal.create(folder / "session", request_of(run, prompt), local, paths[0], end)


RUNS = [
    Run("inverted", 1, size=(64, 64), seed=1),
    Run("inverted", 5, size=(64, 64), seed=2, shift=7.0),
    Run("inverted", 2, size=(64, 64), seed=3, end_picture=True),
    Run("inverted", 2, size=(64, 64), seed=4, cfg_scale=2.0),
    Run("forward", 1, size=(64, 64), seed=5),
    Run("forward", 3, size=(64, 64), seed=6),
]


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_session_equals_the_pipeline(sides: Sides, run: Run, models, monkeypatch, tmp_path):
    journal = session(run, tmp_path)
    events = list(open_session(journal).run())
    assert isinstance(events[-1], Finished)
    assert events[-1].frames == 36 * run.sections + 1

    as_released(sides, monkeypatch)
    check(journal, run, theirs(sides, run)[-1])


def check(journal: Journal, run: Run, expected: Tensor) -> None:
    """Every section's latents on disk against the pipeline's timeline."""
    for section in planned(run).sections:
        made = load_latents(journal.section_path(section.index))
        assert made.index[0].tolist() == list(section.target)
        wanted = expected[:, :, section.target.start : section.target.stop]
        assert (made.data - wanted).norm() / wanted.norm() < TOLERANCE


def test_a_resumed_session_equals_the_pipeline(sides: Sides, models, monkeypatch, tmp_path):
    """The one generator is wound forward over the section that is there."""
    run = Run("inverted", 3, size=(64, 64), seed=7)
    journal = session(run, tmp_path)
    running = open_session(journal).run()
    while not isinstance(next(running), SectionDone):
        pass
    running.close()
    assert [p.name for p in journal.sections_folder.iterdir()] == ["0000.safetensors"]
    again = Journal.open(journal.folder)
    assert isinstance(list(open_session(again).run())[-1], Finished)
    as_released(sides, monkeypatch)
    check(again, run, theirs(sides, run)[-1])


def test_another_prompt_is_seen(sides: Sides, models, monkeypatch, tmp_path):
    """The text path takes part: one word more on one side moves the latents."""
    run = Run("inverted", 1, size=(64, 64), seed=1)
    journal = session(run, tmp_path, f"{PROMPT} charm")
    for _ in open_session(journal).run():
        pass
    as_released(sides, monkeypatch)
    wanted = theirs(sides, run)[-1][:, :, 1:]
    made = load_latents(journal.section_path(0)).data
    assert (made - wanted).norm() / wanted.norm() > 5 * TOLERANCE
