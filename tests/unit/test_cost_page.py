"""The formulas of performance/cost.py against real counts, and the page against the script."""

import functools
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from lensflow.artifacts import language_subspaces
from lensflow.errors import LensflowError
from lensflow.methods.finetuning import Loss, adapters_of, loaded
from lensflow.methods.lens import training
from lensflow.methods.lens.config import Lens
from lensflow.methods.lens.objective import objective
from lensflow.methods.lens.training import LensTrainer, TopStack, read_cache
from lensflow.methods.sft import Sft
from lensflow.models.loading import CPU, layers_of, load_decoder
from lensflow.models.skeleton import Skeleton, load_top_layers
from lensflow.schema.extraction import Extraction
from lensflow.workflow.experiment import read
from tests import tiny

ROOT = Path(__file__).parents[2]
NORMS = {"gemma3": {"norms": 4, "head_norms": 2}, "qwen3": {"head_norms": 2}}


def needs_bitsandbytes(value):
    missing = find_spec("bitsandbytes") is None
    reason = "bitsandbytes is not installed: it is in the lock for CUDA"
    return pytest.param(value, marks=pytest.mark.skipif(missing, reason=reason))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Give the folder of a random checkpoint whose matrices are made of whole blocks of 64 numbers, built once."""

    @functools.cache
    def build(family: str, layers: int = 2) -> Path:
        folder = tmp_path_factory.mktemp(f"{family}-{layers}")
        sizes = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": layers, "head_dim": 32}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": tiny.VOCABULARY}
        config = tiny.FAMILIES[family] | sizes | heads
        if "layer_types" in config:
            config["layer_types"] = config["layer_types"][:layers]
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).to(torch.bfloat16).save_pretrained(folder)
        return folder

    return build


@pytest.fixture(scope="module")
def cost():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "performance")
        return importlib.import_module("cost")


def shape_of(cost, family, folder):
    config = AutoConfig.from_pretrained(folder)
    heads = config.num_attention_heads
    return cost.Shape(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        inner=config.intermediate_size,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
        **NORMS.get(family, {}),
    )


def payload(path):
    """Bytes of a safetensors file without its header."""
    with path.open("rb") as file:
        return path.stat().st_size - 8 - int.from_bytes(file.read(8), "little")


def counted(run):
    """FLOPs of matrix products, those of attention included: its fused kernel on a CPU would go uncounted."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_parameters_are_counted_exactly(cost, checkpoint, family):
    shape = shape_of(cost, family, checkpoint(family))
    model = AutoModelForCausalLM.from_pretrained(checkpoint(family))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    decoder = model.base_model
    assert shape.decoder == sum(parameter.numel() for parameter in decoder.parameters())
    assert {sum(parameter.numel() for parameter in layer.parameters()) for layer in layers_of(decoder)} == {shape.layer}


