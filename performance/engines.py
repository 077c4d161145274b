"""Compare both engines under the edits of methods, on the embedded backbones (docs/engines.md).

python performance/engines.py MANIFEST ...

MANIFEST is the manifest.json of a prepared backbone, `.../{backbone}/backbone/manifest.json`. Each method is trained on
a few prompts of the embedded corpus. Both engines answer 100 prompts greedily in float32; half of the prompts are in
Chinese and half in English, and methods are told that answers should be in Chinese.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from lensflow.artifacts import interventions, texts
from lensflow.artifacts.interventions import StateEdit
from lensflow.artifacts.layout import INTERVENTION
from lensflow.errors import LensflowError
from lensflow.mathematics.statistics import proportion_interval
from lensflow.measures.fidelity import is_faithful
from lensflow.methods.base import Run
from lensflow.methods.registry import AnyMethod
from lensflow.models.engines import edits
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.process import prepare_process
from lensflow.models.engines.protocol import Engine
from lensflow.models.engines.vllm import VllmEngine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import Resources
from lensflow.schema.decoding import Decoding
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.stages import train
from lensflow.storage.atomic import write_jsonl, write_text
from lensflow.workflow.experiment import Config, read
from measuring import backbone_of

ROOT = Path(__file__).resolve().parents[1]
SETTING = Setting(central="en", languages=("en", "zh", "sw"))
WANTED = "zh"
PROMPTS = 50  # of each language, the shortest ones of the test split
TRAIN = 6  # items
SCORED = 10  # answers per language of the prompt whose log-likelihoods are compared
ANSWER = Decoding(max_new_tokens=8)
METHODS = {
    "diffmean": {"kind": "diffmean", "unit": "state_norm", "strength": 0.3},
    "recover": {"kind": "recover"},
}
Answered = list[tuple[list[tuple[int, ...]], list[float]]]


def trained(
    config: Config, manifest: Path, folder: Path, methods: Sequence[str]
) -> Iterator[tuple[str, dict[str, StateEdit | None]]]:
    """Train each method; yield its name, and its edit per language of the prompt."""
    items = texts.read_corpus(texts.folder("embedded", ROOT))["train"][:TRAIN]
    paths = {language: folder / f"{language}.jsonl" for language in SETTING.languages}
    for language, path in paths.items():
        rows = [{"id": i["id"], "prompt": i["prompt"][language], "answer": i["answer"][language]} for i in items]
        write_jsonl(path, [{"split": "train"} | row for row in rows])
    for name in methods:
        output = folder / name / "seed0" / "delta.safetensors"
        prompt = backbone_of(config, manifest).prompt
        train.train_measured(Run(parse(AnyMethod, METHODS[name]), SETTING, 0, prompt, manifest, paths, output))
        written = interventions.load(output.with_name(INTERVENTION))
        yield name, {source: written.edit(WANTED, source) for source in (WANTED, SETTING.central)}


def answered(
    engine: Engine,
    edits_of: Mapping[str, Mapping[str, StateEdit | None]],
    asked: Mapping[str, list[tuple[list[int], list[int]]]],
) -> dict[str, Answered]:
    """Return token ids and log-likelihoods for every method, and a list per language of the prompt."""
    found: dict[str, Answered] = {}
    for name, by_source in edits_of.items():
        for source, pairs in asked.items():
            with engine.edited(by_source[source]):
                answers = engine.generate([prompt for prompt, _ in pairs], ANSWER)
                scores = engine.loglikelihoods(pairs[:SCORED])
            found.setdefault(name, []).append(([answer.ids for answer in answers], [score for score, _ in scores]))
    return found


def noticed(engine: Engine, edit: StateEdit | None) -> bool:
    """Return whether an engine refuses to run when the hooks of an edit are left out."""
    change, edits.change = edits.change, lambda *given: []
    try:
        with engine.edited(edit):
            return False
    except LensflowError:
        return True
    finally:
        edits.change = change


def rows_of(config: Config, manifest: Path, folder: Path, methods: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows of a backbone's table."""
    backbone = manifest.absolute().parent.parent.name
    tokenizer = PromptTokenizer(manifest.parent, config.backbones[backbone].prompt)
    items = texts.read_corpus(texts.folder("embedded", ROOT))["test"]
    items = sorted(items, key=lambda item: len(item["prompt"][WANTED]))[:PROMPTS]
    asked = {
        source: [
            (tokenizer.encode(item["prompt"][source]), tokenizer.encode_answered("", item["answer"][WANTED])[0][-9:-1])
            for item in items
        ]
        for source in (WANTED, SETTING.central)
    }
    edits_of = dict(trained(config, manifest, folder, methods))
    some = edits_of[methods[0]][WANTED]
    plain = TransformersEngine(manifest.parent, "float32", tokenizer)
    expected = answered(plain, {"base": dict.fromkeys(asked)} | edits_of, asked)
    seen = {"hf": noticed(plain, some)}
    plain.close()
    fast = VllmEngine(manifest.parent, "float32", tokenizer, 512, Resources())
    try:
        found = answered(fast, edits_of, asked)
        seen["vllm"] = noticed(fast, some)
    finally:
        fast.close()
    said = {name: [ids for answers, _ in by_source for ids in answers] for name, by_source in expected.items()}
    for name, answers in said.items():
        # Behind the answers to Chinese prompts are those to English ones.
        hits = sum(is_faithful(tokenizer.decode(list(ids)), WANTED) is True for ids in answers[PROMPTS:])
        low, high = proportion_interval(hits, PROMPTS)
        row = [backbone, name, "", "", "", f"{hits / PROMPTS:.2f} [{low:.2f}, {high:.2f}]"]
        if name in found:
            other = [ids for answers, _ in found[name] for ids in answers]
            sides = ([score for _, scores in side[name] for score in scores] for side in (expected, found))
            row[2] = f"{sum(a == b for a, b in zip(answers, other, strict=True))} of {len(answers)}"
            row[3] = f"{sum(a != b for a, b in zip(answers, said['base'], strict=True))}"
            row[4] = f"{max(abs(a - b) for a, b in zip(*sides, strict=True)):.0e}"
        yield row
    refusing = " and ".join(engine for engine, refuses in seen.items() if refuses)
    yield [backbone, f"{methods[0]}, hooks left out", f"{refusing} refuse", "", "", ""]


