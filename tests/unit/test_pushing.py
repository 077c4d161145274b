"""A method on the hub: against a stand-in for the hub's API, on this machine."""

import base64
import json
import re
import shutil
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import huggingface_hub
import pytest
from huggingface_hub import constants, hf_api
from safetensors.torch import load_file, save_file

from lensflow.artifacts import interventions
from lensflow.artifacts.interventions import BlockEdit, Intervention
from lensflow.artifacts.layout import INTERVENTION
from lensflow.artifacts.weights import WeightFiles
from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.methods.shared import Shared
from lensflow.presentation.exporting import export
from lensflow.presentation.pushing import push
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting
from lensflow.schema.stages import Training
from lensflow.stages import train
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
        """Give what was sent: the repository's listing at a revision, and its files."""
        if self.files and re.fullmatch(rf"/api/models/{NAME}(/revision/(main|{COMMIT}))?", self.path):
            self._answer({"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": []})
        elif self.files and self.path.startswith(f"/api/models/{NAME}/tree/{COMMIT}?"):
            self._answer(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": name}
                    for name, content in self.files.items()
                ]
            )
        elif (name := self.path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")) in self.files:
            content = self.files[name]
            self._head(200, "application/octet-stream", len(content), {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"'})
            if self.command == "GET":
                self.wfile.write(content)
        else:
            self._answer({"error": "there is no such repository"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self._head(status, "application/json", len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, kind: str, size: int, more: Mapping[str, str] = MappingProxyType({})) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(size), **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *given: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    Hub.calls, Hub.files, Hub.refuses = [], {}, False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
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
    assert re.search(rf"error: {NAME}: the hub refuses it \(.*403.*\); check HF_TOKEN, its rights and the", said)
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


# --- And back ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def load(checkpoint, tmp_path):
    """Load what was shared by its name, as a method of the workflow does; give the folder that `train` wrote."""

    def load_by(directions: str, model: str = "llama", languages=tiny.LANGUAGES, number: float = 0.0):
        folder = tmp_path / f"loaded-{len(list(tmp_path.glob('loaded-*')))}"
        source = checkpoint(model)
        if number:
            source = tmp_path / f"{model}-{number}"
            shutil.copytree(checkpoint(model), source)
            shard = min(source.glob("*.safetensors"))
            changed = {name: tensor + number for name, tensor in load_file(shard).items()}
            save_file(changed, shard, {"format": "pt"})
        config = Training(
            method={"kind": "shared", "directions": directions},
            setting={"central": "en", "languages": languages},
            prompt={"format": "plain"},
            seed=0,
        )
        manifest = tiny.backbone(source, folder / "backbone" / "manifest.json")
        output = folder / "delta.safetensors"
        train.run(config, backbone=manifest, subspaces=None, states=[], texts=[], gpus=0, output=output)
        return folder

    return load_by


@pytest.mark.parametrize("named", [NAME, f"{NAME}@{COMMIT}", "folder"])
def test_what_was_shared_is_loaded_by_its_name(hub, method, load, tmp_path, named):
    manifest, delta = method
    if named == "folder":
        named = str(tmp_path / "home")
        export(manifest, delta, Path(named), reference=True)
    else:
        push(manifest, delta, NAME)
    folder = load(named)
    assert load_file(folder / "delta.safetensors").keys() == load_file(delta).keys()
    for name, tensor in load_file(delta).items():
        assert load_file(folder / "delta.safetensors")[name].equal(tensor)
    first, second = (interventions.load(path / INTERVENTION) for path in (delta.parent, folder))
    assert first.identity("sw") == second.identity("sw") != {}


def test_directions_of_another_backbone_are_refused_in_one_line(hub, method, load):
    push(*method, NAME)
    own = "llama with 4 layers of 32 dimensions"
    with pytest.raises(
        LensflowError, match=rf"^{NAME}: was made for llama\d*, {own}; this backbone has other weights; load it on"
    ):
        load(NAME, number=1.0)
    with pytest.raises(
        LensflowError, match=rf"made for llama\d*, {own}; this backbone is gemma3\w* with .*; load it on its"
    ):
        load(NAME, "gemma3")
    with pytest.raises(LensflowError, match=f"^{NAME}: does not know language 'de'; name one of en, "):
        load(NAME, languages=["en", "de"])


def test_a_name_that_leads_nowhere_is_one_line(hub, load, tmp_path):
    with pytest.raises(LensflowError, match=rf"{NAME}: neither a folder nor available on the hub \(.*404"):
        load(NAME)
    settings = {"trio": Setting(central="en", languages=tiny.LANGUAGES)}
    with pytest.raises(
        ValueError, match="directions: 'no-folder' is not a folder here; correct it, or name owner/name"
    ):
        Shared(kind="shared", directions="no-folder").check(Extraction(), settings)
    Shared(kind="shared", directions=NAME).check(Extraction(), settings)


def test_a_notebook_answers_with_what_was_shared(hub, method, checkpoint):
    import lensflow as lf

    push(*method, NAME)
    model = lf.load(checkpoint("llama"))
    better = model.load_directions(NAME)
    assert repr(better).endswith(f" after {NAME} in " + ", ".join(code for code in tiny.LANGUAGES if code != "en"))
    prompts = ["What is rain?", "Je, mvua ni nini?"]
    assert better.answer(prompts, "sw", max_new_tokens=8) != model.answer(prompts, max_new_tokens=8)
    with pytest.raises(LensflowError, match="answer: this method acts by language; name the language of the answers"):
        better.answer(prompts)
