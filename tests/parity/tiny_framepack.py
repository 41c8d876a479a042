"""HunyuanVideoFramepackPipeline from its real classes, tiny and random, in memory and on disk."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusers.models.transformers.transformer_hunyuan_video_framepack import (
    HunyuanVideoFramepackTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
    HunyuanVideoFramepackPipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from tests.encoders.tiny_encoders import (
    save_clip_tokenizer,
    save_feature_extractor,
    save_llama_tokenizer,
    tiny_clip,
    tiny_llama,
)
from transformers import (
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SHARPER = math.sqrt(8)
"""Factor on the q and k norms: with the flat attention of a random model a frame index off by one
moves the output by a few thousandths, with this by a few hundredths."""

LOUDER = 4.0
"""Factor on the output: the final latents are noise less velocity, and what is compared should be
mostly the model's work."""

HUNYUAN = "hunyuanvideo-community/HunyuanVideo"
SIGLIP = "lllyasviel/flux_redux_bfl"
TRANSFORMERS = {
    "inverted": "lllyasviel/FramePackI2V_HY",
    "forward": "lllyasviel/FramePack_F1_I2V_HY_20250503",
}
SIGLIP_SIDE = 64


def scheduler(shift: float | None) -> FlowMatchEulerDiscreteScheduler:
    """Euler with a fixed shift, or with the dynamic one of the released code (None)."""
    if shift is None:
        return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def save_tiny_framepack(root: Path) -> HunyuanVideoFramepackPipeline:
    """The pipeline; its components also lie below ``root``, in the repositories that people have.

    Both released transformers get the same weights.
    """
    hunyuan, siglip = root / HUNYUAN, root / SIGLIP
    llama, clip = tiny_llama(), tiny_clip()
    save_llama_tokenizer(hunyuan / "tokenizer")
    save_clip_tokenizer(hunyuan / "tokenizer_2")
    save_feature_extractor(siglip / "feature_extractor", SIGLIP_SIDE)
    torch.manual_seed(0)
    transformer, vae, image_encoder = _transformer(), _vae(), _siglip()
    llama.save_pretrained(hunyuan / "text_encoder")
    clip.save_pretrained(hunyuan / "text_encoder_2")
    vae.save_pretrained(hunyuan / "vae")
    image_encoder.save_pretrained(siglip / "image_encoder")
    for repository in TRANSFORMERS.values():
        transformer.save_pretrained(root / repository)
    pipeline = HunyuanVideoFramepackPipeline(
        text_encoder=llama,
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_file=str(hunyuan / "tokenizer" / "tokenizer.json"),
            pad_token="<pad>",
            padding_side="right",
        ),  # pyright: ignore[reportArgumentType]
        transformer=transformer,
        vae=vae,
        scheduler=scheduler(None),
        text_encoder_2=clip,
        tokenizer_2=CLIPTokenizer.from_pretrained(str(hunyuan / "tokenizer_2")),
        image_encoder=image_encoder,
        feature_extractor=SiglipImageProcessor.from_pretrained(str(siglip / "feature_extractor")),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _transformer() -> HunyuanVideoFramepackTransformer3DModel:
    model = HunyuanVideoFramepackTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=32,
        pooled_projection_dim=24,
        image_proj_dim=20,
        has_image_proj=True,
        has_clean_x_embedder=True,
        rope_axes_dim=(4, 6, 6),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attn.norm" in name:
                parameter.mul_(SHARPER)
            if name.startswith("proj_out"):
                parameter.mul_(LOUDER)
    return model.eval().requires_grad_(False)


def _vae() -> AutoencoderKLHunyuanVideo:
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(4, 4, 4, 4),  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    return vae.eval().requires_grad_(False)


def _siglip() -> SiglipVisionModel:
    config = SiglipVisionConfig(
        hidden_size=20,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIGLIP_SIDE,
        patch_size=16,
    )
    return SiglipVisionModel(config).eval().requires_grad_(False)
