import os
import platform
import subprocess

from lensflow.storage import environment


def test_commit_is_that_of_the_code_and_not_of_what_lies_around_it(monkeypatch, tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    code = tmp_path / "surroundings.py"
    code.touch()
    monkeypatch.setattr(environment, "__file__", str(code))
    git("init")
    git("commit", "--allow-empty", "-m", "another project")
    assert environment.commit() is None
    git("add", code.name)
    git("commit", "-m", "the code")
    commit = git("rev-parse", "HEAD")
    assert environment.commit() == commit
    code.write_text("# changed\n")
    assert environment.commit() == f"{commit} with changes"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.commit() is None


def test_versions_and_machine_name_neither_host_nor_user():
    assert environment.versions()["python"] == platform.python_version()
    machine = environment.machine()
    assert machine["cores"] == os.cpu_count() and machine["cpu"]
    assert platform.node() not in str(machine)


def test_the_digest_of_a_processor(monkeypatch):
    def digest(**keys):
        lines = [
            f"{key}\t: {value}" for key, value in ({"model": 17, "cpu MHz": 2000, "flags": "avx fma"} | keys).items()
        ]
        monkeypatch.setattr(environment, "_cpu_information", lambda: lines)
        return environment.machine()["cpu_digest"]

    assert digest() == digest(**{"cpu MHz": 3000})
    assert len({digest(), digest(model=18), digest(flags="avx fma amx_bf16")}) == 3
    monkeypatch.setattr(environment, "_cpu_information", list)
    assert environment.machine()["cpu_digest"] is None
