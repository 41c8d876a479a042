"""locate: every place in which people have the files, and one line where they have not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.checkpoints.layouts import FORWARD, HUNYUAN, INVERTED, REDUX, to_hub_cache

from recurvid.checkpoints import locate as module
from recurvid.checkpoints.known import KNOWN, ROLES
from recurvid.checkpoints.locate import find, hub_cache, kind_of, locate, search_roots, status
from recurvid.errors import CheckpointError, InputError
from recurvid.settings import settings


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults_are_the_originals() -> None:
    inverted, forward = KNOWN["framepack"], KNOWN["framepack-f1"]
    assert (inverted.defaults.order, inverted.defaults.schedule) == (
        "inverted",
        "f1k1_x_g9_f1k1f2k2f16k4_td",
    )
    assert (forward.defaults.order, forward.defaults.schedule) == (
        "forward",
        "f1k1_f16k4f2k2f1k1_g9",
    )
    for spec in (inverted, forward):
        made_for = spec.defaults
        assert (made_for.fps, made_for.base, made_for.steps, made_for.section) == (30, 640, 25, 9)
        assert made_for.guidance_scale == 10
        assert {component.role for component in spec.components} == set(ROLES)
    small = KNOWN["bundled"].defaults
    assert (small.fps, small.base, small.steps, small.guidance_scale) == (12, 192, 20, None)
    assert small.order == "inverted"


def test_names_from_a_hub_cache(hub: Path) -> None:
    for name, repo in (("framepack", INVERTED), ("framepack-f1", FORWARD)):
        files = locate(name, roots=(hub,))
        assert files.spec is KNOWN[name]
        assert set(files.paths) == set(ROLES)
        cached = "models--" + repo.replace("/", "--")
        assert files["transformer"] == hub / cached / "snapshots" / ("0" * 40)
        assert files["text_encoder"].name == "text_encoder"
        assert locate(repo, roots=(hub,)) == files
    assert not any("image_embedder" in str(path) for path in files.paths.values())


def test_plain_folders(repositories: Path) -> None:
    files = locate("framepack", roots=(repositories,))
    assert files["transformer"] == repositories / INVERTED
    assert files["vae"] == repositories / HUNYUAN / "vae"
    assert files["image_encoder"] == repositories / REDUX / "image_encoder"


def test_plain_folders_without_the_organisation(repositories: Path, tmp_path: Path) -> None:
    for repo in (INVERTED, HUNYUAN, REDUX):
        shutil.copytree(repositories / repo, tmp_path / repo.split("/")[1])
    assert locate("framepack", roots=(tmp_path,))["transformer"] == tmp_path / "FramePackI2V_HY"


def test_installation_of_the_original(hub: Path, tmp_path: Path) -> None:
    """``hf_download/hub/models--…`` as root, as folder of one model, and as snapshot."""
    install = tmp_path / "hf_download"
    shutil.copytree(hub, install / "hub", symlinks=True)
    cached = install / "hub" / "models--lllyasviel--FramePack_F1_I2V_HY_20250503"
    snapshot = cached / "snapshots" / ("0" * 40)
    for given in (cached, snapshot, snapshot / "config.json"):
        if given.is_file():
            continue
        files = locate(given, roots=())
        assert files.spec.name == "framepack-f1"
        assert files["transformer"] == snapshot
        assert files["vae"].is_relative_to(install / "hub")
    index = snapshot / "diffusion_pytorch_model.safetensors.index.json"
    assert locate(index, roots=())["transformer"] == index
    for root in (install, install / "hub"):
        assert locate(f"framepack={root}", roots=())["vae"].is_relative_to(install / "hub")
        with pytest.raises(InputError, match="holds several models"):
            locate(root, roots=())
    shutil.rmtree(cached)
    assert locate(install, roots=()).spec.name == "framepack"


def test_single_files(hub: Path, tmp_path: Path) -> None:
    for file, name in (
        ("FramePackI2V_HY_bf16.safetensors", "framepack"),
        ("FramePackI2V_HY_fp8_e4m3fn.safetensors", "framepack"),
        ("FramePack_F1_I2V_HY_20250503.safetensors", "framepack-f1"),
    ):
        path = touch(tmp_path / "diffusion_models" / file)
        files = locate(path, roots=(hub,))
        assert files.spec.name == name
        assert files["transformer"] == path
        assert files["text_encoder"].is_relative_to(hub)


def test_single_file_of_a_root_is_found_by_name(hub: Path, tmp_path: Path) -> None:
    only = tmp_path / "only"
    for repo in (HUNYUAN, REDUX):
        cached = "models--" + repo.replace("/", "--")
        shutil.copytree(hub / cached, only / cached, symlinks=True)
    file = touch(only / "diffusion_models" / "FramePack_F1_I2V_HY_20250503.safetensors")
    assert locate("framepack-f1", roots=(only,))["transformer"] == file
    with pytest.raises(CheckpointError, match=r"framepack .*: transformer \(missing\)"):
        locate("framepack", roots=(only,))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("FramePackI2V_HY_bf16.safetensors", "framepack"),
        ("FramePack_F1_I2V_HY_20250503.safetensors", "framepack-f1"),
        ("framepack-f1/model.safetensors", "framepack-f1"),
        ("FramePackI2V_HY/diffusion_pytorch_model.safetensors", "framepack"),
        ("models--lllyasviel--FramePack_F1_I2V_HY_20250503/snapshots/0f1/x", "framepack-f1"),
        ("models--lllyasviel--FramePackI2V_HY/snapshots/f1/x", "framepack"),
        ("f1/FramePackI2V_HY_bf16.safetensors", "framepack"),
        ("framepack-f1/FramePackI2V_HY_bf16.safetensors", "framepack"),
        ("FramePack_F1.safetensors", "framepack-f1"),
        ("framepack_f10.safetensors", None),
        ("f1/model.safetensors", None),
        ("framepack/model.safetensors", None),
        ("model.safetensors", None),
    ],
)
def test_the_name_tells_which_it_is(path: str, kind: str | None) -> None:
    assert kind_of(Path("/somewhere") / path) == kind


def test_a_name_that_does_not_tell_is_asked_for(hub: Path, tmp_path: Path) -> None:
    path = touch(tmp_path / "weights.safetensors")
    with pytest.raises(InputError) as caught:
        locate(path, roots=(hub,))
    assert f"framepack={path}" in str(caught.value)
    assert f"framepack-f1={path}" in str(caught.value)
    assert locate(f"framepack-f1={path}", roots=(hub,)).spec.name == "framepack-f1"
    # What the user says goes before what the name says.
    other = touch(tmp_path / "FramePackI2V_HY_bf16.safetensors")
    assert locate(f"framepack-f1={other}", roots=(hub,)).spec.name == "framepack-f1"


def test_main_goes_before_other_snapshots(hub: Path, repositories: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    shutil.copytree(hub, root, symlinks=True)
    newer = to_hub_cache(root, INVERTED, repositories / INVERTED, commit="1" * 40)
    cached = newer.parents[1]
    assert locate("framepack", roots=(root,))["transformer"] == newer
    (cached / "refs" / "main").write_text("0" * 40)
    assert locate("framepack", roots=(root,))["transformer"] == newer.parent / ("0" * 40)
    (newer.parent / ("0" * 40) / "config.json").unlink()  # incomplete: the other one
    assert locate("framepack", roots=(root,))["transformer"] == newer
    for text in ("../../../../elsewhere", "..", "", "no such commit"):
        (cached / "refs" / "main").write_text(text)
        assert locate("framepack", roots=(root,))["transformer"] == newer


@pytest.mark.parametrize(
    "lost",
    ["config.json", "diffusion_pytorch_model-00002-of-00003.safetensors",
     "diffusion_pytorch_model.safetensors.index.json"],
)  # fmt: skip
def test_incomplete_is_not_present(lost: str, repositories: Path, tmp_path: Path) -> None:
    folder = tmp_path / INVERTED
    shutil.copytree(repositories / INVERTED, folder)
    component = KNOWN["framepack"].component("transformer")
    assert find(component, (tmp_path,)).state == "present"
    (folder / lost).unlink()
    found = find(component, (tmp_path,))
    if lost.endswith("index.json"):  # the shards say themselves how many there are
        assert found.state == "present"
        (folder / "diffusion_pytorch_model-00001-of-00003.safetensors").unlink()
        found = find(component, (tmp_path,))
    assert found.state == "incomplete"
    assert found.partial == folder
    assert found.size == sum(file.stat().st_size for file in folder.iterdir())
    shutil.rmtree(folder)
    assert find(component, (tmp_path,)).state == "missing"


def test_broken_link_is_not_present(hub: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    shutil.copytree(hub, root, symlinks=True)
    snapshot = locate("framepack", roots=(root,))["transformer"]
    shard = snapshot / "diffusion_pytorch_model-00002-of-00003.safetensors"
    if not shard.is_symlink():
        pytest.skip("no links on this file system")
    shard.resolve().unlink()
    with pytest.raises(CheckpointError, match=r"transformer \(incomplete\)"):
        locate("framepack", roots=(root,))


def test_what_is_missing_is_said_with_the_cure(repositories: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        locate("framepack-f1", roots=(repositories / "lllyasviel",))
    message = str(caught.value)
    assert "vae (missing), text_encoder (missing)" in message
    assert "transformer" not in message
    assert "recurvid models get framepack-f1" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["frampack", "org/unknown", "/no/such/path.safetensors", ""])
def test_unknown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        locate(name, roots=(tmp_path,))


def test_known_name_with_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        locate(f"framepack={tmp_path / 'nothing'}", roots=())


@pytest.mark.parametrize("name", ["framepack_f1.pt", "FramePackI2V_HY.ckpt"])
def test_pickle_is_refused_before_anything_else(name: str, hub: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="never opened"):
        locate(touch(tmp_path / name), roots=(hub,))


def test_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no transformer weights"):
        locate(tmp_path, roots=())


def test_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stem in ("dit", "vae", "text"):
        touch(tmp_path / f"{stem}.safetensors", "x" * 10)
        touch(tmp_path / f"{stem}.json", "{}")
    monkeypatch.setattr(module, "BUNDLED_FOLDER", tmp_path)
    files = locate("bundled", roots=())
    assert files.paths == {
        "transformer": tmp_path / "dit.safetensors",
        "vae": tmp_path / "vae.safetensors",
        "text_encoder": tmp_path / "text.safetensors",
    }
    assert [found.size for found in status(KNOWN["bundled"], ())] == [12, 12, 12]
    (tmp_path / "vae.json").unlink()
    with pytest.raises(CheckpointError, match=r"bundled .*vae.*reinstall"):
        locate("bundled", roots=())


def test_own_model_in_the_bundled_layout(tmp_path: Path) -> None:
    for stem in ("dit", "vae", "text"):
        touch(tmp_path / f"{stem}.safetensors")
        touch(tmp_path / f"{stem}.json", "{}")
    for given in (tmp_path, tmp_path / "dit.safetensors", f"bundled={tmp_path}"):
        files = locate(given, roots=())
        assert files.spec.name == "bundled"
        assert files["vae"] == tmp_path / "vae.safetensors"


def test_roots_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECURVID_MODELS", str(tmp_path))
    settings.cache_clear()
    assert search_roots() == (tmp_path, hub_cache())
    run = subprocess.run(
        [sys.executable, "-c", "from recurvid.checkpoints.locate import *; print(hub_cache())"],
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == str(tmp_path / "home" / "hub")


def test_looking_needs_no_torch_and_no_network(hub: Path) -> None:
    """A listing must be quick, and must work with every connection refused."""
    code = f"""
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
from pathlib import Path
from recurvid.checkpoints.locate import locate, status
from recurvid.checkpoints.known import KNOWN
files = locate("framepack", roots=(Path({str(hub)!r}),))
import json; print(json.dumps(["torch" in sys.modules, len(files.paths)]))
"""
    env = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout) == [False, len(ROLES)]
