"""Every key of the configuration says what it means, in the one place that `explain` and editors read."""

import pytest

from lensflow.errors import LensflowError
from lensflow.workflow.experiment import Config
from lensflow.workflow.explaining import explain, keys


def test_every_key_has_a_meaning():
    silent = [".".join(key.path) for key in keys() if not key.field.description]
    assert [name for name in silent if name.split(".")[-1] not in ("kind", "format")] == []


def test_the_schema_for_editors_has_the_same_meanings():
    limit = Config.model_json_schema(by_alias=True)["$defs"]["Evaluation"]["properties"]["limit"]
    assert limit["description"] in explain("evaluation.limit")


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("evaluation.limit", "evaluation.limit"),
        ("lambda", "methods.lens.lambda, methods.logit_bias.lambda"),
        ("methods.lens-gentle.lambda", "methods.lens.lambda"),  # the catalog knows its kind
        ("backbones.mine.resources.gpus", "backbones.resources.gpus"),
        ("extraction.dtype", "extraction.dtype"),
    ],
)
def test_a_key_is_found_by_its_name_or_with_sections_before_it(name, paths):
    assert explain(name).splitlines()[0] == paths


def test_values_default_and_inner_keys_are_named():
    assert explain("truncation_side").splitlines()[2:] == ["    one of: left, right", "    default: left"]
    assert explain("residual").endswith("default: none, it must be given")
    assert "\n    keys: attention, dtype, " in explain("evaluation")


def test_an_unknown_key_is_one_line_with_a_suggestion():
    with pytest.raises(LensflowError, match=r"^explain: no key 'lamda'; did you mean 'lambda'\?"):
        explain("lamda")


def test_a_word_that_is_no_key_gets_the_sections_and_an_entry_its_keys():
    with pytest.raises(LensflowError, match=r"^explain: no key 'foo'; known: backbones, benchmarks, .*, versus$"):
        explain("foo")
    with pytest.raises(
        LensflowError, match=r"'methods.lens-gentle' is an entry of kind lens; name one of its keys: batch"
    ):
        explain("methods.lens-gentle")
