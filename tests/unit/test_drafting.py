"""The configuration that `lensflow new` writes for a model and its languages."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from lensflow.errors import LensflowError
from lensflow.presentation.blocks import LEFT
from lensflow.workflow import project
from lensflow.workflow.drafts import drafting, texts
from lensflow.workflow.drafts.drafting import Request, draft
from lensflow.workflow.experiment import read
from tests.workflow.workspace import write_checkpoint

TEXT = {
    "English": "What is {}?",
    "Bengali": "{} কি?",
    "Kiswahili": "{} ni nini?",
    "Hindi": "{} क्या है?",
    "yor_Latn": "Kí ni {}?",
}
WRITTEN = ("English", "Hindi", "yor_Latn")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "My Model")
    return tmp_path


def sentences(path: Path, count: int = 60, columns=WRITTEN) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Nr", *columns])
        writer.writerows(
            [number, *(TEXT.get(name, "{}").format(number) for name in columns)] for number in range(count)
        )
    return path


def drafted(folder: Path = Path(), **given):
    """The file's text, and the configuration that it is."""
    text = draft(Request(**{"model": "My Model", "languages": ("hi", "yo")} | given), folder)
    return text, read([], project.folder(), yaml.safe_load(text))


def test_a_folder_and_a_table_become_a_configuration_of_their_own(here):
    text, config = drafted(data=sentences(here / "sentences.csv"))
    backbone, corpus = config.backbones["my-model"], config.corpora["sentences"].dataset
    assert (backbone.source.kind, backbone.source.path, backbone.prompt.format) == ("folder", "My Model", "plain")
    assert corpus.languages == {"en": "English", "hi": "Hindi", "yo": "yor_Latn"}
    assert (corpus.train, corpus.dev, corpus.test) == (42, 6, 12)
    assert config.settings["en-hi-yo"].targets == ("hi", "yo")
    assert config.settings["en-hi-yo"].training == config.benchmarks["generation"].corpus == "sentences"
    assert config.title == "lens-gentle, lens-strong on my-model: Hindi, Yoruba"
    (run,) = config.runs
    assert run.methods == ("base", "lens-gentle", "lens-strong")
    assert config.evaluation.limit == 12
    assert config.methods["lens-gentle"].until.residual == LEFT
    assert "lensflow run lensflow.yaml" in text and "its model card does not say" in text


def test_paths_are_relative_to_the_file_or_absolute(here):
    (here / "run").mkdir()
    data = sentences(here / "sentences.csv")
    config = drafted(here / "run", data=data)[1]
    assert config.backbones["my-model"].source.path == str(here / "My Model")
    assert (config.datasets_root, config.corpora["sentences"].dataset.path) == (str(here), "sentences.csv")


