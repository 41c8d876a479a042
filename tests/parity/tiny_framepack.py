"""HunyuanVideoFramepackPipeline from its real classes, tiny and random."""

from __future__ import annotations

import logging
import math

import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusers.models.transformers.transformer_hunyuan_video_framepack import (
    HunyuanVideoFramepackTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
    DEFAULT_PROMPT_TEMPLATE,
    HunyuanVideoFramepackPipeline,
)
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

PROMPTS = "a woman dances in the rain, slowly; the camera moves left blurry dull still"
"""Words that the tokenizer knows beside those of the prompt template."""

SHARPER = math.sqrt(8)
"""Factor on the q and k norms: with the flat attention of a random model a frame index off by one
moves the output by a few thousandths, with this by a few hundredths."""


LOUDER = 4.0
"""Factor on the output: the final latents are noise less velocity, and what is compared should be
mostly the model's work."""


def scheduler(shift: float | None) -> FlowMatchEulerDiscreteScheduler:
    """Euler with a fixed shift, or with the dynamic one of the released code (None)."""
    if shift is None:
        return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return FlowMatchEulerDiscreteScheduler(shift=shift)


def tiny_framepack(seed: int = 0) -> HunyuanVideoFramepackPipeline:
    """All components with random weights drawn from ``seed``."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    pipeline = HunyuanVideoFramepackPipeline(
        text_encoder=_llama(len(tokenizer)),
        tokenizer=tokenizer,  # pyright: ignore[reportArgumentType]
        transformer=_transformer(),
        vae=_vae(),
        scheduler=scheduler(None),
        text_encoder_2=_clip(len(tokenizer)),
        tokenizer_2=tokenizer,  # pyright: ignore[reportArgumentType]
        image_encoder=_siglip(),
        feature_extractor=_feature_extractor(),
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
        text_embed_dim=24,
        pooled_projection_dim=12,
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


def _tokenizer() -> PreTrainedTokenizerFast:
    """A word or mark a token; <s> before and </s> after, padded on the right."""
    split = pre_tokenizers.Whitespace()
    text = f"{DEFAULT_PROMPT_TEMPLATE['template']} {PROMPTS}"
    words = [word for word, _ in split.pre_tokenize_str(text)]
    known = dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", *words])
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def _llama(vocabulary: int) -> LlamaModel:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaModel(config).eval().requires_grad_(False)


def _clip(vocabulary: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=12,
        eos_token_id=2,
    )
    return CLIPTextModel(config).eval().requires_grad_(False)


def _siglip() -> SiglipVisionModel:
    config = SiglipVisionConfig(
        hidden_size=20,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    return SiglipVisionModel(config).eval().requires_grad_(False)


def _feature_extractor():
    from transformers import SiglipImageProcessor

    logging.getLogger("transformers").setLevel(logging.ERROR)
    return SiglipImageProcessor(size={"height": 28, "width": 28})
