"""Lens in a notebook, with the functions that the stages of the workflow use.

import lensflow as lf

model = lf.load("smollm2-135m-instruct")
texts = lf.corpus("embedded", languages=["en", "zh", "sw"])
space = model.probe(texts, central="en")
better = lf.Lens(strength=0.3).fit(model, space, texts)
print(better.answer("Habari ya asubuhi?"), better.compare(model, texts.test))
better.export("my-model")

Intermediate files lie in a temporary folder, which is removed when Python ends.
"""

import functools
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensflow.artifacts import costs, exported, interventions, language_subspaces
from lensflow.artifacts import texts as texts_module
from lensflow.artifacts.interventions import ANY, Intervention
from lensflow.artifacts.layout import BASE, INTERVENTION, NO_SETTING
from lensflow.benchmarks.base import generated
from lensflow.errors import LensflowError
from lensflow.mathematics.analysis import spectrum
from lensflow.measures.catalogue import TARGETS
from lensflow.measures.comparisons import compare
from lensflow.measures.outcomes import judge
from lensflow.measures.score import score
from lensflow.methods.lens.config import Lens as LensConfig
from lensflow.methods.shared import Shared
from lensflow.models.engines import registry
from lensflow.presentation.blocks import LEFT, MARKS, RETENTION
from lensflow.presentation.exporting import export
from lensflow.presentation.pushing import push
from lensflow.schema.backbone import Backbone, Resources
from lensflow.schema.corpus import CorpusDataset
from lensflow.schema.decoding import Decoding
from lensflow.schema.evaluation import Evaluation
from lensflow.schema.extraction import Extraction
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.schema.stages import Answering, Extracting, Training
from lensflow.stages import extract_hidden_states, fit_subspaces, pair_data, prepare_backbone, train
from lensflow.stages.answer import Session, Speaker
from lensflow.storage.verified import read_json, read_manifest
from lensflow.workflow.drafts.model import backbone as named_backbone
from lensflow.workflow.drafts.texts import table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_NUMBERS = itertools.count(1)
_MARGIN = 0.05  # by how much usable answers may get worse in the central language and still count as kept
_SHOWN = 40  # characters of a prompt that is shown as an example


class Prompts(dict[str, tuple[str, ...]]):
    """Language -> prompts."""

    def __repr__(self) -> str:
        return "\n".join(f"{code}: {len(texts)} prompts, such as {texts[0][:_SHOWN]!r}" for code, texts in self.items())


@dataclass(frozen=True, eq=False)
class Texts:
    """Parallel texts.

    Attributes:
        name: name of the corpus.
        files: language -> the file of the language, in the format of stage `pair_data`.
    """

    name: str
    files: Mapping[str, Path]

    @property
    def train(self) -> Prompts:
        """The prompts to train on."""
        return self._of("train")

    @property
    def dev(self) -> Prompts:
        """The dev prompts, which watch training."""
        return self._of("dev")

    @property
    def test(self) -> Prompts:
        """The held-out prompts."""
        return self._of("test")

    def _of(self, split: texts_module.Split) -> Prompts:
        return Prompts(
            (code, tuple(text.prompt for text in texts_module.read_texts(file, [split])))
            for code, file in self.files.items()
        )

    def __repr__(self) -> str:
        counts = {split: len(next(iter(self._of(split).values()))) for split in texts_module.SPLITS}
        shown = ", ".join(f"{count} {split}" for split, count in counts.items())
        return f"Texts {self.name} in {', '.join(self.files)}: {shown}"