def test_what_a_checkpoint_says_of_itself_is_written_down(here):
    (here / "My Model" / "chat_template.jinja").write_text("{% if enable_thinking %}{% endif %}{{ messages }}")
    (here / "My Model" / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    backbone = drafted(data=sentences(here / "sentences.csv"))[1].backbones["my-model"]
    assert backbone.license == "apache-2.0"
    assert (backbone.prompt.format, backbone.prompt.template_variables) == ("chat", {"enable_thinking": False})


def test_questions_are_evaluated_and_all_rows_of_the_data_train(here):
    text, config = drafted(
        data=sentences(here / "sentences.csv"), questions=sentences(here / "questions.csv", 20, ("en", "hi", "yo"))
    )
    trained, asked = (config.corpora[name].dataset for name in ("sentences", "questions"))
    assert (trained.train, trained.dev, trained.test) == (54, 6, 0)
    assert (asked.train, asked.dev, asked.test) == (0, 0, 20)
    assert config.settings["en-hi-yo"].training == "sentences"
    assert config.benchmarks["generation"].corpus == config.benchmarks["likelihood"].corpus == "questions"
    assert config.evaluation.limit == 20
    assert "# Texts: 60 rows; the first 54 train, the next 6 watch training; 20 questions to evaluate on.\n" in text
    config = drafted(languages=("zh", "sw"), questions=sentences(here / "asked.csv", 20, ("en", "zh", "sw")))[1]
    assert config.settings["en-zh-sw"].training == "embedded"
    assert config.benchmarks["generation"].corpus == "asked"


def test_nested_columns_and_lines_of_json(here):
    rows = [{"id": str(n), "translation": {"en": f"q {n}", "hi": f"h {n}", "yo": f"y {n}"}} for n in range(20)]
    (here / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = drafted(data=here / "texts.jsonl")[1].corpora["texts"].dataset
    assert dataset.languages == {"en": "translation.en", "hi": "translation.hi", "yo": "translation.yo"}


def test_a_language_has_several_names(here):
    """CLDR calls Bengali Bangla; people do not."""
    table = sentences(here / "texts.csv", columns=("English", "Bengali", "Kiswahili"))
    assert drafted(languages=("Bengali", "Swahili"), data=table)[1].corpora["texts"].dataset.languages == {
        "en": "English",
        "bn": "Bengali",
        "sw": "Kiswahili",
    }


@pytest.mark.parametrize("name", ["हिन्दी", "HI", "hin", "hin_Deva", "HINDI"])
def test_a_language_may_be_called_and_spelt_in_any_way(here, name):
    config = drafted(languages=(name, "yor_Latn", "Yoruba"), data=sentences(here / "sentences.csv"))[1]
    assert config.settings["en-hi-yo"].targets == ("hi", "yo")


def test_without_data_the_embedded_texts_are_taken_or_the_hubs(here):
    assert drafted(languages=("zh", "sw"))[1].settings["en-zh-sw"].training == "embedded"
    config = drafted(languages=("Swahili", "hindi"))[1]  # their English names, too
    assert config.settings["en-sw-hi"].training == "bactrian-x"
    assert config.corpora["bactrian-x"].dataset.languages["hi"] == "hi"
    assert config.corpora["bactrian-x"].dataset.test == 100


def test_a_benchmark_is_asked_for_the_languages_that_it_has(here):
    (run,) = drafted(languages=("zh", "sw"), benchmarks=("generation", "xcopa", "drift"))[1].runs
    assert run.benchmarks == {"generation": None, "xcopa": None, "drift": ("en",)}
    (run,) = drafted(languages=("ja", "sw"), benchmarks=("generation", "mgsm", "xwinograd"))[1].runs
    assert run.benchmarks["xwinograd"] == ("en", "ja")


def test_a_budget_lowers_the_number_of_items(here, monkeypatch):
    monkeypatch.setattr(drafting, "CORE_FLOPS", 1e3)
    data = sentences(here / "sentences.csv", 2000)
    limits = [drafted(data=data, budget=minutes)[1].evaluation.limit for minutes in (1, 60, 10**9)]
    assert limits[0] == drafting.FEWEST_ITEMS and limits[1] <= limits[2] == texts.MOST_TEST
    text, config = drafted(data=sentences(here / "few.csv", 40), budget=1)
    assert config.evaluation.limit == 8 and "of 8: about " in text


def test_a_model_of_the_catalog_and_gpus(here):
    text, config = drafted(model="smollm2-135m-instruct", languages=("zh",), gpus=2)
    assert config.backbones["smollm2-135m-instruct"].resources.gpus == 2
    assert config.evaluation.dtype == "bfloat16"
    assert "memory: stream" not in text


def test_a_folder_named_as_in_the_catalog_is_another_model(here):
    (here / "My Model").rename(here / "gemma-3-270m")
    config = drafted(model="./gemma-3-270m", languages=("zh",))[1]
    assert config.backbones["my-gemma-3-270m"].source.kind == "folder"
    assert config.backbones["gemma-3-270m"].source.kind == "package"


MISTAKES = {
    "no folder of data": (
        {"data": "sub"},
        r"--data: sub/train\.jsonl: no such file; write it, or name a file with a col",
    ),
    "folder of questions": ({"languages": ("zh",), "questions": "sub"}, r"--questions: sub: is a folder; name a file$"),
    "fewer than no GPU": ({"languages": ("zh",), "gpus": -1}, r"^--gpus: -1 is no number of GPUs; give 0 or more$"),
    "file of a model": (
        {"model": "My Model/model.safetensors"},
        r"--model: My Model/model\.safetensors is a file; name a folder with config\.json, tokenizer\.json and ",
    ),
    "folder of models": ({"model": "."}, r"--model: config\.json is missing; did you mean My Model\?$"),
    "no model": (
        {"model": "nowhere"},
        r"--model: 'nowhere' is neither a folder nor owner/name on the hub; correct it \(known: ",
    ),
    "no folder": (
        {"model": "./nowhere"},
        r"--model: './nowhere' is neither a folder nor owner/name on the hub; correct it \(known: ",
    ),
    "no code": ({"languages": ("jp",)}, r"--languages: language 'jp': unknown code; did you mean 'ja' \(Japanese\)\?"),
    "no target": ({"languages": ("en",)}, r"--languages: names only the central language; add another one"),
    "no texts": ({"languages": ("yo",)}, r"no parallel texts in 'yo' \(Yoruba\); give some by --data FILE"),
    "no method": ({"methods": ("lens-gentel",)}, r"--methods: no 'lens-gentel'; did you mean 'lens-gentle'\?"),
    "no benchmark": ({"benchmarks": ("xcopas",)}, r"--benchmarks: no 'xcopas'; did you mean 'xcopa"),
    "no language": (
        {"languages": ("sw",), "benchmarks": ("lcb-native",)},
        r"--benchmarks: lcb-native has none of your languages; it has es, fr, ja, ko",
    ),
    "no column": (
        {"languages": ("hi", "sw"), "data": "sentences.csv"},
        r"no column for sw \(Swahili\); the columns are called Nr, English, Hindi, yor_Latn; "
        r"call the one of Swahili texts 'sw'$",
    ),
    "no central column": (
        {"central": "fr", "data": "sentences.csv"},
        r"no column for fr \(French\); .*; call the one of French texts 'fr', or name another central language by --",
    ),
    "few rows": ({"data": "few.csv"}, r"--data: few.csv: 5 rows; at least 10 are needed to train and to test"),
    "few questions": (
        {"data": "sentences.csv", "questions": "few.csv"},
        r"--questions: few.csv: 5 rows; at least 10 are needed for intervals that say something",
    ),
    "questions of one name": (
        {"data": "sentences.csv", "questions": "sub/sentences.csv"},
        r"--questions: has the same name as --data",
    ),
    "odd name": ({"data": "my texts.csv"}, r"may have letters, digits, .* alone; rename the file$"),
    "no file": ({"data": "none.csv"}, r"--data: none.csv: no such file; check the path"),
    "no budget": ({"languages": ("zh",), "budget": float("nan")}, r"^--budget: nan is no number of minutes; give one"),
    "gpu budget": ({"languages": ("zh",), "gpus": 1, "budget": 5}, r"--budget: cannot be estimated for a GPU; drop it"),
}


@pytest.mark.parametrize("given", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_do(here, given):
    sentences(here / "sentences.csv"), sentences(here / "few.csv", 5), sentences(here / "my texts.csv")
    options, message = MISTAKES[given]
    (here / "sub").mkdir(), sentences(here / "sub" / "sentences.csv")
    options = options | {name: Path(options[name]) for name in ("data", "questions") if name in options}
    with pytest.raises(LensflowError, match=message) as caught:
        drafted(**options)
    assert "\n" not in str(caught.value)
