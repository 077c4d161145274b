"""Language tags as data sets write them: accepted where CLDR knows them, refused with a remedy elsewhere."""

import re

import pytest

from lensflow.errors import LensflowError
from lensflow.languages import base_code, code_named, script
from lensflow.measures.fidelity import check_detectable, is_faithful
from lensflow.schema.corpus import Corpus
from lensflow.schema.parsing import parse
from lensflow.schema.setting import Setting
from lensflow.schema.types import LANGUAGE_PATTERN


def setting(language: object) -> Setting:
    return parse(Setting, {"central": "en", "languages": ["en", language]}, "settings.s")


@pytest.mark.parametrize("tag", ["zh-Hant", "pt-BR", "sr-Latn", "es-419", "zh-Hant-HK", "no", "fil", "sh", "yue"])
def test_tags_are_languages(tag):
    assert setting(tag).targets == (tag,)
    assert re.fullmatch(LANGUAGE_PATTERN.strip("^$"), tag)  # what Snakemake's wildcard is made of


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("jp", r"^settings\.s: languages\[1\]: language 'jp': unknown code; did you mean 'ja' \(Japanese\)\?$"),
        ("cz", r"did you mean 'cs' \(Czech\)\?$"),
        ("zz", r"unknown code; write its ISO 639 code"),
        ("sr-Xxxx", r"unknown script or region; write 'sr', or such as 'sr-Latn'$"),
        ("zh-hant", r"must be a BCP 47 tag, .*, not 'zh-hant'; did you mean 'zh-Hant' \(Traditional Chinese\)\?$"),
        ("zh_Hant", r"must be a BCP 47 tag, .*; did you mean 'zh-Hant' \(Traditional Chinese\)\?$"),
        ("BN", r"must be a BCP 47 tag, .*; did you mean 'bn' \(Bangla\)\?$"),
        ("日本語", r"must be a BCP 47 tag, .*; did you mean 'ja' \(Japanese\)\?$"),
        ("tlh", r"unknown code; write its ISO 639 code"),  # Klingon, which has a name but no usual script
        ("zh-Hant/..", r"must be a BCP 47 tag"),
        (False, r"must be text \(YAML reads no, on and numbers otherwise: quote them\), not False$"),
    ],
)
def test_what_no_stage_knows_is_refused(tag, message):
    with pytest.raises(LensflowError, match=message):
        setting(tag)


def test_the_keys_of_a_data_sets_languages_are_tags_too():
    dataset = {"path": "me/set", "layout": "configs", "train": 1}
    entry = {"license": "none", "dataset": dataset | {"languages": {"sr-Latn": "srp_Latn"}}}
    assert parse(Corpus, entry, "corpora.c").dataset.languages == {"sr-Latn": "srp_Latn"}
    entry["dataset"]["languages"] = {"jp": "jpn_Jpan"}
    with pytest.raises(LensflowError, match=r"^corpora\.c: dataset\.languages\.jp: language 'jp': unknown code; did"):
        parse(Corpus, entry, "corpora.c")


@pytest.mark.parametrize(
    ("alias", "code", "system"),
    [("sh", "sr", "Latn"), ("prs", "fa", "Arab"), ("cmn", "zh", "Hans"), ("no", "no", "Latn")],
)
def test_an_alias_has_its_own_script_or_region(alias, code, system):
    assert (base_code(alias), script(alias)) == (code, system)


def test_simplified_is_not_traditional_chinese():
    simplified, traditional = "这个工具可以用来开门，非常方便。", "這個工具可以用來開門，非常方便。"
    assert is_faithful(simplified, "zh-Hans") and not is_faithful(simplified, "zh-Hant")
    assert is_faithful(traditional, "zh-Hant") and not is_faithful(traditional, "zh-Hans")


def test_latin_serbian_can_be_told():
    check_detectable("sr-Latn")
    assert is_faithful("Ovaj alat služi za otvaranje konzervi i zatezanje zavrtnja.", "sr-Latn")
    assert not is_faithful("This tool is used to open cans and to tighten screws.", "sr-Latn")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(("bangla", "bn"), ("Bengali", "bn"), ("বাংলা", "bn"), ("kiswahili", "sw")),
        *(("SW", "sw"), ("swh", "sw"), ("swh_Latn", "sw"), ("pt_br", "pt-BR"), ("zho_hans", "zh-Hans")),
        *(("sr-latn", "sr-Latn"), ("prs", "prs"), ("sw;hi", "sw;hi"), ("nowhere", "nowhere"), ("", "")),
    ],
)
def test_a_code_by_another_name_or_spelling(name, code):
    assert code_named(name) == code
