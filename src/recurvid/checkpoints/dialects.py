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


def flattened(checkpoint: Checkpoint, dialect: KeyMap) -> Checkpoint:
    """A checkpoint without the outer level of its names, whether or not it has one.

    Args:
        dialect: CLIP_TEXT, LLAMA_TEXT or SIGLIP_VISION.
    """
    tolerant = KeyMap((*dialect.rules, Rename("{name}", "{name}")))
    return tolerant.apply(checkpoint)