@dataclass(frozen=True, eq=False)
class Model:
    """A backbone, or the model that a method made of it.

    Attributes:
        name: name of the backbone.
        backbone: the backbone's entry in the configuration.
        manifest: manifest of the checkpoint.
        session: the session that answers for any checkpoint of the backbone.
        gpus: number of GPUs.
        setting: the languages of the training; None for the backbone.
        delta: the changed weights; None for the backbone.
        intervention: what the method does while the model answers.
    """

    name: str
    backbone: Backbone
    manifest: Path
    session: Session = field(repr=False)
    gpus: int = 0
    setting: Setting | None = None
    delta: Path | None = None
    intervention: Intervention = field(default_factory=Intervention, repr=False)

    def probe(self, texts: Texts, central: str = "en", **keys: Any) -> "Space":
        """Return the language subspaces of every layer.

        Args:
            texts: parallel texts; their train split fits the subspaces.
            central: the language that the model knows best.
            keys: other keys of a setting, such as `rank` and `space`.

        Raises:
            LensflowError: the texts lack the central language, or a key is wrong.
        """
        if central not in texts.files:
            raise LensflowError(f"probe: {texts.name} has no '{central}'; name one of {', '.join(texts.files)}")
        languages = [central, *(language for language in texts.files if language != central)]
        setting: Setting = parse(Setting, {"central": central, "languages": languages, **keys}, "probe")
        path = _folder() / "subspaces.safetensors"
        fit_subspaces.fit(setting, self.states(texts), dict(texts.files), path)
        return Space(self, setting, path)

    def states(self, texts: Texts) -> dict[str, Path]:
        """Return the hidden states of texts, language -> file.

        They are the untouched backbone's and are computed once.
        """
        folder = self.manifest.parents[1] / "hidden_states" / _name_of(texts)
        files = {language: folder / f"{language}.safetensors" for language in texts.files}
        folder.mkdir(parents=True, exist_ok=True)
        config = Extracting(prompt=self.backbone.prompt, extraction=Extraction())
        given, outputs = list(texts.files.values()), list(files.values())
        extract_hidden_states.run(config, backbone=self.manifest, texts=given, gpus=self.gpus, outputs=outputs)
        return files

    def answer(self, prompts: str | Sequence[str], language: str | None = None, **decoding: Any) -> Any:
        """Return the answer to a prompt, or the answers to several.

        Args:
            prompts: one prompt or several.
            language: language of prompts and answers, for methods that are told the language. Lens is told none.
            decoding: keys of `decoding`, such as `max_new_tokens` and `temperature`.

        Raises:
            LensflowError: a key is wrong, a prompt is too long for the model, or the method needs the language.
        """
        if language is None and _acts_by_language(self.intervention):
            raise LensflowError("answer: this method acts by language; name the language of the answers (language)")
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        settings = parse(Decoding, {"max_new_tokens": 128, "stop": ["\nQuestion:"], **decoding}, "answer")
        speaker = Speaker(self.session, self.delta, self.intervention, language or "en")
        answers = [
            row["answer"] for row in generated(speaker, {str(n): text for n, text in enumerate(asked)}, settings)
        ]
        return answers[0] if isinstance(prompts, str) else answers

    def load_directions(self, place: str | Path) -> "Model":
        """Return this backbone with changed weights and directions that others have shared for it.

        Args:
            place: owner/name or owner/name@revision on the hub, or a folder that `lensflow export --reference` wrote.

        Raises:
            LensflowError: there is no such method, or it was made for another backbone.
        """
        content = exported.read(place).content
        languages = {"central": content["central"], "languages": content["languages"]}
        setting: Setting = parse(Setting, languages, str(place))
        method = Shared(kind="shared", directions=str(place))
        output = _folder() / self.name / "setting" / "shared" / "seed0" / "delta.safetensors"
        train.run(
            Training(method=method.canonical(), setting=setting, prompt=self.backbone.prompt, seed=0),
            backbone=self.manifest,
            subspaces=None,
            states=[],
            texts=[],
            gpus=0,
            output=output,
        )
        applied = interventions.load(output.with_name(INTERVENTION))
        return replace(self, setting=setting, delta=output, intervention=applied)

    def compare(self, other: "Model", prompts: Mapping[str, Sequence[str]], **decoding: Any) -> "Comparison":
        """Compare the usable answers of this model with those of another one, on the same prompts.

        Args:
            other: the model to compare with, usually the untouched backbone.
            prompts: language -> prompts.
            decoding: as in `answer`.

        Raises:
            LensflowError: this model was not trained, or it has none of the languages.
        """
        if self.setting is None:
            raise LensflowError("compare: this is the untouched backbone; call it on what a method's fit returned")
        kept = {language: prompts[language] for language in self.setting.languages if language in prompts}
        if not kept:
            raise LensflowError(f"compare: prompts are needed in {', '.join(self.setting.languages)}")
        places = {(self.name, NO_SETTING, BASE, 0): other, (self.name, "setting", "lens", 0): self}
        runs = {
            place: [_cell(model, language, texts, decoding) for language, texts in kept.items()]
            for place, model in places.items()
        }
        frame = compare(runs, [(self.name, "setting")], {"setting": self.setting}, {"usable": _MARGIN})
        return Comparison(frame[frame["method"] != BASE].reset_index(drop=True), self.setting.central)

    def export(self, folder: str | Path) -> str:
        """Write the checkpoint with its model card to a new folder; return a line that says how to use it.

        Raises:
            LensflowError: this model was not trained, or the folder exists.
        """
        if self.delta is None:
            raise LensflowError("export: this is the untouched backbone; call it on what a method's fit returned")
        return export(self.manifest, self.delta, Path(folder))

    def push_to_hub(self, name: str, *, private: bool = False, dry_run: bool = False) -> str:
        """Send the changed weights and the model card to the hub; return the files, their sizes and the address as
        lines.

        Args:
            name: name of the repository, owner/name.
            private: whether a new repository is private.
            dry_run: whether to send nothing.

        Raises:
            LensflowError: this model was not trained, or the hub refuses the upload.
        """
        if self.delta is None:
            raise LensflowError("push_to_hub: this is the untouched backbone; call it on what a method's fit returned")
        return "\n".join(push(self.manifest, self.delta, name, private=private, dry_run=dry_run))

    def __repr__(self) -> str:
        if self.delta is None or self.setting is None:
            content = read_manifest(self.manifest)
            shape = f"{content['layers']} layers, hidden size {content['hidden_size']}"
            return f"Model {self.name}: {content['model_type']}, {shape}"
        method = read_json(self.delta.with_name("config.json"))["method"].get("directions", "Lens")
        left = costs.read(self.delta.with_name("cost.json")).get("residual")
        applied = "" if left is None else f": {left:.2f} of the way to the push target is left"
        far = "" if left is None or left <= LEFT else ", so Lens was not applied; train longer or with a higher lr"
        return f"Model {self.name} after {method} in {', '.join(self.setting.targets)}{applied}{far}"


