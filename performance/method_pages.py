"""Write a page of the documentation per method, and their index.

    python performance/method_pages.py

The text is the docstring of the method's module. Keys come from the schema, entries from the catalog, and results from
the folders in `RESULTS`, where the workflow wrote `main.csv` and perhaps `cost.csv`.
"""

import inspect
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import pandas as pd

from lensflow.measures.catalogue import METRICS, TARGETS
from lensflow.methods.registry import METHODS
from lensflow.storage.parsing import read_yaml
from lensflow.workflow.explaining import keys
from reference import key_table

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/methods"
RESULTS = {
    "study": "the study",
    "study/explore": "the study's exploratory run",
    "study/draws": "the study's run of many draws",
    "study/second": "the study's second model",
    "demo": "the demo",
}  # folder of docs -> what it is called
# Configurations with methods of their own.
OWN = [ROOT / f"config/study/{name}.yaml" for name in ("primary", "explore", "draws", "second")]
SHOWN = ("usable", "wrong_language", "repetition", "accuracy", "nll")
MADE_BY = "<!-- Written by performance/method_pages.py. -->\n\n"
ABSENT = "not in the committed results"
FACTS_HEAD = """| told the language at test time | another result per seed | needs hidden states |
|---|---|---|
"""
INDEX_HEAD = """# Methods

Every page has the method's source, equations, defaults and keys, and what it gave in the committed results. A † marks
methods that are told the prompt's language at test time: they are not like-for-like with the others.
[Configuration](../configuration.md#methods) shows them in use, and [Your method](../tutorials/your-method.md) adds one.

| method | what it does | in the catalog | results |
|---|---|---|---|
"""


def pages(docs: Path = ROOT / "docs") -> dict[str, str]:
    """Return the pages by their file's name.

    Args:
        docs: folder of the documentation, with the committed results.
    """
    catalog = ROOT / "config/catalog/methods.yaml"
    of_kind = {name: entry["kind"] for name, entry in read_yaml(catalog)["methods"].items()}
    lines = entries_of(catalog.read_text(encoding="utf-8"))
    entries = {kind: {name: lines[name] for name in of_kind if of_kind[name] == kind} for kind in METHODS.builtin()}
    tables = {folder: docs / folder / "main.csv" for folder in RESULTS}
    results = {folder: pd.read_csv(table) for folder, table in tables.items() if table.exists()}
    kinds = of_kind | {name: entry["kind"] for own in OWN for name, entry in read_yaml(own)["methods"].items()}
    names = {kind: [name for name in kinds if kinds[name] == kind] for kind in entries}
    found = {f"{kind}.md": page(kind, named, names[kind], results, docs) for kind, named in entries.items()}
    rows = [
        f"| [`{kind}`]({kind}.md){_mark(kind)} | {escaped(summary(kind))} | {', '.join(f'`{name}`' for name in named)} "
        f"| {', '.join(RESULTS[f] for f, main in results.items() if main.method.isin(names[kind]).any()) or ABSENT} |"
        for kind, named in entries.items()
    ]
    return {"README.md": MADE_BY + INDEX_HEAD + "\n".join(rows) + "\n"} | found


def page(
    kind: str, entries: Mapping[str, str], names: Collection[str], results: Mapping[str, pd.DataFrame], docs: Path
) -> str:
    """Return the page of a kind, whose entries of the catalog are given, and the names that results have for it."""
    config = METHODS.config_of(kind)
    facts = ["yes" if fact else "no" for fact in (config.told_language, config.seeded, config.needs_states)]
    own = [key for key in keys() if key.path[:2] == ("methods", kind) and key.path[2:] != ("kind",)]
    parts = [
        f"# `{kind}`{_mark(kind)}",
        markdown(docstring(kind)),
        f"{FACTS_HEAD}| {' | '.join(facts)} |",
        "## Keys",
        key_table(own, depth=2) if own else "It has no keys.",
        "## In the catalog",
        "```yaml\n" + "\n".join(entries.values()) + "\n```" if entries else "The catalog has no entry of this kind.",
        "## What it gave and what it cost",
        *[gave(folder, main, names, docs) for folder, main in results.items()],
    ]
    return MADE_BY + "\n\n".join(parts) + "\n"


