"""The command line: one subcommand a stage, called by the workflow's rules and by hand.

Modules are imported inside the subcommands, so that a mistake is reported before torch is loaded.
"""

import argparse
import errno
import functools
import gc
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensflow.errors import LensflowError
from lensflow.storage.atomic import write_json
from lensflow.storage.parsing import parse_json
from lensflow.storage.verified import read_json

# What the system refuses -> what to do. Found by its words: libraries wrap its errors in types of their own.
REFUSALS = {
    errno.ENOSPC: "no space left on the disk; free some and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EFBIG: "a file would be larger than is allowed (ulimit -f); raise the limit and run again",
    errno.EROFS: "the disk is read-only; make it writable, or run elsewhere (--directory)",
    errno.EACCES: "the results folder must not be written; change its permissions, or run elsewhere (--directory)",
    errno.ENOMEM: "not enough memory; free some, or run where there is more",
}
STAGE_CONFIG = "the stage's configuration: a JSON file, or JSON itself (see: lensflow show-config)"


def _stage_config(value: str) -> Any:
    if value.lstrip().startswith("{"):
        try:
            return parse_json(value)
        except ValueError as error:
            raise LensflowError(f"--config: not valid JSON ({error})") from None
    return read_json(Path(value))


def _by_language(paths: Sequence[Path]) -> dict[str, Path]:
    """Map `.../{language}.suffix` files to their languages."""
    return {path.stem: path for path in paths}


def _section(config: Any, key: str, section: Any) -> Any:
    from lensflow.schema.messages import parse

    if not isinstance(config, dict) or key not in config:
        raise LensflowError(f"--config: key '{key}' is missing; see lensflow show-config")
    return parse(section, config[key], f"--config {key}")


def prepare_backbone(args: argparse.Namespace) -> None:
    """Turn a backbone's source into a checkpoint folder."""
    from lensflow.schema.backbone import Backbone
    from lensflow.stages import prepare_backbone as prepare_backbone_module

    config = _stage_config(args.config)
    prepare_backbone_module.prepare_backbone(_section(config, "backbone", Backbone), args.root, args.output)


def pair_data(args: argparse.Namespace) -> None:
    """Write one language of a corpus."""
    from lensflow.artifacts import texts as texts_module
    from lensflow.schema.corpus import CorpusDataset
    from lensflow.stages import pair_data as pair_data_module

    config = _stage_config(args.config)
    language = _section(config, "language", str)
    if "dataset" in config:
        dataset = _section(config, "dataset", CorpusDataset)
        pair_data_module.pair_dataset(dataset, language, args.datasets_root, args.output)
    else:
        pair_data_module.pair_data(texts_module.folder(_section(config, "path", str), args.root), language, args.output)


def extract_hidden_states(args: argparse.Namespace) -> None:
    """Run one language's texts through the frozen backbone; goes on where a killed run stopped."""
    from lensflow.artifacts import checkpoint
    from lensflow.artifacts import texts as texts_module
    from lensflow.artifacts.states import save
    from lensflow.models import loading, streaming
    from lensflow.models.tokenizer import PromptTokenizer
    from lensflow.provenance.code import code_digest
    from lensflow.schema.backbone import Prompt
    from lensflow.schema.extraction import Extraction
    from lensflow.stages.extract_hidden_states import extract, stream, tokenize
    from lensflow.storage.atomic import scratch_folder
    from lensflow.storage.journal import used

    config = _stage_config(args.config)
    extraction = _section(config, "extraction", Extraction)
    prompt = _section(config, "prompt", Prompt)
    texts = texts_module.read_texts(args.texts, ["train", "dev"])
    used(args.texts, [text.line for text in texts])
    device = loading.device_of(args.gpus)
    with checkpoint.verifying(args.backbone) as manifest:
        tokenizer = PromptTokenizer(args.backbone.parent, prompt)
        sequences = tokenize(tokenizer, args.texts.stem, texts, extraction)
        folder, attention = args.backbone.parent, extraction.attention
        dtype = loading.DTYPES[extraction.dtype] if extraction.dtype else None
        if extraction.memory == "stream":
            streamed = streaming.StreamedDecoder(folder, sequences.ids, device, dtype, attention)
            run = functools.partial(stream, streamed)
        else:
            decoder = loading.load_decoder(folder, dtype, device, attention)
            run = functools.partial(extract, decoder)
    identity = [config, vars(sequences), manifest["files"], code_digest("stages.extract_hidden_states")]
    with scratch_folder(args.output, identity) as scratch:
        states = run(sequences, extraction, scratch)
        save(args.output, states, sequences.names)


