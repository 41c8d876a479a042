"""The set-up script: which build of PyTorch a machine gets, and what happens around it.

The probe is faked twice: as data handed to the decision, and as a program of that name on the PATH.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recurvid_run", ROOT / "run.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


run = load_run()
PROVIDE_PIP = run.provide_pip
RTX_5090 = run.Gpu("NVIDIA GeForce RTX 5090", 572, 12.0)
RTX_4090 = run.Gpu("NVIDIA GeForce RTX 4090", 580, 8.9)
RTX_3060 = run.Gpu("NVIDIA GeForce RTX 3060", 550, 8.6)
GTX_1080 = run.Gpu("NVIDIA GeForce GTX 1080", 580, 6.1)


# ---- the decision ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "label"),
    [
        ([], "cpu"),
        ([RTX_5090], "cu128"),
        ([RTX_4090], "cu130"),
        ([RTX_3060], "cu126"),
        ([run.Gpu("NVIDIA RTX A2000", 525, 8.6)], "cu126"),
        ([run.Gpu("NVIDIA RTX A2000", 524, 8.6)], "cpu"),
        ([run.Gpu("NVIDIA H100", 570, 9.0)], "cu128"),
        ([run.Gpu("NVIDIA GeForce RTX 5060", 590, 12.0)], "cu130"),
        ([run.Gpu("NVIDIA GeForce RTX 5060", 560, 12.0)], "cpu"),  # no such driver knows the card
        ([GTX_1080], "cu126"),  # newer builds left Pascal out
        ([run.Gpu("Tesla T4", 580, 7.5)], "cu130"),
        ([run.Gpu("unknown", 470, None)], "cpu"),
        ([run.Gpu("unknown", 535, None)], "cu126"),
        (
            [GTX_1080, run.Gpu("NVIDIA GeForce RTX 5090", 580, 12.0)],
            "cu130",
        ),  # the newer card counts
    ],
)
def test_linux_build(gpus: list[object], label: str):
    assert run.choose_build("Linux", "x86_64", gpus).label == label


def test_rtx_50_never_gets_less_than_cuda_12_8():
    for driver in range(400, 700):
        label = run.choose_build("Linux", "x86_64", [run.Gpu("RTX 50", driver, 12.0)]).label
        assert label in ("cpu", "cu128", "cu130")
        assert (label == "cpu") == (driver < 570)


def test_windows_build():
    assert run.choose_build("Windows", "AMD64", []).label is None  # the index has the CPU build
    assert run.choose_build("Windows", "AMD64", [RTX_5090]).label == "cu128"


def test_mac_build():
    assert run.choose_build("Darwin", "arm64", []).label is None
    with pytest.raises(run.SetupError, match="Intel"):
        run.choose_build("Darwin", "x86_64", [])


def test_reason_names_what_is_wrong():
    assert (
        "nvidia-smi failed" in run.choose_build("Linux", "x86_64", [], "nvidia-smi failed").reason
    )
    assert "update" in run.choose_build("Linux", "x86_64", [run.Gpu("A", 500, 8.0)]).reason


def test_label_is_part_of_the_version_asked_for():
    for build in (run.choose_build("Linux", "x86_64", gpus) for gpus in ([], [RTX_5090])):
        first, second = build.attempts()
        assert first[0] == f"torch=={run.TORCH}+{build.label}"
        assert first[-1].endswith("/" + build.label)
        assert second[-2] == "--index-url"  # that index alone
        assert second[-1].endswith("/" + build.label)


@pytest.mark.parametrize(
    ("label", "version", "fits"),
    [
        ("cpu", "2.13.0+cpu", True),
        ("cpu", "2.13.0", False),
        ("cpu", "2.13.0+cu130", False),
        ("cu128", "2.12.1+cu128", True),
        (None, "2.13.0", True),
        (None, None, False),
        ("cpu", None, False),
    ],
)
def test_installed_build_fits(label: str | None, version: str | None, fits: bool):
    assert run.TorchBuild(label, "").fits(version) is fits


# ---- the probe ---------------------------------------------------------------------------------


def test_parse_gpus():
    said = (
        "572.16, 12.0, NVIDIA GeForce RTX 5090\n572.16, [N/A], NVIDIA Something\nnot a line of it\n"
    )
    assert run.parse_gpus(said) == [
        RTX_5090,
        run.Gpu("NVIDIA Something", 572, None),
    ]
    assert run.parse_gpus("470.82.01, Tesla K80\n") == [run.Gpu("Tesla K80", 470, None)]


def fake_smi(folder: Path, script: str) -> dict[str, str]:
    """A PATH whose only program is an nvidia-smi of ours."""
    folder.mkdir(parents=True)
    program = folder / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nimport sys\nasked = sys.argv[1]\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": str(folder)}


posix = pytest.mark.skipif(os.name == "nt", reason="the fake is a script with #!")


@posix
def test_probe_asks_nvidia_smi(tmp_path: Path):
    path = fake_smi(tmp_path / "bin", "print('572.16, 12.0, NVIDIA GeForce RTX 5090')")
    assert run.probe_gpus(path) == ([RTX_5090], "")


@posix
def test_probe_of_an_old_driver(tmp_path: Path):
    script = (
        "if 'compute_cap' in asked: sys.exit('Field compute_cap is not a valid field to query.')\n"
        "print('460.1, Quadro P400')"
    )
    gpus, problem = run.probe_gpus(fake_smi(tmp_path / "bin", script))
    assert (gpus, problem) == ([run.Gpu("Quadro P400", 460, None)], "")


@posix
def test_probe_with_a_broken_driver(tmp_path: Path):
    script = "print('NVIDIA-SMI has failed because it could not reach the driver.'); sys.exit(9)"
    gpus, problem = run.probe_gpus(fake_smi(tmp_path / "bin", script))
    assert gpus == []
    assert "could not reach the driver" in problem
    assert run.choose_build("Linux", "x86_64", gpus, problem).label == "cpu"


def test_probe_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "find_nvidia_smi", lambda environ: None)
    assert run.probe_gpus({"PATH": str(tmp_path)}) == ([], "")


def test_nvidia_smi_of_windows_is_found_off_the_path(tmp_path: Path):
    program = tmp_path / "System32" / "nvidia-smi.exe"
    program.parent.mkdir()
    program.touch()
    found = run.find_nvidia_smi({"PATH": "", "SystemRoot": str(tmp_path)})
    assert found is not None
    assert Path(found) == program


@posix
def test_plan_says_the_choice_and_changes_nothing(tmp_path: Path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "run.py").write_bytes((ROOT / "run.py").read_bytes())
    path = fake_smi(tmp_path / "bin", "print('572.16, 12.0, NVIDIA GeForce RTX 5090')")
    said = subprocess.run(
        [sys.executable, str(checkout / "run.py"), "plan"],
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "RTX 5090" in said
    if sys.platform != "darwin":
        assert f"torch=={run.TORCH}+cu128" in said
    assert [entry.name for entry in checkout.iterdir()] == ["run.py"]


# ---- installing --------------------------------------------------------------------------------


class FakePip:
    """Stands for the environment's pip: what each index holds, and what is installed."""

    def __init__(self, offered: dict[str, str], installed: str | None = None):
        self.offered, self.installed = offered, installed
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, environment: object, *arguments: str) -> bool:
        self.calls.append(arguments)
        if arguments[0] == "uninstall":
            self.installed = None
            return True
        asked = next(a for a in arguments if a.startswith("torch"))
        index = arguments[-1].rsplit("/", 1)[-1]
        found = self.offered.get(asked) or self.offered.get(f"{asked} from {index}")
        self.installed = found or self.installed
        return found is not None

    def version_of(self, package: str) -> str | None:
        assert package == "torch"
        return self.installed


