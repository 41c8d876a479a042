"""Kernel libraries that are not installed here: what we call, against their documented signature.

Each fake has the library's own signature, so that a wrong argument name or layout fails, and
computes attention by torch, so that a wrong result fails.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from recurvid.errors import ComponentError
from recurvid.ops.attention import cudnn_fp8, requirements
from recurvid.ops.attention.backend import AttentionSpec
from recurvid.ops.attention.eight_bit import (
    E4M3_MAX,
    FIXED,
    around_mean,
    normed_to_e4m3,
    simulated,
    smoothed,
    to_e4m3,
)
from recurvid.ops.attention.reference import REFERENCE
from recurvid.ops.attention.registry import ATTENTION, attention_backend
from recurvid.ops.attention.sdpa import SHORT

SPEC = AttentionSpec("cuda", torch.bfloat16, 128)


def by_torch(q, k, v, scale=None):
    """(b, n, heads, head_dim) in and out."""
    heads = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(*heads, scale=scale).transpose(1, 2)


def flash_2(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
            softcap=0.0, alibi_slopes=None, deterministic=False,
            return_attn_probs=False):  # fmt: skip
    assert not causal
    assert dropout_p == 0
    return by_torch(q, k, v, softmax_scale)


def flash_3(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None,
            v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1,
            pack_gqa=None, deterministic=False, sm_margin=0, return_attn_probs=False):  # fmt: skip
    assert not causal
    return by_torch(q, k, v, softmax_scale)


def flash_4(q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False,
            window_size=(None, None), learnable_sink=None, softcap=0.0, num_splits=1,
            pack_gqa=None, deterministic=False):  # fmt: skip
    assert not causal
    assert qv is None
    assert all(x.is_contiguous() for x in (q, k, v))
    return by_torch(q, k, v, softmax_scale), None


def xformers(query, key, value, attn_bias=None, p=0.0, scale=None, *, op=None, output_dtype=None):
    assert attn_bias is None
    assert p == 0
    return by_torch(query, key, value, scale)


def sage(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, smooth_k=True, **kwargs):
    assert not is_causal
    assert all(x.is_contiguous() for x in (q, k, v))
    assert tensor_layout == "NHD"
    return by_torch(q, k, v, sm_scale)


LIBRARIES = {
    "flash2": ("flash_attn", "flash_attn_func", flash_2),
    "flash3": ("flash_attn_interface", "flash_attn_func", flash_3),
    "flash4": ("flash_attn.cute.interface", "flash_attn_func", flash_4),
    "xformers": ("xformers.ops", "memory_efficient_attention", xformers),
    "sage": ("sageattention", "sageattn", sage),
}


@pytest.fixture(autouse=True)
def nothing_remembered():
    requirements.library.cache_clear()
    cudnn_fp8.plan_of.cache_clear()
    yield
    requirements.library.cache_clear()
    cudnn_fp8.plan_of.cache_clear()


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (9, 0))


def install(monkeypatch, name: str, **content) -> None:
    """A module of that name, and its parents, as if installed."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(".".join(parts[:i])))
    module = ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("name", LIBRARIES)
def test_calls_the_library_as_it_is_documented(name, monkeypatch, hopper):
    module, function, fake = LIBRARIES[name]
    install(monkeypatch, module, **{function: fake})
    backend = attention_backend(name, SPEC)
    q, k, v = (torch.randn(2, n, 3, 128) for n in (SHORT, 300, 300))
    assert torch.allclose(backend(q, k, v), REFERENCE(q, k, v), atol=1e-5)


@pytest.mark.parametrize("name", ["cudnn", "cudnn-fp8", "sage", "flash4"])
def test_short_prompts_are_left_to_torch(name):
    # The libraries are not here, so a call of them would fail.
    q, k, v = (torch.randn(1, n, 3, 64) for n in (SHORT - 1, 5, 5))
    assert torch.equal(ATTENTION[name](q, k, v), ATTENTION["sdpa"](q, k, v))
    long = torch.randn(1, SHORT, 3, 64)
    with pytest.raises((RuntimeError, AssertionError)):
        ATTENTION[name](long, long, long)