def fit_subspaces(args: argparse.Namespace) -> None:
    """Fit the language subspaces of every layer."""
    from lensflow.schema.setting import Setting
    from lensflow.stages.fit_subspaces import fit

    setting = _section(_stage_config(args.config), "setting", Setting)
    fit(setting, _by_language(args.states), _by_language(args.texts), args.output)


def train(args: argparse.Namespace) -> None:
    """Train one method on one setting."""
    from lensflow.artifacts import checkpoint
    from lensflow.methods import base
    from lensflow.schema.backbone import Prompt
    from lensflow.schema.extraction import Extraction
    from lensflow.schema.setting import Setting
    from lensflow.workflow.experiment import AnyMethod

    config = _stage_config(args.config)
    method, setting = _section(config, "method", AnyMethod), _section(config, "setting", Setting)
    prompt, seed = _section(config, "prompt", Prompt), _section(config, "seed", int)
    resolved = {"method": method.canonical(), "setting": setting.canonical(), "prompt": prompt.canonical()}
    hidden = None
    if method.needs_states:
        if args.subspaces is None or not args.states:
            raise LensflowError(f"kind {method.kind} needs --subspaces and --states")
        extraction = _section(config, "extraction", Extraction)
        hidden = base.HiddenStates(extraction, args.subspaces, _by_language(args.states))
        resolved["extraction"] = extraction.canonical()
    with checkpoint.verifying(args.backbone):
        from lensflow.stages.train import train_measured
    write_json(args.output.parent / "config.json", resolved | {"seed": seed})
    texts = _by_language(args.texts)
    run = base.Run(method, setting, seed, prompt, args.backbone, texts, args.output, hidden, args.gpus)
    train_measured(run)


def export_checkpoint(args: argparse.Namespace) -> None:
    """Build a checkpoint from a backbone and a delta."""
    from lensflow.stages import export_checkpoint as export_checkpoint_module

    export_checkpoint_module.export(args.backbone, args.delta, args.output)


