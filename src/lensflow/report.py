"""The report: one HTML page that carries everything it shows and loads nothing from outside.

Whatever comes from a model, a prompt or a configuration is escaped by the template; only the tables are taken as HTML
(from `tables.to_html`, which escapes), and the figures stand inside `<img>`, where an SVG cannot run scripts.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lensflow.errors import LensflowError
from lensflow.files import write_text

MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


class Samples(NamedTuple):
    """The answers of all methods to the prompts of one backbone × setting × benchmark × language.

    Each row is {"prompt": text, "answers": {method: answer}}, base first; an answer is {"answer": text, "identified":
    language code or "unknown", "faithful": bool} and, where known, the flags "repetitive", "copied" and "empty".
    """

    backbone: str
    setting: str
    benchmark: str
    language: str
    rows: Sequence[Mapping[str, Any]]


def join_samples(by_method: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Put the answers of several methods to the same prompts side by side: the rows of `Samples`.

    Args:
        by_method: method -> lines of its generation.{language}.jsonl; the first method gives the order of the prompts,
            and a method without an answer to one of them is left out there.

    Raises:
        LensflowError: two methods were asked different prompts under one id.
    """
    rows: dict[str, dict[str, Any]] = {}
    for method, samples in by_method.items():
        for sample in samples:
            row = rows.setdefault(sample["id"], {"prompt": sample["prompt"], "answers": {}})
            if row["prompt"] != sample["prompt"]:
                raise LensflowError(f"samples: {method} answered another prompt {sample['id']}; evaluate it again")
            row["answers"][method] = sample
    return list(rows.values())


def build_report(
    out: Path,
    *,
    title: str,
    overview: Sequence[tuple[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    tables: Sequence[tuple[str, str]],
    figures: Sequence[tuple[str, Path]],
    samples: Sequence[Samples],
    versions: Mapping[str, Any],
    commands: Sequence[str],
) -> None:
    """Write the report to `out`. Sections without content are left out.

    Args:
        out: the HTML file.
        title: of the page.
        overview: (key, value) lines at the top.
        runs: one mapping a run; the columns are their keys in order of first appearance.
        tables: (caption, HTML) as `tables.to_html` gives them; the HTML is inserted as it is.
        figures: (caption, path of an .svg or .png file); the caption is the text alternative too.
        samples: for the sample browser; a (backbone, setting, benchmark, language, rows) tuple will do.
        versions: package or tool -> version.
        commands: shell lines that make the results again.

    Raises:
        LensflowError: a figure is missing or neither SVG nor PNG.
    """
    environment = Environment(
        loader=PackageLoader("lensflow"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        overview=overview,
        runs=runs,
        run_columns=list(dict.fromkeys(key for run in runs for key in run)),
        tables=[(caption, Markup(html)) for caption, html in tables],
        figures=[(caption, _data_uri(path)) for caption, path in figures],
        samples=[Samples(*group) for group in samples],
        versions=versions,
        commands=commands,
    )
    write_text(out, page)


def _data_uri(path: Path) -> str:
    if (media := MEDIA.get(path.suffix)) is None:
        raise LensflowError(f"{path}: not a figure; give an .svg or .png file")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such figure; draw it first") from None
    return f"data:{media};base64,{base64.b64encode(content).decode()}"
