"""The published code's prompts, texts and items, written as that code writes them, against ours (config/paper.yaml).

Source: github.com/circle-hit/Lens, commit 2ffa3f0. The tokenizers are stand-ins of one token per byte with the models'
own special tokens and chat templates.
"""

import importlib
import json
import random
import shutil
from pathlib import Path

import pytest
import yaml
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from lensflow.artifacts.texts import read_texts
from lensflow.errors import LensflowError
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.evaluation import Evaluation
from lensflow.schema.stages import Extracting, Pairing
from lensflow.stages.answer import chosen
from lensflow.stages.extract_hidden_states import tokenize
from lensflow.stages.fetch_items import fetched
from lensflow.stages.pair_data import run as pair_data
from lensflow.storage.verified import read_jsonl
from lensflow.workflow.experiment import Config, read
from lensflow.workflow.plan import Plan

ROOT = Path(__file__).parents[2]
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / "performance")
    published_procedure = importlib.import_module("published_procedure")
PUBLISHED = ROOT.parent / "shared/published/lens"
LANGUAGES = ("en", "zh", "ja", "ko", "ar", "bn", "sw")
FILES = {
    "lens-probing": "lens-official/Probing/datasets/aya_en_zh_ja_ar_ko_bn_sw_300/test.jsonl",
    "lens-manipulation": "lens-official/Manipulation/datasets/language_pull_data_alpaca_safe_200/train.json",
}
TEXTS = ["  水是什么？\n", "What is rain? ", "Eleza muundo wa atomi.\n", "x" * 300, "Que"]

# Manipulation/src/dataset_llama3.py, 24-27, and dataset_phi3.5.py, 15-23: prompts for training.
SYSTEM_FORMAT = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{content}<|eot_id|>"
USER_FORMAT = (
    "<|start_header_id|>user<|end_header_id|>\n\n{content}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)
PHI3_PROMPT = """<|system|>
{sys_prompt}<|end|>
<|user|>
{content}<|end|>
<|assistant|>
"""
SPECIAL = {
    "llama": ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    "phi": ("<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
}
BACKBONES = {
    "llama-3-8b-instruct": ("llama", "llama-3"),
    "llama-3.1-8b-instruct": ("llama", "llama-3.1"),
    "phi-3.5-mini-instruct": ("phi", "phi-3.5"),
}


def stand_in(folder: Path, family: str, template: str) -> Path:
    """Write a tokenizer of one token per byte; Llama's puts BOS before a text, Phi's puts nothing."""
    bos, eos, *_ = special = SPECIAL[family]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    if family == "llama":
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": bos, "eos_token": eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    shutil.copy(ROOT / f"tests/data/chat_templates/{template}.jinja", folder / "chat_template.jinja")
    return folder


def published_probing(folder: Path, texts: list[str]) -> list[list[int]]:
    """Probing/probe.py, 37-42 and 60, without the pads."""
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=512)
    tokenizer.pad_token = tokenizer.eos_token
    batch = published_procedure.probing_batch(tokenizer, texts)
    rows = zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True)
    return [[index for index, real in zip(*row, strict=True) if real] for row in rows]


def published_training(folder: Path, family: str, texts: list[str]) -> list[list[int]]:
    """Manipulation/src/dataset_llama3.py, 188, dataset_phi3.5.py, 182-185, and collator.py, 68-70."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if family == "llama":
        prompts = [SYSTEM_FORMAT.format(content="") + USER_FORMAT.format(content=text) for text in texts]
    else:
        prompts = [PHI3_PROMPT.format(content=text, sys_prompt="You are a helpful assistant.") for text in texts]
    return [tokenizer(prompt, add_special_tokens=False)["input_ids"][:128] for prompt in prompts]


def write(root: Path, of_language: dict[str, list[str]]) -> dict[str, dict[str, list[str]]]:
    """Write texts in the layout of the authors' files."""
    probing, training = (root / path for path in FILES.values())
    for path in (probing, training):
        path.parent.mkdir(parents=True)
    rows = [dict(zip(of_language, row, strict=True)) for row in zip(*of_language.values(), strict=True)]
    probing.write_text("\n".join(json.dumps(row) for row in rows))
    instances = [{f"input_{language}": text for language, text in row.items()} for row in rows]
    training.write_text(json.dumps({"Instances": instances}))
    return dict.fromkeys(FILES, of_language)


def authors(root: Path) -> dict[str, dict[str, list[str]]]:
    """Lay the authors' files where the catalog reads them; return their texts."""
    sources = (PUBLISHED / "aya_7_languages_300.jsonl", PUBLISHED / "train.json")
    if missing := next((source for source in sources if not source.is_file()), None):
        pytest.skip(f"{missing.name} of the authors is not on this machine")
    for source, path in zip(sources, FILES.values(), strict=True):
        (root / path).parent.mkdir(parents=True)
        (root / path).symlink_to(source)
    probing = read_jsonl(sources[0])
    training = json.loads(sources[1].read_text(encoding="utf-8"))["Instances"]
    return {
        "lens-probing": {language: [row[language] for row in probing] for language in LANGUAGES},
        "lens-manipulation": {language: [row[f"input_{language}"] for row in training] for language in LANGUAGES},
    }


