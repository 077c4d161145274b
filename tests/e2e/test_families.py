"""Every architecture family through the whole chain, from a sharded checkpoint to scores, on the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lensflow.storage.verified import read_json, read_jsonl
from tests import tiny
from tests.chain import COUNTS, RUN, Chain


class FamilyChain(Chain):
    """The chain with a training in mixed precision, its backbone whole in memory or streamed."""

    def __init__(self, root: Path, model: Path, memory: str) -> None:
        self.memory = memory
        super().__init__(root, model)

    def configuration(self) -> dict[str, Any]:
        config = super().configuration()
        config["extraction"]["memory"] = self.memory
        config["methods"]["lens"]["precision"] = "mixed"
        return config


@pytest.mark.parametrize("memory", ["resident", "stream"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_family_from_shards_to_scores(checkpoint, tmp_path, monkeypatch, family, dtype, memory):
    source = checkpoint(family, dtype)
    assert len(list(source.glob("*.safetensors"))) > 3
    chain = FamilyChain(tmp_path / "run", source, memory)
    monkeypatch.chdir(chain.root)
    assert chain.make(last="score") == 0

    trained = load_file(chain.results / RUN / "delta.safetensors")
    assert {name.split(".")[2] for name in trained} == {str(tiny.LAYERS - 2), str(tiny.LAYERS - 1)}
    scores = []
    for run in ("tiny/none/base/seed0", RUN):
        cells = read_json(chain.results / run / "scores.json")["cells"]
        cells_of = {(cell["benchmark"], cell["language"]): cell for cell in cells}
        assert len(cells_of) == 4
        assert all(score["n"] == COUNTS["test"] for cell in cells_of.values() for score in cell["scores"][:1])
        scores.append(cells_of)
    values = [{one["metric"]: one["value"] for one in cells["likelihood", "zh"]["scores"]} for cells in scores]
    nll = [value["nll"] for value in values]
    assert abs(nll[0] - nll[1]) > 1e-4  # it is another model
    assert len(read_jsonl(chain.results / RUN / "samples" / "generation.zh.jsonl")) == COUNTS["test"]
