"""One command from a fresh checkout: set everything up, then do something with it.

    python3 run.py demo    make .venv, install, turn the example picture into a video
    python3 run.py gui     make .venv, install, open the page in a browser
    python3 run.py serve   make .venv, install, serve the API
    python3 run.py test    make .venv, install with the tools for development, run the tests
    python3 run.py check   the same set-up, then ruff, pyright and the import rules
    python3 run.py setup   the set-up of `demo` alone (--gui, --server, --dev: of those)
    python3 run.py plan    say which build of PyTorch this machine gets, and why; change nothing

On Windows: `py run.py demo`. Words after the command go on to what it starts
(`python3 run.py demo --prompt "zoom in"`, `python3 run.py gui --port 8000`,
`python3 run.py test tests/packing`).
`--torch LABEL`, before them, takes another build of PyTorch: cpu, cu126, cu128, cu130, rocm7.1,
xpu, ..., or `default` for whatever the package index holds.

Needs Python 3.11 or newer and nothing else: only the standard library is imported, `ensurepip` is
not used (pip comes out of vendor/), the system's Python is left alone, and nothing is activated.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11)

TORCH = "2.13.0"  # the release that the tests pass with; another one is taken where it has no wheel
TORCH_RANGE = "torch>=2.9"
TORCH_INDEX = "https://download.pytorch.org/whl/"

EXAMPLE = "examples/valley.jpg"
DEMO = ("generate", EXAMPLE, "--prompt", "pan left", "--seconds", "6")
DEMO_OUT = "recurvid-out/valley.mp4"

MOST_TEST_PROCESSES = 4  # each takes up to 3 GB

EXTRAS = {"gui": "gui", "serve": "server"}  # command -> the extra that it needs
COMMANDS = ("demo", "gui", "serve", "test", "check", "setup", "plan")


class SetupError(Exception):
    """What stops the set-up, in words for the person at the keyboard."""


# ---- which build of PyTorch --------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA card as nvidia-smi names it; ``capability`` is None where it does not say."""

    name: str
    driver: int  # the first number of the driver's version
    capability: float | None


@dataclass(frozen=True)
class TorchBuild:
    """A build of PyTorch: its label (the part after "+"), or None for the index's own choice."""

    label: str | None
    reason: str

    def attempts(self) -> list[list[str]]:
        """Arguments of ``pip install``, best first.

        The label is part of the version that is asked for, so that whatever indexes and folders
        pip is configured with, another build can never be taken in its place.
        """
        if self.label is None:
            return [[f"torch=={TORCH}"], [TORCH_RANGE]]
        index = TORCH_INDEX + self.label
        # What a CPU build needs comes with everything else, later, from the usual index. The other
        # builds need libraries of their own, some of which only PyTorch's index has.
        alone = ["--no-deps"] if self.label == "cpu" else []
        return [
            [f"torch=={TORCH}+{self.label}", *alone, "--extra-index-url", index],
            [TORCH_RANGE, *alone, "--index-url", index],
        ]

    def fits(self, version: str | None) -> bool:
        """Whether an installed version of torch is of this build."""
        if version is None:
            return False
        return self.label is None or version.partition("+")[2] == self.label


# The first number of the driver that each CUDA build needs, newest first (Linux and Windows alike).
# 12.6 runs on every driver of CUDA 12, from 525 on; 12.8 is the first that knows RTX 50.
CUDA_BUILDS = ((580, "cu130"), (570, "cu128"), (525, "cu126"))
BLACKWELL = 10.0  # compute capability of B100/B200; RTX 50 has 12.0
TURING = 7.5  # the oldest that builds for CUDA 12.8 and newer still carry


def choose_build(system: str, machine: str, gpus: Sequence[Gpu], problem: str = "") -> TorchBuild:
    """The build for this machine.

    Args:
        system: ``platform.system()``: Linux, Darwin, Windows.
        machine: ``platform.machine()``.
        gpus: what the probe found.
        problem: what went wrong in the probe, to be passed on.
    """
    if system == "Darwin":
        if machine == "x86_64":
            raise SetupError("Macs with an Intel processor are not served by PyTorch 2.9 or newer.")
        return TorchBuild(None, "macOS: one build for CPU and MPS")
    if gpus:
        gpu = max(gpus, key=lambda g: (g.capability or 0.0, g.driver))
        build = _cuda_build(gpu)
        if build.label != "cpu":
            return build
        problem = build.reason
    why = problem or "no NVIDIA GPU found"
    # On Windows the index's own choice is the CPU build; on Linux it is the CUDA one, of gigabytes.
    return TorchBuild(None if system == "Windows" else "cpu", f"{why}: CPU build")


