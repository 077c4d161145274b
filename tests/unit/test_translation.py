"""Translation of sentences that lie in the hub's layout of FLORES+, scored with chrF."""

import random
from pathlib import Path
from typing import Any

import pytest
from sacrebleu import sentence_chrf

from lensflow.artifacts import layout
from lensflow.benchmarks.base import Folders
from lensflow.benchmarks.translation import Translation
from lensflow.errors import LensflowError
from lensflow.measures.outcomes import Outcome
from lensflow.schema.parsing import parse
from lensflow.stages.pair_data import pair_dataset
from lensflow.stages.score import measure
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.verified import read_jsonl
from lensflow.workflow.experiment import read
from lensflow.workflow.plan import Plan
from tests.unit.test_answer import Here
from tests.unit.test_cases_data import hub_set

ROOT = Path(__file__).parents[2]
FLORES = read([], ROOT).corpora["flores"].dataset
SENTENCES = {
    "en": ("eng_Latn", ["The river is wide.", "Bread is made of flour.", "The train leaves at noon.", "It rains."]),
    "sw": (
        "swh_Latn",
        ["Mto ni mpana.", "Mkate hutengenezwa kwa unga.", "Treni inaondoka saa sita.", "Mvua inanyesha."],
    ),
    "zh": ("cmn_Hans", ["这条河很宽。", "面包是用面粉做的。", "火车中午出发。", "下雨了。"]),
}
PROMPT = "{source_name}-{language_name}: {text}"
ENTRY = {"kind": "translation", "corpus": "flores", "max_new_tokens": 8, "prompt": PROMPT}


@pytest.fixture
def corpora(tmp_path) -> Path:
    """Our own sentences, as the hub has FLORES+: a configuration per language, whose rows share ids."""
    configurations: dict[str, list[dict[str, Any]]] = {}
    for number, (config, sentences) in enumerate(SENTENCES.values()):
        language, script = config.split("_")
        shared = {"iso_639_3": language, "iso_15924": script, "glottocode": "x", "url": "", "domain": "own"}
        shared |= {"topic": "", "has_image": "no", "has_hyperlink": "no", "last_updated": "1.0"}
        configurations[config] = [{"id": 7 * n, "text": text} | shared for n, text in enumerate(sentences)]
        random.Random(number).shuffle(configurations[config])  # the id says what is a translation, not the place
    hub_set(tmp_path / "hub", "openlanguagedata/flores_plus", "devtest", **configurations)
    languages = {code: FLORES.languages[code] for code in SENTENCES}
    source = FLORES.model_copy(update={"test": 4, "languages": languages})
    for code in SENTENCES:
        pair_dataset(source, code, tmp_path / "hub", tmp_path / "data" / "flores" / f"{code}.jsonl")
    return tmp_path / "data"


def translated(corpora: Path, language: str = "sw", **keys: Any) -> tuple[Translation, dict[str, Any]]:
    benchmark = parse(Translation, ENTRY | keys)
    return benchmark, benchmark.items(Folders(corpora, corpora), "flores", language)


def test_sources_and_references_are_joined_on_the_hubs_ids(corpora):
    for source, language in (("en", "sw"), ("en", "zh"), ("sw", "en")):
        _, items = translated(corpora, language, source=source)
        pairs = zip(SENTENCES[source][1], SENTENCES[language][1], strict=True)
        assert {tuple(item.values()) for item in items.values()} == set(pairs)
        assert items["7"]["source"] == SENTENCES[source][1][1]


def test_a_sentence_that_one_language_lacks(corpora):
    path = corpora / "flores" / "sw.jsonl"
    write_jsonl(path, [row for row in read_jsonl(path) if row["id"] != "7"])
    with pytest.raises(LensflowError, match=r"corpus flores: no item '7' in sw; use an aligned corpus"):
        translated(corpora)


def test_each_translation_has_sacrebleus_score_and_an_outcome(corpora):
    benchmark, items = translated(corpora)
    said = {"0": "Mto huu ni mpana sana.", "7": items["7"]["source"], "14": items["14"]["reference"], "21": ""}
    rows = [{"prompt": f"Translate: {item['source']}", "answer": said[id_]} for id_, item in items.items()]
    samples = benchmark.samples(rows, items, "sw", ())
    ids, scores = measure(samples, benchmark, "sw")
    found = {score["metric"]: score for score in scores}
    expected = {id_: sentence_chrf(said[id_], [items[id_]["reference"]]).score for id_ in ids}
    assert dict(zip(ids, found["chrf"]["items"], strict=True)) == expected
    assert expected["14"] == 100 and expected["21"] == 0 and 0 < expected["7"] < expected["0"] < 100
    assert found["chrf"]["value"] == pytest.approx(sum(expected.values()) / 4)
    assert found["chrf"]["low"] < found["chrf"]["value"] < found["chrf"]["high"]
    outcomes = {sample["id"]: sample["outcome"] for sample in samples}
    assert outcomes["7"] == Outcome.COPY and outcomes["14"] == Outcome.USABLE and outcomes["21"] == Outcome.EMPTY


def test_a_model_is_asked_for_translations(checkpoint, tmp_path, corpora):
    here = Here(tmp_path, checkpoint("llama"))
    cells = [{"name": "flores", "benchmark": ENTRY, "languages": ["sw", "zh"]}]
    here.cells = lambda benchmarks=None: cells
    assert here.answer(layout.BASE) == here.score(layout.BASE) == 0
    for code, name in (("sw", "Swahili"), ("zh", "Chinese")):
        samples = read_jsonl(here.run(layout.BASE) / "samples" / f"flores.{code}.jsonl")
        assert [sample["prompt"] for sample in sorted(samples, key=lambda sample: int(sample["id"]))] == [
            f"English-{name}: {text}" for text in SENTENCES["en"][1]
        ]
        assert all(sample["chrf"] == sentence_chrf(sample["answer"], [sample["reference"]]).score for sample in samples)


def test_what_is_refused():
    with pytest.raises(LensflowError, match=r"source: nothing is translated from 'en' into 'en'; name in the run"):
        parse(Translation, ENTRY).check("en", ())
    with pytest.raises(LensflowError, match=r"prompt: must contain \{text\}"):
        parse(Translation, ENTRY | {"prompt": "Translate this."})


def planned(benchmarks: list[Any], **settings: Any) -> Plan:
    run = {"backbones": ["smollm2-135m-instruct"], "settings": ["mine"], "methods": ["base"], "benchmarks": benchmarks}
    setting = {"central": "en", "languages": ["en", "sw"]} | settings
    return Plan(read([], ROOT, {"settings": {"mine": setting}, "runs": [run]}), ROOT, ROOT)


def test_the_source_is_read_although_no_cell_is_in_it():
    assert planned([{"flores": ["zh"]}]).used_corpora["flores"] == {"en": None, "zh": None}
    with pytest.raises(LensflowError, match=r"benchmarks\.flores: source: nothing is translated from 'en' into 'en'"):
        planned(["flores"])


@pytest.mark.parametrize("role", ["probing", "training"])
def test_a_corpus_without_items_to_train_on(role):
    with pytest.raises(LensflowError, match=rf"settings\.mine\.{role}: corpus 'flores' has train: 0; name another"):
        planned([{"flores": ["sw"]}], **{role: "flores"})
