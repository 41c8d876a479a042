"""Videos of one model with and without a step cache, as frames before any video codec."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recurvid.caching.protocol import StepCache
from recurvid.checkpoints.locate import locate
from recurvid.events import Progress
from recurvid.generation.components import Components
from recurvid.generation.journal import Journal, Local
from recurvid.generation.loading import load_components
from recurvid.generation.request import GenerationRequest
from recurvid.generation.runtime import Runtime
from recurvid.generation.session import GenerationSession
from recurvid.generation.tensor_files import load_conditioning, load_latents
from recurvid.generation.video_plan import plan_video
from recurvid.video.pictures import load_picture


@dataclass
class Made:
    """What sessions left, a video a case: frames (t, h, w, 3) uint8 each; all their caches."""

    videos: list[Any]
    seconds: float
    block_runs: int
    caches: list[StepCache]


class Bench:
    """One model, one request, several cases of picture and prompt."""

    def __init__(
        self, model: str, cases: list[tuple[Path, str]], request: GenerationRequest, device: str
    ):
        self.files = locate(model)
        self.components: Components = load_components(self.files, Runtime.of(device))
        self.cases = cases
        self.request = request.but(model=self.files.spec.name)
        self.block_runs = 0
        backbone: Any = self.components.backbone
        for block in [*backbone.transformer_blocks, *backbone.single_transformer_blocks]:
            block.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.block_runs += 1

    def run(self, new: Callable[[], StepCache] | None, *, seed: int | None = None) -> Made:
        """Whole sessions in folders that are gone afterwards."""
        caches: list[StepCache] = []

        def noted() -> StepCache:
            assert new is not None
            caches.append(new())
            return caches[-1]

        self.block_runs, seconds, videos = 0, 0.0, []
        for picture, prompt in self.cases:
            request = self.request.but(
                prompt=prompt, seed=self.request.seed if seed is None else seed
            )
            with tempfile.TemporaryDirectory() as folder:
                frames, took = self._video(
                    Path(folder), request, picture, None if new is None else noted
                )
            videos.append(frames)
            seconds += took
        return Made(videos, seconds, self.block_runs, caches)

    def _video(
        self,
        root: Path,
        request: GenerationRequest,
        picture: Path,
        new: Callable[[], StepCache] | None,
    ) -> tuple[Any, float]:
        """Frames of one video, and the seconds of its denoising."""
        local = Local(output=str(root / "video.mp4"))
        journal = Journal.create(root / "session", request, local, picture)
        shape = load_picture(picture).shape
        plan = plan_video(
            journal.request, self.files.spec, (shape[0], shape[1]), self.components.geometry
        )
        session = GenerationSession(journal, plan, self.components, new_cache=new)
        clock = time.process_time if self.components.device.type == "cpu" else time.perf_counter
        seconds, before = 0.0, clock()
        for event in session.run():
            now = clock()
            if isinstance(event, Progress) and event.phase == "denoise":
                seconds += now - before
            before = clock()
        return self._decode(journal, plan.frames), seconds

    def _decode(self, journal: Journal, frames: int):
        """The video's frames from its latents, without a video codec in between."""
        made = [load_conditioning(journal.conditioning_path)[0]]
        made += [load_latents(path) for path in sorted(journal.sections_folder.iterdir())]
        slots = {int(i): one.data[:, :, k] for one in made for k, i in enumerate(one.index[0])}
        latents = torch.stack([slots[i] for i in sorted(slots)], dim=2)
        codec = self.components.codec
        pixels = codec.decode(latents.to(self.components.device))[0, :, :frames].float().cpu()
        levels = pixels.clamp(-1, 1).mul(127.5).add(127.5).round().to(torch.uint8)
        return levels.permute(1, 2, 3, 0).numpy()
