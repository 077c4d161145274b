"""Our scores beside reported numbers."""

import math
from pathlib import Path

import pytest

from lensflow.errors import LensflowError
from lensflow.presentation.blocks import Block, Cell, Row, TableInputs
from lensflow.presentation.reported_table import compared, reported
from lensflow.presentation.writers.csv import to_csv
from lensflow.presentation.writers.markdown import to_markdown
from lensflow.schema.reported import of_settings
from lensflow.workflow.experiment import read

ROOT = Path(__file__).parents[2]
ACCURACY = Cell(0.801, 0.775, 0.825, 1000, {})


def shown(figure, ours: Cell = ACCURACY, scale: float = 100.0) -> list[str]:
    return [entry.text for entry in compared(ours, figure, scale, 1)]


@pytest.mark.parametrize(
    ("figure", "difference", "meets"),
    [
        (80.1, "+0.0", "yes"),
        (82.4, "-2.3", "yes"),
        (82.6, "-2.5", "no"),
        (77.4, "+2.7", "no"),
        ((79.0, 81.0), "+0.0", "yes"),
        ((82.0, 90.0), "-1.9", "yes"),
        ((83.0, 90.0), "-2.9", "no"),
    ],
)
def test_difference_and_interval_are_in_the_unit_of_the_paper(figure, difference, meets):
    ours, _, *found = shown(figure)
    assert (ours, found) == ("80.1", [difference, meets])


def test_what_is_not_known_stays_empty():
    assert shown(None) == ["80.1", "–", "–", "–"]
    assert shown(8.0, Cell(7.5, math.nan, math.nan, 80, {}), 1.0) == ["7.5", "8.0", "-0.5", "–"]


PAPER = {
    "source": {"title": "A paper", "arxiv": "2410.04407"},
    "tables": [
        {
            "table": "Table 1",
            "setting": "pair",
            "columns": [
                {"benchmark": "xcopa", "metric": "accuracy", "language": "zh"},
                {"benchmark": "mt-bench", "metric": "rating", "language": "zh"},
            ],
            "rows": [
                {"row": "Tiny", "backbone": "tiny", "method": "base", "values": [79.0, None]},
                {"row": "Tiny + Lens", "backbone": "tiny", "method": "lens"},
                {"row": "Other", "backbone": "other", "method": "base", "values": [10.0, 1.0]},
            ],
        }
    ],
}


def test_a_run_shows_the_rows_that_it_has_scores_for():
    rows = tuple(Row("xcopa", "accuracy", method, (0,), {"zh": ACCURACY}) for method in ("base", "lens"))
    block = Block("tiny", "pair", "en", ("zh",), (), rows)
    document = reported(TableInputs((block,), reported={"a-paper": PAPER}))
    text = to_markdown(document)
    assert "| base | xcopa | accuracy | zh | 80.1 [77.5, 82.5] n=1000 | 79.0 | +1.1 | yes |" in text
    assert "| lens | xcopa | accuracy | zh | 80.1 [77.5, 82.5] n=1000 | – | – | – |" in text
    assert "A paper, Table 1" in text and "rating" not in text and "10.0" not in text
    assert 'tiny,pair,"A paper, Table 1",base xcopa accuracy zh,difference,1.1,' in to_csv(document)
    elsewhere = Block("tiny", "other", "en", ("zh",), (), rows)
    assert reported(TableInputs((elsewhere,), reported={"a-paper": PAPER})).sheets == ()


def test_the_lens_papers_rows_wait_for_their_numbers():
    config = read([], ROOT)
    paper = config.reported["lens"]
    assert all(row.values is None for table in paper.tables for row in table.rows)
    assert {table.setting for table in paper.tables} == {"paper-en-zh", "paper-multilingual"}
    assert set(of_settings(config.reported, ["paper-en-zh"])) == {"lens"}
    assert of_settings(config.reported, ["multilingual"]) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"setting": "paper-en-zz"}, "reported.a: table 'Table 1': no setting 'paper-en-zz'"),
        ({"setting": "en-zh"}, "reported.a: table 'Table 1': no backbone 'tiny'"),
        (
            {"rows": [{"row": "Tiny", "backbone": "tiny", "method": "base", "values": [1.0]}]},
            "'Tiny' has 1 values for 2 columns; write null for each that is not known",
        ),
    ],
)
def test_a_row_that_could_never_be_shown_is_refused(change, message):
    paper = PAPER | {"tables": [PAPER["tables"][0] | change]}
    with pytest.raises(LensflowError) as error:
        read([], ROOT, {"reported": {"a": paper}})
    assert message in str(error.value)
