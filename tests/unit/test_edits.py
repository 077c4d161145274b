"""Edits of the residual stream in both engines, against a model whose states are changed one token at a time."""

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from lensflow.artifacts import interventions
from lensflow.artifacts.interventions import BlockEdit, Intervention, StateEdit
from lensflow.artifacts.layout import INTERVENTION
from lensflow.errors import LensflowError
from lensflow.models.engines import edits
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.engines.vllm import VllmEngine, _hook, _unhook
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import PlainPrompt, Resources
from lensflow.schema.decoding import Decoding
from tests import tiny

PROMPT = PlainPrompt(format="plain", template="Q: {prompt}\nA:")
generator = torch.Generator().manual_seed(5)
VECTOR, OTHER = torch.randn(2, tiny.WIDTH, generator=generator)
BASIS = torch.linalg.qr(torch.randn(tiny.WIDTH, 2, generator=generator)).Q
EDITS = {
    "add": (BlockEdit(1, "add", VECTOR, strength=0.7),),
    "add and keep the norm, every block": tuple(
        BlockEdit(layer, "add", VECTOR, strength=0.7, positions="but_first", restore_norm=True)
        for layer in range(tiny.LAYERS)
    ),
    "remove, and amplify above": (
        BlockEdit(1, "remove", basis=BASIS, strength=0.8),
        BlockEdit(2, "remove", basis=BASIS, strength=-0.5),
    ),
    "replace in prompts": (BlockEdit(2, "replace", OTHER, BASIS, 1.5, "prompt"),),
    "rotate what is generated": (BlockEdit(0, "rotate", basis=BASIS, strength=1.2, positions="generated"),),
    "two edits of the top block": (
        BlockEdit(tiny.LAYERS - 1, "add", VECTOR, strength=2.0, positions="generated"),
        BlockEdit(tiny.LAYERS - 1, "remove", basis=BASIS),
    ),
}


def changed(edit: BlockEdit, h: torch.Tensor, place: int, prompt: int) -> torch.Tensor:
    """The equations, for one token."""
    chosen = {"all": True, "but_first": place != 0, "prompt": place < prompt, "generated": place >= prompt}
    if not chosen[edit.positions]:
        return h
    length, c = h.norm(), edit.strength
    inside = sum((b @ h) * b for b in BASIS.T)
    match edit.operation:
        case "add":
            h = h + c * edit.vector
        case "remove":
            h = h - c * inside
        case "replace":
            h = h - inside + c * sum((b @ edit.vector) * b for b in BASIS.T)
        case "rotate":
            x, y = BASIS.T[0] @ h, BASIS.T[1] @ h
            cosine, sine = torch.cos(torch.tensor(c)), torch.sin(torch.tensor(c))
            h = h - inside + (cosine * x - sine * y) * BASIS.T[0] + (sine * x + cosine * y) * BASIS.T[1]
    return h * length / h.norm() if edit.restore_norm else h


class Naive:
    """A model that reads every sequence alone, from its first token, without a cache."""

    def __init__(self, folder, blocks):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.prompt = 0
        for number, layer in enumerate(self.model.base_model.layers):
            layer.register_forward_hook(self.hook([edit for edit in blocks if edit.layer == number]))

    def hook(self, blocks):
        def change(module, arguments, output):
            (rows,) = output if isinstance(output, torch.Tensor) else output[0]
            states = list(rows)
            for edit in blocks:
                states = [changed(edit, h, place, self.prompt) for place, h in enumerate(states)]
            return torch.stack(states)[None]

        return change

    @torch.no_grad()
    def logp(self, ids, prompt):
        self.prompt = prompt
        return self.model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)

    def score(self, context, continuation):
        ids = context + continuation
        logp = self.logp(ids, len(context))
        return sum(float(logp[i - 1, ids[i]]) for i in range(len(context), len(ids)))

    def answer(self, prompt, length):
        ids = list(prompt)
        while len(ids) < len(prompt) + length and (len(ids) == len(prompt) or ids[-1] != 2):
            ids.append(int(self.logp(ids, len(prompt))[-1].argmax()))
        return tuple(ids[len(prompt) :])


PROMPTS = tiny.random_sequences(5, seed=1)
REQUESTS = list(zip(PROMPTS, tiny.random_sequences(5, seed=2, longest=4), strict=True))
SHARED = [(PROMPTS[0] * 3, last) for last in tiny.random_sequences(6, seed=3, longest=3)]
ANSWER = Decoding(max_new_tokens=5)


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_transformers_computes_the_equations(checkpoint, family, name):
    folder = checkpoint(family)
    engine = TransformersEngine(folder, "float32", PromptTokenizer(folder, PROMPT), batch_size=3)
    naive = Naive(folder, EDITS[name])
    plain = engine.loglikelihoods(REQUESTS)
    with engine.edited(StateEdit(blocks=EDITS[name])):
        answers = [answer.ids for answer in engine.generate(PROMPTS, ANSWER)]
        found = [[score for score, _ in engine.loglikelihoods(asked)] for asked in (REQUESTS, SHARED)]
        (read,) = engine.read([PROMPTS[1]], [[True] * len(PROMPTS[1])], None)
        context, continuation = REQUESTS[1]
        counted = [False] * len(context) + [True] * len(continuation)
        (whole,) = engine.distributions([(context + continuation, counted)], None)
    assert answers == [naive.answer(prompt, 5) for prompt in PROMPTS]
    for asked, scores in zip((REQUESTS, SHARED), found, strict=True):
        assert scores == pytest.approx([naive.score(*request) for request in asked], abs=1e-3)
    logp = naive.logp(PROMPTS[1], len(PROMPTS[1]))
    assert read["nll"] == pytest.approx(-sum(float(logp[i - 1, PROMPTS[1][i]]) for i in range(1, len(logp))), abs=1e-3)
    logp = naive.logp(context + continuation, len(context))[len(context) - 1 : -1]
    assert torch.allclose(whole.logp.double(), logp.gather(1, whole.tokens), atol=1e-3)
    assert max(abs(a - b) for (a, _), b in zip(plain, found[0], strict=True)) > 0.05
    assert engine.loglikelihoods(REQUESTS) == plain


