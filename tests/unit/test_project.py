"""The workflow's own files come with the package, and a configuration lies on top of the catalogs alone."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml

from lensflow.workflow import project
from lensflow.workflow.experiment import read

REPOSITORY = Path(__file__).parents[2]
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "Snakefile", "config", "workflow", "profiles", "envs", "src")
OWN = {
    "runs": [
        {"backbones": ["smollm2-135m-instruct"], "settings": ["en-zh"], "methods": ["base"], "benchmarks": ["cldr"]}
    ]
}


def test_a_wheel_holds_the_workflow_with_all_that_it_reads(tmp_path):
    for name in BUILT_FROM:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        kept = {"symlinks": True} if (REPOSITORY / name).is_dir() else {}
        copy(REPOSITORY / name, tmp_path / name, **kept)
    build = "from setuptools import build_meta; build_meta.build_wheel('out')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "out").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    snakefile = (REPOSITORY / "Snakefile").read_text()
    read_by_it = re.findall(r'"((?:config|workflow)/[^"]+)"', snakefile)
    assert len(read_by_it) > 15
    for name in ["Snakefile", "profiles/default/config.yaml", "envs/cpu.yaml", *read_by_it]:
        assert f"lensflow/project/{name}" in names


def test_what_the_package_imports_is_declared():
    declared = {canonical(re.split(r"[<>=]", name)[0]) for name in dependencies()}
    modules = {name for file in (REPOSITORY / "src").rglob("*.py") for name in imported(ast.parse(file.read_text()))}
    known = packages_distributions()
    others = {name: known[name] for name in modules if name in known and name != "lensflow"}
    assert len(others) > 15
    assert {name: packages for name, packages in others.items() if declared.isdisjoint(map(canonical, packages))} == {}


def dependencies() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def imported(tree: ast.AST) -> Iterator[str]:
    """The top-level modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_the_folder_is_the_clone_that_one_works_in_else_the_installed_one(tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert project.folder().resolve() == REPOSITORY
    monkeypatch.chdir(tmp_path)
    assert project.folder() == project.INSTALLED
    assert read([], project.folder()).title == "Lensflow demo: Lens, steering and a prompt on one small model"


@pytest.mark.parametrize("given", ["file", "more"])
def test_runs_lie_on_top_of_the_catalogs_and_not_of_the_demo(tmp_path, given):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(OWN))
    config = read([path], REPOSITORY) if given == "file" else read([], REPOSITORY, OWN)
    assert config.title is None
    assert config.evaluation.limit is None  # the demo has 60
    assert "lens-gentle" in config.methods


def test_a_configuration_without_runs_changes_the_demo():
    config = read([], REPOSITORY, {"evaluation": {"limit": 5}})
    assert (config.title, config.evaluation.limit) == (
        "Lensflow demo: Lens, steering and a prompt on one small model",
        5,
    )
    assert config.runs[0].methods == ("base", "lens-gentle", "diffmean", "prompt-shots")
