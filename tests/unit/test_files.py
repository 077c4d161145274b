"""Atomic files and digests."""

import hashlib
import itertools
import json
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensflow.errors import LensflowError
from lensflow.storage import digests
from lensflow.storage.atomic import atomic_path, write_json, write_jsonl, write_text
from lensflow.storage.cache import read_entry, write_entry
from lensflow.storage.digests import canonical_json, digest, file_digest
from lensflow.storage.integrity import CORRUPT
from lensflow.storage.journal import spans
from lensflow.storage.verified import read_json, read_jsonl, read_manifest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_a_file_appears_at_once_and_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent  # a rename is atomic on one file system only
        assert not path.exists()
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_takes_no_more_leaves_the_old_file_and_one_line(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(LensflowError, match=r"file: cannot be written .*; free space or check") as error:
            write_text(path, "x" * 1001)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_another_file_is_not_called_an_error_of_this_file(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text((tmp_path / "other").read_text())


@given(rows=st.lists(JSON))
def test_json_lines_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows


def test_line_separators_inside_a_text_do_not_end_a_line(tmp_path):
    rows = [{"text": "a\u2028b\u2029c\x85d"}, {"text": "e"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n\n{"a": 2}\n', "rows.jsonl, line 2: empty line; remove it"),
        (b'{"a": 1}\n{"a": \n', "rows.jsonl, line 2: not valid JSON .*; correct the line"),
        (b"\xff\xfe", "rows.jsonl: not UTF-8 text; convert it"),
        (None, "rows.jsonl: no such file; check the path"),
    ],
)
def test_bad_json_lines(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LensflowError, match=message):
        read_jsonl(path)


def test_json_is_sorted_and_readable(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "語"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "a": "語",\n  "b": 1\n}\n'
    assert read_json(tmp_path / "a.json") == {"a": "語", "b": 1}


@pytest.mark.parametrize(("content", "message"), [("{", "not valid JSON"), (None, "no such file")])
def test_bad_json(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(LensflowError, match=f"a.json: {message}"):
        read_json(path)


@given(lines=st.sets(st.integers(1, 40)))
def test_spans_name_every_line_once(lines):
    parts = [[int(end) for end in part.split("-")] for part in spans(lines).split(", ") if part]
    assert [line for part in parts for line in range(part[0], part[-1] + 1)] == sorted(lines)
    # As few as can be: between two spans is a gap.
    assert all(after[0] > before[-1] + 1 for before, after in itertools.pairwise(parts))


@given(value=st.dictionaries(st.text(), JSON, min_size=2))
def test_equal_values_have_one_digest(value):
    turned = dict(reversed(value.items()))
    assert canonical_json(turned) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value
    assert digest(turned) == digest(value) == hashlib.sha256(canonical_json(value).encode()).hexdigest()


def test_swapped_values_have_two_digests():
    assert digest({"pull": 1, "push": 2}) != digest({"pull": 2, "push": 1})


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 5000)
    assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(LensflowError, match="no such file"):
        file_digest(Path(f"{path}x"))


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 1000 bytes, in blocks of 300; a list of the files that are read."""
    read = []
    monkeypatch.setattr(digests, "CHUNK", 1000)
    monkeypatch.setattr(digests, "BLOCK", 300)
    monkeypatch.delenv(digests.VERIFY, raising=False)
    whole = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path, *args: read.append(path.name) or whole(path, *args))
    yield read
    digests._digest_of.cache_clear()


@pytest.mark.parametrize("size", [1001, 1999, 2000, 2001, 12345])
def test_the_digest_of_a_large_file_is_that_of_the_digests_of_its_chunks(tmp_path, small_chunks, size):
    path, content = tmp_path / "file", (bytes(range(256)) * 60)[:size]
    path.write_bytes(content)
    chunks = b"".join(hashlib.sha256(content[start : start + 1000]).digest() for start in range(0, size, 1000))
    assert file_digest(path) == f"sha256-64MiB:{hashlib.sha256(chunks).hexdigest()}"
    assert file_digest(path, digests.SHA256) == hashlib.sha256(content).hexdigest()


def test_a_large_file_is_read_again_only_if_it_has_changed(tmp_path, small_chunks, monkeypatch):
    def of_another_job() -> str:
        small_chunks.clear()
        digests._digest_of.cache_clear()
        return digests.current_digest(path)

    path = tmp_path / "file"
    path.write_bytes(b"x" * 1500)
    known = digests.current_digest(path)
    assert of_another_job() == known and small_chunks == []
    monkeypatch.setenv(digests.VERIFY, digests.ALWAYS)
    assert of_another_job() == known and small_chunks == ["file"]
    monkeypatch.delenv(digests.VERIFY)
    before = path.stat()
    path.write_bytes(b"x" * 1499 + b"y")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nothing had happened
    assert of_another_job() == file_digest(path) != known


def test_older_records_have_plain_checksums_of_large_files(tmp_path, small_chunks):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1500)
    assert digests.has_digest(path, hashlib.sha256(b"x" * 1500).hexdigest())
    assert not digests.has_digest(path, hashlib.sha256(b"x" * 1499).hexdigest())


@pytest.mark.parametrize("content", ["", "[]", "{}", '["x"]', '["x", "sha256-64MiB", 1500, 0, 0, 0]'])
def test_a_note_on_a_large_file_that_does_not_fit_it_is_made_again(tmp_path, small_chunks, content):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1500)
    note = tmp_path / ".file.verified"
    note.write_text(content)
    assert digests.current_digest(path) == file_digest(path)
    assert json.loads(note.read_text())[0] == file_digest(path)


def test_a_checksum_of_a_later_version_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with pytest.raises(LensflowError, match="checksum 'blake9:00': this version does not know it; install a newer"):
        digests.has_digest(path, "blake9:00")


@given(value=st.dictionaries(st.text(), JSON, min_size=1))
def test_an_entry_of_a_cache_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("cache") / "entry.json"
    write_entry(path, value)
    assert read_entry(path) == value


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"value": 1}', b'{"sha256": "0", "value": 1}', b"\xff", b"[" * 200_000]
)
def test_a_damaged_entry_is_set_aside_and_said(tmp_path, caplog, content):
    path = tmp_path / "entry.json"
    assert read_entry(path) is None and not caplog.text
    path.write_bytes(content)
    assert read_entry(path) is None
    assert f"{path}: damaged (truncated or changed); it was set aside and is made again" in caplog.text
    assert [other.name for other in tmp_path.iterdir()] == [f"entry.json{CORRUPT}"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("of the user")
    with pytest.raises(
        LensflowError, match=rf"^{tmp_path}/file: the folder cannot be made \(.*\); choose another or check"
    ):
        write_json(tmp_path / "file" / "a.json", {})


def test_what_no_stage_wrote_is_not_to_be_deleted(tmp_path):
    """A file of another kind that was named by mistake."""
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(
        LensflowError, match=r"a damaged manifest \(.*\); delete it and run again if a stage wrote it, else"
    ):
        read_manifest(path)
    path.write_text("a,b")
    with pytest.raises(
        LensflowError, match=r"not valid JSON \(.*\); delete it and run again if a stage wrote it, else"
    ):
        read_json(path)
    with pytest.raises(LensflowError, match=f"^{tmp_path}: is a folder; name a file$"):
        read_json(tmp_path)
