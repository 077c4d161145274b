import json
import math
import multiprocessing
import os
import random
import signal
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lensflow.artifacts import costs, language_subspaces
from lensflow.artifacts.texts import read_texts
from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.methods.lens import training
from lensflow.methods.lens.config import Lens
from lensflow.methods.lens.objective import objective
from lensflow.methods.lens.training import LensTrainer, TopStack, check_stack, epoch_batches, read_cache
from lensflow.models.loading import layers_of
from lensflow.models.skeleton import load_top_layers
from lensflow.schema.extraction import Extraction
from lensflow.storage import parts
from lensflow.storage.journal import journal
from tests import tiny

CACHED = 2
FAST = {"kind": "lens", "lr": 1e-3, "batch_size": 4, "epochs": 2, "warmup": 0.25}  # 26 pairs: 7 steps an epoch


def lens(**changes):
    return Lens.model_validate(FAST | changes)


def caches_of(stages, space):
    return {code: read_cache(stages.states[code], stages.texts[code], space) for code in tiny.LANGUAGES}


def make_trainer(stages, config, space="post_norm", seed=0, pooling="last", dtype=torch.float32):
    """Build what `train` builds; also return the checkpoint's name of every parameter."""
    setting = stages.setting(space)
    top = load_top_layers(stages.checkpoint, CACHED, dtype)
    names = {name: f"model.{name}" for name, p in top.decoder.named_parameters() if p.requires_grad}
    target = objective(config, language_subspaces.load(stages.subspaces[space], setting), setting.targets)
    stack = TopStack(top, config.layers, space)
    return LensTrainer(config, setting, seed, stack, caches_of(stages, space), target, pooling), names


def units_of(pairs):
    """Batches of pairs count every pair for itself."""
    return [[pair] for pair in pairs]


def train(stages, folder, config, seed=0, space="post_norm"):
    """Run the stage; return the delta."""
    output = folder / "method" / f"seed{seed}" / "delta.safetensors"
    training.train(stages.run(config, output, space=space, seed=seed))
    return output


# --- The top layers alone against the whole model ---------------------------------------------------------------------


def full_model(stages, space):
    """The whole backbone, whose last hidden state is the one of the space."""
    model = AutoModelForCausalLM.from_pretrained(stages.checkpoint, dtype=torch.float32).eval()
    if space == "pre_norm":
        model.base_model.norm = torch.nn.Identity()
    return model


def full_states(model, ids):
    """States (T, d) of one text at the top."""
    return model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("space", ["post_norm", "pre_norm"])
