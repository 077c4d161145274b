"""The paper's claims: states from tables, and the page."""

import importlib
from pathlib import Path

import pytest

from lensflow.errors import LensflowError
from lensflow.schema.parsing import parse
from lensflow.storage.parsing import read_yaml
from lensflow.workflow import protocols
from lensflow.workflow.experiment import read
from lensflow.workflow.plan import Plan

ROOT = Path(__file__).parents[2]
TEST = {
    "config": "config/demo.yaml",
    "results": "tables",
    "backbones": ["a", "b"],
    "setting": "pair",
    "method": "lens",
    "benchmarks": ["xcopa"],
    "metric": "accuracy",
    "language": "zh",
    "shows": "better",
}
HEADER = "backbone,setting,method,benchmark,metric,language,mark,retention\n"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "performance")
        return importlib.import_module("claims")


@pytest.mark.parametrize(
    ("marks", "shows", "expected"),
    [
        (("better", "better"), "better", "replicated"),
        (("better", ""), "better", "not replicated"),
        (("better", "worse"), "better", "not replicated"),
        (("better", None), "better", "not yet run"),  # b has no cell
        (("worse", "worse"), "worse", "replicated"),
        (("better", "better"), "kept", "not replicated"),
    ],
)
def test_a_state_needs_all_cells(script, tmp_path, marks, shows, expected):
    given = zip("ab", marks, strict=True)
    rows = [f"{name},pair,lens,xcopa,accuracy,zh,{mark}," for name, mark in given if mark is not None]
    rows += [f"{name},pair,lens,xcopa,accuracy,en,better,kept" for name in "ab"]
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/main.csv").write_text(HEADER + "\n".join(rows) + "\n")
    assert script.state(script.Test.model_validate(TEST | {"shows": shows}), tmp_path) == expected
    kept = script.Test.model_validate(TEST | {"shows": "kept", "language": "en"})
    assert script.state(kept, tmp_path) == "replicated"


def test_costs_are_compared(script, tmp_path):
    test = script.Test.model_validate(TEST | {"table": "cost", "metric": "time (s)", "shows": "less than sft"})
    assert script.state(test, tmp_path) == "not yet run"
    (tmp_path / "tables").mkdir()
    rows = [
        f"{name},pair,Training,{method},time (s),{seconds}"
        for name in "ab"
        for method, seconds in (("lens", 3), ("sft", 4))
    ]
    path = tmp_path / "tables/cost.csv"
    path.write_text("backbone,setting,panel,method,column,value\n" + "\n".join(rows) + "\n")
    assert script.state(test, tmp_path) == "replicated"
    assert (
        script.state(test.model_copy(update={"method": "sft", "shows": "less than lens"}), tmp_path) == "not replicated"
    )
    path.write_text("backbone,setting\na,pair\n")
    with pytest.raises(LensflowError, match=r"cost.csv: no column .*; make the table again"):
        script.state(test, tmp_path)


def test_a_claim_without_an_endpoint_is_refused(script):
    with pytest.raises(LensflowError, match=r"shows"):
        parse(script.Claims, {"claims": [{"claim": "c", "where": "w", "tests": [TEST | {"shows": "good"}]}]}, "claims")


def test_the_page_is_what_the_script_writes(script):
    claims = parse(script.Claims, read_yaml(ROOT / "docs/claims.yaml"), "docs/claims.yaml")
    assert (ROOT / "docs/claims.md").read_text(encoding="utf-8") == script.page(claims, ROOT)


def test_the_protocol_at_the_papers_size_plans_and_asks_for_what_the_study_asks(script):
    plan = Plan(read([ROOT / file for file in script.STUDY], ROOT), ROOT, ROOT)
    small = protocols.read("config/study/protocol.yaml", [ROOT])
    assert [claim.name for claim in plan.protocol.claims] == [claim.name for claim in small.claims]
    for ours, theirs in zip(plan.protocol.claims, small.claims, strict=True):
        same = {"benchmark", "metric", "language", "direction", "test", "margin"}
        assert [one.model_dump(include=same) for one in ours.endpoints] == [
            one.model_dump(include=same) for one in theirs.endpoints
        ]
    random = plan.config.methods["lens-published-random"].canonical()
    assert random == plan.config.methods["lens-published"].canonical() | {"direction": "random"}
    rows = script.study(script.STUDY, ROOT)
    assert "lens-published-random × 20" in rows[0][3] and all(row[-1].endswith(" h") for row in rows)
