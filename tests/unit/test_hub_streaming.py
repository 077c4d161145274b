"""A big split of a data set on the hub is read no further than is asked for, against a stand-in for the hub."""

import io
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from lensflow.storage.verified import read_json, read_jsonl

COMMIT, ROWS, ROW = "c" * 40, 3000, 32 * 1024
DATA = "data/train-0000.parquet"
CARD = b"---\nconfigs:\n- config_name: default\n  data_files: [{split: train, path: data/train-*}]\n---\n"
PAIR = """
import sys
from pathlib import Path
from lensflow.schema.corpus import CorpusDataset
from lensflow.stages.pair_data import pair_dataset
asked = {"path": "my/set", "layout": "columns", "languages": {"en": "text"}, "train": 3}
if sys.argv[2] == "threads":
    import threading
    from fsspec.spec import AbstractBufferedFile
    plain = AbstractBufferedFile.read
    def read(file, length=-1):
        print(threading.current_thread().name.partition("-")[0])
        return plain(file, length)
    AbstractBufferedFile.read = read
if sys.argv[2] == "crash":
    from lensflow.stages import pair_data
    pair_data._row = lambda *given: 1 / 0
for revision in sys.argv[3:]:
    source = CorpusDataset(**asked, split="train", dev=0, test=0, revision=revision or None)
    pair_dataset(source, "en", None, Path(sys.argv[1]) / revision / "en.jsonl")
"""


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    noise = [chunk.tobytes() for chunk in np.random.default_rng(1).integers(0, 256, (ROWS, ROW), np.uint8)]
    table = pyarrow.table({"text": [f"text {n}" for n in range(ROWS)], "noise": noise})
    written = io.BytesIO()
    pyarrow.parquet.write_table(table, written, row_group_size=100)
    return {"README.md": CARD, DATA: written.getvalue()}


@pytest.fixture
def hub(files):
    """A data set on a hub: its address, and how many bytes of each answer were sent."""
    sent = []

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.partition(f"/resolve/{COMMIT}/")[2]
            if re.fullmatch(rf"/api/datasets/my/set(/revision/{COMMIT})?(\?.*)?", self.path):
                self._json({"id": "my/set", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
            elif self.path.startswith(f"/api/datasets/my/set/tree/{COMMIT}"):
                folder = re.split(r"[?]", self.path.removeprefix(f"/api/datasets/my/set/tree/{COMMIT}"))[0][1:]
                listed = [(name, "file", len(files[name])) for name in ([DATA] if folder else ["README.md"])]
                listed += [] if folder else [("data", "directory", 0)]
                self._json([{"type": kind, "path": path, "size": size, "oid": path} for path, kind, size in listed])
            elif name in files:
                self._file(files[name])
            else:
                self._json({"error": "not found"}, 404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def _file(self, content: bytes) -> None:
            size, asked = len(content), re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            more = {"ETag": '"x"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if asked:
                first, last = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
                content = content[first : last + 1]
                more["Content-Range"] = f"bytes {first}-{last}/{size}"
            self._send(206 if asked else 200, content, more)

        def _json(self, content: object, status: int = 200) -> None:
            self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, content: bytes, more: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                sent.append(len(content))
                self.wfile.write(content)

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()


def paired(address, tmp_path, *given):
    here = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", PAIR, str(tmp_path), *given]
    return subprocess.run(command, env=os.environ | here, capture_output=True, text=True, timeout=100)


def test_three_rows_of_a_big_split_do_not_fetch_it_all(hub, files, tmp_path):
    address, sent = hub
    done = paired(address, tmp_path, "threads", "", COMMIT)
    assert done.returncode == 0, done.stderr
    # Python before 3.14 aborts, now and then, when it ends while a thread of Arrow reads a file of Python's.
    assert set(done.stdout.split()) == {"MainThread"}
    for revision in ("", COMMIT):
        folder = tmp_path / revision
        assert [row["prompt"] for row in read_jsonl(folder / "en.jsonl")] == ["text 0", "text 1", "text 2"]
        assert read_json(folder / "en.source.json")["revision"] == COMMIT
    assert 0 < sum(sent) < 0.7 * len(files[DATA])


def test_a_crash_while_a_split_is_read_ends_the_process(hub, tmp_path):
    done = paired(hub[0], tmp_path, "crash", COMMIT)
    assert "ZeroDivisionError" in done.stderr
