"""diffusers' FramePack pipeline with everything but its section loop stubbed out.

The stub transformer writes down what it is shown; each section's "video" is its own number and
frame, so that one can read off which frames reached which slot.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import torch
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
    FramepackSamplingType,
    HunyuanVideoFramepackPipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)

START, END = -1.0, -2.0
SIZE = 16


def run(sampling: str, sections: int, *, end_picture: bool = False) -> list[dict[str, list[float]]]:
    """What the transformer is shown in each section: indices and values, as lists."""
    shown: list[dict[str, list[float]]] = []

    def show(**kwargs):
        shown.append(
            {
                name: (value if value.ndim == 1 else value[0, 0, :, 0, 0]).tolist()
                for name, value in kwargs.items()
                if isinstance(value, torch.Tensor) and ("indices" in name or "latents" in name)
            }
        )
        return (torch.zeros_like(kwargs["hidden_states"]),)

    def prepare_latents(*args, **kwargs):
        made = torch.arange(9.0) + 100.0 * (len(shown) + 1)
        return made.view(1, 1, 9, 1, 1).expand(1, 1, 9, SIZE // 8, SIZE // 8).clone()

    def prepare_image_latents(image, **kwargs):
        return torch.full((1, 1, 1, SIZE // 8, SIZE // 8), image)

    class Transformer:
        dtype = torch.float32
        config = SimpleNamespace(in_channels=1, patch_size=2)
        __call__ = staticmethod(show)

    stub = SimpleNamespace(
        check_inputs=lambda *a, **k: None,
        _execution_device=torch.device("cpu"),
        transformer=Transformer(),
        vae=SimpleNamespace(dtype=torch.float32),
        encode_prompt=lambda **k: (torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1)),
        encode_image=lambda *a, **k: torch.zeros(1, 1, 1),
        video_processor=SimpleNamespace(preprocess=lambda image, *a: image),
        prepare_image_latents=prepare_image_latents,
        prepare_latents=prepare_latents,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        progress_bar=lambda total: nullcontext(SimpleNamespace(update=lambda: None)),
        maybe_free_model_hooks=lambda: None,
        interrupt=False,
        vae_scale_factor_temporal=4,
        vae_scale_factor_spatial=8,
    )
    HunyuanVideoFramepackPipeline.__call__(
        stub,  # pyright: ignore[reportArgumentType]
        START,  # pyright: ignore[reportArgumentType]
        last_image=END if end_picture else None,  # pyright: ignore[reportArgumentType]
        prompt="",
        height=SIZE,
        width=SIZE,
        num_frames=33 * sections,
        num_inference_steps=1,
        output_type="latent",
        return_dict=False,
        sampling_type=FramepackSamplingType(sampling),
    )
    return shown
