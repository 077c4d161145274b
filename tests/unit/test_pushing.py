"""A method on the hub: against a stand-in for the hub's API, on this machine."""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import constants, hf_api
from safetensors.torch import load_file, save_file

from lensflow.artifacts import interventions
from lensflow.artifacts.interventions import BlockEdit, Intervention
from lensflow.artifacts.weights import WeightFiles
from lensflow.cli import main
from lensflow.presentation.pushing import push
from lensflow.storage.atomic import write_json
from tests import tiny

NAME, COMMIT = "somebody/my-method", "a" * 40


class Hub(BaseHTTPRequestHandler):
    """What `create_repo` and `upload_folder` ask of the hub; files come in the commit itself."""

    calls: list[str]
    files: dict[str, bytes]
    refuses = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).calls.append(f"{self.headers.get('Authorization')} {self.path}")
        if self.refuses:
            self._answer({"error": "no rights"}, 403)
        elif self.path == "/api/repos/create":
            self._answer({"url": f"http://{self.headers['Host']}/{NAME}", "id": "1", **json.loads(body)})
        elif self.path == "/api/validate-yaml":  # of the model card
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        else:
            for row in map(json.loads, body.splitlines()):
                if row["key"] == "file":
                    type(self).files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
            address = f"http://{self.headers['Host']}/{NAME}/commit/{COMMIT}"
            self._answer({"success": True, "commitOid": COMMIT, "commitUrl": address})

    def do_GET(self) -> None:
        self._answer({"error": "there is no such repository"}, 404)

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch):
    Hub.calls, Hub.files, Hub.refuses = [], {}, False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hf_api.HfApi(endpoint=address, token="hf_secret"))
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def method(checkpoint, tmp_path):
    """Manifest and delta of a method that changes a weight and edits a block."""
    manifest = tiny.backbone(checkpoint("llama"), tmp_path / "backbone" / "manifest.json")
    delta = tmp_path / "tiny" / "trio" / "mine" / "seed0" / "delta.safetensors"
    delta.parent.mkdir(parents=True)
    name = "model.layers.3.mlp.up_proj.weight"
    weight = WeightFiles(checkpoint("llama")).read(name) + 1
    save_file({name: weight}, delta)
    interventions.write(Intervention(blocks={("sw", "sw"): [BlockEdit(1, "add", weight[0])]}), delta)
    setting = {"central": "en", "languages": list(tiny.LANGUAGES), "probing": "prompts", "training": "prompts"}
    prompt = {"format": "plain", "template": "{prompt}"}
    write_json(
        delta.with_name("config.json"), {"method": {"kind": "mine"}, "setting": setting, "seed": 0, "prompt": prompt}
    )
    return manifest, delta


FILES = {
    "README.md",
    "delta.safetensors",
    "lensflow.json",
    "intervention/intervention.safetensors",
    "intervention/control_vector.sw.sw.gguf",
}


def test_a_dry_run_lists_what_a_push_sends(hub, method, capsys, tmp_path):
    manifest, delta = method
    arguments = ["push", "--backbone", str(manifest), "--delta", str(delta), NAME]
    assert main.main([*arguments, "--dry-run"]) == 0
    *listed, last = capsys.readouterr().out.splitlines()
    assert last == f"{NAME}: nothing was sent; run without --dry-run to send these files"
    assert hub.calls == []

    assert main.main(arguments) == 0
    *sent, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{NAME}: http://127\.0\.0\.1:\d+/{NAME}/commit/{COMMIT}", last)
    assert sent == listed
    assert hub.files.keys() == FILES
    sizes = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in listed}
    assert sizes == {name: len(content) for name, content in hub.files.items()}
    (tmp_path / "back.safetensors").write_bytes(hub.files["delta.safetensors"])
    assert load_file(tmp_path / "back.safetensors").keys() == load_file(delta).keys()
    assert hub.calls[0].endswith("/api/repos/create") and hub.calls[-1].endswith(f"/{NAME}/commit/main")
    assert all(call.startswith("Bearer hf_secret ") for call in hub.calls)
    assert str(tmp_path).encode() not in b"".join(hub.files.values())


def test_what_cannot_be_pushed_is_one_line(hub, method, capsys):
    manifest, delta = method
    arguments = ["push", "--backbone", str(manifest), "--delta", str(delta)]
    assert main.main([*arguments, "my-method"]) == 2
    assert "error: my-method: is no name on the hub; give owner/name" in capsys.readouterr().err
    hub.refuses = True
    assert main.main([*arguments, NAME]) == 2
    said = capsys.readouterr().err
    assert re.search(rf"error: {NAME}: the hub does not take it \(.*403.*\); check HF_TOKEN, its rights and the", said)
    assert "hf_secret" not in said


def test_from_a_notebook(hub, method):
    import lensflow.api as lf

    manifest, delta = method
    fields = {"name": "tiny", "backbone": None, "manifest": manifest, "session": None}
    assert lf.Model(**fields, delta=delta).push_to_hub(NAME, dry_run=True).splitlines() == push(
        manifest, delta, NAME, dry_run=True
    )
    with pytest.raises(lf.LensflowError, match="push_to_hub: this is the untouched backbone"):
        lf.Model(**fields).push_to_hub(NAME)