PAGE = """# Both engines under edits

`python performance/engines.py MANIFEST ...` writes this page. The page shows that both engines apply the edits of a
method in the same way. transformers and vLLM ({vllm}) answer the same {prompts} prompts of the embedded corpus
greedily, with {tokens} tokens at most, in float32 on a CPU. Half of the prompts are in Chinese and half in English,
the shortest of the test split. Methods are told that the wanted language is Chinese.

| backbone | method | equal answers | other than base's | log-likelihoods differ by | Chinese answers |
|---|---|---|---|---|---|
{table}

The third column counts answers that are equal token by token. The fourth column shows that the edit acts: it counts
the answers of transformers that differ from the untouched backbone's answers. Log-likelihoods are in nats, for
{scored} answers of 8 tokens; the largest difference is shown. In the last row of each backbone, the hooks are left
out on purpose. The engine's own test must then refuse to run.

The last column is the share of answers in Chinese to the {half} English prompts, with its 95 % interval. No prompt
mentions Chinese; only the methods are told the wanted language.
"""


def main() -> None:
    """Compare, and write the page."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("manifests", type=Path, nargs="+", help="manifest.json of prepared backbones")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="of the comparison")
    args = options.parse_args()
    prepare_process()
    torch.manual_seed(0)
    config, rows = read([], ROOT), []
    for manifest in args.manifests:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows_of(config, manifest.absolute(), Path(folder), args.methods):
                rows.append(row)
                print(" | ".join(row), flush=True)
    from vllm import __version__

    facts = {
        "prompts": 2 * PROMPTS,
        "half": PROMPTS,
        "tokens": ANSWER.max_new_tokens,
        "scored": 2 * SCORED,
        "vllm": __version__,
    }
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    write_text(ROOT / "docs/engines.md", PAGE.format(table=table, **facts))


if __name__ == "__main__":
    main()