@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.ROPES])
def test_top_stack_gives_the_states_of_the_whole_model(stages, family, space, attention):
    files = stages(family)
    model = full_model(files, space)
    cache = caches_of(files, space)["zh"]
    stack = TopStack(load_top_layers(files.checkpoint, CACHED, torch.float32, attention=attention), 2, space)
    assert stack.decoder.config._attn_implementation == attention
    entering = [cache.entering(index) for index in range(len(cache.texts))]
    whole = [index % 3 == 0 for index in range(len(entering))]
    widths = []
    layers_of(stack.decoder)[-1].mlp.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    with torch.no_grad():
        together = stack.states(entering, whole)
        alone = [stack.states([states], [flag])[0] for states, flag in zip(entering, whole, strict=True)]
        for states, single, ids, flag in zip(together, alone, files.sequences["zh"], whole, strict=True):
            wanted = full_states(model, ids) if flag else full_states(model, ids)[-1:]
            torch.testing.assert_close(states, wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(single, wanted, rtol=1e-4, atol=1e-5)
    # Only the tokens that are wanted go through the top layer's MLP.
    assert widths[0] == sum(len(states) if flag else 1 for states, flag in zip(entering, whole, strict=True))
    order = [5, 0, 11]
    torch.testing.assert_close(stack.pooled(cache, order, "last"), cache.top[order], rtol=1e-4, atol=1e-5)


def naive_loss(model, backbone, files, config, space, batch, pooling="last"):
    """The loss of a batch of pairs from whole models, text by text, with d×d projections."""
    subspaces = language_subspaces.load(files.subspaces[space], files.setting(space))
    m_a, m_s = subspaces.agnostic[-1], subspaces.specific[-1]
    p_a, p_s = torch.outer(m_a, m_a) / (m_a @ m_a), m_s @ m_s.T
    losses = []
    for index, language in batch:
        delta = subspaces.directions[-1, tiny.LANGUAGES.index(language)]
        central, target = (full_states(model, files.sequences[code][index]) for code in ("en", language))
        with torch.no_grad():
            central0, target0 = (full_states(backbone, files.sequences[code][index]) for code in ("en", language))
        text, text0, counterpart = (s[-1] if pooling == "last" else s.mean(0) for s in (target, target0, central))
        pull = p_a @ text - p_a @ counterpart
        push = p_s @ text - p_s @ text0 - config.strength_of(language) * delta
        retain = central[-1] - central0[-1] if config.retain_on == "last" else central.mean(0) - central0.mean(0)
        weights = config.weights
        terms = ((weights.pull, pull), (weights.push, push), (weights.retain, retain))
        losses.append(sum(weight * residual.square().sum() for weight, residual in terms))
    loss = torch.stack(losses).mean()
    return loss if config.reduction == "sum" else loss / tiny.WIDTH


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("space", ["post_norm", "pre_norm"])
@pytest.mark.parametrize("retain_on", ["last", "mean"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_loss_and_gradients_are_those_of_the_whole_model(stages, family, retain_on, space, layers):
    files = stages(family)
    config = lens(
        layers=layers,
        retain_on=retain_on,
        reduction="sum" if layers == 1 else "mean",
        weights={"pull": 0.7, "push": 1.3, "retain": 2.0},
        **{"lambda": {"zh": 0.5, "sw": 0.8}},
    )
    batch = [(0, "zh"), (3, "sw"), (7, "zh"), (12, "sw"), (3, "zh")]
    trainer, names = make_trainer(files, config, space)
    model, backbone = full_model(files, space), full_model(files, space)
    model.requires_grad_(False)
    whole = dict(model.named_parameters())
    trained = {names[name]: p for name, p in trainer.stack.decoder.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from the backbone, where the retain term has no gradient
        for name, parameter in trained.items():
            parameter += torch.randn(parameter.shape, generator=generator) / 20
            whole[name].copy_(parameter)
    for name in trained:
        whole[name].requires_grad_(True)

    loss = trainer.objective.loss(trainer.terms(units_of(batch)))
    wanted = naive_loss(model, backbone, files, config, space, batch)
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=0)
    top = {name for name in whole if any(f"layers.{tiny.LAYERS - 1 - i}." in name for i in range(layers))}
    assert set(trained) == top
    for name, parameter in trained.items():
        error = (parameter.grad - whole[name].grad).norm() / whole[name].grad.norm()
        assert error < 1e-4, name


def test_the_loss_on_means_over_tokens(stages):
    files = stages("gemma3", pooling="mean")
    config = lens(retain_on="mean", reduction="sum", **{"lambda": {"zh": 0.5, "sw": 0.8}})
    trainer, names = make_trainer(files, config, pooling="mean")
    model, backbone = full_model(files, "post_norm"), full_model(files, "post_norm")
    whole = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in trainer.trained.items():
            parameter *= 1.05
            whole[names[name]].copy_(parameter)
    batch = [(0, "zh"), (3, "sw"), (7, "zh")]
    loss = trainer.objective.loss(trainer.terms(units_of(batch)))
    wanted = naive_loss(model, backbone, files, config, "post_norm", batch, "mean")
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=0)


def test_texts_with_all_their_targets_add_up_their_terms(stages):
    """The published loss of a text: retain once, pull and push of every target (trainer_lens.py)."""
    files, weights = stages("llama"), {"pull": 0.7, "push": 1.3, "retain": 2.0}
    config = lens(batch_of="texts", retain_on="mean", weights=weights)
    trainer, _ = make_trainer(files, config)
    assert trainer.steps_per_epoch == math.ceil(13 / 4)
    assert trainer.units["train"][5] == [(5, "zh"), (5, "sw")]
    with torch.no_grad():
        for parameter in trainer.trained.values():
            parameter *= 1.05
        batch = [trainer.units["train"][index] for index in (0, 4, 9)]
        terms = trainer.terms(batch)
        parts = [trainer.terms(units_of([(index, code) for index in (0, 4, 9)])) for code in ("zh", "sw")]
    for name in ("pull", "push"):
        torch.testing.assert_close(terms[name], parts[0][name] + parts[1][name])
    torch.testing.assert_close(terms["retain"], parts[0]["retain"])


def test_states_of_other_texts_are_refused(stages):
    files = stages("llama")
    caches = caches_of(files, "post_norm")
    stack = TopStack(load_top_layers(files.checkpoint, CACHED, torch.float32), 2, "post_norm")
    check_stack(stack, caches, "last", 1e-3)
    caches["sw"].top[1] *= 1.01
    with pytest.raises(LensflowError, match=r"^sw, text text-1: .*relative error 9\.9e-03.* not supported$"):
        check_stack(stack, caches, "last", 1e-3)


def test_a_cache_needs_token_states(stages, checkpoint, tmp_path):
    files = tiny.run_stages(checkpoint("llama"), tmp_path, Extraction(trainable_layers=0))
    with pytest.raises(LensflowError, match=r"en\.safetensors: holds no token states .* extraction\.trainable_layers$"):
        read_cache(files.states["en"], files.texts["en"], "post_norm")
    shorter = stages("llama").texts["en"].read_text().splitlines()[1:]
    (tmp_path / "other.jsonl").write_text("\n".join(shorter) + "\n")
    with pytest.raises(LensflowError, match=r"en\.safetensors: holds other texts than .*other\.jsonl"):
        read_cache(files.states["en"], tmp_path / "other.jsonl", "post_norm")


# --- Batches, schedule, history ---------------------------------------------------------------------------------------


@given(st.integers(1, 90), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_uses_every_pair_once_in_an_order_of_its_own(count, batch_size, seed):
    units = units_of((index, "zh") for index in range(count))
    batches, others = (
        epoch_batches(units, batch_size, torch.Generator().manual_seed(number)) for number in (seed, seed + 1)
    )
    assert sorted(unit for batch in batches for unit in batch) == units
    assert len(batches) == math.ceil(count / batch_size)
    assert all(len(batch) <= batch_size for batch in batches)
    assert count < 9 or batches != others


def test_every_epoch_uses_every_pair_in_an_order_of_its_own(stages, tmp_path, monkeypatch):
    trainer, _ = make_trainer(stages("llama"), lens())
    seen = []
    take_step = trainer._train_step
    monkeypatch.setattr(trainer, "_train_step", lambda batch: (seen.extend(batch), take_step(batch)))
    trainer.run(tmp_path / "none.safetensors", "epochs")
    pairs = sorted(trainer.units["train"])
    assert pairs == sorted([(index, language)] for index in range(13) for language in ("zh", "sw"))
    first, second = seen[: len(pairs)], seen[len(pairs) :]
    assert sorted(first) == sorted(second) == pairs
    assert first != second


def schedule_factor(schedule, step, steps, warmup):
    """Share of the learning rate at a step, counted from 0."""
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / (steps - warmup)
    return {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}[schedule]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_history(stages, tmp_path, schedule):
    files, config = stages("llama"), lens(schedule=schedule, weights={"pull": 0.5, "push": 2.0, "retain": 3.0})
    rows = [json.loads(line) for line in (train(files, tmp_path, config).parent / "history.jsonl").open()]
    steps, warmup = 14, 4  # 2 epochs of ceil(26 / 4); ceil(0.25 * 14)
    learnt = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in learnt] == list(range(1, steps + 1))
    assert [row["epoch"] for row in learnt] == pytest.approx([step / 7 for step in range(1, steps + 1)], abs=1e-4)
    factors = [schedule_factor(schedule, step, steps, warmup) for step in range(steps)]
    assert [row["lr"] for row in learnt] == pytest.approx([config.lr * factor for factor in factors])
    dev = [row for row in rows if row["split"] == "dev"]
    assert [row["step"] for row in dev] == [0, 7, 14]
    for row in rows:
        assert row["loss"] == pytest.approx(0.5 * row["pull"] + 2.0 * row["push"] + 3.0 * row["retain"], rel=1e-5)
    assert dev[0]["retain"] < 1e-9  # nothing moved yet
    assert dev[-1]["loss"] < dev[0]["loss"]


def test_dev_terms_are_means_over_all_dev_pairs(stages):
    files, config = stages("mistral"), lens(**{"lambda": 0.5})
    trainer, _ = make_trainer(files, config)
    assert trainer.evaluate()["push"] == trainer.history[0]["push"]
    model = full_model(files, "post_norm")
    pairs = [(index, language) for language in ("zh", "sw") for index in (13, 14, 15)]
    wanted = naive_loss(model, model, files, config, "post_norm", pairs)
    assert trainer.history[0]["loss"] == pytest.approx(wanted.item(), rel=1e-4)


def test_dev_states_before_and_after(stages, tmp_path):
    files = stages("qwen3")
    delta = train(files, tmp_path, lens())
    found = load_file(delta.parent / "dev_states.safetensors")
    before = full_model(files, "post_norm")
    after = full_model(files, "post_norm")
    after.load_state_dict(load_file(delta), strict=False)
    for language in tiny.LANGUAGES:
        for when, model in (("before", before), ("after", after)):
            with torch.no_grad():
                wanted = torch.stack([full_states(model, ids)[-1] for ids in files.sequences[language][13:]])
            torch.testing.assert_close(found[f"{when}.{language}"], wanted, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_not_finite_is_named(stages, tmp_path):
    with pytest.raises(
        LensflowError, match=r"^step \d+: the loss or its gradient is not finite; lower lr or lambda \(texts: .*text-"
    ):
        train(stages("llama"), tmp_path, lens(lr=1e30, warmup=0.0))


# --- What is trained, and how precisely -------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2])
def test_the_delta_holds_the_top_layers_only(stages, tmp_path, layers):
    files = stages("gemma3")
    delta = load_file(train(files, tmp_path, lens(layers=layers)))
    model = AutoModelForCausalLM.from_pretrained(files.checkpoint, dtype=torch.float32)
    tops = tuple(f"model.layers.{tiny.LAYERS - 1 - i}." for i in range(layers))
    old = {name: value for name, value in model.state_dict().items() if name.startswith(tops)}
    assert delta.keys() == old.keys()
    assert all(not torch.equal(delta[name], old[name]) for name in delta)


def test_gradients_are_clipped(stages):
    """One step against torch's own on a copy, at a norm that binds and at one that does not."""
    files = stages("llama")
    for limit, binds in ((1e-3, True), (1e3, False)):
        trainer, _ = make_trainer(files, lens(max_grad_norm=limit, schedule="constant", warmup=0.0))
        reference, _ = make_trainer(files, lens())
        batch = trainer.units["train"][:4]
        trainer._train_step(batch)
        reference.objective.loss(reference.terms(batch)).backward()
        norm = torch.cat([p.grad.flatten() for p in reference.trained.values()]).norm()
        assert trainer.history[-1]["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
        assert (norm > limit) == binds
        for name, parameter in reference.trained.items():
            moment = trainer.optimizer.state[trainer.masters[name]]["exp_avg"]
            expected = 0.1 * parameter.grad * (limit / norm if binds else 1)  # 1 - β₁ after one step
            torch.testing.assert_close(moment, expected, rtol=1e-4, atol=1e-9)


def test_norms_are_not_decayed(stages):
    trainer, _ = make_trainer(stages("llama"), lens(weight_decay=0.3))
    decayed, kept = trainer.optimizer.param_groups
    norms = {p for name, p in trainer.stack.decoder.named_parameters() if "norm" in name and p.requires_grad}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert set(kept["params"]) == norms
    assert set(decayed["params"]) == set(trainer.trained.values()) - norms


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_updates_that_bfloat16_rounds_away_are_kept(stages, tmp_path, precision):
    files = stages("llama", torch.bfloat16)
    config = lens(lr=1e-5, warmup=0.0, weight_decay=0.0, schedule="constant", precision=precision)
    delta = load_file(train(files, tmp_path, config))
    backbone = AutoModelForCausalLM.from_pretrained(files.checkpoint, dtype=torch.float32).state_dict()
    moved = torch.cat([(value - backbone[name]).flatten() for name, value in delta.items()])
    assert all(value.dtype == torch.float32 for value in delta.values())
    assert (moved != 0).float().mean() > 0.99

    # The same number of steps of the same size on bfloat16 weights, as a plain optimizer would take them.
    weights = [torch.nn.Parameter(backbone[name].bfloat16()) for name in delta]
    optimizer = torch.optim.AdamW(weights, lr=config.lr, weight_decay=0.0)
    for _ in range(14):
        for weight, name in zip(weights, delta, strict=True):
            weight.grad = (backbone[name] - delta[name]).bfloat16().sign()
        optimizer.step()
    still = torch.cat([(weight == backbone[name]).flatten() for weight, name in zip(weights, delta, strict=True)])
    assert 0.9 < still.float().mean() < 1


def test_mixed_precision_computes_in_the_backbones_and_updates_float32_masters(stages):
    files, config = stages("gemma3", torch.bfloat16), lens(precision="mixed", retain_on="mean")
    trainer, _ = make_trainer(files, config, dtype=torch.bfloat16)
    batch = trainer.units["train"][:4]
    assert trainer.objective.loss(trainer.terms(batch)).dtype == torch.float32
    before = {name: master.detach().clone() for name, master in trainer.masters.items()}
    for _ in range(2):  # the first step is a warm-up step of length 0
        trainer._train_step(batch)
    for name, weight in trainer.trained.items():
        master = trainer.masters[name]
        assert (weight.dtype, master.dtype) == (torch.bfloat16, torch.float32)
        assert trainer.optimizer.state[master]["exp_avg"].dtype == torch.float32
        assert not torch.equal(master, before[name])
        assert torch.equal(weight, master.bfloat16())  # rounded once, never accumulated


# --- The same again, and killed ---------------------------------------------------------------------------------------


def test_the_seed_decides_the_bits(stages, tmp_path):
    files = stages("phi3")
    first = train(files, tmp_path / "first", lens())
    again = train(files, tmp_path / "again", lens())
    other = train(files, tmp_path / "other", lens(), seed=1)
    assert first.read_bytes() == again.read_bytes()
    assert (first.parent / "history.jsonl").read_text() == (again.parent / "history.jsonl").read_text()
    assert first.read_bytes() != other.read_bytes()


def killed_at(step: int, while_saving: bool, arguments: list[str]) -> None:
    """Run the command line with a checkpoint every third step; die at a step or in the middle of a checkpoint."""
    take_step, save_checkpoint = LensTrainer._train_step, LensTrainer.save_checkpoint

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def train_step(self: LensTrainer, batch: list[training.Unit]) -> None:
        if self.step == step and not while_saving:
            die()
        take_step(self, batch)

    def save(self: LensTrainer, scratch: Path) -> None:
        if self.step >= step and while_saving:
            parts.save_file = lambda tensors, path, metadata: (path.write_bytes(b"half a file"), die())
        if self.step % 3 == 0:
            save_checkpoint(self, scratch)

    LensTrainer._train_step, LensTrainer.save_checkpoint = train_step, save  # type: ignore[method-assign]
    training.CHECKPOINT_SECONDS = 0.0
    main.main(arguments)


def train_arguments(files, output, config, seed=0):
    settings = {"method": config.canonical(), "setting": files.setting("post_norm").canonical()}
    settings["prompt"] = {"format": "plain"}
    manifest = tiny.backbone(files.checkpoint, output.parents[2] / "backbone" / "manifest.json")
    return [
        "train",
        *("--config", json.dumps(settings | {"seed": seed, "extraction": {"trainable_layers": CACHED}})),
        *("--backbone", str(manifest), "--subspaces", str(files.subspaces["post_norm"]), "--output", str(output)),
        *("--states", *map(str, files.states.values())),
        *("--texts", *map(str, files.texts.values())),
    ]


@pytest.mark.parametrize("keys", [{}, {"epochs": 1, "until": {"residual": 0.2, "epochs": 20}, "lr": 3e-3}])
def test_a_killed_training_goes_on_to_the_same_bits(stages, tmp_path, monkeypatch, keys):
    files, config = stages("llama"), lens(**keys, **{"lambda": 0.5})
    undisturbed = train(files, tmp_path / "undisturbed", config)
    output = tmp_path / "killed" / "seed0" / "delta.safetensors"
    scratch = output.parent / ".training.safetensors"
    context = multiprocessing.get_context("forkserver")  # clean processes that share one import of torch
    context.set_forkserver_preload([__name__, "transformers.models.llama.modeling_llama"])
    steps = sorted(random.Random().sample(range(4, 13), 3))
    for step, while_saving in zip(steps, (False, True, False), strict=True):
        arguments = (step, while_saving, train_arguments(files, output, config))
        process = context.Process(target=killed_at, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, steps
        assert scratch.is_file() and not output.exists()
    resumed_at = []
    load_checkpoint = LensTrainer.load_checkpoint
    monkeypatch.setattr(
        LensTrainer, "load_checkpoint", lambda self, path: (load_checkpoint(self, path), resumed_at.append(self.step))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main.main(train_arguments(files, output, config)) == 0
    assert 3 <= resumed_at[0] <= steps[-1], steps
    for name in ("delta.safetensors", "history.jsonl", "dev_states.safetensors"):
        assert (output.parent / name).read_bytes() == (undisturbed.parent / name).read_bytes(), (name, steps)
    assert not scratch.exists()
    rows = [json.loads(line) for line in (undisturbed.parent / "history.jsonl").open()]
    assert rows[-1]["step"] == 14 if not keys else 14 < rows[-1]["step"] < 140
    assert costs.read(output.with_name("cost.json"))["terms"]["before"]["push"]["value"] == rows[0]["push"]


def test_the_lines_that_are_used_are_noted(stages, tmp_path):
    files = stages("llama")
    texts = read_texts(files.texts["zh"], ["train", "dev"])
    first = [text.id for text in texts if text.split == "train"][:3]
    lines = {text.line for text in texts if text.split == "dev" or text.id in first}
    with journal() as kept:
        train(files, tmp_path, lens(examples=3))
    assert kept.lines == {files.texts[language]: lines for language in files.setting("post_norm").languages}


def test_resampled_items_are_another_bootstrap_sample_for_every_seed(stages):
    files = stages("llama")
    drawn = [make_trainer(files, lens(resample=True), seed=seed)[0].indices for seed in (0, 0, 1)]
    all_of_them = make_trainer(files, lens())[0].indices
    assert drawn[0] == drawn[1] and drawn[0]["train"] != drawn[2]["train"]
    assert len(drawn[0]["train"]) == len(all_of_them["train"]) > len(set(drawn[0]["train"]))
    assert drawn[0]["dev"] == all_of_them["dev"] and set(drawn[0]["train"]) <= set(all_of_them["train"])


@pytest.mark.parametrize("changed", [{"lr": 2e-3}, {"retain_on": "mean"}, {"lambda": 0.5}, {"seed": 1}])
def test_a_checkpoint_of_another_run_is_ignored(stages, tmp_path, changed):
    files = stages("llama")
    seed = changed.pop("seed", 0)
    config = lens(**changed)
    undisturbed = train(files, tmp_path / "undisturbed", config, seed)
    other, _ = make_trainer(files, lens())
    other._train_step(other.units["train"][:4])
    output = tmp_path / "disturbed" / "method" / f"seed{seed}" / "delta.safetensors"
    other.save_checkpoint(output.parent / ".training.safetensors")
    assert train(files, tmp_path / "disturbed", config, seed) == output
    assert output.read_bytes() == undisturbed.read_bytes()


def test_a_checkpoint_for_another_backbone_is_ignored(stages, tmp_path):
    trainer, _ = make_trainer(stages("llama"), lens())
    trainer._train_step(trainer.units["train"][:4])
    trainer.save_checkpoint(tmp_path / "scratch.safetensors")
    same, _ = make_trainer(stages("llama"), lens())
    same.load_checkpoint(tmp_path / "scratch.safetensors")
    assert same.step == 1
    content = bytearray((tmp_path / "scratch.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    other, _ = make_trainer(stages("llama"), lens())
    other.load_checkpoint(tmp_path / "damaged.safetensors")
    assert other.step == 0 and not (tmp_path / "damaged.safetensors").exists()
    other, _ = make_trainer(stages("mistral"), lens())
    other.load_checkpoint(tmp_path / "scratch.safetensors")
    assert other.step == 0


@pytest.mark.parametrize("space", ["post_norm", "pre_norm"])
def test_the_covariance_is_that_of_the_states_at_the_top(stages, tmp_path, monkeypatch, space):
    files, found = stages("llama"), []

    def watched(*given):
        found.append(given)
        return objective(*given)

    monkeypatch.setattr(training, "objective", watched)
    train(files, tmp_path, lens(direction="covariance"), seed=3, space=space)
    ((*_, seed, states),) = found
    assert seed == 3 and len(states) == len(tiny.LANGUAGES)
    for code, rows in zip(tiny.LANGUAGES, states, strict=True):
        assert torch.equal(rows, caches_of(files, space)[code].top)
