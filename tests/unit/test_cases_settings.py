"""Settings whose central language is not English, and of languages close to each other."""

import csv
from pathlib import Path

import pytest

from lensflow.artifacts import language_subspaces
from lensflow.measures.outcomes import Outcome, outcome
from lensflow.workflow import experiment
from tests.chain import Chain

ROOT = Path(__file__).parents[2]
# What the number of an item is put into, in the languages of a setting of the catalog.
TEXTS = {
    "zh-en-ja": {"zh": "第{}个是什么？", "en": "What is number {}?", "ja": "{}番は何ですか。"},
    "es-fr-de-pt": {
        "es": "¿Qué es el número {}?",
        "fr": "Qu'est-ce que le numéro {} ?",
        "de": "Was ist die Nummer {}?",
        "pt": "O que é o número {}?",
    },
}
# The same four answers.
ANSWERS = {
    "es": (
        "El agua del mar es salada porque los ríos arrastran minerales de las rocas.",
        "Los peces respiran por las branquias, que toman el oxígeno del agua.",
        "Se llama otoño la estación en la que caen las hojas de los árboles.",
        "Una buena noche de sueño ayuda a recordar lo que se ha aprendido.",
    ),
    "fr": (
        "L'eau de mer est salée parce que les rivières emportent des minéraux des roches.",
        "Les poissons respirent par les branchies, qui prennent l'oxygène de l'eau.",
        "On appelle automne la saison où tombent les feuilles des arbres.",
        "Une bonne nuit de sommeil aide à se souvenir de ce que l'on a appris.",
    ),
    "de": (
        "Meerwasser ist salzig, weil Flüsse Mineralien aus den Felsen mit sich führen.",
        "Fische atmen mit Kiemen, die den Sauerstoff aus dem Wasser aufnehmen.",
        "Herbst heißt die Jahreszeit, in der die Blätter von den Bäumen fallen.",
        "Eine Nacht mit gutem Schlaf hilft, sich an das Gelernte zu erinnern.",
    ),
    "pt": (
        "A água do mar é salgada porque os rios arrastam minerais das rochas.",
        "Os peixes respiram pelas brânquias, que retiram o oxigénio da água.",
        "Chama-se outono a estação em que caem as folhas das árvores.",
        "Uma boa noite de sono ajuda a lembrar o que se aprendeu.",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_every_stage_runs_with_another_central_language_than_english(name, checkpoint, tmp_path, monkeypatch):
    setting = experiment.read([], ROOT).settings[name]
    central, *targets = TEXTS[name]
    assert (setting.central, list(setting.languages)) == (central, [central, *targets])
    chain = Chain(tmp_path, checkpoint("llama"), TEXTS[name])
    monkeypatch.chdir(tmp_path)
    assert chain.make() == 0

    fitted = language_subspaces.load(Path(f"results/tiny/{name}/subspaces.safetensors"), setting)
    assert fitted.languages == (central, *targets)
    assert fitted.directions[:, 1:].norm(dim=2).min() > 0
    with Path("results/comparisons.csv").open(encoding="utf-8") as file:
        compared = {(row["metric"], row["language"]) for row in csv.DictReader(file)}
    assert {("usable", language) for language in (central, *targets)} <= compared
    table = Path("results/tables/main.md").read_text(encoding="utf-8")
    assert f"{central} (central)" in table and "en (central)" not in table


@pytest.mark.parametrize("asked", ANSWERS)
@pytest.mark.parametrize("said", ANSWERS)
def test_an_answer_in_a_close_language_is_not_usable(said, asked):
    """Of four in Spanish, lingua and lid.176 disagree on one as Portuguese: it is undetermined."""
    found = [outcome(answer, asked) for answer in ANSWERS[said]]
    if said == asked:
        assert set(found) == {Outcome.USABLE}
    else:
        assert Outcome.USABLE not in found
        assert found.count(Outcome.WRONG_LANGUAGE) >= 3


def test_an_answer_that_goes_on_in_a_close_language_is_a_wrong_one():
    assert outcome(f"{ANSWERS['es'][1]} {' '.join(ANSWERS['pt'][1:])}", "es") == Outcome.WRONG_LANGUAGE
    assert outcome(f"{ANSWERS['pt'][1]} {' '.join(ANSWERS['es'][1:])}", "pt") == Outcome.WRONG_LANGUAGE
