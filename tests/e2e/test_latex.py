"""Every table compiles with a real LaTeX (Debian: texlive-latex-base, texlive-latex-recommended)."""

import shutil
import subprocess

import pandas as pd
import pytest

from lensflow.measures import catalogue
from lensflow.presentation import table_list
from lensflow.presentation.inputs import TableFiles
from lensflow.schema.setting import Setting
from lensflow.stages import make_table
from lensflow.storage.atomic import write_json

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex (Debian: texlive-latex-recommended)"),
]

LANGUAGES = ("en", "zh", "ja", "ko", "ar", "bn", "sw", "fr")
# More methods than fit on a page in one table, and names that LaTeX would read otherwise.
METHODS = ["base", *(f"lens_{number}" for number in range(10)), "odd-%&#$~^<|>{}"]
DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs,graphicx}
\begin{document}
\input{%s}
\end{document}
"""


def comparisons(methods, languages):
    """Every metric that there is, an unknown one, every mark, and a clear best and second best in each column."""
    metrics = [*catalogue.METRICS, "f_1"]
    marks = ["better", "worse", "differs"]
    rows = []
    for place, metric in enumerate(metrics):
        benchmark = (
            catalogue.METRICS[metric].benchmark if metric in catalogue.METRICS else ""
        ) or "a_rather-long.benchmark"
        for number, method in enumerate(methods):
            for language in (*languages, *([catalogue.TARGETS] if len(languages) > 2 else [])):
                value = float(number) + 1
                row = {"backbone": "a_model", "setting": "many", "method": method, "seeds": "0 1 2", "n": 1000}
                row |= {"benchmark": benchmark, "metric": metric, "language": language}
                row |= {"value": value, "low": value - 0.1, "high": value + 0.1}
                if number:
                    row |= {"difference": number, "difference_low": number - 0.1, "difference_high": number + 0.1}
                    row |= {"p": 0.01, "p_adjusted": 0.02, "mark": marks[(place + number) % 3], "left_out": 1}
                if number and language == "en":
                    row |= {"margin": 0.05, "retention": "kept" if number % 2 else "not shown"}
                rows.append(row)
    return pd.DataFrame(rows).reindex(columns=[*catalogue.COLUMNS, *catalogue.COMPARED])


@pytest.mark.parametrize(("methods", "languages"), [(METHODS, LANGUAGES), (METHODS[:3], LANGUAGES[:2])])
@pytest.mark.parametrize("name", [table.name for table in table_list.TABLES])
def test_tables_compile_and_fit_on_their_pages(name, methods, languages, tmp_path):
    lens = {"kind": "lens", "weights": {"pull": 1.0}}
    setting = Setting.model_validate({"central": "en", "languages": list(languages)})
    config = {
        "command": "snakemake --cores 2",
        "results": "results",
        "blocks": [["a_model", "many"]],
        "settings": {"many": setting.canonical()},
        "versus": methods[1],
        "told_language": methods[-1:],
        "methods": {m: lens | {"lambda": n, "lr": 1e-5 * n} if n else {"kind": "base"} for n, m in enumerate(methods)},
    }
    frame = comparisons(methods, languages)
    frame.to_csv(tmp_path / "comparisons.csv", index=False)
    frame[frame.difference.notna()].to_csv(tmp_path / "versus.csv", index=False)
    helps = frame[(frame.method != "base") & (frame.metric == "usable") & (frame.language == "targets")]
    claim = {"says": "more usable answers than base", "comparator": "base", "questions": 100, "margin": 0.05}
    claim |= {"endpoint_verdict": "not shown", "verdict": "not shown", "p_adjusted": 0.123}
    helps.assign(**claim).reindex(columns=list(catalogue.CLAIMED)).to_csv(tmp_path / "claims.csv", index=False)
    costs = [tmp_path / f"a_model/many/{method}/seed0/cost.json" for method in methods[1:]]
    for path in costs:
        write_json(path, {"seconds": 1e5, "tokens": 10**9, "trained_parameters": 10**10})
    files = TableFiles(tmp_path / "comparisons.csv", tmp_path / "versus.csv", tmp_path / "claims.csv", costs)
    make_table.write_tables(config, files, tmp_path / "tables")
    if "tabular" not in (tmp_path / f"tables/{name}.tex").read_text(encoding="utf-8"):
        return  # nothing was claimed or reported of this run
    (tmp_path / "document.tex").write_text(DOCUMENT % f"tables/{name}.tex")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "document.pdf").read_bytes().startswith(b"%PDF")
    for complaint in ("Float too large", "Overfull", "undefined", "Missing character"):
        assert complaint not in done.stdout