def fetch_items(args: argparse.Namespace) -> None:
    """Write one language's items of a benchmark."""
    from lensflow.schema.dataset import Dataset, LanguageEntry
    from lensflow.stages.fetch_items import fetch

    config = _stage_config(args.config)
    name, dataset = _section(config, "benchmark", str), _section(config, "dataset", Dataset)
    entry = LanguageEntry(config=_section(config, "config", str))
    fetch(name, dataset, args.language, entry, args.datasets_root, args.output)


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate a checkpoint on all its cells."""
    from lensflow.benchmarks.kinds import Benchmark
    from lensflow.provenance.code import code_digest
    from lensflow.schema.backbone import Prompt, Resources
    from lensflow.schema.evaluation import Evaluation
    from lensflow.schema.types import Language, Name
    from lensflow.stages import evaluate as evaluate_module
    from lensflow.workflow.plan import check_engine

    config = _stage_config(args.config)
    settings = _section(config, "evaluation", Evaluation)
    check_engine(settings.engine)
    prompt = _section(config, "prompt", Prompt)
    cells = [
        evaluate_module.Cell(_section(entry, "name", Name), _section(entry, "benchmark", Benchmark), language)
        for entry in _section(config, "cells", list[Any])
        for language in _section(entry, "languages", list[Language])
    ]
    inputs = evaluate_module.Inputs(args.checkpoint, args.corpora, args.items, tuple(args.tasks), args.intervention)
    resources = Resources(gpus=args.gpus, gpu_memory=args.gpu_memory)
    evaluator = evaluate_module.Evaluator(inputs, prompt, settings, resources)
    evaluate_module.evaluate(evaluator, cells, code_digest("stages.evaluate"), args.cache, args.output)


def judge(args: argparse.Namespace) -> None:
    """Have the answers to two-turn questions rated; goes on where a killed run stopped."""
    from lensflow.benchmarks.mt_bench import MtBench
    from lensflow.schema.types import Language, Name
    from lensflow.stages import judge as judge_module

    cells = []
    for entry in _section(_stage_config(args.config), "benchmarks", list[Any]):
        name, benchmark = _section(entry, "name", Name), _section(entry, "benchmark", MtBench)
        for language in _section(entry, "languages", list[Language]):
            samples = args.scores.parent / "samples" / f"{name}.{language}.jsonl"
            cells.append(judge_module.read_answers(name, benchmark.judge, language, samples))
    judge_module.judge(cells, args.scores, args.cache, args.output)


def collect_scores(args: argparse.Namespace) -> None:
    """Collect all scores into one table and compare every method with base."""
    from lensflow.stages.collect_scores import collect

    collect(_stage_config(args.config), args.scores, args.output)


def resolve_config(args: argparse.Namespace) -> None:
    """Write down what tables, figures and report need of the configuration."""
    write_json(args.output, _stage_config(args.config))


def make_table(args: argparse.Namespace) -> None:
    """Write the tables as Markdown, LaTeX and CSV."""
    from lensflow.presentation.inputs import TableFiles
    from lensflow.stages.make_table import write_tables

    write_tables(_stage_config(args.config), TableFiles(args.comparisons, args.versus, args.costs), args.output)


def make_figures(args: argparse.Namespace) -> None:
    """Draw the figures of one backbone and setting."""
    from lensflow.stages.make_figures import FigureFiles, write_figures

    states = _by_language(args.states)
    files = FigureFiles(args.scores, args.comparisons, args.sweeps, args.subspaces, states, args.runs)
    write_figures(_stage_config(args.config), args.backbone, args.setting, files, args.output)


def report(args: argparse.Namespace) -> None:
    """Write the self-contained report."""
    from lensflow.presentation.inputs import TableFiles
    from lensflow.stages.report import ReportFiles, write_report

    tables = TableFiles(args.comparisons, args.versus, args.costs)
    files = ReportFiles(tables, args.scores, args.figures, args.timings, args.results)
    write_report(_stage_config(args.config), files, args.output)


def show_table(args: argparse.Namespace) -> None:
    """Print the main table for the terminal."""
    from lensflow.stages.make_table import terminal_table

    print(terminal_table(_stage_config(args.config), args.comparisons))


def compare_tables(args: argparse.Namespace) -> None:
    """Compare the tables of a run with published ones, cell by cell."""
    from lensflow.workflow import published

    exact = published.same_platform(args.published, args.results)
    found, compared = published.compare(args.published, args.results, exact=exact)
    for difference in found:
        print(difference)
    if outside := [difference for difference in found if not difference.allowed]:
        advice = "find out why, or publish them: lensflow accept-tables"
        raise LensflowError(f"{args.results}: {len(outside)} differences from {args.published}; {advice}")
    if exact:
        print(f"ok: {compared} values, all the same, as they must be on this platform")
    else:
        same = compared - len(found)
        print(f"ok: {compared} values, {same} the same, {len(found)} inside of their published intervals")


def accept_tables(args: argparse.Namespace) -> None:
    """Publish the tables of a run, and say what moved them."""
    from lensflow.workflow import published

    source = published.source_of(_plan(args.configfile), args.results)
    known = (args.published / published.SOURCE).is_file()
    moved = published.compare(args.published, args.results)[0] if known else []
    changes = published.accept(args.results, args.published, source)
    for difference in moved:
        print(difference)
    if moved:
        print("moved by" if changes else "moved by nothing in configuration, code, packages or machine")
    for change in changes:
        print(f"  {change}")
    print(f"{args.published}: published {', '.join(Path(name).name for name in published.TABLES)}")


def export(args: argparse.Namespace) -> None:
    """Copy a checkpoint that can be taken home: backbone and delta put together, links resolved."""
    import tempfile

    from lensflow.artifacts import checkpoint, interventions
    from lensflow.models import logit_bias
    from lensflow.presentation.model_card import model_card
    from lensflow.stages import export_checkpoint as export_checkpoint_module
    from lensflow.storage.atomic import write_text

    if not args.delta.is_file():
        raise LensflowError(f"{args.delta}: no such file; train the method, or name its delta.safetensors")
    manifest, applied = checkpoint.verify(args.backbone), args.delta.with_name(interventions.NAME)
    intervention = interventions.load(applied)
    biases = logit_bias.logit_biases(args.backbone.parent, intervention.shifts)
    card = model_card(manifest, args.delta, intervention, biased=bool(biases))
    with tempfile.TemporaryDirectory(dir=args.backbone.parent) as temporary:
        exported = Path(temporary) / "checkpoint" / "manifest.json"
        export_checkpoint_module.export(args.backbone, args.delta, exported)
        if intervention.width is not None:
            logit_bias.hand_on(applied, biases, exported.parent)
        write_text(exported.parent / "README.md", card)
        export_checkpoint_module.copy_out(exported.parent, args.folder)
    print(f"{args.folder}: load it with transformers or vLLM")


def _plan(files: Sequence[Path]) -> Any:
    from lensflow.workflow.experiment import read
    from lensflow.workflow.plan import Plan

    return Plan(read(files, Path()), Path.cwd(), Path.cwd())


def check(args: argparse.Namespace) -> None:
    """Check a configuration and everything that it names."""
    plan = _plan(args.configfile)
    plan.check_disk(args.results)
    print(f"ok: {len(plan.backbones)} backbones, {len(plan.checkpoints)} checkpoints, {len(plan.trained())} to train")


def show_config(args: argparse.Namespace) -> None:
    """Print a stage's configuration, to be given to its --config."""
    from lensflow.workflow.plan import Checkpoint

    plan = _plan(args.configfile)
    checkpoints = {c.folder: c for c in plan.checkpoints}
    stages = {
        "prepare_backbone": lambda: plan.prepare_backbone(args.name),
        "pair_data": lambda: plan.pair_data(*args.name.split("/", 1)),
        "fetch_items": lambda: plan.fetch_items(*args.name.split("/", 1)),
        "extract_hidden_states": lambda: plan.extract_hidden_states(*args.name.split("/", 1)),
        "fit_subspaces": lambda: plan.fit_subspaces(args.name),
        "train": lambda: plan.train(_known(checkpoints, args.name)),
        "evaluate": lambda: plan.evaluate(_known(checkpoints, args.name)),
        "judge": lambda: plan.judge(_known(checkpoints, args.name)),
    }

    def _known(known: dict[str, Checkpoint], name: str) -> Checkpoint:
        if name not in known:
            raise LensflowError(f"'{name}' is not one of the checkpoints: {', '.join(known)}")
        return known[name]

    print(json.dumps(stages[args.stage](), ensure_ascii=False, indent=2))


