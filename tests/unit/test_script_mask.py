"""Decoding in one script, against a loop over the vocabulary and the letters of the answers."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lensflow.artifacts import interventions
from lensflow.artifacts.interventions import Intervention, StateEdit
from lensflow.artifacts.layout import INTERVENTION
from lensflow.languages import scripts, scripts_in
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.script_mask import ScriptMask
from lensflow.models.engines.vllm import VllmEngine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import PlainPrompt, Resources
from lensflow.schema.decoding import Decoding
from tests import tiny

PROMPT = PlainPrompt(format="plain", template="Q: {prompt}\nA:")
ANSWER = Decoding(max_new_tokens=24)


@pytest.mark.parametrize("language", ["zh", "ar", "ja"])
def test_the_mask_is_of_the_joined_bytes(checkpoint, language):
    """The tiny tokenizer has a token per byte."""
    tokenizer = PromptTokenizer(checkpoint("llama"), PROMPT)
    mask = ScriptMask(tokenizer, language)

    def encode(text):
        return tokenizer.tokenizer.encode(text, add_special_tokens=False).ids

    assert torch.equal(mask.banned(encode("3, ")), mask.banned([]))
    for char in map(chr, range(128)):
        (index,) = encode(char)
        assert bool(mask.banned([])[index]) == char.isalpha(), char
    for character in "雨あمкa한é":
        *first, last = encode(character)
        foreign = bool(set(scripts_in(character)) - scripts(language))
        assert bool(mask.banned(first)[last]) == foreign, character
        assert not any(bool(mask.banned(first[:n])[index]) for n, index in enumerate(first)), character
    assert not mask.banned([])[2]  # EOS


def test_whole_words_and_byte_fallback():
    vocabulary = ["雨", "rain", "雨a", "3 ", "<0xE9>", "<0x9B>", "<0xA8>", "<0xC3>", "<0xA9>", "<eos>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="3 "))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.ByteFallback()
    tokenizer.add_special_tokens(["<eos>"])

    class Given:
        def __init__(self):
            self.tokenizer = tokenizer
            self.vocabulary = [tokenizer.decode([i]) for i in range(len(vocabulary))]

    mask = ScriptMask(Given(), "zh")
    assert mask.banned([]).tolist() == [False, True, True] + [False] * 7
    assert mask.banned([4, 5]).tolist() == [False, True, True] + [False] * 7  # 雨 is complete with 6
    assert mask.banned([0, 7]).tolist() == [
        index in (1, 2, 5, 6, 8)  # Û, è, é
        for index in range(10)
    ]
    logits = torch.zeros(12)  # of a model with more rows than tokens
    mask.apply(logits, [7])
    assert logits.isinf().nonzero().flatten().tolist() == [1, 2, 5, 6, 8]


def prompts():
    return tiny.random_sequences(6, seed=4)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_no_answer_has_a_foreign_letter(checkpoint, family, temperature):
    folder = checkpoint(family)
    engine = TransformersEngine(folder, "float32", PromptTokenizer(folder, PROMPT), batch_size=4)
    decoding = ANSWER.model_copy(update={"temperature": temperature})
    plain = engine.generate(prompts(), decoding)
    scores = engine.loglikelihoods([(prompts()[0], [7, 8])])
    with engine.edited(StateEdit(script="ar")):
        answers = engine.generate(prompts(), decoding)
        assert engine.loglikelihoods([(prompts()[0], [7, 8])]) == scores
    assert any(scripts_in(answer.text) for answer in plain)
    assert all(set(scripts_in(answer.text)) <= {"Arab"} for answer in answers)
    assert engine.generate(prompts(), decoding) == plain


def test_it_is_written_and_read(tmp_path):
    interventions.write(Intervention(constrained=("zh", "ar")), tmp_path / "delta.safetensors")
    read = interventions.load(tmp_path / INTERVENTION)
    assert read.edit("zh") == StateEdit(script="zh") and read.edit("sw") is None
    assert read.identity("zh") == {"script": "zh"} and read.identity("sw") == {}
    assert read.width is None


@pytest.mark.slow
def test_vllm_masks_the_same(tmp_path):
    tiny.save_checkpoint("llama", tmp_path, head=32)
    tokenizer = PromptTokenizer(tmp_path, PROMPT)
    plain = TransformersEngine(tmp_path, "float32", tokenizer)
    with plain.edited(StateEdit(script="ar")):
        expected = plain.generate(prompts(), ANSWER)
    fast = VllmEngine(tmp_path, "float32", tokenizer, 128, Resources())
    try:
        untouched = fast.generate(prompts(), ANSWER)
        with fast.edited(StateEdit(script="ar")):
            assert fast.generate(prompts(), ANSWER) == expected != untouched
        assert fast.generate(prompts(), ANSWER) == untouched
    finally:
        fast.close()
