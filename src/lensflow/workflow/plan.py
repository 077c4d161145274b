"""Names, targets, stage configurations and code digests of the workflow.

This module runs at every start, so it avoids torch.

A path holds only identifiers. Every value that changes a result is in the configuration of its stage. A rule passes
this configuration as one parameter of canonical JSON, because Snakemake compares parameters as a set of values without
names and would otherwise not notice two swapped weights.
"""

import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lensflow.artifacts import texts as texts_module
from lensflow.artifacts.checkpoint import size_of, small_files_digest
from lensflow.artifacts.layout import BASE, NO_SETTING, Place
from lensflow.benchmarks.base import FromDataset, Splits
from lensflow.benchmarks.registry import modules_of
from lensflow.errors import LensflowError
from lensflow.measures.fidelity import check_detectable
from lensflow.methods.base import FineTuning
from lensflow.methods.lens.config import Lens
from lensflow.methods.registry import method_digest
from lensflow.models.engines import registry as engines
from lensflow.provenance.code import code_digest
from lensflow.schema.backbone import FolderSource
from lensflow.schema.reported import of_settings
from lensflow.stages.prepare_backbone import check_prompt, check_source
from lensflow.storage.digests import canonical_json
from lensflow.storage.integrity import MANIFEST
from lensflow.storage.paths import resolve
from lensflow.workflow import protocols, sweeps, tracking
from lensflow.workflow.experiment import Config
from lensflow.workflow.stages import CHECKPOINT, STAGES

ANSWER, SCORE = "lensflow.stages.answer", "lensflow.stages.score"
PER_JOB = 200  # most checkpoints that one job answers for: their names are on its command line


@dataclass(frozen=True)
class Part:
    """The checkpoints of a backbone that one job answers for.

    Attributes:
        backbone: their backbone.
        number: number of the part.
        checkpoints: the checkpoints that the job answers for.
    """

    backbone: str
    number: int
    checkpoints: tuple[Place, ...]
    one_by_one: bool

    @property
    def rule(self) -> str:
        """The name of the rule for this job."""
        return f"answer_{_word(self.backbone)}_{'only_' if self.one_by_one else ''}{self.number}"


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name)


