"""The published procedure written plainly and our stages compute the same, on a tiny model and made texts."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests import tiny

ROOT = Path(__file__).parents[2]
LENS = "lens-official"
FILES = (
    "Probing/datasets/aya_en_zh_ja_ar_ko_bn_sw_300/test.jsonl",
    "Manipulation/datasets/language_pull_data_alpaca_safe_200/train.json",
)
ENDS = ("<|im_start|>", "<|im_end|>")
COUNT = 10  # texts of each kind and language


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "performance")
        return importlib.import_module("agreement")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """A tiny Llama with a tokenizer of one token per byte and SmolLM2's chat template."""
    source = tmp_path_factory.mktemp("source")
    tiny.save_checkpoint("llama", source)
    words = ["<pad>", *ENDS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in ENDS])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token=ENDS[0], eos_token=ENDS[1])
    fast.save_pretrained(source)
    shutil.copy(ROOT / "tests/data/chat_templates/smollm2.jinja", source / "chat_template.jinja")
    return tiny.backbone(source, tmp_path_factory.mktemp("backbone") / "manifest.json")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Texts in the layout of the authors' files; some training prompts end in a line break, some texts are short."""
    root = tmp_path_factory.mktemp("datasets")
    languages = ("en", "zh", "ja", "ar", "ko", "bn", "sw")
    rows = [
        {
            code: f"{number}{'abcdefg'[place] * (3 * number + place)}?{chr(10) * (number % 2)}"
            for place, code in enumerate(languages)
        }
        for number in range(COUNT)
    ]
    probing, manipulation = (root / LENS / path for path in FILES)
    for path in (probing, manipulation):
        path.parent.mkdir(parents=True)
    probing.write_text("\n".join(map(json.dumps, rows)))
    instances = [{f"input_{code}": text for code, text in row.items()} for row in rows]
    manipulation.write_text(json.dumps({"Instances": instances}))
    return root


def test_stages_agree_in_float32(script, manifest, datasets):
    found = dict(script.compare("float32", manifest, datasets, COUNT, COUNT))
    same = {key.removeprefix("our order of texts: "): value for key, value in found.items() if "another" not in key}
    assert (
        same["prompts: token ids to probe"]
        == same["prompts: token ids to train"]
        == f"{2 * COUNT} of {2 * COUNT} equal"
    )
    assert float(same["states at the top: relative difference"]) < 1e-5
    assert float(same["subspaces: largest angle of M_s over the layers (rad)"]) < 1e-5
    assert float(same["subspaces: largest angle of M_a over the layers (rad)"]) < 1e-5
    assert float(same["direction δ of zh: cosine"]) > 0.999999
    assert float(same["largest relative difference of a step's loss"]) < 1e-4
    assert float(same["cosine of the update of the weights"]) > 0.999
    assert same["greedy answers in zh, 16 tokens"] == "8 of 8 equal"
    (padded,) = (float(value) for key, value in same.items() if "if pads stand at the end" in key)
    assert padded > 1e-3  # the pads do matter, and the comparison would notice


def test_the_angle_is_precise_and_symmetric(script):
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(9, 2, generator=generator).double()).Q
    turned = basis.clone()
    outside = torch.randn(9, generator=generator).double()
    outside = torch.nn.functional.normalize(outside - basis @ (basis.T @ outside), dim=0)
    turned[:, 1] = basis[:, 1] * torch.tensor(1e-7).cos() + outside * 1e-7
    assert script.angle(basis, turned) == pytest.approx(1e-7, rel=1e-3)
    assert script.angle(turned, basis) == pytest.approx(1e-7, rel=1e-3)
    assert script.angle(basis, basis @ torch.tensor([[0.0, 3.0], [-2.0, 1.0]]).double()) < 1e-12