def test_the_catalogs_backbones_have_as_many_parameters_as_they_are_known_for(cost):
    known = {"llama-3-8b-instruct": 8_030_261_248, "phi-3.5-mini-instruct": 3_821_079_552}
    known |= {"llama-3.1-8b-instruct": 8_030_261_248, "gemma-3-270m": 268_098_176, "smollm2-135m-instruct": 134_515_008}
    known |= {"qwen3-0.6b": 596_049_920, "qwen3-1.7b": 1_720_574_976, "qwen3-4b": 4_022_468_096}
    known |= {"qwen3-8b": 8_190_735_360, "gemma-3-270m-it": 268_098_176, "gemma-3-1b-it": 999_885_952}
    known |= {"gemma-3-4b-it": 4_300_079_472 - 419_816_304, "llama-3.2-1b-instruct": 1_235_814_400}
    known |= {"llama-3.2-3b-instruct": 3_212_749_824, "smollm3-3b": 3_075_098_624, "aya-expanse-8b": 8_028_033_024}
    known |= {"phi-4-mini-instruct": 3_836_021_760, "mistral-7b-instruct-v0.3": 7_248_023_552}
    assert {name: shape.parameters for name, shape in cost.SHAPES.items()} == known


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_flops_of_a_forward_pass_are_those_of_torchs_counter(cost, checkpoint, family):
    """Within 0.1 %: the counter has the rotary embeddings' angles, too."""
    decoder = load_decoder(checkpoint(family))
    texts, tokens = 3, 40
    ids = torch.randint(3, tiny.VOCABULARY, (texts, tokens))
    with torch.no_grad():
        flops = counted(lambda: decoder(input_ids=ids, use_cache=False))
    shape = shape_of(cost, family, checkpoint(family))
    assert cost.forward_flops(shape, [tokens] * texts) == pytest.approx(flops, rel=0.001)
    assert cost.forward_flops(shape, [tokens] * texts) != pytest.approx(
        cost.forward_flops(shape, [tokens // 2] * 2 * texts), rel=0.01
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_states_and_subspaces_are_those_of_the_files(cost, stages, dtype):
    ran = stages("llama", dtype)
    shape = shape_of(cost, "llama", ran.checkpoint)
    for language, path in ran.states.items():
        sequences = ran.sequences[language]
        tokens = sum(map(len, sequences))
        assert cost.states_bytes(shape, len(sequences), tokens, dtype.itemsize) == payload(path)
    languages = len(tiny.LANGUAGES)
    for path in ran.subspaces.values():
        assert cost.subspaces_bytes(shape, languages, languages - 1) == payload(path)


@pytest.mark.parametrize("layers", [1, 2])
def test_bytes_of_a_delta_are_those_of_the_file(cost, stages, tmp_path, layers):
    ran = stages("llama")
    method = Lens.model_validate({"kind": "lens", "layers": layers, "lr": 1e-3})
    output = tmp_path / "lens" / "seed0" / "delta.safetensors"
    training.train(ran.run(method, output, extraction=Extraction()))
    assert payload(output) == 4 * layers * shape_of(cost, "llama", ran.checkpoint).layer


def trainer(ran, **changes):
    method = Lens.model_validate({"kind": "lens", "layers": 2, "lr": 1e-3} | changes)
    setting = ran.setting("post_norm")
    top = load_top_layers(ran.checkpoint, 2, torch.float32)
    target = objective(method, language_subspaces.load(ran.subspaces["post_norm"], setting), setting.targets)
    caches = {code: read_cache(ran.states[code], ran.texts[code], "post_norm") for code in tiny.LANGUAGES}
    return LensTrainer(method, setting, 0, TopStack(top, 2, "post_norm"), caches, target, "last")


@pytest.mark.parametrize("retain_on", ["last", "mean"])
@pytest.mark.parametrize("batch_of", ["pairs", "texts"])
@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3"])
def test_flops_of_a_training_step_are_those_of_torchs_counter(cost, stages, family, batch_of, retain_on):
    """Within 5 %: where queries, keys and values are one matrix (Phi-3), some of its gradient is for nothing."""
    ran = stages(family)
    one = trainer(ran, batch_of=batch_of, retain_on=retain_on)
    batch = one.units["train"][:8]
    central = [one.caches["en"].length(unit[0][0]) for unit in batch]
    targets = [one.caches[code].length(index) for unit in batch for index, code in unit]
    rows = (sum(central) if retain_on == "mean" else len(central)) + len(targets)
    one.terms(batch)  # the first pass tries a layer that is left out, to know what it hands on
    flops = counted(lambda: one.objective.loss(one.terms(batch)).backward())
    shape = shape_of(cost, family, ran.checkpoint)
    assert cost.training_flops(shape, 2, sum(central) + sum(targets), rows) == pytest.approx(flops, rel=0.05)


def test_what_a_step_keeps_for_its_backward_pass_is_about_what_autograd_saves(cost, stages):
    """Within a tenth; weights and the mask are not counted."""
    ran = stages("llama")
    one = trainer(ran)
    batch = one.units["train"][:8]
    lengths = [one.caches[code].length(index) for unit in batch for index, code in [(unit[0][0], "en"), *unit]]
    tokens, weights, kept = sum(lengths), {p.untyped_storage().data_ptr() for p in one.stack.decoder.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.shape[-2:] != (tokens, tokens):
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        one.objective.loss(one.terms(batch))
    saved = sum(size for _, size in kept.values())
    computed = cost.training_activations(shape_of(cost, "llama", ran.checkpoint), 2, tokens, 16, 4)
    assert computed == pytest.approx(saved, rel=0.1)


def test_a_trained_parameter_takes_sixteen_bytes_and_the_backbones_own_copy(cost, stages):
    one = trainer(stages("llama"))
    one._train_step(one.units["train"][:2])
    states = sum(value.nbytes for state in one.optimizer.state.values() for value in state.values() if value.ndim)
    weights = sum(master.nbytes for master in one.masters.values())
    shape = shape_of(cost, "llama", stages("llama").checkpoint)
    assert 2 * weights + states == cost.training_memory(shape, 2, 0, 0, 4)  # a gradient is as large as its weight
    assert cost.training_memory(shape, 2, 0, 0, 2) == 18 * 2 * shape.layer


def adapted(cost, folder, family, kept, rank, precision="bfloat16"):
    """A model with adapters as the method trains it, and its shape."""
    keys = {"frozen_weights": kept, "precision": precision, "lora": {"rank": rank}}
    method = Sft.model_validate({"kind": "sft"} | keys)
    skeleton = Skeleton(folder, torch.float32)
    adapters = adapters_of(method.lora, skeleton.model)
    model = get_peft_model(loaded(method, skeleton, adapters, folder, CPU), adapters)
    return model.train(), shape_of(cost, family, folder)


@pytest.mark.parametrize("kept", ["float32", "bfloat16", needs_bitsandbytes("nf4")])
@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3", "mistral"])
def test_bytes_of_frozen_weights_and_of_adapters_with_their_optimiser(cost, wide, family, kept):
    model, shape = adapted(cost, wide(family), family, kept, rank=3)
    adapters = [p for p in model.parameters() if p.requires_grad]
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    if kept == "nf4":  # and its scales
        states = [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]
        frozen += sum(state.absmax.nbytes + state.state2.absmax.nbytes for state in states)
        assert frozen == pytest.approx(cost.frozen_bytes(shape, kept), rel=0.002)  # the last scale is of fewer numbers
    else:
        assert frozen == cost.frozen_bytes(shape, kept)
    assert sum(p.numel() for p in adapters) == cost.adapter_parameters(shape, 3)
    optimizer = torch.optim.AdamW(adapters)
    for parameter in adapters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.ndim)
    trained = sum(p.nbytes + p.grad.nbytes for p in adapters) + moments
    whole = cost.tuning_memory(shape, 0, 3, kept, checkpointing=False)
    assert trained + cost.frozen_bytes(shape, kept) == pytest.approx(whole)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kept", ["float32", "bfloat16", needs_bitsandbytes("nf4")])
def test_activations_below_adapters_are_what_autograd_saves(cost, wide, kept, checkpointing):
    """Within a tenth; what one layer more keeps is counted, so that embeddings and logits are left out."""
    tokens, saved = 64, []
    for layers in (2, 4):
        folder = wide("llama", layers)
        model, shape = adapted(cost, folder, "llama", kept, 8, precision="float32" if kept == "float32" else "bfloat16")
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        ids = torch.randint(3, tiny.VOCABULARY, (1, tokens))
        found = {}
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def keep(tensor, found=found, weights=weights):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = tensor, storage.nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=kept != "float32"),
        ):
            loss = Loss(model, None)(ids, ids)["loss"]
        saved.append(sum(size for _, size in found.values()))
        del loss
    of_layer = (saved[1] - saved[0]) / 2
    if checkpointing:
        assert of_layer == tokens * shape.width * (4 if kept == "float32" else 2)
    else:
        assert of_layer == pytest.approx(tokens * cost.adapted_activations(shape, 8, kept), rel=0.1)


def test_eight_billion_parameters_train_on_24_gb_in_four_bits_and_not_in_sixteen(cost):
    def peak(*way, gpus=1):
        return cost.tuning_memory(cost.LLAMA_8B, 8 * 512, 8, *way, gpus=gpus) + cost.CUDA

    assert cost.MARGIN * peak("nf4", True) < 24e9 < cost.MARGIN * peak("bfloat16", True)
    assert peak("nf4", True, gpus=2) < peak("nf4", True)
    weights = cost.frozen_bytes(cost.LLAMA_8B, "nf4")
    assert weights == pytest.approx(5.7e9, rel=0.01)  # 6.98e9 in 4.13 bits, 1.05e9 in 16


@pytest.mark.parametrize("name", ["lens-published", "lens-gentle"])
def test_the_largest_batch_and_the_steps_are_those_of_a_training_on_texts_of_full_length(cost, stages, name):
    config = read([], ROOT)
    changes = config.methods[name].canonical() | {"precision": "float32"}
    one = trainer(stages("llama"), **changes)
    texts = len(one.caches["en"].of_split("train"))
    step = cost.step_of(one.config, one.setting, cost.Texts(texts, 10, texts))
    assert step.steps == one.steps
    batch = one.units["train"][: one.config.batch_size]
    assert step.tokens == 10 * sum(1 + len(unit) for unit in batch)
    central = 10 if one.config.retain_on == "mean" else 1
    assert step.rows == sum(central + len(unit) for unit in batch)


def test_vllm_gets_what_the_other_engine_leaves(cost):
    shape, gpu = cost.SHAPES["phi-3.5-mini-instruct"], 40e9
    for both in (True, False):
        share, tokens = cost.gpu_share(shape, gpu, both)
        taken = share * gpu
        assert taken == pytest.approx(2 * shape.parameters + cost.CUDA + tokens * 2 * 2 * 32 * 32 * 96)
        assert gpu - taken >= (2 * shape.parameters if both else 0) + cost.CUDA
    assert cost.gpu_share(cost.LLAMA_8B, 24e9, both=True)[1] < 0


def test_the_page_is_what_the_script_writes(cost):
    page = cost.page(read([ROOT / "config/paper.yaml"], ROOT), ROOT / "docs/benchmarks/peaks.csv")
    assert (ROOT / "docs/cost.md").read_text() == page, "run python performance/cost.py"


def test_the_paper_s_jobs_ask_for_the_memory_that_the_page_says(cost):
    config = read([ROOT / "config/paper.yaml"], ROOT)
    for section in cost.sections(config):
        evaluated = cost.SIZE * section.shape.parameters + cost.PROCESS
        needed = max(evaluated, *(job.host for job in section.jobs if not job.streamed))
        for name in section.names:
            assert config.backbones[name].resources.mem_gb * 1e9 > needed, name
            assert config.backbones[name].resources.runtime is not None


def test_the_catalog_says_what_its_backbones_need(cost):
    """Room for the files in bfloat16, and a fifth more memory than the weights in float32 take."""
    config = read([], ROOT)
    entries = {n: e for n, e in config.backbones.items() if e.source.kind == "hub" and e.resources.mem_gb is not None}
    assert len(entries) == 13
    for name, entry in entries.items():
        parameters = cost.SHAPES[name].parameters
        assert 2 * parameters <= entry.resources.disk_gb * 1e9, name
        needed = 1.2 * (4 * parameters + cost.PROCESS) / 1e9
        assert needed <= entry.resources.mem_gb <= 1.2 * needed + 1, name
        assert entry.source.revision != "main", name


def test_measured_peaks_are_near_the_computed_ones(cost):
    for backbone, stage, computed, measured, _ in cost.measured(ROOT / "docs/benchmarks/peaks.csv"):
        assert 0.7 < measured / computed < 1.5, (backbone, stage)


def test_a_mistake_names_the_backbone_or_the_corpus(cost):
    config = read([], ROOT)
    with pytest.raises(LensflowError, match=r"corpora.embedded: not a data set"):
        cost.sections(config)
    unknown = config.runs[0].model_copy(update={"backbones": ("mine",)})
    with pytest.raises(LensflowError, match=r"backbones.mine: its dimensions are not in performance/cost.py; add them"):
        cost.sections(config.model_copy(update={"runs": (unknown,)}))
