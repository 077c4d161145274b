"""The report: one HTML page that contains everything it shows and loads nothing from outside.

The template escapes all text from a model, a prompt or a configuration. Only tables are inserted as HTML (from
`writers.html`, which escapes). Figures are in `<img>` elements, where an SVG cannot run scripts.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lensflow.artifacts.layout import BASE
from lensflow.errors import LensflowError
from lensflow.storage.atomic import write_text
from lensflow.storage.integrity import checked

MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


class Samples(NamedTuple):
    """The answers of all methods to the prompts of one benchmark × language.

    Each row is {"prompt": text, "answers": {method: sample}}, base first. A sample has `answer`, `outcome`, `usable`,
    `identified` (a language code or "unknown"), and perhaps `cut`.
    """

    benchmark: str
    language: str
    rows: Sequence[Mapping[str, Any]]


class Table(NamedTuple):
    """A table as HTML, which is inserted unchanged, and the shell command that makes it."""

    caption: str
    html: str
    command: str


class Figure(NamedTuple):
    """An .svg or .png file and the shell command that draws it; the caption is also the alternative text."""

    caption: str
    path: Path
    command: str


class Timing(NamedTuple):
    """The result of a benchmark script: its heading, the names of the columns and the rows, all as text."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Section(NamedTuple):
    """The content of one backbone × setting.

    Attributes:
        name: name for the navigation.
        title: title of the section.
        tables: the tables, folded away.
        figures: the figures, folded away.
        samples: answers side by side; the first language is shown first.
        first: figures that are shown at once.
        notes: the meaning of the signs in the figures.
    """

    name: str
    title: str
    tables: Sequence[Table]
    figures: Sequence[Figure]
    samples: Sequence[Samples]
    first: Sequence[Figure] = ()
    notes: Sequence[str] = ()


def join_samples(by_method: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Put the answers of several methods to the same prompts side by side: the rows of `Samples`.

    Args:
        by_method: method -> lines of its {benchmark}.{language}.jsonl. The first method gives the order of the prompts.
            A method that lacks an answer to a prompt is left out for that prompt.

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


@dataclass(frozen=True)
class Page:
    """The content of the report. Empty parts are left out.

    Attributes:
        title: title of the page.
        verdict: the verdict of the run in sentences, the most important first.
        export: the command that exports the best checkpoint.
        offer: the effect of this command, and whether the gain is shown.
        picture: the figures below the verdict.
        overview: (key, value) lines about the run.
        sections: one per backbone and setting.
        timings: one per benchmark script.
        checkpoints: the evaluated checkpoints, one mapping each. The columns are their keys in order of first
            appearance.
        trees: name of a checkpoint -> the inputs of its scores.
        versions: package or tool -> version.
        config: the configuration of the results, as plain JSON values.
    """

    title: str
    verdict: Sequence[str]
    export: str
    offer: str
    picture: Section | None
    overview: Sequence[tuple[str, Any]]
    sections: Sequence[Section]
    timings: Sequence[Timing]
    checkpoints: Sequence[Mapping[str, Any]]
    trees: Mapping[str, str]
    versions: Mapping[str, Any]
    config: Mapping[str, Any]


def build_report(page: Page, out: Path) -> None:
    """Write the report to the HTML file `out`.

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
    shown = vars(page) | {
        "sections": [_shown(section) for section in page.sections],
        "picture": _shown(page.picture) if page.picture else None,
        "base": BASE,
        "columns": list(dict.fromkeys(key for checkpoint in page.checkpoints for key in checkpoint)),
        "config": json.dumps(page.config, ensure_ascii=False, indent=2, sort_keys=True) if page.config else "",
    }
    write_text(out, environment.get_template("report.html.j2").render(shown))


def _shown(section: Section) -> dict[str, Any]:
    """The values of a section that the template needs."""
    answered = dict.fromkeys(method for group in section.samples for row in group.rows for method in row["answers"])
    return {
        "name": section.name,
        "title": section.title,
        "tables": [table._replace(html=Markup(table.html)) for table in section.tables],
        "first": [(figure, _data_uri(figure.path)) for figure in section.first],
        "figures": [(figure, _data_uri(figure.path)) for figure in section.figures],
        "notes": section.notes,
        "samples": section.samples,
        "methods": [method for method in answered if method != BASE],
    }


def _data_uri(path: Path) -> str:
    if (media := MEDIA.get(path.suffix)) is None:
        raise LensflowError(f"{path}: not a figure; give an .svg or .png file")
    try:
        content = checked(path).read_bytes()
    except FileNotFoundError:
        raise LensflowError(f"{path}: no such figure; draw it first") from None
    return f"data:{media};base64,{base64.b64encode(content).decode()}"
