"""One prompt that is too long: it is left out and counted, and stops nothing."""

import logging

import pytest

from lensflow.errors import LensflowError
from lensflow.methods.finetuning import Example, cut

SHORT = Example("sw train-1", [1, 5, 6, 7], [False, False, True, True])
LONG = Example("sw train-2", [1, 5, 5, 5, 5, 6], [False, False, False, False, False, True])


def test_a_long_prompt_is_left_out_and_named(caplog):
    with caplog.at_level(logging.WARNING):
        assert cut([SHORT, LONG, SHORT], 4) == [SHORT, SHORT]
    (record,) = caplog.records
    assert record.getMessage() == (
        "1 of 3 examples are left out, whose prompts are longer than max_tokens (4): sw train-2"
    )


def test_nothing_is_said_where_all_fit(caplog):
    with caplog.at_level(logging.WARNING):
        assert cut([SHORT, LONG], 6) == [SHORT, LONG]
    assert not caplog.records


def test_it_is_an_error_only_where_nothing_is_left():
    with pytest.raises(LensflowError, match=r"^sw train-2: nothing to learn within max_tokens \(4\); raise it$"):
        cut([LONG, LONG], 4)
    assert cut([LONG], 4, needed=False) == []  # of the dev split, which only says how far the training is
    assert cut([], 4) == []