def entries_of(catalog: str) -> dict[str, str]:
    """Return the lines of each entry of a catalog, which has one section, by the entry's name."""
    blocks = re.split(r"^  (?=\S)", catalog, flags=re.MULTILINE)[1:]
    named = [block for block in blocks if not block.startswith("#")]
    return {block.split(":")[0]: block.rstrip().replace("\n  ", "\n") for block in named}


def docstring(kind: str) -> str:
    """Return a method's docstring: that of its module; `base` shares one with what all methods have."""
    module = METHODS.module_of(kind)
    return inspect.getdoc(module.Config if kind == METHODS.without else module) or ""


def summary(kind: str) -> str:
    """Return the first sentence of the class."""
    return " ".join((inspect.getdoc(METHODS.config_of(kind)) or "").split("\n\n")[0].split())


def markdown(text: str) -> str:
    """Return a docstring as Markdown: indented lines are code, and nothing else is mark-up but code spans."""
    return "\n".join(line if line.startswith("    ") else escaped(line) for line in text.splitlines())


def escaped(text: str) -> str:
    """Escape what Markdown would read as mark-up, outside of code spans."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"[{}<|*]", lambda match: f"&#{ord(match[0])};", part)
        for part in parts
    )


def _mark(kind: str) -> str:
    return " †" if METHODS.config_of(kind).told_language else ""


def gave(folder: str, main: pd.DataFrame, methods: Collection[str], docs: Path) -> str:
    """Return the tables of some methods in committed results, or that there are none."""
    rows = main[main.method.isin(list(methods)) & main.metric.isin(SHOWN)]
    shown = rows[(rows.language == TARGETS) | rows.retention.notna()]
    if shown.empty:
        return f"{RESULTS[folder].capitalize()} does not have it."
    lines = [
        "| backbone, setting | method | measure | in | value | n | difference to base | |",
        "|---|---|---|---|--:|--:|--:|---|",
    ]
    for row in shown.itertuples():
        kept = "not shown to be kept" if row.retention == "not shown" else row.retention
        verdict = [word for word in (row.mark, kept) if isinstance(word, str)]
        cells = [
            f"{row.backbone}, {row.setting}",
            f"{row.method}{' ‡ not applied' * bool(row.not_applied)}",
            f"{row.metric} {METRICS[row.metric].better}",
            row.language,
        ]
        cells += [interval(row.value, row.low, row.high), f"{row.n}"]
        cells += [interval(row.difference, row.difference_low, row.difference_high, "+"), ", ".join(verdict)]
        lines.append(f"| {' | '.join(cells)} |")
    head = (
        f"From [{RESULTS[folder]}](../{folder}/main.md), with 95 % intervals over n items; "
        "[Measures](../measures/README.md) defines the measures. `targets` is the mean over the target languages. "
        "Better and worse are differences to base, corrected for the tests of one metric; the central language is "
        "kept, or that is not shown."
    )
    return "\n\n".join([head, "\n".join(lines), cost(docs / folder / "cost.csv", methods)])


def interval(value: float, low: float, high: float, sign: str = "") -> str:
    """Return a value with its interval; nothing if there is no value."""
    return "" if pd.isna(value) else f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def cost(path: Path, methods: Collection[str]) -> str:
    """Return the table of what training took, or that it is not known."""
    if path.exists():
        table = pd.read_csv(path)
        table = table[table.method.str.split().str[0].isin(list(methods))]
        wide = table.pivot(index=["backbone", "setting", "method"], columns="column", values="value")
        if not wide.empty:
            wide = wide[list(dict.fromkeys(table.column))]
            head = ["backbone, setting", "method", *wide.columns]
            rows = [[f"{b}, {s}", m, *(f"{float(v):,.10g}" for v in row)] for (b, s, m), *row in wide.itertuples()]
            lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * 2 + ["--:"] * len(wide.columns), *rows)]
            return "\n".join(lines)
    return f"What it cost is {ABSENT}."


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
