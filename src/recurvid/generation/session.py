"""GenerationSession: plan -> sections -> events. The only loop over sections."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recurvid.caching.protocol import StepCache
from recurvid.conditioning import Conditioning
from recurvid.events import Event, Finished, Progress, SectionDone
from recurvid.generation.components import Components
from recurvid.generation.decoding import SegmentRecorder, given_beside
from recurvid.generation.denoising import Guidance
from recurvid.generation.exact_ends import ExactEnds
from recurvid.generation.fingerprint import refuse_changes
from recurvid.generation.history import History
from recurvid.generation.journal import Journal
from recurvid.generation.lock import folder_lock
from recurvid.generation.result import Result
from recurvid.generation.section import Recipe, generate_section
from recurvid.generation.step_caches import Caching, caching_for, calibration_for, calls_of
from recurvid.generation.tensor_files import (
    load_conditioning,
    load_latents,
    save_conditioning,
    save_latents,
)
from recurvid.generation.video_plan import VideoPlan
from recurvid.latents import LatentFrames
from recurvid.models.protocol import Backbone
from recurvid.sampling.noise import NOISE
from recurvid.sampling.sigmas import dynamic_shift, flow_sigmas
from recurvid.sampling.solvers import SOLVERS, Solver
from recurvid.sections import Section
from recurvid.vae.codec import missing
from recurvid.vae.crossfade import CrossFadeStream
from recurvid.video.buckets import center_crop_resize
from recurvid.video.encoders import VideoSettings, exact_fps
from recurvid.video.pictures import load_picture


@dataclass(frozen=True)
class Encoded:
    """What the encoders made: given latents (CPU), conditionings (the backbone's device)."""

    given: LatentFrames
    positive: Conditioning
    negative: Conditioning | None


class GenerationSession:
    """One video, from wherever its folder stands to the finished file.

    Args:
        journal: the session folder.
        plan: what is made.
        components: the model.
        force: go on although weights or code have changed since the session began.
        previews: yield a rough look at the section after each step.
        provisional: show frames that wait for latents still to come in the video so far.
        new_cache: makes step caches in place of the request's, to measure with.
    """

    def __init__(
        self,
        journal: Journal,
        plan: VideoPlan,
        components: Components,
        *,
        force: bool = False,
        previews: bool = False,
        provisional: bool = True,
        new_cache: Callable[[], StepCache] | None = None,
    ):
        self.journal = journal
        self.plan = plan
        self.components = components
        self.force = force
        self.previews = previews
        self.provisional = provisional
        self.new_cache = new_cache
        self.calibration = calibration_for(plan.request, components.weights.get("transformer", ()))
        settings = VideoSettings(exact_fps(plan.fps), crf=plan.request.crf)
        self.result = Result(journal, plan, settings)
        self.settings = self.result.segment_settings

    def run(self) -> Generator[Event, None, None]:
        """Do what is left to do, yielding events; closing the generator cancels.

        Everything that an event speaks of is on disk before the event is yielded. A session that
        is finished yields Planned and Finished.

        Raises:
            SessionError: in use by another process, damaged, or begun by other weights or code.
            OutputError: the result cannot be written where it was asked for.
            NumericsError: the model returned NaN or infinity.
        """
        with folder_lock(self.journal.folder):
            self.journal.sweep()
            if not self.journal.has("plan.json"):
                self.journal.write_json("plan.json", self.plan.to_json())
            yield self.plan.event()
            if not self.result.is_written():
                self.result.probe()
                if self._is_complete():
                    self.journal.drop_replaced()
                    self.result.write_so_far()  # killed just before, it lags behind
                else:
                    self._check_fingerprint()
                    yield from self._make()
                yield Progress("write", None, 0, 1)
                self.result.write()
            yield Finished(self.result.path, self.plan.frames, self.plan.fps)

    def _make(self) -> Generator[Event, None, None]:
        encoded = yield from self._encode()
        history = History(self.plan.sections, self.plan.schedule, encoded.given, self._read_section)
        recipe = self._recipe(encoded.negative)
        recorder = self._recorder()
        beside = given_beside(self.plan.sections)
        for section in self.plan.sections.sections:
            path = self.journal.section_path(section.index)
            resumed = path.is_file()
            if resumed:
                latents = load_latents(path)
                recipe.noise.skip([recipe.shape(section)])
            else:
                yield from self._load_backbone()
                latents = yield from generate_section(
                    section, history, self._backbone(recipe.sigmas), encoded.positive, recipe
                )
                save_latents(path, latents)
            latents = _together(latents, encoded.given, beside.get(section.index, []))
            yield from self._decode(section, latents, recorder, resumed=resumed)

    def _decode(
        self, section: Section, latents: LatentFrames, recorder: SegmentRecorder, *, resumed: bool
    ) -> Generator[Event, None, None]:
        made = 0
        yield Progress("decode", section.index, 0, 1)
        for _ in recorder.add(section.index, latents):
            made += 1
        # What the next section has finished already needs no stand-in.
        if self.provisional and not self.journal.section_path(section.index + 1).is_file():
            made += recorder.show(section.index)
        if resumed and not made:
            return
        sections = len(self.plan.sections.sections)
        there = self.result.write_so_far()
        yield Progress("decode", section.index, 1, 1)
        video = self.result.so_far
        yield SectionDone(section.index, sections, video, there.final, there.provisional)

    def _encode(self) -> Generator[Event, None, Encoded]:
        path = self.journal.conditioning_path
        if not path.is_file():
            yield Progress("encode", None, 0, 1)
            save_conditioning(path, *self._encoded())
            yield Progress("encode", None, 1, 1)
        # Read back even when just made, so that a resumed session starts from the same bits.
        given, positive, negative = load_conditioning(path)
        device, dtype = self.components.device, self.components.dtype
        positive = positive.to(device=device, dtype=dtype)
        if negative is not None:
            negative = negative.to(device=device, dtype=dtype)
        return Encoded(given, positive, negative)

    def _encoded(self) -> tuple[LatentFrames, Conditioning, Conditioning | None]:
        """Given latents, positive and negative conditioning, on the CPU."""
        plan, request = self.plan, self.plan.request
        start = center_crop_resize(load_picture(self.journal.picture), plan.height, plan.width)
        guided = request.cfg_scale not in (None, 1.0)
        prompts = [request.prompt, *([request.negative_prompt] if guided else [])]
        conditionings = self.components.conditionings(prompts, start, request.guidance_scale)
        latents = [self.components.encode_picture(start)]
        if self.journal.end_picture is not None:
            picture = load_picture(self.journal.end_picture)
            end = center_crop_resize(picture, plan.height, plan.width)
            latents.append(self.components.encode_picture(end))
        given = LatentFrames.of(torch.cat(latents, dim=2), list(plan.sections.given))
        return given, conditionings[0], conditionings[1] if guided else None

    def _load_backbone(self) -> Iterator[Event]:
        if "backbone" not in vars(self.components):
            yield Progress("load", None, 0, 1)
            _ = self.components.backbone
            yield Progress("load", None, 1, 1)

    def _backbone(self, sigmas: Tensor) -> Backbone:
        parts = self.components
        backbone, runtime = parts.backbone, parts.runtime
        if parts.exact_attention is not None:
            backbone = ExactEnds(backbone, parts.exact_attention, runtime.exact_steps, sigmas)
        if parts.dense_attention is not None and runtime.sparse is not None:
            steps = runtime.sparse.dense_steps(len(sigmas) - 1)
            backbone = ExactEnds(backbone, parts.dense_attention, steps, sigmas, last=0)
        return backbone

    def _recipe(self, negative: Conditioning | None) -> Recipe:
        plan, request = self.plan, self.plan.request
        assert request.steps is not None
        assert request.solver is not None
        schedule = plan.schedule
        tokens = schedule.tokens(plan.height, plan.width).target
        cfg_scale = 1.0 if request.cfg_scale is None else request.cfg_scale
        solver = SOLVERS[request.solver]
        sigmas = flow_sigmas(request.steps, request.shift or dynamic_shift(tokens))
        return Recipe(
            schedule=schedule,
            solver=solver,
            sigmas=sigmas,
            noise=NOISE[request.noise](request.seed),
            geometry=self.components.geometry,
            height=plan.height,
            width=plan.width,
            guidance=Guidance(cfg_scale, request.cfg_rescale, negative),
            device=self.components.device,
            dtype=self.components.dtype,
            look=self.components.look if self.previews else None,
            caching=self._caching(solver, sigmas),
        )

    def _caching(self, solver: Solver, sigmas: Tensor) -> Caching | None:
        if self.new_cache is not None:
            return Caching(self.new_cache, calls_of(solver, sigmas))
        return caching_for(self.plan.request, self.calibration, solver, sigmas)

    def _recorder(self) -> SegmentRecorder:
        codec, plan = self.components.codec, self.plan.sections
        finished = [segment.frames for segment in self.journal.segments()]
        beyond = range(self.plan.frames, codec.geometry.frames(plan.latent_frames))
        if beyond and any(frames.stop <= beyond.start for frames in finished):
            finished.append(beyond)  # no longer wanted
        if self.plan.request.crossfade:
            targets = [section.target for section in plan.sections]
            stream = CrossFadeStream(codec, targets, finished)
        else:
            stream = codec.stream(plan.latent_frames, finished)
        return SegmentRecorder(self.journal, stream, self.settings, self.plan.frames)

    def _read_section(self, index: int) -> LatentFrames:
        return load_latents(self.journal.section_path(index))

    def _is_complete(self) -> bool:
        """Whether nothing but the final joining is left to do."""
        sections = self.plan.sections.sections
        if not all(self.journal.section_path(section.index).is_file() for section in sections):
            return False
        finished = [segment.frames for segment in self.journal.segments()]
        return not missing(range(self.plan.frames), finished)

    def _check_fingerprint(self) -> None:
        now = self.components.fingerprint()
        if self.calibration is not None:
            now["calibration"] = self.calibration.digest()
        if self.journal.has("fingerprint.json") and not self.force:
            refuse_changes(self.journal.read_json("fingerprint.json"), now, self.journal.folder)
        self.journal.write_json("fingerprint.json", now)


def _together(latents: LatentFrames, given: LatentFrames, positions: list[int]) -> LatentFrames:
    """A section's latents and the given ones decoded with it, in timeline order."""
    if not positions:
        return latents
    slots = [given.index[0].tolist().index(position) for position in positions]
    order = sorted(
        [(int(i), latents.data[:, :, slot]) for slot, i in enumerate(latents.index[0])]
        + [(p, given.data[:, :, slot]) for p, slot in zip(positions, slots, strict=True)],
        key=lambda pair: pair[0],
    )
    data = torch.stack([frame for _, frame in order], dim=2)
    return LatentFrames.of(data, [position for position, _ in order])
