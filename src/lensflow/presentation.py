"""Tables, figures and the report from a results folder (stages `make_table`, `make_figures`, `report`)."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from safetensors.torch import load_file

from lensflow import (
    analysis,
    figures,
    fitting,
    hidden_states,
    provenance,
    report,
    state_figures,
    summaries,
    surroundings,
    tables,
)
from lensflow.config import Setting
from lensflow.errors import LensflowError
from lensflow.files import checked, read_json, read_jsonl, record_of, write_text

# Name of a table -> what it shows.
TABLES = {
    "summary": "Methods side by side",
    "main": "Every metric in every language",
    "ablation": "Variants of Lens: difference to base",
    "versus": "All methods: difference to one of them",
    "cost": "What training takes",
}
# Name of a figure -> what it shows; drawn for every backbone and setting as far as there is something to draw.
FIGURES = {
    "fidelity": "Share of answers in the prompt's language, on unseen test prompts, with 95 % intervals",
    "front": "Fidelity against the central language's likelihood; bars are 95 % intervals of the difference to base, "
    f"{tables.TOLD} is told the prompt's language",
    "training": "Training curves, means over seeds; full markers are the dev texts",
    "separability": "Shares of the states' variance between languages and between texts, by layer, with 95 % bands",
    "retrieval": (
        "Retrieval of parallel texts by layer, with and without the specific subspace (fitted on most of them where a "
        "setting probes and trains on one corpus), with 95 % bands"
    ),
    "spectrum": "Spectrum of the differences between the language means, by layer",
    "cosines": "Cosines of the languages' directions",
}
SWEEP = "Fidelity against the central language's likelihood along the sweep "
STATES = "Dev states before and after training in both subspaces and by their neighbourhoods: "

Curves = Mapping[str, Sequence[tuple[str, figures.Point]]]  # as `figures.trade_off` takes them


def _settings(config: Mapping[str, Any]) -> dict[str, Setting]:
    return {name: Setting.model_validate(value) for name, value in config["settings"].items()}


def _blocks(config: Mapping[str, Any], comparisons: Path) -> list[tables.Block]:
    try:
        frame = pd.read_csv(checked(comparisons), dtype={"seeds": str})
    except FileNotFoundError:
        raise LensflowError(f"{comparisons}: no such file; run collect-scores") from None
    wanted = [tuple(pair) for pair in config["blocks"]]
    blocks = _main_table(config, frame)
    return [block for block in blocks if (block.backbone, block.setting) in wanted]


def _versus(config: Mapping[str, Any], path: Path) -> dict[tuple[str, str], tables.Block]:
    """The blocks of versus.csv by backbone and setting; none where nothing was compared."""
    frame = pd.read_csv(checked(path), dtype={"seeds": str})
    if frame.empty:
        return {}
    return {(block.backbone, block.setting): block for block in _main_table(config, frame)}


def _main_table(config: Mapping[str, Any], cells: pd.DataFrame) -> list[tables.Block]:
    order, told = config.get("order", config["methods"]), config.get("told_language", ())
    return tables.main_table(cells, _settings(config), list(order), told)


def _command(config: Mapping[str, Any], target: str) -> str:
    """The command that makes a file below the results folder again, from nothing if need be."""
    return f"{config['command']} {config['results']}/{target}"


def _sheets(
    config: Mapping[str, Any], blocks: Sequence[tables.Block], versus: Path, costs: Sequence[Path]
) -> dict[str, list[summaries.Sheet]]:
    """The tables beside the main one, by name."""
    direct = _versus(config, versus)
    found: dict[str, list[summaries.Sheet | None]] = {name: [] for name in TABLES if name != "main"}
    for block in blocks:
        measured = {}
        for path in costs:
            backbone, setting, method, seed = path.parts[-5:-1]
            if (backbone, setting) == (block.backbone, block.setting):
                prepared = {"prepared_seconds": provenance.prepared_seconds(path)}
                measured[method, int(seed.removeprefix("seed"))] = read_json(path) | prepared
        found["summary"].append(summaries.summary(block))
        found["ablation"].append(summaries.ablation(block, config["methods"]))
        if compared := direct.get((block.backbone, block.setting)):
            found["versus"].append(summaries.versus(compared, config["versus"]))
        found["cost"].append(summaries.cost(block, measured))
    return {name: [sheet for sheet in sheets if sheet is not None] for name, sheets in found.items()}


def write_tables(
    config: Mapping[str, Any], comparisons: Path, versus: Path, costs: Sequence[Path], folder: Path
) -> None:
    """Write `TABLES` as Markdown, LaTeX and CSV into `folder`, each with the command that makes it.

    Args:
        config: what `Plan.presentation` gives, the command that runs the workflow and the folder of its results.
        comparisons: comparisons.csv.
        versus: versus.csv.
        costs: cost.json of each training.
        folder: for the tables.
    """
    blocks = _blocks(config, comparisons)
    texts = {"main": (tables.to_markdown(blocks), tables.to_latex(blocks), tables.to_csv(blocks))}
    for name, sheets in _sheets(config, blocks, versus, costs).items():
        texts[name] = summaries.to_markdown(sheets), summaries.to_latex(sheets), summaries.to_csv(sheets)
    for name, (markdown, latex, csv) in texts.items():
        command = _command(config, f"tables/{name}.md")
        shown = markdown or "Nothing to show.\n"
        write_text(folder / f"{name}.md", f"{shown}\nMade by `{command}`\n")
        write_text(folder / f"{name}.tex", f"% Made by: {' '.join(command.split())}\n{latex}")
        write_text(folder / f"{name}.csv", csv)


def terminal_table(config: Mapping[str, Any], comparisons: Path) -> str:
    """Return the main table for the terminal."""
    return tables.to_text(_blocks(config, comparisons))


@dataclass(frozen=True)
class Inputs:
    """The files that the figures of one backbone and setting are drawn from.

    Attributes:
        scores: scores.csv.
        comparisons: comparisons.csv.
        sweeps: sweeps.csv.
        subspaces: of the setting; None if no method of it needs them.
        states: for each language, what `extract_hidden_states` wrote of a parallel corpus.
        histories: history.jsonl of each training, dev_states.safetensors beside it; either may be empty or missing.
    """

    scores: Path
    comparisons: Path
    sweeps: Path
    subspaces: Path | None
    states: Mapping[str, Path]
    histories: Sequence[Path]


def write_figures(config: Mapping[str, Any], backbone: str, setting_name: str, inputs: Inputs, folder: Path) -> None:
    """Draw the figures of one backbone and setting into `folder`.

    They are `FIGURES`, sweep.{name} of each sweep, and states.{method}.seed{seed} of each training.
    """
    setting = _settings(config)[setting_name]
    blocks = _blocks(config, inputs.comparisons)
    block = next(b for b in blocks if (b.backbone, b.setting) == (backbone, setting_name))
    folder.mkdir(parents=True, exist_ok=True)
    if any(row.metric == "fidelity" for row in block.rows):
        figures.save(figures.fidelity(block), folder / "fidelity")
    scores = pd.read_csv(checked(inputs.scores))
    points = _points(block, scores)
    axes = (
        f"negative log-likelihood in {block.central}, nats a token",
        f"fidelity, mean over {tables.TARGETS}" if len(block.targets) > 1 else f"fidelity in {block.targets[0]}",
    )
    if len(points) > 1:
        figures.save(figures.trade_off(points, axes, {}), folder / "front")
    for name, curves in _sweeps(block, points, inputs.sweeps, scores):
        figures.save(figures.trade_off(points[:1], axes, curves), folder / f"sweep.{name}")
    histories: dict[str, list[figures.History]] = {}
    for path in inputs.histories:
        if path.is_file() and (rows := read_jsonl(path)):
            histories.setdefault(path.parts[-3], []).append(rows)
    if histories:
        figures.save(figures.training_curves(histories), folder / "training")
    if inputs.subspaces is None:
        return
    subspaces = fitting.load(inputs.subspaces, setting)
    if inputs.states:
        for name, figure in _by_layer(setting, subspaces, inputs.states):
            figures.save(figure, folder / name)
    for path in inputs.histories:
        file = path.with_name("dev_states.safetensors")
        if not (file.is_file() and file.stat().st_size and (states := load_file(checked(file)))):
            continue  # of a method that trains without hidden states
        before, after = (
            {key: states[f"{side}.{key}"].float().numpy() for key in setting.languages} for side in ("before", "after")
        )
        top = subspaces.agnostic[-1].numpy(), subspaces.specific[-1].numpy()
        drawn = state_figures.state_map(before, after, *top, [setting.central, *setting.targets])
        figures.save(drawn, folder / f"states.{path.parts[-3]}.{path.parts[-2]}")


def _by_layer(
    setting: Setting, subspaces: fitting.LanguageSubspaces, paths: Mapping[str, Path]
) -> Iterator[tuple[str, Figure]]:
    """The figures of all layers, from the states of all texts of a parallel corpus."""
    normed = setting.space == "post_norm"
    loaded = [hidden_states.load(paths[language]) for language in (setting.central, *setting.targets)]
    specific = subspaces.specific.double().numpy()
    shares, hits = [], []
    for layer, basis in enumerate(specific):
        top = normed and layer == len(specific) - 1
        states = np.stack([(one.post_norm if top else one.layers[layer]).double().numpy() for one in loaded])
        shares.append(analysis.variance_shares(states))
        hits.append([analysis.retrieval_hits(x, central=0) for x in (states, analysis.without(states, basis))])
    yield "separability", state_figures.separability_by_layer(np.stack(shares), normed)
    found = np.array(hits)  # (L, 2, K-1, N)
    means = np.array([[analysis.share_interval(kind) for kind in layer] for layer in found])
    of_language = dict(zip(setting.targets, found.mean(3).transpose(2, 1, 0), strict=True))
    chance = 1 / found.shape[-1]
    yield "retrieval", state_figures.retrieval_by_layer(means.transpose(1, 0, 2), of_language, chance, normed)
    values = analysis.spectrum(subspaces.means.numpy())
    yield "spectrum", state_figures.spectrum_by_layer(values, specific.shape[-1], normed)
    places = [setting.languages.index(language) for language in setting.targets]
    directions = subspaces.directions[:, places].double().numpy()
    between = analysis.cosines(directions, directions[-1])
    to_top = np.diagonal(between, axis1=1, axis2=2)
    yield "cosines", state_figures.direction_cosines(between[-1], to_top, setting.targets, normed)


def _points(block: tables.Block, scores: pd.DataFrame) -> list[figures.Point]:
    """The methods of a block by likelihood in the central language and fidelity; none where base lacks one of them."""

    def rows(metric: str) -> dict[str, tables.Row]:
        # Of the first benchmark that has it, as in the figure of fidelity.
        benchmark = next((row.benchmark for row in block.rows if row.metric == metric), None)
        return {row.method: row for row in block.rows if (row.benchmark, row.metric) == (benchmark, metric)}

    costs, gains = rows("nll"), rows("fidelity")
    column = _targets(block)
    points = []
    for method in costs:
        cost, gain = (
            costs[method].cells.get(block.central),
            gains[method].cells.get(column) if method in gains else None,
        )
        if cost is None or gain is None:
            continue
        benchmarks = costs[method].benchmark, gains[method].benchmark
        alone = _seeds(block, scores, (block.setting, method), benchmarks)
        seeds = list(alone.values()) if len(alone) > 1 else []
        name = f"{method}{tables.TOLD}" if costs[method].told_language else method
        points.append(figures.Point(name, cost, gain, seeds))
    return points if points and points[0].method == tables.BASE else []


def _seeds(
    block: tables.Block, scores: pd.DataFrame, of_method: tuple[str, str], benchmarks: tuple[str, str]
) -> dict[int, tuple[float, float]]:
    """Likelihood in the central language and fidelity in the targets by seed.

    Args:
        block: whose languages they are.
        scores: scores.csv.
        of_method: setting and method.
        benchmarks: of the likelihood and of the fidelity.
    """

    def values(benchmark: str, metric: str, languages: Sequence[str]) -> pd.Series:
        keys = scores[["backbone", "setting", "method", "benchmark", "metric"]]
        same = (keys == (block.backbone, *of_method, benchmark, metric)).all(axis=1)
        return scores[same & scores["language"].isin(languages)].groupby("seed")["value"].mean()

    both = values(benchmarks[0], "nll", [block.central]), values(benchmarks[1], "fidelity", block.targets)
    alone = pd.concat(both, axis=1).dropna()
    return dict(zip(alone.index, alone.itertuples(index=False, name=None), strict=True))


def _sweeps(
    block: tables.Block, points: Sequence[figures.Point], path: Path, scores: pd.DataFrame
) -> Iterator[tuple[str, Curves]]:
    """The sweeps that are about a block's setting: name, and a curve for each value of the second key.

    Their scores are of the benchmarks that the block's are, in the same languages.
    """
    frame = pd.read_csv(checked(path), dtype={"seeds": str, "at": str, "by": str})
    frame = frame[(frame["backbone"] == block.backbone) & (frame["of_setting"] == block.setting)]
    frame = frame[frame["method"] != tables.BASE].fillna({"by": ""})
    wanted = {"nll": block.central, "fidelity": _targets(block)}
    benchmarks = {row.metric: row.benchmark for row in reversed(block.rows)}
    for name, of_sweep in frame.groupby("sweep", sort=False):
        curves: dict[str, list[tuple[str, figures.Point]]] = {}
        for (at, by, setting, method), of_point in of_sweep.groupby(["at", "by", "setting", "method"], sort=False):
            cells = {
                row["metric"]: tables.cell_of(row)
                for row in of_point.to_dict("records")
                if row["language"] == wanted.get(row["metric"]) and row["benchmark"] == benchmarks.get(row["metric"])
            }
            if len(cells) == len(wanted):
                alone = _seeds(block, scores, (str(setting), str(method)), (benchmarks["nll"], benchmarks["fidelity"]))
                named = of_point["seeds"].iloc[0].split()
                seeds = [alone[int(seed)] for seed in named if int(seed) in alone] if len(named) > 1 else []
                point = figures.Point(str(method), cells["nll"], cells["fidelity"], seeds)
                curves.setdefault(f"{name}, {by}" if by else str(name), []).append((str(at), point))
        if points and curves:
            yield str(name), curves


def _targets(block: tables.Block) -> str:
    """The column of the target languages: their mean, or the only one."""
    return tables.TARGETS if len(block.targets) > 1 else block.targets[0]


def _figures(config: Mapping[str, Any], folder: Path) -> list[report.Figure]:
    """The figures of a backbone and setting that there are, in order: `FIGURES`, sweeps, states."""
    captions = {folder / f"{name}.svg": caption for name, caption in FIGURES.items()}
    for path in sorted(folder.glob("sweep.*.svg")):
        captions[path] = f"{SWEEP}{path.stem.removeprefix('sweep.')}"
    for path in sorted(folder.glob("states.*.svg")):
        method, _, seed = path.stem.removeprefix("states.").rpartition(".seed")
        captions[path] = f"{STATES}{method}, seed {seed}"
    command = _command(config, f"figures/{folder.name}")
    return [report.Figure(caption, path, command) for path, caption in captions.items() if path.is_file()]


def _samples(block: tables.Block, results: Path) -> list[report.Samples]:
    groups = []
    generated = dict.fromkeys(row.benchmark for row in block.rows if row.metric == "fidelity")
    for benchmark, language in itertools.product(generated, (block.central, *block.targets, *block.others)):
        by_method = {}
        for method, seed in dict.fromkeys((row.method, seed) for row in block.rows for seed in row.seeds):
            place = tables.NO_SETTING if method == tables.BASE else block.setting
            run = results / block.backbone / place / method / f"seed{seed}"
            path = run / "samples" / f"{benchmark}.{language}.jsonl"
            if path.is_file():
                by_method[method if seed == 0 else f"{method} (seed {seed})"] = read_jsonl(path)
        if by_method:
            groups.append(report.Samples(benchmark, language, report.join_samples(by_method)))
    return groups


def _run(results: Path, row: Mapping[str, Any]) -> Path:
    """The folder of a checkpoint."""
    return results.joinpath(row["backbone"], row["setting"], row["method"], f"seed{row['seed']}")


def _evaluations(results: Path, checkpoints: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records of the evaluations of checkpoints, as far as there are any; `{}` where there is none."""
    found: list[Mapping[str, Any]] = []
    for row in checkpoints:
        recorded = record_of(_run(results, row) / "scores.json")
        found.append({} if recorded is None else recorded[1])
    return found


