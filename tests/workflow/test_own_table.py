"""A table is one function and one entry in the list of tables."""

import pandas as pd
import pytest

from lensflow.presentation import table_list
from tests.chain import Chain
from tests.workflow.workspace import Workspace

FUNCTION = """\
from lensflow.presentation.blocks import TableInputs
from lensflow.presentation.sheets import Document, Entry, Sheet, document_of, method_panel


def counts(inputs: TableInputs) -> Document:
    sheets = []
    for block in inputs.blocks:
        rows = {row.label: 0 for row in block.rows}
        for row in block.rows:
            rows[row.label] += len(row.cells)
        entries = {label: [Entry(str(count), float(count))] for label, count in rows.items()}
        panel = method_panel("Scores", ["count"], entries)
        sheets.append(Sheet(block.backbone, block.setting, f"Counts: {block.caption}", (panel,), ("all scores",)))
    return document_of(sheets)
"""
ENTRY = '    Table("counts", "How many scores there are", counts),\n'


@pytest.fixture
def listed(monkeypatch):
    names = vars(table_list).copy()
    exec(FUNCTION, names)
    monkeypatch.setattr(table_list, "TABLES", (*table_list.TABLES, *eval(f"({ENTRY})", names)))


def test_it_is_written_and_reported(listed, checkpoint, tmp_path, monkeypatch):
    chain = Chain(tmp_path / "run", checkpoint("llama"))
    monkeypatch.chdir(chain.root)
    assert chain.make() == 0
    tables = chain.results / "tables"
    scores = len(pd.read_csv(tables / "main.csv").query("method == 'lens'"))
    assert scores > 0
    assert f"| lens ‡ not applied | {scores} |" in (tables / "counts.md").read_text(encoding="utf-8")
    assert f"lens $\\ddagger$ not applied & {scores} \\\\" in (tables / "counts.tex").read_text(encoding="utf-8")
    line = f"tiny,en-zh,Scores,lens ‡ not applied,count,{scores},,,\n"
    assert line in (tables / "counts.csv").read_text(encoding="utf-8")
    page = (chain.results / "report.html").read_text(encoding="utf-8")
    assert "<summary>How many scores there are</summary>" in page and "results/tables/counts.md</code>" in page


def test_it_is_a_target_of_the_workflow(workspace: Workspace, config):
    files = [f"results/tables/counts.{suffix}" for suffix in table_list.FORMATS]
    before = workspace.snakemake(config, "--dry-run", "make_table")
    assert before.returncode == 0 and not any(file in before.stdout for file in files)
    package = workspace.root / "src/lensflow/presentation"
    (package / "counts_table.py").write_text(FUNCTION)
    path, end = package / "table_list.py", "\n)\nFORMATS"
    code = path.read_text(encoding="utf-8")
    assert code.count(end) == 1
    code = code.replace(end, f"\n{ENTRY}){end.removeprefix(chr(10) + ')')}")
    path.write_text(code.replace("\n\n#", "\nfrom lensflow.presentation.counts_table import counts\n\n#", 1))
    done = workspace.snakemake(config, "--dry-run", "make_table")
    assert done.returncode == 0, done.stderr
    assert all(file in done.stdout for file in files)