CPU = run.TorchBuild("cpu", "")


def test_tested_release_is_taken_first():
    pip = FakePip({"torch==2.13.0+cpu": "2.13.0+cpu", "torch>=2.9 from cpu": "2.14.1+cpu"})
    assert run.install_torch(pip, CPU, pip) == "2.13.0+cpu"
    assert len(pip.calls) == 1


def test_another_release_where_the_tested_one_has_no_wheel():
    pip = FakePip({"torch>=2.9 from cpu": "2.15.0+cpu"})
    assert run.install_torch(pip, CPU, pip) == "2.15.0+cpu"


def test_a_cuda_build_in_disguise_is_taken_out_again():
    pip = FakePip({"torch>=2.9 from cpu": "2.14.1"})
    with pytest.raises(run.SetupError, match="no build cpu"):
        run.install_torch(pip, CPU, pip)
    assert pip.installed is None


def test_a_build_that_stands_is_kept():
    pip = FakePip({}, installed="2.11.0+cpu")
    assert run.install_torch(pip, CPU, pip) == "2.11.0+cpu"
    assert pip.calls == []


def test_a_new_card_replaces_the_build():
    pip = FakePip({"torch==2.13.0+cu128": "2.13.0+cu128"}, installed="2.13.0+cpu")
    assert run.install_torch(pip, run.TorchBuild("cu128", ""), pip) == "2.13.0+cu128"
    assert pip.calls[0][0] == "uninstall"


