"""The models that are known by name: where their files come from, under which terms, how to run.

Data only, and no torch: a listing must not wait for it. The released FramePack transformers have
the same configuration and the same tensor names, so no file can tell which of the two it is. The
name decides, and with it order and schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Parts of a model. The bundled one has the first three.
ROLES = (
    "transformer",
    "vae",
    "text_encoder",
    "tokenizer",
    "text_encoder_2",
    "tokenizer_2",
    "image_encoder",
    "feature_extractor",
)


@dataclass(frozen=True)
class Licence:
    """Terms of some weights.

    Attributes:
        name: as its authors call it.
        url: where the text stands; "" for the terms of this package.
        summary: what matters most in it, in our words. It does not replace the text.
    """

    name: str
    url: str
    summary: str


@dataclass(frozen=True)
class Component:
    """One part of a model: a folder of a repository, or single files that hold the same.

    Attributes:
        role: one of ROLES.
        repo: repository on the hub; "" for a part of this package.
        folder: inside the repository; "" for its root.
        patterns: files to fetch, as the hub's ``allow_patterns``, relative to the repository.
        requires: files without which the folder is of no use. Weights are checked beyond this.
        weights: whether the folder holds tensors.
        size: bytes to fetch, about.
        single_files: names of files elsewhere that hold the same tensors.
    """

    role: str
    repo: str
    folder: str
    patterns: tuple[str, ...]
    requires: tuple[str, ...]
    weights: bool
    size: int
    licence: Licence
    single_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelDefaults:
    """What a model is made for; a request may ask otherwise.

    Attributes:
        order: name of a section order.
        schedule: packing schedule.
        fps: frames per second that it was trained at.
        base: bucket base size, pixels.
        steps: denoising steps a section.
        guidance_scale: distilled guidance; None for a model without the embedding.
        cfg_scale: classifier-free guidance in two passes; 1 is off.
        shift: flow shift; None derives it from the number of tokens.
        section: latent frames generated at once.
    """

    order: str
    schedule: str
    fps: float = 30.0
    base: int = 640
    steps: int = 25
    guidance_scale: float | None = 10.0
    cfg_scale: float = 1.0
    shift: float | None = None
    section: int = 9


@dataclass(frozen=True)
class ModelSpec:
    """A model known by name.

    Attributes:
        name: what users type.
        title: one line for a listing.
        components: its parts, one a role.
        defaults: how it is run when nothing else is asked.
    """

    name: str
    title: str
    components: tuple[Component, ...]
    defaults: ModelDefaults

    @property
    def size(self) -> int:
        """Bytes of all parts, about."""
        return sum(component.size for component in self.components)

    @property
    def bundled(self) -> bool:
        """Whether it ships inside this package."""
        return all(not component.repo for component in self.components)

    @property
    def licences(self) -> tuple[Licence, ...]:
        """The terms of all parts, each once."""
        return tuple(dict.fromkeys(component.licence for component in self.components))

    def component(self, role: str) -> Component:
        """The part of a role. KeyError where the model has none."""
        for component in self.components:
            if component.role == role:
                return component
        raise KeyError(role)


HUNYUAN = Licence(
    "Tencent Hunyuan Community License",
    "https://huggingface.co/tencent/HunyuanVideo/blob/main/LICENSE",
    "Not for use in the European Union, the United Kingdom and South Korea. Above 100 million "
    "monthly users a licence must be asked for. Outputs and weights may not be used to improve "
    "other models. An acceptable-use policy and a notice go along.",
)
LLAMA = Licence(
    "Llama 3 Community License",
    "https://www.llama.com/llama3/license/",
    "Above 700 million monthly users a licence must be asked for. Keep the notice, name what you "
    "build with it 'Built with Meta Llama 3', and follow its acceptable-use policy.",
)
CLIP = Licence(
    "MIT (CLIP)",
    "https://github.com/openai/CLIP/blob/main/LICENSE",
    "Free to use; keep the notice.",
)
SIGLIP = Licence(
    "Apache-2.0 (SigLIP)",
    "https://huggingface.co/google/siglip-so400m-patch14-384",
    "Free to use. Only the SigLIP folders of the repository are fetched; its image_embedder "
    "is under other, non-commercial terms and is left alone.",
)
PACKAGE = Licence(
    "Apache-2.0",
    "",
    "Trained for this project and part of this package; see the model card beside the weights.",
)

_HUNYUAN_REPO = "hunyuanvideo-community/HunyuanVideo"
_SIGLIP_REPO = "lllyasviel/flux_redux_bfl"
# 12,874,314,816 parameters in bf16.
_TRANSFORMER_BYTES = 25_748_700_000


def _transformer(repo: str, *single_files: str) -> Component:
    return Component(
        role="transformer",
        repo=repo,
        folder="",
        patterns=("config.json", "*.safetensors", "*.safetensors.index.json"),
        requires=("config.json",),
        weights=True,
        size=_TRANSFORMER_BYTES,
        licence=HUNYUAN,
        single_files=single_files,
    )


def _model_folder(
    role: str, repo: str, size: int, licence: Licence, *single_files: str
) -> Component:
    return Component(
        role=role,
        repo=repo,
        folder=role,
        patterns=(f"{role}/*.json", f"{role}/*.safetensors"),
        requires=("config.json",),
        weights=True,
        size=size,
        licence=licence,
        single_files=single_files,
    )


def _text_folder(
    role: str, repo: str, size: int, licence: Licence, requires: tuple[str, ...]
) -> Component:
    return Component(
        role=role,
        repo=repo,
        folder=role,
        patterns=(f"{role}/*.json", f"{role}/*.txt"),
        requires=requires,
        weights=False,
        size=size,
        licence=licence,
    )


_SHARED = (
    _model_folder("vae", _HUNYUAN_REPO, 986_000_000, HUNYUAN,
                  "hunyuan_video_vae_fp32.safetensors", "hunyuan_video_vae_bf16.safetensors"),
    _model_folder("text_encoder", _HUNYUAN_REPO, 15_010_000_000, LLAMA,
                  "llava_llama3_fp16.safetensors", "llava_llama3_fp8_scaled.safetensors"),
    _text_folder("tokenizer", _HUNYUAN_REPO, 17_300_000, LLAMA, ("tokenizer.json",)),
    _model_folder("text_encoder_2", _HUNYUAN_REPO, 246_000_000, CLIP, "clip_l.safetensors"),
    _text_folder("tokenizer_2", _HUNYUAN_REPO, 1_600_000, CLIP, ("vocab.json", "merges.txt")),
    _model_folder("image_encoder", _SIGLIP_REPO, 857_000_000, SIGLIP,
                  "sigclip_vision_patch14_384.safetensors"),
    _text_folder("feature_extractor", _SIGLIP_REPO, 1_000, SIGLIP, ("preprocessor_config.json",)),
)  # fmt: skip


def _own(role: str, stem: str) -> Component:
    return Component(
        role=role,
        repo="",
        folder="",
        patterns=(),
        requires=(f"{stem}.safetensors", f"{stem}.json"),
        weights=True,
        size=0,
        licence=PACKAGE,
        single_files=(f"{stem}.safetensors",),
    )


_INVERTED = "f1k1_x_g9_f1k1f2k2f16k4_td"
_FORWARD = "f1k1_f16k4f2k2f1k1_g9"

KNOWN: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "bundled",
            "Small model inside this package: camera moves over any picture, on a plain CPU",
            (_own("transformer", "dit"), _own("vae", "vae"), _own("text_encoder", "text")),
            ModelDefaults("inverted", _INVERTED, fps=12.0, base=192, steps=20, guidance_scale=None),
        ),
        ModelSpec(
            "framepack",
            "FramePack, 13B: the whole video from its end to its start (inverted anti-drifting)",
            (
                _transformer(
                    "lllyasviel/FramePackI2V_HY",
                    "FramePackI2V_HY_bf16.safetensors",
                    "FramePackI2V_HY_fp8_e4m3fn.safetensors",
                ),
                *_SHARED,
            ),
            ModelDefaults("inverted", _INVERTED),
        ),
        ModelSpec(
            "framepack-f1",
            "FramePack F1, 13B: forward in time, more motion",
            (
                _transformer(
                    "lllyasviel/FramePack_F1_I2V_HY_20250503",
                    "FramePack_F1_I2V_HY_20250503.safetensors",
                ),
                *_SHARED,
            ),
            ModelDefaults("forward", _FORWARD),
        ),
    )
}