@pytest.mark.parametrize("name", [*LIBRARIES, "cudnn-fp8"])
def test_absent_libraries_are_named(name, hopper, monkeypatch):
    module = LIBRARIES[name][0] if name in LIBRARIES else "cudnn"
    package = module.split(".")[0]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ComponentError, match=rf"cannot be used here: .*{package}"):
        attention_backend(name, SPEC)


def test_a_broken_library_says_what_is_wrong(hopper, monkeypatch, tmp_path):
    (tmp_path / "sageattention.py").write_text("raise OSError('libcudart.so.11.0: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ComponentError, match=r"cannot be imported .*libcudart"):
        attention_backend("sage", SPEC)


@pytest.mark.parametrize(
    ("name", "changed", "why"),
    [
        ("cudnn", {"grad": True}, "backward"),
        ("cudnn", {"masked": True}, "mask"),
        ("cudnn", {"head_dim": 256}, "up to 128"),
        ("cudnn", {"dtype": torch.float32}, "float32"),
        ("cudnn", {"device": "mps"}, "not on mps"),
        ("torch-flash", {"head_dim": 20}, "multiples of 8"),
        ("cudnn-fp8", {"head_dim": 72}, "multiples of 16"),
        ("sage", {"head_dim": 80}, "multiples of 64"),
    ],
)
def test_limits_are_said_in_words(name, changed, why, hopper):
    spec = AttentionSpec(**{**vars(SPEC), **changed})
    with pytest.raises(ComponentError, match=why):
        attention_backend(name, spec)


def test_auto_takes_cudnn_on_hopper_and_torch_elsewhere(hopper, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert attention_backend("auto", SPEC).name == "cudnn"
    trained = AttentionSpec("cuda", torch.bfloat16, 128, grad=True)
    assert attention_backend("auto", trained).name == "sdpa"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (8, 6))
    assert attention_backend("auto", SPEC).name == "sdpa"
    with pytest.raises(ComponentError, match=r"needs compute capability 9.0, this card has 8.6"):
        attention_backend("cudnn", SPEC)


def test_auto_takes_flash_4_where_it_has_been_measured(hopper, monkeypatch):
    install(monkeypatch, "flash_attn.cute.interface", flash_attn_func=flash_4)
    assert attention_backend("auto", SPEC).name == "flash4"
    for changed in ({"grad": True}, {"masked": True}, {"dtype": torch.float32}):
        assert attention_backend("auto", replace(SPEC, **changed)).name == "sdpa"
    for card in ((8, 6), (10, 0), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None, card=card: card)
        assert attention_backend("auto", SPEC).name != "flash4"
        assert attention_backend("flash4", SPEC).name == "flash4"


def test_flash_4_leaves_no_break_in_compiled_code(monkeypatch):
    install(monkeypatch, "flash_attn.cute.interface", flash_attn_func=flash_4)
    q, k, v = (torch.randn(1, SHORT, 2, 64) for _ in range(3))

    def doubled(q, k, v):
        return 2 * ATTENTION["flash4"](q + 0, k, v)

    whole = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    assert torch.allclose(whole(q, k, v), 2 * REFERENCE(q, k, v), atol=1e-5)


def test_flash_4_says_what_to_install(hopper, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ComponentError, match=r"pip install flash-attn-4"):
        attention_backend("flash4", SPEC)


def test_flash_3_has_no_code_for_newer_cards(monkeypatch, hopper):
    install(monkeypatch, "flash_attn_interface", flash_attn_func=flash_3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (10, 0))
    with pytest.raises(ComponentError, match=r"no code for this card"):
        attention_backend("flash3", SPEC)


def test_keys_may_be_moved_together():
    q, k, v = (torch.randn(1, 40, 2, 64, dtype=torch.float64) for _ in range(3))
    assert torch.allclose(REFERENCE(q, smoothed(k), v), REFERENCE(q, k, v), atol=1e-6)


def test_smoothing_pays_where_keys_share_an_offset():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 200, 2, 64) for _ in range(3))
    k = k + 30 * torch.randn(1, 1, 2, 64)
    exact = REFERENCE(q.double(), k.double(), v.double())
    error = {s: (simulated(q, k, v, smooth=s) - exact).norm() / exact.norm() for s in (True, False)}
    assert error[True] < 0.08
    assert error[False] > 3 * error[True]