def test_an_edit_that_does_not_arrive_is_an_error(checkpoint, monkeypatch):
    folder = checkpoint("llama")
    engine = TransformersEngine(folder, "float32", PromptTokenizer(folder, PROMPT))
    message = (
        "^engine hf: the edit of block 1 does not change the states as it should; "
        "use evaluation.engine: hf, or report this model's family$"
    )
    with monkeypatch.context() as patch:
        patch.setattr(edits, "change", lambda *given: [])
        with pytest.raises(LensflowError, match=message), engine.edited(StateEdit(blocks=EDITS["add"])):
            pass
    # Also one that is smaller than rounding is allowed to be.
    small = dataclasses.replace(EDITS["add"][0], strength=3e-6)
    with engine.edited(StateEdit(blocks=(small,))):
        pass
    monkeypatch.setattr(edits, "change", lambda *given: [])
    with pytest.raises(LensflowError, match=message), engine.edited(StateEdit(blocks=(small,))):
        pass


def test_what_is_written_is_read(tmp_path):
    given = Intervention(blocks={("en", "zh"): EDITS["add"], ("zh", "zh"): EDITS["two edits of the top block"]})
    interventions.write(given, tmp_path / "delta.safetensors")
    path = tmp_path / INTERVENTION
    read = interventions.load(path)
    assert (read.width, read.depth) == (tiny.WIDTH, tiny.LAYERS)
    assert read.edit("en") is None and read.edit("en", "zh") is None
    for source in ("en", "zh"):
        assert read.identity("zh", source) == given.identity("zh", source) != {}
    for one, other in zip(read.edit("zh").blocks, given.blocks["zh", "zh"], strict=True):
        for name, value in vars(other).items():
            equal = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert equal(getattr(one, name), value), name
    first = path.read_bytes()
    interventions.write(given, tmp_path / "delta.safetensors")
    assert path.read_bytes() == first


@pytest.mark.parametrize("change", [{"strength": 0.8}, {"positions": "prompt"}, {"layer": 2}, {"vector": OTHER}])
def test_another_edit_is_another_identity(change):
    (edit,) = EDITS["add"]
    one, other = (Intervention(blocks={("zh", "zh"): (e,)}) for e in (edit, dataclasses.replace(edit, **change)))
    assert one.identity("zh") != other.identity("zh")


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def both(request, tmp_path_factory) -> Iterator[tuple[TransformersEngine, VllmEngine]]:
    folder = tmp_path_factory.mktemp(request.param)
    tiny.save_checkpoint(request.param, folder, head=32)
    tokenizer = PromptTokenizer(folder, PROMPT)
    fast = VllmEngine(folder, "float32", tokenizer, 128, Resources())
    yield TransformersEngine(folder, "float32", tokenizer), fast
    fast.close()


@pytest.mark.slow
def test_vllm_computes_the_same(both, monkeypatch):
    _, fast = both
    long = [(PROMPTS[0] * 5, [5, 7, 9]), (PROMPTS[0] * 5, [8, 3])]  # fills blocks of the prefix cache
    untouched = [score for score, _ in fast.loglikelihoods(REQUESTS + long)]
    for name, blocks in EDITS.items():
        results = []
        for engine in both:
            with engine.edited(StateEdit(blocks=blocks)):
                scores = [score for score, _ in engine.loglikelihoods(REQUESTS + long)]
                results.append((scores, [answer.ids for answer in engine.generate(PROMPTS, ANSWER)]))
        assert results[1][0] == pytest.approx(results[0][0], abs=2e-3), name
        assert results[1][1] == results[0][1], name
        assert results[1][0] != pytest.approx(untouched, abs=2e-3), name
        assert [score for score, _ in fast.loglikelihoods(REQUESTS + long)] == pytest.approx(untouched, abs=1e-4)
    monkeypatch.setattr(edits, "change", lambda *given: [])
    message = "^engine vllm: the edit of block 1 does not change the states as it should"
    with pytest.raises(LensflowError, match=message), fast.edited(StateEdit(blocks=EDITS["add"])):
        pass
    assert [score for score, _ in fast.loglikelihoods(REQUESTS + long)] == pytest.approx(untouched, abs=1e-4)


def test_a_model_of_vllm_without_blocks_is_named():
    """What undoes the hooks runs then, too, and must not hide the message."""
    model = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(num_hidden_layers=3)
    worker = SimpleNamespace(get_model=lambda: model, model_runner=None)
    with pytest.raises(LensflowError, match="no single stack of 3 blocks"):
        _hook(worker, ())
    _unhook(worker)