class Plan:
    """The work that a configuration asks for, checked against the files that it names.

    Args:
        config: the validated configuration.
        root: folder from which relative paths of the configuration start.
        repository: folder of the workflow, in which task files are searched after `root`.

    Raises:
        LensflowError: a corpus is not valid or lacks a language; a benchmark lacks a language; a backbone's files are
            missing; an engine is not installed; a corpus lacks what a method trains on; or the run lacks what a claim
            needs.
    """

    def __init__(self, config: Config, root: Path, repository: Path) -> None:
        self.points = sweeps.points(config)
        self.config, self.root = sweeps.expand(config), root
        self._blocks = [(b, s) for run in config.runs for b in run.backbones for s in run.settings]
        listed = {(b, s, m) for r in config.runs for b in r.backbones for s in r.settings for m in r.methods}
        # What sweeps alone ask for.
        self._swept = {(point.backbone, point.setting, point.method) for point in self.points} - listed
        self.task_roots = (root, repository)
        self.checkpoints: dict[Place, dict[str, list[str]]] = {}
        self._collect()
        self._places = {checkpoint.folder: checkpoint for checkpoint in self.checkpoints}
        named = config.protocol
        self.protocol = None if named is None else protocols.read(named, self.task_roots)
        if self.protocol is not None:
            protocols.check(self.protocol, config, self.checkpoints)
        self.used_corpora = self._used_corpora()
        read = {name: self._read(name) for name in self.used_corpora}
        self.corpus_digests = {name: digests for name, (_, digests) in read.items()}
        self._check_languages()
        self._task_digests = self._read_tasks()
        self._cells_of: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
        self._check_items({name: splits for name, (splits, _) in read.items()})
        for name in self.backbones:
            check_source(name, config.backbones[name], root)
        for role in (engines.generator, engines.scorer, engines.reader):
            engines.check(role(config.evaluation.engine))
        tracking.check(config.trackers)

    def _collect(self) -> None:
        """Map each checkpoint to its cells: benchmark -> languages."""
        for run in self.config.runs:
            for backbone in run.backbones:
                for setting in run.settings:
                    languages = self.config.settings[setting].languages
                    for method in run.methods:
                        seeds = run.seeds if self.config.methods[method].seeded else (0,)
                        for seed in seeds:
                            place = NO_SETTING if method == BASE else setting
                            cells = self.checkpoints.setdefault(Place(backbone, place, method, seed), {})
                            for benchmark, named in run.benchmarks.items():
                                kept = cells.setdefault(benchmark, [])
                                kept += [language for language in named or languages if language not in kept]

    def _used_corpora(self) -> dict[str, dict[str, None]]:
        """Return the corpora that are used, each with the languages that are used."""
        used: dict[str, dict[str, None]] = {}
        for run in self.config.runs:
            for setting in (self.config.settings[name] for name in run.settings):
                for corpus in (setting.probing, setting.training):
                    used.setdefault(corpus, {}).update(dict.fromkeys(setting.languages))
                for name, named in run.benchmarks.items():
                    benchmark = self.config.benchmarks[name]
                    read = [code for language in named or setting.languages for code in benchmark.reads(language)]
                    for corpus in benchmark.corpora:
                        used.setdefault(corpus, {}).update(dict.fromkeys(read))
        return used

    def _read(self, name: str) -> tuple[Splits, dict[str, str]]:
        """Return the items of a corpus, and per language a value that changes when its texts change.

        Planning does not fetch a data set: its items are known only by number, and Snakemake watches a local copy.
        """
        corpus = self.config.corpora[name]
        if (source := corpus.dataset) is not None:
            texts = dict.fromkeys(source.languages, "")
            item = {"prompt": texts} | ({"answer": texts} if source.answer is not None else {})
            return {split: [item] * getattr(source, split) for split in texts_module.SPLITS}, texts
        assert corpus.path is not None
        content = texts_module.read_corpus(texts_module.folder(corpus.path, self.root))
        return {split: content[split] for split in texts_module.SPLITS}, texts_module.language_digests(content)

    def _check_languages(self) -> None:
        for run in self.config.runs:
            for name in run.settings:
                setting = self.config.settings[name]
                for role in ("probing", "training"):
                    corpus = getattr(setting, role)
                    source = self.config.corpora[corpus].dataset
                    if source is not None and not source.train:
                        raise LensflowError(
                            f"settings.{name}.{role}: corpus '{corpus}' has train: 0; name another, or raise it"
                        )
                    for language in setting.languages:
                        self._require(corpus, language, f"settings.{name}")
                for benchmark_name, named in run.benchmarks.items():
                    benchmark, where = self.config.benchmarks[benchmark_name], f"benchmarks.{benchmark_name}"
                    for language in named or setting.languages:
                        sources = benchmark.sources()
                        if sources is not None and language not in sources:
                            raise LensflowError(
                                f"{where}: no language '{language}' (setting {name}); it has {', '.join(sources)}; add "
                                f"it there, or name in the run which to evaluate: {benchmark_name}: [...]"
                            )
                        for corpus in benchmark.corpora:
                            for needed in benchmark.reads(language):
                                self._require(corpus, needed, where)
                        if benchmark.generates:
                            self._check_detectable(language, f"{where} (setting {name})")

    def _check_detectable(self, language: str, where: str) -> None:
        try:
            check_detectable(language)
        except LensflowError as error:
            raise LensflowError(f"{where}: {error}") from None

    def _read_tasks(self) -> dict[str, dict[str, str]]:
        """Return, for each benchmark that runs the user's own files, the digest of these files per language."""
        digests: dict[str, dict[str, str]] = {}
        for name, languages in self.benchmarks.items():
            for language in languages:
                try:
                    code = self.config.benchmarks[name].code_of(language, self.task_roots)
                    self.config.benchmarks[name].check(language, self.task_roots)
                except LensflowError as error:
                    raise LensflowError(f"benchmarks.{name}: {error}") from None
                if code is not None:
                    digests.setdefault(name, {})[language] = code
        return digests

    def _check_items(self, read: Mapping[str, Splits]) -> None:
        for name, setting in dict.fromkeys((c.method, c.setting) for c in self.trained()):
            method, of_setting = self.config.methods[name], self.config.settings[setting]
            there = len(read[of_setting.probing]["train"])
            if method.needs_states and of_setting.probing_texts is not None and of_setting.probing_texts > there:
                raise LensflowError(
                    f"settings.{setting}.probing_texts: {of_setting.probing_texts} is more than the {there} texts to "
                    f"train on in corpus '{of_setting.probing}'; lower it"
                )
            try:
                method.check_items(read[of_setting.training]["train"], of_setting)
            except ValueError as error:
                raise LensflowError(f"methods.{name}.{error}") from None
        for name, languages in self.benchmarks.items():
            benchmark = self.config.benchmarks[name]
            for corpus in benchmark.corpora:
                try:
                    benchmark.check_texts(read[corpus], languages)
                except ValueError as error:
                    raise LensflowError(f"benchmarks.{name}.{error}") from None

    def _require(self, corpus: str, language: str, where: str) -> None:
        if language not in self.corpus_digests[corpus]:
            has = ", ".join(self.corpus_digests[corpus])
            raise LensflowError(f"{where}: corpus '{corpus}' has no language '{language}'; it has {has}")

    @property
    def backbones(self) -> list[str]:
        """Return the backbones that are used, in the order of the configuration."""
        return list(dict.fromkeys(checkpoint.backbone for checkpoint in self.checkpoints))

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """Return each pair of backbone and setting for which a table has a block."""
        return list(dict.fromkeys(self._blocks))

    def trained(self, backbone: str | None = None) -> list[Place]:
        """Return the checkpoints that are trained, of one backbone or of all."""
        return [c for c in self.checkpoints if not c.is_base and backbone in (None, c.backbone)]

    def shown(self, backbone: str | None = None) -> list[Place]:
        """Return the trained checkpoints that tables and figures show singly: all except those that only sweeps use."""
        return [c for c in self.trained(backbone) if (c.backbone, c.setting, c.method) not in self._swept]

    def drawn(self, backbone: str, setting: str) -> list[Place]:
        """Return the trained checkpoints in the figures of a backbone and setting, sweeps included."""
        swept = {p.setting for p in self.points if (p.backbone, p.of_setting) == (backbone, setting)}
        return [c for c in self.trained(backbone) if c.setting in {setting, *swept}]

    def on_states(self, backbone: str, setting: str) -> bool:
        """Return whether a method that is trained on a backbone and setting needs hidden states and subspaces."""
        return any(self.needs_states(c.method) for c in self.trained(backbone) if c.setting == setting)

    def needs_states(self, method: str) -> bool:
        """Return whether a method needs the hidden states and subspaces of its setting."""
        return self.config.methods[method].needs_states

    def corpus(self, setting: str, use: str) -> str:
        """Return a setting's corpus for "probing", "training" or "figures", which show parallel texts."""
        entry = self.config.settings[setting]
        if use == "figures":
            source = self.config.corpora[entry.probing].dataset
            use = "probing" if source is None or source.aligned else "training"
        return str(getattr(entry, use))

    def languages(self, checkpoint: Place) -> list[str]:
        """Return the languages that a checkpoint is evaluated in."""
        return list(dict.fromkeys(language for cells in self.checkpoints[checkpoint].values() for language in cells))

    def evaluation_corpora(self, checkpoint: Place) -> dict[str, list[str]]:
        """Return the corpora from which a checkpoint's benchmarks take their prompts, each with its languages."""
        found: dict[str, list[str]] = {}
        for name, languages in self.checkpoints[checkpoint].items():
            benchmark = self.config.benchmarks[name]
            for corpus in benchmark.corpora:
                read = [needed for language in languages for needed in benchmark.reads(language)]
                found[corpus] = list(dict.fromkeys([*found.get(corpus, []), *read]))
        return found

    def evaluation_items(self, checkpoint: Place) -> dict[str, list[str]]:
        """Return the benchmarks of a checkpoint that use data sets, each with its languages."""
        return {
            name: languages
            for name, languages in self.checkpoints[checkpoint].items()
            if self.config.benchmarks[name].sources() is not None
        }

    @property
    def benchmarks(self) -> dict[str, list[str]]:
        """Return the benchmarks that are used, with their languages."""
        found: dict[str, list[str]] = {}
        for cells in self.checkpoints.values():
            for name, languages in cells.items():
                kept = found.setdefault(name, [])
                kept += [language for language in languages if language not in kept]
        return found

    # Stage configurations: everything that changes a stage's result, and nothing else.

    def config_of(self, stage: str, wildcards: Mapping[str, str]) -> dict[str, Any]:
        """Return the configuration of a stage for the wildcards in its scope.

        Raises:
            LensflowError: the plan does not have these names.
        """
        scope, function = STAGES[stage].scope, getattr(self, stage)
        values = [wildcards[name] for name in scope]
        try:
            if scope == CHECKPOINT:
                *names, seed = values
                return dict(function(self._checkpoint(f"{'/'.join(names)}/seed{seed.removeprefix('seed')}")))
            if stage == "answer":
                backbone, number = values
                (part,) = (part for part in self.parts() if (part.backbone, str(part.number)) == (backbone, number))
                return dict(function(part))
            return dict(function(*values))
        except (KeyError, ValueError):
            form = "/".join(scope)
            raise LensflowError(
                f"'{'/'.join(values)}' is not part of the work of stage {stage} in this plan; name a {form} of its runs"
            ) from None

    def _checkpoint(self, name: str) -> Place:
        if name not in self._places:
            raise LensflowError(f"'{name}' is not one of the checkpoints: {', '.join(self._places)}")
        return self._places[name]

    def prepare_backbone(self, backbone: str) -> dict[str, Any]:
        """Return the configuration of stage `prepare_backbone`."""
        entry = self.config.backbones[backbone]
        stage: dict[str, Any] = {
            "backbone": {key: value for key, value in entry.canonical().items() if key not in ("prompts", "resources")}
        }
        if isinstance(entry.source, FolderSource):  # its files may be edited where they lie
            stage["files"] = small_files_digest(resolve(entry.source.path, self.root))
        return stage

    def pair_data(self, corpus: str, language: str) -> dict[str, Any]:
        """Return the configuration of stage `pair_data`."""
        entry = self.config.corpora[corpus]
        if entry.dataset is not None:
            dataset = entry.dataset.canonical()
            # Translations are joined: which items a language has depends on the others that are used.
            used = {language, *(self.used_corpora[corpus] if entry.dataset.aligned else ())}
            languages = {name: value for name, value in dataset["languages"].items() if name in used}
            if language not in languages:
                raise KeyError(language)
            return {"language": language, "dataset": dataset | {"languages": languages}}
        stage = {"language": language, "path": entry.path, "with_answers": entry.with_answers}
        return stage | {"texts": self.corpus_digests[corpus][language]}

    def extract_hidden_states(self, backbone: str, corpus: str) -> dict[str, Any]:
        """Return the configuration of stage `extract_hidden_states`."""
        extraction, entry = self.config.extraction.canonical(), self.config.corpora[corpus]
        own = {"max_tokens": entry.max_tokens, "dtype": entry.dtype}
        extraction |= {key: value for key, value in own.items() if value is not None}
        if corpus not in {self.config.settings[name].training for run in self.config.runs for name in run.settings}:
            extraction["trainable_layers"] = 0  # all tokens' states take far more room than the texts' own
        return {"prompt": self._prompt(backbone, corpus), "extraction": extraction}

    def _prompt(self, backbone: str, corpus: str) -> dict[str, Any]:
        """Return the prompt format of a backbone for the texts of a corpus, in probing and training."""
        entry = self.config.backbones[backbone]
        return entry.prompts.get(corpus, entry.prompt).canonical()

    def fetch_items(self, benchmark: str, language: str) -> dict[str, Any]:
        """Return the configuration of stage `fetch_items`."""
        entry = self.config.benchmarks[benchmark]
        if not isinstance(entry, FromDataset):
            raise KeyError(benchmark)  # its items come from a corpus
        of_language = entry.languages[language]
        source = of_language.dataset or entry.dataset
        stage = {"benchmark": benchmark, "dataset": source.canonical(), "config": of_language.config}
        return stage | {"texts": list(entry.texts())}

    def fit_subspaces(self, setting: str) -> dict[str, Any]:
        """Return the configuration of stage `fit_subspaces`."""
        return {"setting": self.config.settings[setting].canonical()}

    def train(self, checkpoint: Place) -> dict[str, Any]:
        """Return the configuration of stage `train`."""
        stage = {
            "method": self.config.methods[checkpoint.method].canonical(),
            "setting": self.config.settings[checkpoint.setting].canonical(),
            "prompt": self._prompt(checkpoint.backbone, self.config.settings[checkpoint.setting].training),
            "seed": checkpoint.seed,
        }
        if self.needs_states(checkpoint.method):
            stage["extraction"] = self.config.extraction.canonical()
        return stage

    def training_code(self, method: str) -> str:
        """Return the digest of the code that trains a method: its own module and what the module imports."""
        return method_digest(self.config.methods[method].kind)

    def parts(self, one_by_one: bool = False) -> list[Part]:
        """Return which job answers for which checkpoints: one job per checkpoint, or as the backbone's resources
        say."""
        parts = []
        for backbone in self.backbones:
            its = sorted(checkpoint for checkpoint in self.checkpoints if checkpoint.backbone == backbone)
            jobs = max(self.config.backbones[backbone].resources.answer_jobs, math.ceil(len(its) / PER_JOB))
            if one_by_one:
                jobs = len(its)
            groups = [tuple(its[number::jobs]) for number in range(jobs)]
            parts += [Part(backbone, number, group, one_by_one) for number, group in enumerate(groups) if group]
        return parts

    def answer(self, part: Part) -> dict[str, Any]:
        """Return the configuration of stage `answer`."""
        cells: list[dict[str, Any]] = []
        checkpoints = {}
        for checkpoint in sorted(part.checkpoints):  # in whichever order the runs name them
            own = [self._cells(name, languages) for name, languages in self.checkpoints[checkpoint].items()]
            cells += [cell for cell in own if cell not in cells]
            checkpoints[checkpoint.folder] = [cells.index(cell) for cell in own]
        return {
            "prompt": self.config.backbones[part.backbone].prompt.canonical(),
            "evaluation": self.config.evaluation.canonical(),
            "cells": cells,
            "checkpoints": checkpoints,
        }

    def answering_code(self, part: Part) -> str:
        """Return the digest of the code that answers: the stage, the kinds of benchmarks and the engines."""
        names = {name for checkpoint in part.checkpoints for name in self.checkpoints[checkpoint]}
        kinds = (self.config.benchmarks[name].kind for name in names)
        return code_digest(ANSWER, *modules_of(kinds, self.config.evaluation.engine))

    def score(self, checkpoint: Place) -> dict[str, Any]:
        """Return the configuration of stage `score`."""
        return {"cells": [self._cells(name, languages) for name, languages in self.checkpoints[checkpoint].items()]}

    def scoring_code(self, checkpoint: Place) -> str:
        """Return the digest of the code that scores."""
        kinds = (self.config.benchmarks[name].kind for name in self.checkpoints[checkpoint])
        return code_digest(SCORE, *modules_of(kinds))

    def _cells(self, name: str, languages: list[str]) -> dict[str, Any]:
        """Return a benchmark with its settings for these languages, and the digests of its task files.

        Each result is computed once, because a large plan has thousands of checkpoints that use the same few
        benchmarks.
        """
        key = (name, tuple(languages))
        if key not in self._cells_of:
            known = self._task_digests.get(name, {})
            tasks = {language: known[language] for language in languages if language in known}
            benchmark = self.config.benchmarks[name].narrowed(languages)
            self._cells_of[key] = {"name": name, "benchmark": benchmark, "languages": languages, "tasks": tasks}
        return self._cells_of[key]

    def judge(self, checkpoint: Place) -> dict[str, Any]:
        """Return the configuration of stage `judge`: the benchmarks that need a judge, with their languages.

        The configuration also says how to reach the judge. If an address or limit changes, the stage runs again but
        repeats no request.
        """
        judged = []
        for name, languages in self.checkpoints[checkpoint].items():
            benchmark = self.config.benchmarks[name]
            if benchmark.judged:
                content = benchmark.canonical()
                kept = {"languages": benchmark.narrowed(languages)["languages"]}
                judged.append({"name": name, "benchmark": content | kept, "languages": languages})
        return {"benchmarks": judged}

    def judged(self, checkpoint: Place) -> bool:
        """Return whether a judge rates answers of a checkpoint."""
        return any(self.config.benchmarks[name].judged for name in self.checkpoints[checkpoint])

    def collect_scores(self) -> dict[str, Any]:
        """Return the configuration of stage `collect_scores`."""
        names = {name for _, name in self.blocks} | {point.setting for point in self.points}
        settings = {name: self.config.settings[name] for name in sorted(names)}
        return {
            "blocks": [list(pair) for pair in self.blocks],
            "sweeps": [vars(point) for point in self.points],
            "swept": sorted(map(list, self._swept)),
            "settings": {name: {"central": s.central, "languages": list(s.languages)} for name, s in settings.items()},
            "retention_margins": self.config.retention_margins,
            "versus": self.config.versus,
            "protocol": None if self.protocol is None else self.protocol.canonical(),
        }

    def presentation(self) -> dict[str, Any]:
        """Return the part of the configuration that tables, figures and report need."""
        used = {setting for _, setting in self.blocks}
        order = list(dict.fromkeys([BASE, *(c.method for c in self.shown())]))
        chosen = {name: self.config.methods[name] for name in order}
        return {
            "title": self.config.title or self._title(),
            "backbones": {
                name: {"license": self.config.backbones[name].license, **self.prepare_backbone(name)["backbone"]}
                for name in self.backbones
            },
            "blocks": [list(pair) for pair in self.blocks],
            "settings": {name: s.canonical() for name, s in self.config.settings.items() if name in used},
            "methods": {name: method.canonical() for name, method in chosen.items()},
            "order": order,  # as the runs have them; a file's keys are sorted
            "told_language": [name for name, method in chosen.items() if method.told_language],
            "versus": self.config.versus,
            "evaluation": self.config.evaluation.canonical(),
            "extraction": self.config.extraction.canonical(),
            "reported": of_settings(self.config.reported, used),
        }

    def _title(self) -> str:
        methods = list(dict.fromkeys(c.method for c in self.shown() if c.method != BASE)) or [BASE]
        named = ", ".join(methods) if len(methods) <= 3 else f"{len(methods)} methods"
        return f"{named} on {', '.join(self.backbones)}"

    def folders(self) -> dict[str, Path]:
        """Return for each existing backbone a folder with its small files, after a check of its chat template.

        Raises:
            LensflowError: as in `check_prompt`.
        """
        found = {name: check_prompt(name, self.config.backbones[name], self.root) for name in self.backbones}
        return {name: folder for name, folder in found.items() if folder is not None}

    def check_backbones(self, folders: Mapping[str, Path]) -> list[str]:
        """Check that the backbones can be prompted, evaluated and trained as the configuration asks.

        Only the weights of local folders are read. They are read once, to check that all of them are numbers.

        Args:
            folders: the result of `folders`.

        Returns:
            Hints about possible mistakes, such as tensors that no code reads.

        Raises:
            LensflowError: a checkpoint cannot be used, or a method cannot train a backbone's family.
        """
        return [
            f"backbones.{name}: {line}" for name, at in folders.items() for line in self._check_checkpoint(name, at)
        ]

    def _check_checkpoint(self, name: str, folder: Path) -> list[str]:
        """Return hints about possible mistakes."""
        from lensflow.models import skeleton, usable  # torch: takes seconds, and planning needs none

        backbone, extraction = self.config.backbones[name], self.config.extraction
        methods = {place.method: self.config.methods[place.method] for place in self.trained(name)}
        hints: list[str] = []
        try:
            skeleton.check_decoder(folder)
            usable.check_tokens(folder, backbone.prompt)
            for key, method in methods.items():
                _of_method(key, partial(method.check_depth, size_of(folder)[0]))
            if any(method.needs_states or method.of_blocks for method in methods.values()):
                skeleton.check_layers(folder, alone=extraction.memory == "stream")
            if any(isinstance(method, FineTuning) and method.lora for method in methods.values()):
                skeleton.check_adapters(folder)
            hints += usable.hints_of(folder, backbone.prompt)
            if not any(folder.glob("*.safetensors*")):
                return hints  # of the hub: the names of the tensors come with the weights
            if unused := usable.check_tensors(folder):
                more = f" (of {len(unused)})" if len(unused) > 1 else ""
                hints.append(f"nothing reads tensor '{unused[0]}'{more}; remove it, or check config.json")
            if any(isinstance(method, Lens) for method in methods.values()):
                skeleton.check_trainable(folder, extraction.trainable_layers)
            if isinstance(backbone.source, FolderSource):
                usable.check_numbers(folder)
        except LensflowError as error:
            raise LensflowError(f"backbones.{name}: {error}") from None
        return hints

    def check_training(self) -> None:
        """Check that the packages and GPUs for all trainings are available.

        Raises:
            LensflowError: a package or GPU is missing.
        """
        for backbone, name in dict.fromkeys((place.backbone, place.method) for place in self.trained()):
            method, given = self.config.methods[name], self.config.backbones[backbone].resources.gpus
            _of_method(name, method.check_installed)
            if isinstance(method, FineTuning) and method.gpus > max(1, given):
                raise LensflowError(
                    f"methods.{name}.gpus: {method.gpus} is more than backbones.{backbone}.resources.gpus ({given}); "
                    "raise that, or drop this key"
                )

    def check_disk(self, results: Path) -> None:
        """Check that the disk of the results folder has room for the missing results.

        Raises:
            LensflowError: the room is too small; the message says how much is needed.
        """
        # A checkpoint, the same again while it is written, and one exported copy of the trained shards.
        missing = [name for name in self.backbones if not (results / name / "backbone" / MANIFEST).is_file()]
        needed = sum(2 * (self.config.backbones[name].resources.disk_gb or 0) for name in missing)
        existing = next(path for path in (results, *results.resolve().parents) if path.exists())
        free = shutil.disk_usage(existing).free / 1e9
        if free < needed:
            raise LensflowError(
                f"{results}: {free:.1f} GB free, about {needed:.1f} GB needed for {', '.join(missing)}; free some space"
            )


def _of_method(name: str, check: Callable[[], None]) -> None:
    try:
        check()
    except LensflowError as error:
        raise LensflowError(f"methods.{name}.{error}") from None


def pattern(names: Iterable[str]) -> str:
    """Return a wildcard constraint that allows only the given names."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


def as_parameter(stage_config: Mapping[str, Any]) -> str:
    """Return a stage's configuration as the single parameter that Snakemake compares."""
    return canonical_json(stage_config)
