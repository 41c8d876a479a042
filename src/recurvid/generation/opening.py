"""From a session folder to a session that can run."""

from __future__ import annotations

from recurvid.checkpoints.locate import locate
from recurvid.generation.journal import Journal
from recurvid.generation.loading import load_components
from recurvid.generation.placing import under_budget
from recurvid.generation.runtime import Runtime
from recurvid.generation.session import GenerationSession
from recurvid.generation.video_plan import VideoPlan, plan_video
from recurvid.video.pictures import load_picture


def open_session(
    journal: Journal, *, force: bool = False, previews: bool = False
) -> GenerationSession:
    """Find the model's files and plan the video, or read the plan that is there.

    Nothing large is loaded yet.

    Raises:
        InputError: a request that the model cannot do.
        CheckpointError: files of the model are missing.
        ComponentError: the device is not there, or memory, card or disk are too small.
    """
    request, local = journal.request, journal.local
    files = locate(local.model or request.model)
    runtime = Runtime.of(
        local.device,
        local.dtype,
        offline=local.offline,
        vram=local.vram,
        attention=local.attention,
        weights=local.weights,
        compiled=local.compiled,
    )
    components = load_components(files, runtime)
    if journal.has("plan.json"):
        plan = VideoPlan.from_json(journal.read_json("plan.json"))
    else:
        picture = load_picture(journal.picture)
        plan = plan_video(
            request,
            files.spec,
            (picture.shape[0], picture.shape[1]),
            components.geometry,
            end_picture=journal.end_picture is not None,
        )
    components = under_budget(components, files, plan, journal.folder)
    return GenerationSession(journal, plan, components, force=force, previews=previews)