def _tree(results: Path, row: Mapping[str, Any]) -> str:
    """What a checkpoint's scores were made of; what is wrong where a file that the report can do without is gone."""
    try:
        return provenance.tree(_run(results, row) / "scores.json", results)
    except LensflowError as error:  # in the report no absolute path
        return str(error).replace(f"{results.absolute().parent}/", "")


def _joined(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(values))


def write_report(
    config: Mapping[str, Any],
    scores: Path,
    comparisons: Path,
    versus: Path,
    costs: Sequence[Path],
    folders: Sequence[Path],
    timings: Sequence[Path],
    results: Path,
    output: Path,
) -> None:
    """Write the self-contained report.

    Args:
        config: what `Plan.presentation` gives, the command that runs the workflow and the folder of its results.
        scores: scores.csv.
        comparisons: comparisons.csv.
        versus: versus.csv.
        costs: cost.json of each training.
        folders: what `write_figures` wrote, {backbone}.{setting} each.
        timings: tables that the scripts in benchmarks/ wrote as Markdown.
        results: the folder with every checkpoint's samples.
        output: the HTML file.
    """
    blocks = _blocks(config, comparisons)
    frame = pd.read_csv(checked(scores))
    keys = ["backbone", "setting", "method", "seed", "engine", "dtype", "weights"]
    places = frame[keys].drop_duplicates().itertuples(index=False, name=None)
    checkpoints = [dict(zip(keys, place, strict=True)) for place in places]
    records = _evaluations(results, checkpoints)
    trees = {}
    for row, record in zip(checkpoints, records, strict=True):
        if record:
            row |= {"evaluated": record["started"], "code": (record["code"]["commit"] or "no commit")[:12]}
            trees["{backbone}, {setting}, {method}, seed {seed}".format(**row)] = _tree(results, row)
    machines = [record["machine"] for record in records if record] or [surroundings.machine()]
    versions = [record["versions"] for record in records if record] or [surroundings.versions()]
    sections = []
    for block in blocks:
        html = {"main": tables.to_html(block)}
        html |= {
            name: summaries.to_html(sheets[0])
            for name, sheets in _sheets(config, [block], versus, costs).items()
            if sheets
        }
        shown = [
            report.Table(caption, html[name], _command(config, f"tables/{name}.md"))
            for name, caption in TABLES.items()
            if name in html
        ]
        drawn = [
            f
            for folder in folders
            if folder.name == f"{block.backbone}.{block.setting}"
            for f in _figures(config, folder)
        ]
        sections.append(
            report.Section(f"{block.backbone}, {block.setting}", block.caption, shown, drawn, _samples(block, results))
        )
    overview = [
        (
            "Method",
            "Lens (arXiv 2410.04407) on the top layers; see the README for what differs from the published code",
        ),
        ("Backbones", "; ".join(f"{name} ({entry['license']})" for name, entry in config["backbones"].items())),
        ("Evaluation", ", ".join(f"{k} {'all' if v is None else v}" for k, v in config["evaluation"].items())),
        ("Machine", _joined(f"{m.get('gpu', m['cpu'])}, {m['cores']} cores, {m['platform']}" for m in machines)),
        ("Commit", surroundings.commit() or "not a git checkout"),
        ("Command", _command(config, output.name)),
    ]
    report.build_report(
        output,
        title=config["title"],
        overview=overview,
        sections=sections,
        timings=[_timing(path) for path in timings],
        checkpoints=checkpoints,
        trees=trees,
        versions={name: _joined(v[name] for v in versions if name in v) for v in versions for name in v},
        config=config,
    )


def _timing(path: Path) -> report.Timing:
    """Read a table of a benchmark script: its heading, an empty line, the table."""
    caption, _, *lines = path.read_text(encoding="utf-8").splitlines()
    columns, _, *rows = ([value.strip() for value in line.split("|")[1:-1]] for line in lines if line)
    return report.Timing(caption, columns, rows)