@dataclass(frozen=True, eq=False)
class Space:
    """The language subspaces of every layer.

    Attributes:
        model: the backbone.
        setting: central language, languages, rank.
        path: the file, in the format of stage `fit_subspaces`.
    """

    model: Model
    setting: Setting
    path: Path

    @functools.cached_property
    def subspaces(self) -> language_subspaces.LanguageSubspaces:
        """The tensors: M_a, M_s, the directions δ, the mean states and their lengths."""
        return language_subspaces.load(self.path, self.setting)

    def plot(self) -> "Figure":
        """Return a figure of the differences between the language means, layer by layer."""
        import matplotlib.pyplot  # noqa: F401 (with it, notebooks know how to show a figure)
        import numpy as np

        from lensflow.presentation.state_figures import spectrum_by_layer

        values = np.stack([spectrum(means.numpy()) for means in self.subspaces.means])
        return spectrum_by_layer(values, self.subspaces.specific.shape[2], self.setting.space == "post_norm")

    def __repr__(self) -> str:
        found = self.subspaces
        lengths = found.directions[-1].norm(dim=-1) / found.norms[-1]
        shown = {code: float(length) for code, length in zip(found.languages, lengths, strict=True)}
        pushes = ", ".join(f"{code} {shown[code]:.2f}" for code in self.setting.targets)
        depth, _, rank = found.specific.shape
        return (
            f"Space of {self.model.name}: {depth} layers, rank {rank}, central language {self.setting.central}; "
            f"length of δ at the top layer, as a share of the states' length: {pushes}"
        )


