"""The guide's and README's commands for the server are run; container and unit files are linted."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.architecture.source import ROOT
from tests.architecture.test_documentation import blocks, check_command
from tests.server.test_serve_process import serving

GUIDE = (ROOT / "docs/guide/server.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/guide/page.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
UNIT = (ROOT / "deploy/recurvid.service").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:7861"


def shell_lines() -> list[str]:
    text = GUIDE + README
    return [line for body in blocks(text, "sh") for line in body.splitlines()]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_what_the_guide_shows_runs(tmp_path: Path):
    openai = pytest.importorskip("openai")
    curls = [line for line in shell_lines() if line.startswith("curl ")]
    scripts = [body for body in blocks(GUIDE, "py") if ADDRESS in body]
    assert len(curls) >= 4
    assert len(scripts) == 1
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with serving(tmp_path / "home") as server:
        for script in scripts:
            ran = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", script.replace(ADDRESS, server["address"])],
                cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stderr
        for line in curls:
            command = line.replace(ADDRESS, server["address"]).replace("curl -sS", "curl -sSf")
            ran = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, (line, ran.stderr)
            json.loads(ran.stdout)
    assert (tmp_path / "valley.mp4").read_bytes()[4:8] == b"ftyp"
    assert openai


def test_the_figures_are_those_of_the_results():
    def measured(name: str) -> dict[str, Any]:
        (path,) = set(re.findall(rf"benchmarks/results/{name}-[-\d]+\.json", GUIDE + PAGE))
        return json.loads((ROOT / path).read_text(encoding="utf-8"))

    def middle(part: str, unit: str) -> float:
        return statistics.median(run[part][unit] for run in server["runs"])

    server, page, load = (measured(name) for name in ("server-idle", "page-idle", "queue-load"))
    stop = statistics.median(run["stop_seconds"] for run in server["runs"])
    said = (
        f"holds {middle('web_process', 'rss_mb'):.0f} MB "
        f"({middle('web_process', 'pss_mb'):.0f} MB of its own)",
        f"the worker {middle('worker_before_its_first_job', 'rss_mb'):.0f} MB",
        f"{middle('worker_with_the_bundled_model_kept', 'rss_mb'):.0f} MB while it keeps",
        f"first answer {server['median_start_seconds']:.1f} s, to the end {stop:.1f} s",
        f"takes about {page['page_mib']:.0f} MiB",
        f"about {page['workers_mib'][0]:.0f} MiB until",
        f"answers {page['seconds_until_the_page_answers']:.1f} s after",
        f"{load['load']['jobs']} jobs queued by {load['load']['clients']} clients",
        f"killed {load['living workers killed']} times",
    )
    text = " ".join((GUIDE + PAGE).split())
    assert [words for words in said if words not in text] == []
    assert load["jobs"] == {"done": load["load"]["jobs"]}
    assert load["living workers killed"] == load["load"]["kills"]


def test_the_address_is_the_default():
    from recurvid.cli.serve import DEFAULT_PORT

    assert ADDRESS.endswith(f":{DEFAULT_PORT}")
    assert f"EXPOSE {DEFAULT_PORT}" in DOCKERFILE
    assert f"127.0.0.1:{DEFAULT_PORT}/healthz" in DOCKERFILE


def instructions(text: str) -> list[tuple[str, str]]:
    """Instruction and arguments of each step of a Dockerfile."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for line in joined.splitlines() if line.strip()
            for word, _, rest in [line.partition(" ")]]  # fmt: skip


KNOWN = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL",
         "HEALTHCHECK", "ENTRYPOINT", "CMD"}  # fmt: skip


def test_the_dockerfile_is_sound():
    steps = instructions(DOCKERFILE)
    assert {word for word, _ in steps} <= KNOWN
    assert steps[0][0] == "ARG"
    stages = [re.fullmatch(r"(\S+)(?: AS (\w+))?", rest) for w, rest in steps if w == "FROM"]
    assert all(stages)
    bases = {stage[2]: stage[1] for stage in stages if stage and stage[2]}
    assert set(bases) == {"cpu", "cuda"}
    for image in bases.values():
        assert re.fullmatch(r"[a-z/]+:[\w.-]*\d[\w.-]*", image), f"{image} has no version"
    (user,) = [rest for word, rest in steps if word == "USER"]
    assert user.isdecimal()  # so that whoever runs it can see that it is not root
    assert f"useradd --system --uid {user} " in DOCKERFILE
    users_at = max(n for n, (word, _) in enumerate(steps) if word == "USER")
    assert all(word not in ("RUN", "COPY") for word, _ in steps[users_at:])
    for word, rest in steps:
        if word == "COPY":
            *sources, _ = rest.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                assert f"!{source}" in (ROOT / "deploy/Dockerfile.dockerignore").read_text()
        if word == "RUN" and "pip install" in rest:
            assert "--no-cache-dir" in rest
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists" in rest
    named = dict(steps)
    command = json.loads(named["ENTRYPOINT"]) + json.loads(named["CMD"])
    check_command(command)
    health = json.loads(named["HEALTHCHECK"].partition("CMD ")[2])
    compile(health[2], "healthcheck", "exec")


def test_docker_commands_name_what_is_there():
    lines = [shlex.split(line) for line in shell_lines() if line.startswith("docker ")]
    assert len(lines) >= 4
    for words in lines:
        if words[1] == "build":
            assert (ROOT / words[words.index("-f") + 1]).is_file()
            if "--build-arg" in words:
                name, value = words[words.index("--build-arg") + 1].split("=")
                assert f"ARG {name}=" in DOCKERFILE
                assert f" AS {value}" in DOCKERFILE
        else:
            volume = words[words.index("-v") + 1].split(":")[1]
            assert f"RECURVID_HOME={volume}" in DOCKERFILE
            assert f"VOLUME {volume}" in DOCKERFILE


def unit_values() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.splitlines():
        if line and not line.startswith(("#", "[")):
            name, equals, value = line.partition("=")
            assert equals, line
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_is_sound():
    values = unit_values()
    (command,) = values["ExecStart"]
    program, *rest = shlex.split(command)
    assert program.endswith("/.venv/bin/recurvid")
    check_command(["recurvid", *rest])
    for name in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "DynamicUser"):
        assert values[name] == ["yes"]
    assert values["ProtectSystem"] == ["strict"]
    assert values["Restart"] == ["on-failure"]
    # The home is the folder that systemd makes for it, and the only one that it may write to.
    own = f"/var/lib/{values['StateDirectory'][0]}"
    assert values["Environment"] == [f"RECURVID_HOME={own}", f"HOME={own}"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_reads_the_unit(tmp_path: Path):
    def verify(text: str) -> str:
        file = tmp_path / "recurvid.service"
        file.write_text(text.replace("/opt/recurvid/.venv/bin/recurvid", "/bin/true"))
        ran = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True,
                             text=True, env={**os.environ, "LC_ALL": "C"}, check=False)  # fmt: skip
        return ran.stdout + ran.stderr

    said = verify(UNIT)
    if "Failed to" in said and "recurvid.service" not in said:
        pytest.skip(f"systemd-analyze does not work here: {said[:80]}")
    assert "recurvid.service" not in said, said
    assert "recurvid.service" in verify(UNIT.replace("KillMode=mixed", "KillMod=mixed"))