def trace(args: argparse.Namespace) -> None:
    """Follow a number in a table back to the data, the backbone and the code."""
    from lensflow.provenance import trace as trace_module

    print(trace_module.trace(args.place))


def verify(args: argparse.Namespace) -> None:
    """Compare a results folder, also a downloaded one, with the records in it."""
    from lensflow.provenance import verify as verify_module

    problems = verify_module.verify(args.results)
    print(*problems, sep="\n", end="\n" if problems else "")
    if problems:
        raise LensflowError(f"{args.results}: {len(problems)} of its files are not as their records say")
    print(f"ok: {args.results} is as its records say")


def crate(args: argparse.Namespace) -> None:
    """Write a run as an RO-Crate: tables, figures, report, scores, configurations and records."""
    from lensflow.provenance.crate import write

    write(args.results, args.output, deltas=args.deltas)
    print(f"{args.output}: an RO-Crate, described in its ro-crate-metadata.json")


def schema(args: argparse.Namespace) -> None:
    """Write the JSON schema of the configuration."""
    import yaml

    from lensflow.storage.atomic import write_text
    from lensflow.workflow.experiment import Config

    content = yaml.safe_dump(Config.model_json_schema(by_alias=True), sort_keys=False, allow_unicode=True)
    write_text(args.output, f"# Generated: lensflow schema --output {args.output.as_posix()}\n{content}")


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    top = argparse.ArgumentParser(prog="lensflow", description="Stages of the Lens pipeline; snakemake calls them.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Any, module: str | None = None) -> argparse.ArgumentParser:
        """Add a subcommand; `module` has the code of a stage, which leaves a record of what it did."""
        summary = (function.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(function=function, command=name.replace("-", "_"), module=module)
        return sub

    def add(sub: argparse.ArgumentParser, name: str, text: str, many: bool = False) -> None:
        sub.add_argument(name, type=Path, required=True, help=text, **({"nargs": "+"} if many else {}))

    def add_config(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--config", required=True, help=STAGE_CONFIG)

    def add_root(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--root", type=Path, default=Path(), help="where relative paths start (default: here)")

    def add_gpus(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--gpus", type=int, default=0, help="GPUs to run on; vLLM spreads the model over several")

    def add_datasets_root(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--datasets-root", type=Path, help="folder of local copies of the hub's data sets")

    backbone_help = "manifest.json of the backbone's checkpoint (prepare-backbone)"
    texts_help = "{language}.jsonl of each language (pair-data)"
    configfile_help = "YAML files on top of config/demo.yaml, as for snakemake"
    comparisons_help = "comparisons.csv (collect-scores)"
    states_help = "{language}.safetensors of each language (extract-hidden-states)"

    sub = command("prepare-backbone", prepare_backbone, "stages.prepare_backbone")
    add_config(sub)
    add_root(sub)
    add(sub, "--output", "manifest.json to write; the checkpoint's files go beside it")

    sub = command("pair-data", pair_data, "stages.pair_data")
    add_config(sub)
    add_root(sub)
    add_datasets_root(sub)
    add(sub, "--output", "{language}.jsonl to write; {language}.source.json goes beside it")

    sub = command("extract-hidden-states", extract_hidden_states, "stages.extract_hidden_states")
    add_config(sub)
    add_gpus(sub)
    add(sub, "--backbone", backbone_help)
    add(sub, "--texts", "{language}.jsonl (pair-data)")
    add(sub, "--output", "{language}.safetensors to write")

    sub = command("fit-subspaces", fit_subspaces, "stages.fit_subspaces")
    add_config(sub)
    add(sub, "--states", states_help, many=True)
    add(sub, "--texts", texts_help, many=True)
    add(sub, "--output", "subspaces.safetensors to write")

    sub = command("train", train, "stages.train")
    add_config(sub)
    add_gpus(sub)
    add(sub, "--backbone", backbone_help)
    sub.add_argument("--subspaces", type=Path, nargs="?", help="subspaces.safetensors (fit-subspaces), for lens")
    sub.add_argument("--states", type=Path, nargs="*", default=[], help=f"{states_help}, for lens")
    add(sub, "--texts", texts_help, many=True)
    beside = "config.json, history.jsonl, dev_states.safetensors, intervention.safetensors and cost.json"
    add(sub, "--output", f"delta.safetensors to write; {beside} go beside it")

    sub = command("export-checkpoint", export_checkpoint, "stages.export_checkpoint")
    add(sub, "--backbone", backbone_help)
    add(sub, "--delta", "delta.safetensors (train)")
    add(sub, "--output", "manifest.json to write; the checkpoint's files go beside it, links where nothing changed")

    sub = command("fetch-items", fetch_items, "stages.fetch_items")
    add_config(sub)
    sub.add_argument("--language", required=True, help="language code")
    add_datasets_root(sub)
    add(sub, "--output", "{language}.jsonl to write; {language}.source.json goes beside it")

    sub = command("evaluate", evaluate, "stages.evaluate")
    add_config(sub)
    add(sub, "--checkpoint", "manifest.json of the checkpoint (prepare-backbone, export-checkpoint)")
    sub.add_argument("--intervention", type=Path, nargs="?", help="intervention.safetensors (train), if any")
    add(sub, "--corpora", "folder of {corpus}/{language}.jsonl (pair-data)")
    add(sub, "--items", "folder of {benchmark}/{language}.jsonl (fetch-items)")
    sub.add_argument("--tasks", type=Path, nargs="+", default=[Path()], help="folders that task files are named from")
    add_gpus(sub)
    sub.add_argument("--gpu-memory", type=float, default=0.9, help="share of a GPU's memory for vLLM")
    add(sub, "--cache", "folder of computed cells")
    add(sub, "--output", "scores.json to write; samples go beside it")

    sub = command("judge", judge, "stages.judge")
    add_config(sub)
    add(sub, "--scores", "scores.json (evaluate), with the samples beside it")
    add(sub, "--cache", "folder of verdicts so far")
    add(sub, "--output", "judged.json to write; verdicts go beside it")

    sub = command("collect-scores", collect_scores, "stages.collect_scores")
    add_config(sub)
    add(sub, "--scores", "scores.json, and judged.json if there is one, of each checkpoint", many=True)
    add(sub, "--output", "scores.csv to write; comparisons.csv, versus.csv and sweeps.csv go beside it")

    sub = command("resolve-config", resolve_config, "storage.atomic")
    add_config(sub)
    add(sub, "--output", "config.json to write")

    sub = command("make-table", make_table, "stages.make_table")
    add_config(sub)
    add(sub, "--comparisons", comparisons_help)
    add(sub, "--versus", "versus.csv (collect-scores)")
    sub.add_argument("--costs", type=Path, nargs="*", default=[], help="cost.json of each training")
    add(sub, "--output", "folder for the tables")

    sub = command("make-figures", make_figures, "stages.make_figures")
    add_config(sub)
    sub.add_argument("--backbone", required=True, help="name of the backbone")
    sub.add_argument("--setting", required=True, help="name of the setting")
    add(sub, "--scores", "scores.csv (collect-scores)")
    add(sub, "--comparisons", comparisons_help)
    add(sub, "--sweeps", "sweeps.csv (collect-scores)")
    sub.add_argument("--subspaces", type=Path, nargs="?", help="subspaces.safetensors (fit-subspaces), if any")
    sub.add_argument("--states", type=Path, nargs="*", default=[], help=f"{states_help}, if any")
    sub.add_argument("--runs", type=Path, nargs="*", default=[], help="history.jsonl of each training")
    add(sub, "--output", "folder for the figures")

    sub = command("report", report, "stages.report")
    add_config(sub)
    add(sub, "--scores", "scores.csv (collect-scores)")
    add(sub, "--comparisons", comparisons_help)
    add(sub, "--versus", "versus.csv (collect-scores)")
    sub.add_argument("--costs", type=Path, nargs="*", default=[], help="cost.json of each training")
    sub.add_argument("--figures", type=Path, nargs="*", default=[], help="folders of figures (make-figures)")
    sub.add_argument("--timings", type=Path, nargs="*", default=[], help="tables of the scripts in benchmarks/, as .md")
    add(sub, "--results", "folder with every checkpoint's samples")
    add(sub, "--output", "report.html to write")

    sub = command("show-table", show_table)
    add_config(sub)
    add(sub, "--comparisons", comparisons_help)

    published_help = "folder of published tables, such as published/smallest"
    results_help = "a run's results folder"

    sub = command("compare-tables", compare_tables)
    sub.add_argument("published", type=Path, help=published_help)
    sub.add_argument("results", type=Path, help=results_help)

    sub = command("accept-tables", accept_tables)
    sub.add_argument("results", type=Path, help=results_help)
    sub.add_argument("published", type=Path, help=published_help)
    sub.add_argument("--configfile", type=Path, nargs="*", default=[], help=configfile_help)

    sub = command("export", export)
    add(sub, "--backbone", backbone_help)
    add(sub, "--delta", "delta.safetensors (train)")
    sub.add_argument("folder", type=Path, help="new folder for the checkpoint")

    sub = command("check", check)
    sub.add_argument("--configfile", type=Path, nargs="*", default=[], help=configfile_help)
    sub.add_argument("--results", type=Path, default=Path("results"))

    sub = command("show-config", show_config)
    stages = (
        *("prepare_backbone", "pair_data", "fetch_items", "extract_hidden_states", "fit_subspaces"),
        *("train", "evaluate", "judge"),
    )
    sub.add_argument("stage", choices=stages)
    sub.add_argument(
        "name",
        help="what the stage works on: B, corpus/language, benchmark/language, B/corpus, S, or B/S/M/seed0",
    )
    sub.add_argument("--configfile", type=Path, nargs="*", default=[], help=configfile_help)

    sub = command("trace", trace)
    sub.add_argument(
        "place", help="results/tables/main.csv:ROW:COLUMN, or of scores.csv, comparisons.csv, versus.csv, sweeps.csv"
    )

    sub = command("verify", verify)
    sub.add_argument("results", type=Path, nargs="?", default=Path("results"), help="the folder (default: results)")

    sub = command("crate", crate)
    sub.add_argument("results", type=Path, nargs="?", default=Path("results"), help="the folder (default: results)")
    add(sub, "--output", "new folder, or .zip file")
    sub.add_argument("--deltas", action="store_true", help="with delta and intervention of each training")

    sub = command("schema", schema)
    add(sub, "--output", "YAML file to write")
    return top


def _code_of(stage: str, module: str, config: Any) -> str:
    """Return the digest of the code behind a stage."""
    from lensflow.methods.registry import method_digest
    from lensflow.provenance.code import code_digest

    return method_digest(config["method"]["kind"]) if stage == "train" else code_digest(module)


def _log_header(arguments: Sequence[str]) -> str:
    """The first line of a log: versions, and the command, without what stands before an @ in an address."""
    from lensflow.storage.environment import versions

    known = ", ".join(f"{package} {number}" for package, number in versions().items())
    command = re.sub(r"(?<=://)[^/\s\"']*@", "", shlex.join(["lensflow", *arguments]))
    return f"# {known}: {command}"


def _refusal(error: Exception) -> str | None:
    """What to do where the system refuses memory or writing; None for any other error."""
    if isinstance(error, MemoryError) or any(
        said in str(error) for said in ("out of memory", "can't start new thread")
    ):
        return REFUSALS[errno.ENOMEM]
    return next((text for number, text in REFUSALS.items() if os.strerror(number) in str(error)), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (0 done, 2 a mistake that the user can mend, 130 interrupted)."""
    gc.set_threshold(100_000)  # torch and transformers make a million objects, which all stay: a second of searching
    args = parser().parse_args(arguments)
    if args.module is not None:
        print(_log_header(sys.argv[1:] if arguments is None else arguments), file=sys.stderr, flush=True)
    try:
        if args.module is None:
            args.function(args)
        else:
            from lensflow.provenance.records import recording

            with recording(args.command, functools.partial(_code_of, args.command, args.module), vars(args)):
                args.function(args)
    except LensflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; run again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        if (reason := _refusal(error)) is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        return 2
    return 0