class Lens:
    """The method, with the same keys as a method of kind `lens` (`lensflow explain methods.lens.lr`).

    Args:
        strength: λ, as a share of the states' length unless `lambda_unit` says otherwise.
        seed: seed of the order of batches.
        keys: other keys, such as `lr` and `until`.

    Raises:
        LensflowError: a key is wrong.
    """

    def __init__(self, strength: float | Mapping[str, float] = 0.3, *, seed: int = 0, **keys: Any) -> None:
        given = {"kind": "lens", "lambda_unit": "state_norm", "lambda": strength, **keys}
        self.config: LensConfig = parse(LensConfig, given, "Lens")
        self.seed = seed

    def fit(self, model: Model, space: Space, texts: Texts) -> Model:
        """Train the top layers and return the changed model.

        Args:
            model: the backbone.
            space: the language subspaces of the backbone.
            texts: parallel texts; the train split trains, the dev split watches.

        Raises:
            LensflowError: the texts lack a language of the space.
        """
        languages = space.setting.languages
        if missing := [language for language in languages if language not in texts.files]:
            raise LensflowError(f"fit: {texts.name} has no '{missing[0]}'; give texts in {', '.join(languages)}")
        states = model.states(texts)
        output = _folder() / model.name / "setting" / "lens" / f"seed{self.seed}" / "delta.safetensors"
        output.parent.mkdir(parents=True)
        config = Training(
            method=self.config.canonical(),
            setting=space.setting,
            prompt=model.backbone.prompt,
            seed=self.seed,
            extraction=Extraction(),
        )
        train.run(
            config,
            backbone=model.manifest,
            subspaces=space.path,
            states=[states[language] for language in languages],
            texts=[texts.files[language] for language in languages],
            gpus=min(1, model.gpus),
            output=output,
        )
        return replace(model, setting=space.setting, delta=output)

    def __repr__(self) -> str:
        changed = {key: value for key, value in self.config.canonical().items() if value is not None}
        return f"Lens({', '.join(f'{key}={value}' for key, value in changed.items() if key != 'kind')})"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Usable answers of two models to the same prompts.

    Attributes:
        frame: one row per language and one row for the mean over the targets, as in comparisons.csv.
        central: the language that must not get worse.
    """

    frame: "pd.DataFrame"
    central: str

    def __repr__(self) -> str:
        return "\n".join(["usable answers (95 % intervals)", *map(self._line, self.frame.to_dict("records"))])

    def _line(self, row: Mapping[Any, Any]) -> str:
        language, difference = row["language"], row["difference"]
        name = {self.central: f"{language} (central)", TARGETS: "mean of targets"}.get(language, language)
        mark = f" {MARKS.get(row['mark'], '')}{RETENTION.get(row['retention'], '')}".rstrip()
        interval = f"[{row['difference_low']:+.2f}, {row['difference_high']:+.2f}]"
        before, n = row["value"] - difference, row["n"]
        return f"{name}: {before:.2f} -> {row['value']:.2f}, difference {difference:+.2f} {interval}{mark}, n = {n}"


def load(name: str | Path, *, gpus: int = 0, engine: str = "hf", dtype: str = "float32") -> Model:
    """Return a backbone that is ready for `probe` and `answer`.

    Args:
        name: a backbone of the catalog, a folder with a checkpoint, or owner/name on the hub.
        gpus: number of GPUs.
        engine: the engine that answers; see `lensflow explain evaluation.engine`.
        dtype: precision of the answers.

    Raises:
        LensflowError: there is no such model, or Lensflow cannot use it.
    """
    evaluation = parse(Evaluation, {"engine": engine, "dtype": dtype}, "load")
    registry.check(registry.generator(engine))
    called, backbone = named_backbone(str(name), "load")
    manifest = _folder() / called / "backbone" / "manifest.json"
    prepare_backbone.prepare_backbone(backbone, Path(), manifest)
    answering = Answering(prompt=backbone.prompt, evaluation=evaluation, cells=[], checkpoints={})
    return Model(called, backbone, manifest, Session(manifest, answering, Resources(gpus=gpus)), gpus)


def corpus(source: str | Path, languages: Sequence[str]) -> Texts:
    """Return parallel texts.

    Args:
        source: `embedded`, a file with a column per language, or a folder with train.jsonl, dev.jsonl and test.jsonl.
        languages: the wanted languages.

    Raises:
        LensflowError: there is no such corpus, or it lacks a language.
    """
    if isinstance(languages, str):
        written = languages.replace(",", " ").split()
        raise LensflowError(f"languages: must be a list, not '{languages}'; write {written}")
    path, folder = Path(source), _folder()
    files = {language: folder / f"{language}.jsonl" for language in languages}
    if str(source) in texts_module.EMBEDDED or path.is_dir():
        place = texts_module.folder(str(source), Path())
        for language, file in files.items():
            pair_data.pair_data(place, language, file)
    else:
        _, found, root, _ = table(path, languages, Path())
        dataset = CorpusDataset.model_validate(found)
        for language, file in files.items():
            pair_data.pair_dataset(dataset, language, Path(root) if root else None, file)
    return Texts(path.name, files)


@functools.cache
def _scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="lensflow-")


def _folder() -> Path:
    """Return a new folder, which is removed when Python ends."""
    folder = Path(_scratch().name) / str(next(_NUMBERS))
    folder.mkdir()
    return folder


def _acts_by_language(intervention: Intervention) -> bool:
    """Return whether the effect of an intervention depends on the language of the answer."""
    told = [getattr(intervention, name) for name in ("shifts", "constrained", "instructions", "frames", "shots")]
    return any(told) or bool(intervention.blocks.keys() - {ANY})


def _name_of(texts: Texts) -> str:
    return next(iter(texts.files.values())).parent.name


def _cell(model: Model, language: str, prompts: Sequence[str], decoding: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usable answers of a model in one language, in the format of scores.json."""
    answers = model.answer(list(prompts), language, **decoding)
    usable = [judge(said, language, prompt).usable for said, prompt in zip(answers, prompts, strict=True)]
    return {
        "benchmark": "generation",
        "language": language,
        "cell": f"{model.delta}:{language}",
        "ids": [str(number) for number in range(len(prompts))],
        "scores": [score("usable", usable)],
    }
