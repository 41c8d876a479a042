"""From a session folder to a session that can run."""

from __future__ import annotations

from recurvid.checkpoints.formats import open_checkpoint
from recurvid.checkpoints.int8 import dequantized
from recurvid.checkpoints.locate import ModelFiles, locate
from recurvid.errors import ComponentError, RequestError
from recurvid.generation.draft import draft_file, use_draft
from recurvid.generation.journal import Journal
from recurvid.generation.kept import KeptModel
from recurvid.generation.loading import load_components
from recurvid.generation.placing import under_budget
from recurvid.generation.runtime import Runtime
from recurvid.generation.session import GenerationSession
from recurvid.generation.video_plan import VideoPlan, plan_video
from recurvid.models.compiler import refuse_without_compiler
from recurvid.models.loading import find_config
from recurvid.models.packed_dit.config import parse_kernel
from recurvid.models.packed_dit.history import layer_name
from recurvid.packing import PackingSchedule
from recurvid.video.pictures import load_picture


def open_session(
    journal: Journal,
    *,
    force: bool = False,
    previews: bool = False,
    kept: KeptModel | None = None,
) -> GenerationSession:
    """Find the model's files and plan the video, or read the plan that is there.

    Nothing large is loaded yet.

    Args:
        kept: what an earlier session has loaded, lent to this one if it would load the same.

    Raises:
        InputError: a request that the model cannot do.
        CheckpointError: files of the model are missing.
        ComponentError: the device is not there, cannot compile where that was asked, or memory,
            card or disk are too small.
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
        exact_steps=local.exact_steps,
        sparse=local.sparse,
    )
    if runtime.compiled:
        refuse_without_compiler(runtime.device)
    components = load_components(files, runtime)
    use_draft(components, draft_file(local, bundled=files.spec.bundled))
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
    _refuse_schedule(plan.schedule, files)
    held = 0 if kept is None else kept.held
    try:
        components = under_budget(components, files, plan, journal.folder, held)
    except ComponentError:
        if kept is None or kept.is_empty:
            raise
        kept.drop()  # it may be what is in the way
        components = under_budget(components, files, plan, journal.folder)
    if kept is not None:
        kept.lend(components)
    return GenerationSession(journal, plan, components, force=force, previews=previews)


def _refuse_schedule(schedule: PackingSchedule, files: ModelFiles) -> None:
    """Raise when the model has no weights for something in a schedule; only headers are read.

    Raises:
        RequestError: naming the schedule, what is missing, and what the model has.
    """
    where = f"schedule: {schedule} cannot be run by the model {files.spec.name!r}"
    if schedule.discretized:
        raise RequestError(f"{where}: it has no codebook, which +D needs; leave +D out")
    config = find_config(dequantized(open_checkpoint(files["transformer"])))
    known = config.context_kernels if config.has_clean_x_embedder else ()
    layers = {layer_name(parse_kernel(kernel)) for kernel in known}
    lacking = [str(kernel) for kernel in schedule.kernels if layer_name(kernel) not in layers]
    if lacking:
        raise RequestError(
            f"{where}: it has no patchify layer for {', '.join(lacking)}; "
            f"there is {', '.join(known) or 'none'}"
        )