def _cuda_build(gpu: Gpu) -> TorchBuild:
    label = next((label for driver, label in CUDA_BUILDS if gpu.driver >= driver), "cpu")
    card = f"{gpu.name}, driver {gpu.driver}"
    if label == "cpu":
        return TorchBuild("cpu", f"{card} (older than 525, please update it)")
    if gpu.capability is not None and gpu.capability < TURING:
        return TorchBuild("cu126", f"{card}: CUDA 12.6, the newest that still knows this card")
    if gpu.capability is not None and gpu.capability >= BLACKWELL and label == "cu126":
        return TorchBuild("cpu", f"{card} (this card needs 570 or newer, please update it)")
    return TorchBuild(label, f"{card}: CUDA {label[2:4]}.{label[4:]}")


def parse_gpus(text: str) -> list[Gpu]:
    """Cards out of ``nvidia-smi --query-gpu=driver_version[,compute_cap],name``, csv, no header."""
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) < 2 or not cells[0].split(".")[0].isdigit():
            continue
        capability = None
        if len(cells) > 2:
            try:
                capability = float(cells[1])
            except ValueError:  # "[N/A]"
                capability = None
        gpus.append(Gpu(cells[-1], int(cells[0].split(".")[0]), capability))
    return gpus


def find_nvidia_smi(environ: dict[str, str] | None = None) -> str | None:
    """The path of nvidia-smi, on the PATH or where Windows and WSL keep it."""
    environ = dict(os.environ) if environ is None else environ
    found = shutil.which("nvidia-smi", path=environ.get("PATH", ""))
    if found:
        return found
    places = [Path("/usr/lib/wsl/lib/nvidia-smi")]
    for variable, rest in (
        ("SystemRoot", "System32/nvidia-smi.exe"),
        ("ProgramFiles", "NVIDIA Corporation/NVSMI/nvidia-smi.exe"),
    ):
        if environ.get(variable):
            places.append(Path(environ[variable]) / rest)
    return next((str(place) for place in places if place.is_file()), None)


def probe_gpus(environ: dict[str, str] | None = None) -> tuple[list[Gpu], str]:
    """NVIDIA cards of this machine, and what stood in the way of asking, if anything did."""
    smi = find_nvidia_smi(environ)
    if smi is None:
        return [], ""
    # Drivers before 470 do not know compute_cap and refuse the whole question.
    for fields in ("driver_version,compute_cap,name", "driver_version,name"):
        question = [smi, f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            answer = subprocess.run(question, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            return [], f"nvidia-smi could not be run ({error})"
        if answer.returncode == 0:
            return parse_gpus(answer.stdout), ""
    said = (answer.stdout + answer.stderr).strip().splitlines()
    return [], f"nvidia-smi failed ({said[0] if said else answer.returncode})"


# ---- the environment ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Environment:
    """The virtual environment in the checkout, and the stamp of what was put into it."""

    root: Path

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def stamp(self) -> Path:
        """Written last, so that an interrupted set-up is done again."""
        return self.folder / "recurvid-setup.json"

    def works(self) -> bool:
        """Whether its interpreter starts, is new enough, and was set up in this place."""
        code = "import sys; print(sys.version_info >= (3, 11))"
        try:
            said = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True)
        except OSError:
            return False
        # The scripts in an environment name its folder: moved, it is made anew.
        moved = self.read_stamp().get("root", str(self.root)) != str(self.root)
        return said.stdout.strip() == "True" and not moved

    def read_stamp(self) -> dict[str, Any]:
        """What the last complete set-up put here; empty where there was none."""
        try:
            return json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def version_of(self, package: str) -> str | None:
        """The version of a package that is installed, label included."""
        code = f"from importlib.metadata import version; print(version('{package}'))"
        said = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True)
        return said.stdout.strip() if said.returncode == 0 else None