class FakeGraph:
    """Keeps what is built and computes it with torch, in the frontend's names (1.16)."""

    def __init__(self, io_data_type, intermediate_data_type, compute_data_type, handle):
        assert (io_data_type, intermediate_data_type, compute_data_type) == ("e4m3", "f32", "f32")
        self.tensors: dict[str, SimpleNamespace] = {}

    def tensor(self, dim, stride, data_type, name, uid):
        made = SimpleNamespace(dim=dim, stride=stride, data_type=data_type, uid=uid)
        self.tensors[name] = made
        return made

    def sdpa_fp8(self, q, k, v, descale_q, descale_k, descale_v, descale_s, scale_s, scale_o,
                 is_inference, attn_scale):  # fmt: skip
        assert is_inference
        self.scale = attn_scale
        self.results = [FakeTensor() for _ in range(4)]
        return self.results

    def build(self, modes):
        assert modes == ["A"]
        self.out = self.results[0]
        assert self.out.type == "e4m3"

    def get_workspace_size(self):
        return 12

    def execute(self, tensors, workspace, handle):
        by_name = {name: tensors[t.uid] for name, t in self.tensors.items()}
        views = {}
        for name in "qkv":
            t = self.tensors[name]
            views[name] = (
                by_name[name].float().as_strided(t.dim, t.stride) * by_name[f"descale_{name}"]
            )
        assert by_name["descale_s"] * by_name["scale_s"] == pytest.approx(1.0)
        y = F.scaled_dot_product_attention(*(views[n] for n in "qkv"), scale=self.scale)
        buffer = tensors[self.out.uid]
        written = (y * by_name["scale_o"]).to(buffer.dtype)
        buffer.as_strided(self.out.dim, self.out.stride).copy_(written)


class FakeTensor:
    def set_output(self, _):
        return self

    def set_uid(self, uid):
        self.uid = uid
        return self

    def set_data_type(self, kind):
        self.type = kind
        return self

    def set_dim(self, dim):
        self.dim = dim
        return self

    def set_stride(self, stride):
        self.stride = stride
        return self


def install_cudnn(monkeypatch) -> None:
    types = SimpleNamespace(FP8_E4M3="e4m3", FLOAT="f32")
    install(monkeypatch, "cudnn", data_type=types, heur_mode=SimpleNamespace(A="A"),
            pygraph=FakeGraph, create_handle=lambda: "handle")  # fmt: skip


def test_cudnn_fp8_builds_and_feeds_its_graph(monkeypatch):
    install_cudnn(monkeypatch)
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: real(*a, **{**k, "device": "cpu"}))
    plan = cudnn_fp8.plan_of(cudnn_fp8.Shape(2, 300, 50, 3, 64, 0))
    monkeypatch.setattr(cudnn_fp8, "_attend_e4m3", lambda *qkv: cudnn_fp8.run(plan, qkv))
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 3, 64) for n in (300, 50, 50))
    assert _off(cudnn_fp8.attend(q, k, v, None), REFERENCE(q, k, v)) < 0.08
    # What all tokens share is not rounded.
    v = v + 20 * torch.randn(2, 1, 3, 64)
    assert _off(cudnn_fp8.attend(q, k, v, None), REFERENCE(q, k, v)) < 0.003


def _off(out: torch.Tensor, exact: torch.Tensor) -> float:
    return ((out.float() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("size", [0.05, 1.0, 4.0])
def test_a_fixed_factor_does_for_what_a_norm_made(size):
    x = F.rms_norm(torch.randn(500, 128), (128,)) * size
    assert _off(normed_to_e4m3(x).float() / FIXED, x) < 0.03


def test_the_mean_of_v_is_put_back_exactly():
    v = torch.randn(2, 50, 3, 64) + 5
    mean, reach, inner = around_mean(v)
    assert inner.abs().amax(dim=1).eq(1).all()
    assert torch.allclose(inner * reach + mean, v, atol=1e-5)


def test_e4m3_factor_gives_the_largest_value_back():
    codes, factor = to_e4m3(torch.tensor([0.5, -3.0, 2.0]))
    assert codes.float().abs().max() == E4M3_MAX
    assert (codes.float() * factor)[1].item() == pytest.approx(-3.0)
