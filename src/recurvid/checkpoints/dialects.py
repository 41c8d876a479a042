"""The dialects that users' files come in, as key maps to the names that the libraries use.

``diffusers`` and ``transformers`` write weights under the names of their modules, and these
changed over time; ComfyUI's repackaged files use others. See the module ``keymap`` for the grammar.
"""

from __future__ import annotations

from recurvid.checkpoints.checkpoint import Checkpoint
from recurvid.checkpoints.keymap import IDENTITY, Drop, KeyMap, Rename

#: Position ids were saved by transformers before 4.31, and are computed since.
_POSITIONS = Drop("{any}.position_ids")

#: FramePack's transformers, both released ones and Kijai's single files: native names already.
FRAMEPACK = IDENTITY

#: CLIP text model: with the level ``text_model`` (transformers < 5.6, every published file, and
#: Comfy's ``clip_l.safetensors``) to without it (5.6 and later). ``reversed()`` goes back.
CLIP_TEXT = KeyMap(
    (
        _POSITIONS,
        Drop("logit_scale"),
        # The pooled embedding of HunyuanVideo is taken before CLIP's projection.
        Drop("text_projection.weight"),
        Rename("text_model.{rest}", "{rest}"),
    )
)

#: LLaMA inside a causal model, or Comfy's ``llava_llama3_fp16.safetensors``, to ``LlamaModel``.
LLAMA_TEXT = KeyMap(
    (
        Drop("lm_head.weight"),
        # Comfy keeps the tokenizer beside the weights; it is read from its own folder here.
        Drop("tokenizer{any}"),
        Drop("spiece_model"),
        Drop("{any}.rotary_emb.inv_freq"),
        Rename("language_model.model.{rest}", "{rest}"),
        Rename("model.{rest}", "{rest}"),
    )
)

#: SigLIP's vision tower: with the level ``vision_model`` to without it (see CLIP_TEXT). A file of
#: the whole SigLIP holds a text tower, which is left aside.
SIGLIP_VISION = KeyMap(
    (
        _POSITIONS,
        Drop("logit_scale"),
        Drop("logit_bias"),
        Drop("text_model.{rest}"),
        Rename("vision_model.{rest}", "{rest}"),
    )
)


#: HunyuanVideo's VAE. Tencent's own file has the names that diffusers took over, all below ``vae.``
#: where it comes out of their training; Kijai's single files have them bare.
HUNYUAN_VAE_TRAINED = KeyMap((Rename("vae.{rest}", "{rest}"), Drop("{rest}")))


def _ldm_vae_rules() -> tuple[Rename, ...]:
    """As ComfyUI writes it: the names of latent diffusion, whose decoder counts its levels from
    the output, and whose attention is made of convolutions.
    """
    rules: list[Rename] = []
    levels = [("encoder", "down", "down_blocks", n, n) for n in range(4)]
    levels += [("decoder", "up", "up_blocks", n, 3 - n) for n in range(4)]
    for side, way, blocks, theirs, ours in levels:
        old, new = f"{side}.{way}.{theirs}", f"{side}.{blocks}.{ours}"
        shortcut = "resnets.{n}.conv_shortcut.{rest}"
        rules += [
            Rename(f"{old}.block.{{n}}.nin_shortcut.{{rest}}", f"{new}.{shortcut}"),
            Rename(f"{old}.block.{{rest}}", f"{new}.resnets.{{rest}}"),
            Rename(f"{old}.{way}sample.{{rest}}", f"{new}.{way}samplers.0.{{rest}}"),
        ]
    for side in ("encoder", "decoder"):
        old, new = f"{side}.mid", f"{side}.mid_block"
        rules += [
            Rename(f"{old}.block_1.{{rest}}", f"{new}.resnets.0.{{rest}}"),
            Rename(f"{old}.block_2.{{rest}}", f"{new}.resnets.1.{{rest}}"),
            Rename(f"{old}.attn_1.norm.{{rest}}", f"{new}.attentions.0.group_norm.{{rest}}"),
            Rename(f"{side}.norm_out.{{rest}}", f"{side}.conv_norm_out.{{rest}}"),
        ]
        for theirs, ours in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
            old_layer, new_layer = f"{old}.attn_1.{theirs}", f"{new}.attentions.0.{ours}"
            rules += [
                Rename(f"{old_layer}.weight", f"{new_layer}.weight", ones=3),
                Rename(f"{old_layer}.bias", f"{new_layer}.bias"),
            ]
    return tuple(rules)


HUNYUAN_VAE_LDM = KeyMap((*_ldm_vae_rules(), Rename("{name}", "{name}")))


def hunyuan_vae(checkpoint: Checkpoint) -> Checkpoint:
    """HunyuanVideo's VAE under diffusers' names, whichever of its dialects a file speaks."""
    if any(name.startswith("vae.") for name in checkpoint.keys()):  # noqa: SIM118 (no dict)
        checkpoint = HUNYUAN_VAE_TRAINED.apply(checkpoint)
    return HUNYUAN_VAE_LDM.apply(checkpoint)


def flattened(checkpoint: Checkpoint, dialect: KeyMap) -> Checkpoint:
    """A checkpoint without the outer level of its names, whether or not it has one.

    Args:
        dialect: CLIP_TEXT, LLAMA_TEXT or SIGLIP_VISION.
    """
    tolerant = KeyMap((*dialect.rules, Rename("{name}", "{name}")))
    return tolerant.apply(checkpoint)