def paper(texts: int) -> Config:
    """config/paper.yaml with one of its runs, on so many texts."""
    run = {
        "backbones": list(BACKBONES),
        "settings": ["paper-multilingual"],
        "methods": ["lens-published"],
        "benchmarks": [{"xcopa-letter": ["zh"]}, {"kmmlu-letter": ["ko"]}],
    }
    corpora = {name: {"dataset": {"train": texts}} for name in FILES}
    return read([ROOT / "config/paper.yaml"], ROOT, {"runs": [run], "corpora": corpora})


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("source", ["made here", "authors"])
def test_token_ids_are_those_of_the_published_code(tmp_path, source, backbone):
    if source == "authors":
        texts, count = authors(tmp_path), 10
    else:
        texts = write(tmp_path, {code: [f"{text}{code}{text}" for text in TEXTS] for code in LANGUAGES})
        count = len(TEXTS)
    family, template = BACKBONES[backbone]
    folder = stand_in(tmp_path / "tokenizer", family, template)
    plan = Plan(paper(count), ROOT, ROOT)
    for corpus in FILES:
        config = Extracting.model_validate(plan.extract_hidden_states(backbone, corpus))
        for language in ("en", "zh", "sw"):
            output = tmp_path / corpus / f"{language}.jsonl"
            pairing = Pairing.model_validate(plan.pair_data(corpus, language))
            pair_data(pairing, root=ROOT, datasets_root=tmp_path, output=output)
            ours = tokenize(
                PromptTokenizer(folder, config.prompt), language, read_texts(output, ["train"]), config.extraction
            )
            raw = texts[corpus][language][:count]
            if corpus == "lens-probing":
                assert ours.ids == published_probing(folder, raw)
            else:
                assert ours.ids == published_training(folder, family, raw)
    assert any(text.endswith("\n") for text in texts["lens-manipulation"]["zh"])  # or the test shows less than it says


def test_probing_runs_in_float16_and_training_in_bfloat16():
    plan = Plan(paper(200), ROOT, ROOT)
    dtypes = [plan.extract_hidden_states("llama-3-8b-instruct", corpus)["extraction"]["dtype"] for corpus in FILES]
    assert dtypes == ["float16", "bfloat16"]


def test_training_knows_its_own_prompt_and_evaluation_its_own():
    plan = Plan(paper(200), ROOT, ROOT)
    checkpoint = next(c for c in plan.trained() if c.backbone == "llama-3.1-8b-instruct")
    assert "{prompt}" in plan.train(checkpoint)["prompt"]["template"]
    (part,) = (part for part in plan.parts() if part.backbone == checkpoint.backbone)
    assert plan.answer(part)["prompt"]["system"] == ""


@pytest.mark.parametrize("count", [1000, 1001, 3000])
def test_the_sample_is_that_of_the_published_code(count):
    items = {f"id-{number}": {"question": number} for number in range(count)}
    random.seed(112)  # NLU_eval/src/load.py, 31-32
    drawn = random.sample(list(items.values()), 1000)
    assert list(chosen(items, Evaluation(sample={"n": 1000, "seed": 112})).values()) == drawn


def test_a_cell_with_fewer_items_keeps_them_all():
    items = {str(number): {} for number in range(5)}
    assert list(chosen(items, Evaluation(sample={"n": 6, "seed": 112}))) == list(items)
    assert list(chosen(items, Evaluation(limit=2))) == ["0", "1"]


def test_limit_and_sample_exclude_each_other():
    with pytest.raises(ValueError, match="limit and sample both choose the items of a cell; remove one"):
        Evaluation(limit=3, sample={"n": 3, "seed": 1})


def test_prompts_and_answers_run_together(tmp_path):
    output = tmp_path / "zh.jsonl"
    pairing = Pairing(language="zh", path="embedded", with_answers=True)
    pair_data(pairing, root=tmp_path, datasets_root=None, output=output)
    first = read_texts(output, ["train"])[0]
    assert first.answer is not None and first.prompt.startswith("葡萄干") and first.prompt.endswith(first.answer)
    bare = Pairing(language="zh", path="embedded-1", with_answers=True)
    with pytest.raises(LensflowError, match="has no zh answer; write one, or set with_answers: false"):
        pair_data(bare, root=tmp_path, datasets_root=None, output=output)


def test_a_prompt_of_an_unknown_corpus_is_refused():
    with pytest.raises(LensflowError, match=r"backbones.llama-3-8b-instruct.prompts: no corpus 'lens-probng'; .*"):
        read(
            [ROOT / "config/paper.yaml"],
            ROOT,
            {"backbones": {"llama-3-8b-instruct": {"prompts": {"lens-probng": {"format": "chat"}}}}},
        )


def test_the_subjects_of_kmmlu_are_joined_in_the_order_of_the_published_code(tmp_path):
    dataset = paper(200).benchmarks["kmmlu-letter"].dataset
    assert (len(dataset.configs), dataset.configs[0], dataset.configs[-2:]) == (
        45,
        "Accounting",
        ("Korean-History", "Math"),
    )
    files = [
        {"config_name": name, "data_files": [{"split": "test", "path": f"{name}/test.jsonl"}]}
        for name in ("Law", "Math")
    ]
    for number, subject in enumerate(("Law", "Math")):
        folder = tmp_path / "HAERAE-HUB/KMMLU" / subject
        folder.mkdir(parents=True)
        rows = [dict.fromkeys("ABCD", "…") | {"question": f"{subject} {i}", "answer": number + 1} for i in range(2)]
        (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder.parent / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': files})}---\n")
    two = dataset.model_copy(update={"configs": ("Math", "Law")})
    items = fetched("kmmlu-letter", two, "ko", "ko", tmp_path).items
    assert [item["question"] for item in items.values()] == ["Math 0", "Math 1", "Law 0", "Law 1"]
