import os
import platform

from lensflow import surroundings


def test_commit_is_that_of_the_code_and_not_of_what_lies_around_it(monkeypatch, tmp_path):
    assert len((surroundings.commit() or "0" * 40).split()[0]) == 40
    monkeypatch.setattr(surroundings, "__file__", str(tmp_path / "surroundings.py"))
    assert surroundings.commit() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert surroundings.commit() is None


def test_versions_and_machine_name_neither_host_nor_user():
    assert surroundings.versions()["python"] == platform.python_version()
    machine = surroundings.machine()
    assert machine["cores"] == os.cpu_count() and machine["cpu"]
    assert platform.node() not in str(machine)