# ---- the environment ---------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with everything that the set-up reads, and nothing to install."""
    for name in ("run.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "vendor").mkdir()
    wheel = next((ROOT / "vendor").glob("pip-*.whl"))
    (tmp_path / "vendor" / wheel.name).write_bytes(wheel.read_bytes())
    return tmp_path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Records what would be installed; nothing is, pip included."""
    record: list[object] = []
    monkeypatch.setattr(run, "probe_gpus", lambda: ([], ""))
    monkeypatch.setattr(run.platform, "system", lambda: "Linux")
    monkeypatch.setattr(run.platform, "machine", lambda: "x86_64")

    def install_torch(environment: object, build: object) -> str:
        record.append(build.label)  # type: ignore[attr-defined]
        return "2.13.0+cpu"

    def install_package(
        environment: object, torch_version: str, dev: bool, extras: list[str]
    ) -> None:
        record.append((torch_version, dev, *extras))

    monkeypatch.setattr(run, "provide_pip", lambda environment: None)
    monkeypatch.setattr(run, "install_torch", install_torch)
    monkeypatch.setattr(run, "install_package", install_package)
    return record


def test_environment_is_made_without_ensurepip(
    checkout: Path, installed: list[object], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "ensurepip", None)  # importing it fails, as on Debian
    monkeypatch.setattr(run, "provide_pip", PROVIDE_PIP)
    environment = run.Environment(checkout)
    run.set_up(environment, dev=False, torch_label=None)
    assert installed == ["cpu", ("2.13.0+cpu", False)]
    assert environment.works()
    wheel = next((ROOT / "vendor").glob("pip-*.whl"))
    assert environment.version_of("pip") == wheel.name.split("-")[1]


def test_second_time_nothing_is_done(checkout: Path, installed: list[object]):
    environment = run.Environment(checkout)
    run.set_up(environment, dev=True, torch_label=None)
    installed.clear()
    run.set_up(environment, dev=True, torch_label=None)
    run.set_up(environment, dev=False, torch_label=None)  # contained in the larger one
    assert installed == []
    (checkout / "constraints.txt").write_text("numpy==2.0.0\n")
    run.set_up(environment, dev=False, torch_label=None)
    assert installed == ["cpu", ("2.13.0+cpu", False, "gui", "server")]  # extras stay


def test_tools_are_added_to_the_smaller_set_up(checkout: Path, installed: list[object]):
    environment = run.Environment(checkout)
    run.set_up(environment, dev=False, torch_label=None)
    installed.clear()
    run.set_up(environment, dev=True, torch_label=None)
    assert installed == ["cpu", ("2.13.0+cpu", True)]


def test_extras_are_added_and_stay(checkout: Path, installed: list[object]):
    environment = run.Environment(checkout)
    run.set_up(environment, dev=False, torch_label=None)
    installed.clear()
    for extra in ("gui", "server", "gui", "server"):
        run.set_up(environment, dev=False, torch_label=None, extras=[extra])
    run.set_up(environment, dev=False, torch_label=None)
    assert installed == [
        "cpu", ("2.13.0+cpu", False, "gui"),
        "cpu", ("2.13.0+cpu", False, "gui", "server"),
    ]  # fmt: skip
    run.set_up(environment, dev=True, torch_label=None)
    installed.clear()
    run.set_up(environment, dev=False, torch_label=None, extras=["gui"])
    assert installed == []


def test_interrupted_set_up_is_done_again(
    checkout: Path, installed: list[object], monkeypatch: pytest.MonkeyPatch
):
    environment = run.Environment(checkout)

    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "install_package", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.set_up(environment, dev=False, torch_label=None)
    installed.clear()
    run.set_up(environment, dev=False, torch_label=None)
    assert installed == ["cpu", ("2.13.0+cpu", False)]


def test_broken_or_moved_environment_is_made_anew(checkout: Path, installed: list[object]):
    environment = run.Environment(checkout)
    run.set_up(environment, dev=False, torch_label=None)
    stamp = json.loads(environment.stamp.read_text())
    left_over = environment.folder / "left-over"

    environment.stamp.write_text(json.dumps({**stamp, "root": "/somewhere/else"}))
    left_over.touch()
    run.set_up(environment, dev=False, torch_label=None)
    assert not left_over.exists()

    environment.python.unlink()
    left_over.touch()
    run.set_up(environment, dev=False, torch_label=None)
    assert not left_over.exists()
    assert environment.works()


def test_environment_of_another_tool_gets_pip_and_is_kept(
    checkout: Path, installed: list[object], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run, "provide_pip", PROVIDE_PIP)
    venv.create(checkout / ".venv", with_pip=False)  # as uv leaves it
    mine = checkout / ".venv" / "mine"
    mine.touch()
    environment = run.Environment(checkout)
    run.set_up(environment, dev=False, torch_label=None)
    assert mine.exists()
    assert environment.version_of("pip") is not None


def test_package_is_installed_around_the_torch_that_stands(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
):
    (checkout / ".venv").mkdir()
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(run, "pip", lambda environment, *words: calls.append(words) or True)
    run.install_package(run.Environment(checkout), "2.13.0+cpu", dev=True)
    (words,) = calls
    constraints = Path(words[words.index("--constraint") + 1]).read_text().splitlines()
    assert "torch==2.13.0+cpu" in constraints
    assert any(line.startswith("transformers==") for line in constraints)
    assert words[-2:] == ("--group", "dev")
    assert words[-4:-2] == ("--editable", ".[gui,server]")


def test_stray_pip_settings_do_not_leak(monkeypatch: pytest.MonkeyPatch):
    for name in ("PIP_TARGET", "PIP_PREFIX", "PYTHONHOME", "PYTHONPATH"):
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    environment = run.child_environment()
    assert "/elsewhere" not in environment.values()
    assert environment["PIP_USER"] == "0"


# ---- the commands ------------------------------------------------------------------------------


def commands_of(
    monkeypatch: pytest.MonkeyPatch, *arguments: str, wanted: list[object] | None = None
) -> list[list[str]]:
    """What `run.py` with these arguments would start; the extras it wants go to ``wanted``."""
    started: list[list[str]] = []

    def start(command: list[str], **named: object) -> subprocess.CompletedProcess[str]:
        started.append(command)
        return subprocess.CompletedProcess(command, 0)

    said = [] if wanted is None else wanted
    monkeypatch.setattr(run, "set_up", lambda *a, **k: said.append(k["extras"]))
    monkeypatch.setattr(run.subprocess, "run", start)
    assert run.main(arguments) == 0
    return started


def test_demo_runs_the_main_job(monkeypatch: pytest.MonkeyPatch):
    (command,) = commands_of(monkeypatch, "demo", "--prompt", "zoom in")
    assert command[1:5] == ["-m", "recurvid", "generate", run.EXAMPLE]
    assert command[-2:] == ["--prompt", "zoom in"]
    assert command[command.index("--out") + 1] == run.DEMO_OUT
    assert (ROOT / run.EXAMPLE).is_file()


def test_demo_keeps_a_chosen_output(monkeypatch: pytest.MonkeyPatch):
    (command,) = commands_of(monkeypatch, "demo", "--out=mine.mp4")
    assert run.DEMO_OUT not in command


@pytest.mark.parametrize(("name", "extra"), [("gui", "gui"), ("serve", "server")])
def test_page_and_server_need_no_activated_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, extra: str
):
    wanted: list[object] = []
    commands = commands_of(monkeypatch, name, "--port", "8000", wanted=wanted)
    (command,) = commands
    assert command[1:4] == ["-m", "recurvid", name]
    assert command[-2:] == ["--port", "8000"]
    assert ("--inbrowser" in command) is (name == "gui")
    assert wanted == [[extra]]
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert extra in pyproject["project"]["optional-dependencies"]


def test_setup_takes_extras(monkeypatch: pytest.MonkeyPatch):
    wanted: list[object] = []
    assert commands_of(monkeypatch, "setup", "--server", wanted=wanted) == []
    assert wanted == [["server"]]


def test_test_passes_its_words_on(monkeypatch: pytest.MonkeyPatch):
    (command,) = commands_of(monkeypatch, "test", "--torch", "cpu", "tests/packing", "-x")
    assert command[1:] == ["-m", "pytest", "tests/packing", "-x"]


@pytest.mark.parametrize(
    ("cores", "gpus", "how"),
    [
        (1, [], []),
        (2, [], ["-n", "2", "--dist", "loadfile"]),
        (64, [], ["-n", "4", "--dist", "loadfile"]),
        (64, [run.Gpu("H100", 580, 9.0)], []),
    ],
)
def test_all_tests_use_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: list[object], how: list[str]
):
    monkeypatch.setattr(run, "_cores", lambda: set(range(cores)))
    monkeypatch.setattr(run, "probe_gpus", lambda: (gpus, ""))
    (command,) = commands_of(monkeypatch, "test")
    assert command[1:] == ["-m", "pytest", *how]


def test_check_runs_every_tool_and_fails_if_one_does(monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []

    def start(command: list[str], **named: object) -> subprocess.CompletedProcess[str]:
        seen.append(Path(command[0]).stem)
        return subprocess.CompletedProcess(command, int("pyright" in command[0]))

    monkeypatch.setattr(run, "set_up", lambda *a, **k: None)
    monkeypatch.setattr(run.subprocess, "run", start)
    assert run.main(["check"]) == 1
    assert seen == ["ruff", "ruff", "pyright", "lint-imports"]


def test_unknown_command_shows_the_menu(capsys: pytest.CaptureFixture[str]):
    assert run.main(["demoo"]) == 2
    assert "run.py demo" in capsys.readouterr().out


# ---- the files around it -----------------------------------------------------------------------


def test_vendored_pip_is_the_one_described():
    wheel = next((ROOT / "vendor").glob("pip-*.whl"))
    readme = (ROOT / "vendor" / "README.md").read_text(encoding="utf-8")
    assert wheel.name in readme
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in readme


def test_constraints_leave_torch_to_the_choice():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    names = [re.split("[=<>]", line)[0] for line in pins if line and not line.startswith("#")]
    assert "torch" not in names
    assert len(names) == len(set(names)) > 10


def test_page_command_of_the_original_is_the_page():
    ended = subprocess.run(
        [sys.executable, str(ROOT / "demo_gradio.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0
    assert all(option in ended.stdout for option in ("--share", "--server", "--port"))