def fingerprint(root: Path) -> str:
    """A hash of everything that decides what the set-up puts into the environment."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt", "run.py"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()[:16]


def say(text: str) -> None:
    """One line of ours between the lines of pip; ASCII, since old consoles know nothing else."""
    print(f"[recurvid] {text}", flush=True)


def child_environment() -> dict[str, str]:
    """The environment of pip, without what would send pip's work elsewhere (--user, --target)."""
    strays = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV")
    kept = {k: v for k, v in os.environ.items() if k not in (*strays, "PYTHONHOME", "PYTHONPATH")}
    return {**kept, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUTF8": "1"}


def pip(environment: Environment, *arguments: str) -> bool:
    """Run the environment's pip; True where it succeeded."""
    command = [str(environment.python), "-m", "pip", *arguments]
    return subprocess.run(command, env=child_environment(), cwd=environment.root).returncode == 0


def make_environment(environment: Environment) -> None:
    """Create .venv, without ensurepip, which some Linux distributions leave out."""
    try:
        import venv
    except ImportError:
        raise SetupError(
            "this Python has no venv module; install your system's python3-venv"
        ) from None
    try:
        venv.create(environment.folder, clear=True, symlinks=os.name != "nt", with_pip=False)
    except OSError as error:
        raise SetupError(f"cannot make {environment.folder}: {error}") from None


def provide_pip(environment: Environment) -> None:
    """Put the pip of vendor/ into .venv unless one as new is there (--group came with 25.1)."""
    wheel = next((environment.root / "vendor").glob("pip-*.whl"))
    there = environment.version_of("pip")
    if there is not None and _release(there) >= _release(wheel.name.split("-")[1]):
        return
    # A wheel is a zip file, and Python runs code out of zip files: pip installs itself.
    command = [str(environment.python), str(wheel / "pip"), "install", "--quiet"]
    command += ["--no-index", "--no-deps", str(wheel)]
    if subprocess.run(command, env=child_environment()).returncode != 0:
        raise SetupError(f"pip could not be put into {environment.folder}")


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def install_torch(
    environment: Environment, build: TorchBuild, run_pip: Callable[..., bool] = pip
) -> str:
    """Install the build unless it is there; returns the installed version."""
    version = environment.version_of("torch")
    if build.fits(version):
        return str(version)
    if version is not None:  # another build: pip would call it satisfied
        run_pip(environment, "uninstall", "--yes", "--quiet", "torch")
    for attempt in build.attempts():
        run_pip(environment, "install", "--retries", "2", "--timeout", "30", *attempt)
        version = environment.version_of("torch")
        if build.fits(version):
            return str(version)
        if version is not None:
            run_pip(environment, "uninstall", "--yes", "--quiet", "torch")
    raise SetupError(
        f"no build {build.label or 'of PyTorch'} could be installed for Python "
        f"{platform.python_version()} (the lines above say why). "
        "--torch cpu or --torch default, right after the command, takes another build."
    )


def install_package(
    environment: Environment, torch_version: str, dev: bool, extras: Sequence[str] = ()
) -> None:
    """Install RecurVid itself, editable, without letting pip touch the torch that stands."""
    constraints = environment.folder / "recurvid-constraints.txt"
    tested = (environment.root / "constraints.txt").read_text(encoding="utf-8")
    constraints.write_text(f"{tested}\ntorch=={torch_version}\n", encoding="utf-8")
    extras = sorted(EXTRAS.values()) if dev else extras
    package = f".[{','.join(extras)}]" if extras else "."
    arguments = ["install", "--quiet", "--constraint", str(constraints), "--editable", package]
    if dev:
        arguments += ["--group", "dev"]
    if not pip(environment, *arguments):
        raise SetupError("the installation stopped; the lines above say why")


def set_up(
    environment: Environment, *, dev: bool, torch_label: str | None, extras: Sequence[str] = ()
) -> None:
    """Bring .venv to what a command needs; quick when it is there.

    Args:
        dev: with the tools for development and every extra.
        extras: of the package; those of earlier set-ups stay.
    """
    gpus, problem = ([], "") if torch_label else probe_gpus()
    build = requested_build(torch_label) or choose_build(
        platform.system(), platform.machine(), gpus, problem
    )
    wanted = {"fingerprint": fingerprint(environment.root), "torch": build.label}
    works = environment.works()
    stamp = environment.read_stamp() if works else {}
    there = set(EXTRAS.values()) if stamp.get("dev") else set(stamp.get("extras", ()))
    same = all(stamp.get(key) == value for key, value in wanted.items())
    if same and stamp.get("dev", 0) >= dev and there.issuperset(extras):
        return
    began = time.monotonic()
    if not works:
        say(f"making {environment.folder}")
        make_environment(environment)
    provide_pip(environment)
    say(f"PyTorch: {build.reason}")
    version = install_torch(environment, build)
    say(
        "RecurVid and what it needs"
        + (", with the tools for development" if dev else "")
        + " (minutes)"
    )
    extras = sorted(there.union(extras))
    install_package(environment, version, dev, extras)
    stamp = {**wanted, "dev": int(dev), "extras": extras, "root": str(environment.root)}
    environment.stamp.write_text(json.dumps(stamp), encoding="utf-8")
    say(f"set up in {time.monotonic() - began:.0f} s")


def requested_build(label: str | None) -> TorchBuild | None:
    """The build that ``--torch`` names, if it was given."""
    if label is None:
        return None
    return TorchBuild(None if label == "default" else label, f"build {label}, as asked for")


# ---- the commands ------------------------------------------------------------------------------


def demo(environment: Environment, rest: Sequence[str]) -> int:
    """The main job on the example picture; ``rest`` is appended, and a later option wins."""
    chosen = any(word.split("=")[0] == "--out" for word in rest)
    out = [] if chosen else ["--out", DEMO_OUT, "--overwrite"]
    if out:
        (environment.root / DEMO_OUT).parent.mkdir(exist_ok=True)
    command = [str(environment.python), "-m", "recurvid", *DEMO, *out, *rest]
    say("recurvid " + " ".join(f'"{a}"' if " " in a else a for a in command[3:]))
    return subprocess.run(command, cwd=environment.root).returncode


def gui(environment: Environment, rest: Sequence[str]) -> int:
    """The page, in a browser, until Ctrl-C."""
    return _recurvid(environment, ["gui", "--inbrowser", *rest])


def serve(environment: Environment, rest: Sequence[str]) -> int:
    """The API, until Ctrl-C."""
    return _recurvid(environment, ["serve", *rest])


def _recurvid(environment: Environment, arguments: Sequence[str]) -> int:
    # Ctrl-C reaches both: it is the other's to end in order, and ours to wait for that.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        return subprocess.run([str(environment.python), "-m", "recurvid", *arguments]).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def test(environment: Environment, rest: Sequence[str]) -> int:
    """All tests that need no GPU, no network and not minutes each; or what the words say."""
    how = rest or in_processes(probe_gpus()[0], len(_cores()))
    command = [str(environment.python), "-m", "pytest", *how]
    return subprocess.run(command, cwd=environment.root).returncode


def in_processes(gpus: Sequence[Gpu], cores: int) -> list[str]:
    """What makes pytest use the cores, a process each: every test computes in one thread.

    A file's tests share servers and browsers, and stay together. Tests on a GPU measure its memory,
    and want it to themselves.
    """
    if gpus or cores < 2:
        return []
    return ["-n", str(min(cores, MOST_TEST_PROCESSES)), "--dist", "loadfile"]


def _cores() -> set[int]:
    """The cores that this process may use; a container has fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def check(environment: Environment, rest: Sequence[str]) -> int:
    """Style, types and the direction of imports; runs all of them, fails if one does."""
    tools = environment.python.parent
    commands = (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["pyright"],
        ["lint-imports"],
    )
    failed = []
    for name, *arguments in commands:
        say(" ".join((name, *arguments)))
        tool = tools / (f"{name}.exe" if os.name == "nt" else name)
        if subprocess.run([str(tool), *arguments], cwd=environment.root).returncode != 0:
            failed.append(name)
    if failed:
        say("failed: " + ", ".join(failed))
    return 1 if failed else 0


def plan(torch_label: str | None) -> int:
    """Say what would be installed, and change nothing."""
    gpus, problem = probe_gpus()
    for gpu in gpus:
        print(f"GPU: {gpu.name}, driver {gpu.driver}, compute capability {gpu.capability}")
    build = requested_build(torch_label) or choose_build(
        platform.system(), platform.machine(), gpus, problem
    )
    print(f"PyTorch: {build.reason}")
    print("pip install " + " ".join(build.attempts()[0]))
    return 0


def main(arguments: Sequence[str]) -> int:
    """Read the command, set up, do it."""
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if arguments and arguments[0] in ("-h", "--help", "help") else 2
    command, *rest = arguments
    label = None
    if rest[:1] == ["--torch"]:
        if len(rest) < 2:
            raise SetupError("--torch needs a label, such as cpu or cu128")
        label, rest = rest[1], rest[2:]
    if command == "plan":
        return plan(label)
    environment = Environment(ROOT)
    dev = command in ("test", "check") or (command == "setup" and "--dev" in rest)
    extras = [EXTRAS[command]] if command in EXTRAS else []
    if command == "setup":
        extras = [extra for extra in EXTRAS.values() if f"--{extra}" in rest]
    set_up(environment, dev=dev, torch_label=label, extras=extras)
    if command == "setup":
        return 0
    starts = {"demo": demo, "gui": gui, "serve": serve, "test": test, "check": check}
    return starts[command](environment, rest)


if __name__ == "__main__":
    if sys.version_info < OLDEST_PYTHON:
        newer = [shutil.which("python3." + str(minor)) for minor in range(11, 20)]
        hint = "".join([" Try: " + path + " run.py" for path in newer if path][-1:])
        sys.exit(
            "RecurVid needs Python 3.11 or newer, not " + platform.python_version() + "." + hint
        )
    try:
        sys.exit(main(sys.argv[1:]))
    except SetupError as error:
        sys.exit(f"[recurvid] {error}")
    except KeyboardInterrupt:
        sys.exit(130)
