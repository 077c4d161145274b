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

import tiny
from lensflow import cli, fitting, training
from lensflow.config import Lens
from lensflow.decoders import last_token, layers_of, load_top_layers
from lensflow.errors import LensflowError
from lensflow.methods.lens import objective
from lensflow.training import LensTrainer, TopStack, check_stack, epoch_batches, read_cache

CACHED = 2
FAST = {"kind": "lens", "lr": 1e-3, "batch_size": 4, "epochs": 2, "warmup": 0.25}  # 26 pairs: 7 steps an epoch


def lens(**changes):
    return Lens.model_validate(FAST | changes)


def caches_of(stages, space):
    return {code: read_cache(stages.states[code], stages.texts[code], space) for code in tiny.LANGUAGES}


def make_trainer(stages, config, space="post_norm", seed=0):
    """Build what `train` builds; also return the checkpoint's name of every parameter."""
    setting = stages.setting(space)
    decoder, names = load_top_layers(stages.checkpoint, CACHED, torch.float32)
    target = objective(config, fitting.load(stages.subspaces[space], setting), setting.targets)
    stack = TopStack(decoder, config.layers, space)
    return LensTrainer(config, setting, seed, stack, caches_of(stages, space), target), names


def train(stages, folder, config, seed=0, space="post_norm"):
    """Run the stage; return the delta."""
    output = folder / "method" / f"seed{seed}" / "delta.safetensors"
    training.train(
        config,
        stages.setting(space),
        seed,
        CACHED,
        stages.checkpoint,
        stages.subspaces[space],
        stages.states,
        stages.texts,
        output,
    )
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


@pytest.mark.parametrize("space", ["post_norm", "pre_norm"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_top_stack_gives_the_states_of_the_whole_model(stages, family, space):
    files = stages(family)
    model = full_model(files, space)
    cache = caches_of(files, space)["zh"]
    stack = TopStack(load_top_layers(files.checkpoint, CACHED, torch.float32)[0], 2, space)
    entering = [cache.entering(index) for index in range(len(cache.texts))]
    with torch.no_grad():
        states, lengths = stack.states(entering)
        for row, ids in enumerate(files.sequences["zh"]):
            torch.testing.assert_close(states[row, : len(ids)], full_states(model, ids), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(stack.last(entering), last_token(states, lengths), rtol=1e-4, atol=1e-5)

    widths = []
    layers_of(stack.decoder)[-1].mlp.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    order = [5, 0, 11]
    torch.testing.assert_close(stack.last_of(cache, order, 16), cache.top[order], rtol=1e-4, atol=1e-5)
    assert widths and set(widths) == {1}  # only the last tokens go through the top layer's MLP


def naive_loss(model, backbone, files, config, space, batch):
    """The loss of a batch of pairs from whole models, text by text, with d×d projections."""
    subspaces = fitting.load(files.subspaces[space], files.setting(space))
    m_a, m_s = subspaces.agnostic[-1], subspaces.specific[-1]
    p_a, p_s = torch.outer(m_a, m_a) / (m_a @ m_a), m_s @ m_s.T
    losses = []
    for index, language in batch:
        delta = subspaces.directions[-1, tiny.LANGUAGES.index(language)]
        central, target = (full_states(model, files.sequences[code][index]) for code in ("en", language))
        with torch.no_grad():
            central0, target0 = (full_states(backbone, files.sequences[code][index]) for code in ("en", language))
        pull = p_a @ target[-1] - p_a @ central[-1]
        push = p_s @ target[-1] - p_s @ target0[-1] - config.strength_of(language) * delta
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

    loss = trainer.objective.loss(trainer.terms(batch))
    wanted = naive_loss(model, backbone, files, config, space, batch)
    loss.backward()
    wanted.backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=0)
    top = {name for name in whole if any(f"layers.{tiny.LAYERS - 1 - i}." in name for i in range(layers))}
    assert set(trained) == top
    for name, parameter in trained.items():
        error = (parameter.grad - whole[name].grad).norm() / whole[name].grad.norm()
        assert error < 1e-4, name


def test_states_of_other_texts_are_refused(stages):
    files = stages("llama")
    caches = caches_of(files, "post_norm")
    stack = TopStack(load_top_layers(files.checkpoint, CACHED, torch.float32)[0], 2, "post_norm")
    check_stack(stack, caches, 1e-3)
    caches["sw"].top[1] *= 1.01
    with pytest.raises(LensflowError, match=r"^sw, text text-1: .*relative error 9\.9e-03.* not supported$"):
        check_stack(stack, caches, 1e-3)


def test_a_cache_needs_token_states(stages, checkpoint, tmp_path):
    files = tiny.run_stages(checkpoint("llama"), tmp_path, cached_layers=0)
    with pytest.raises(LensflowError, match=r"en\.safetensors: holds no token states .* extraction\.trainable_layers$"):
        read_cache(files.states["en"], files.texts["en"], "post_norm")
    shorter = stages("llama").texts["en"].read_text().splitlines()[1:]
    (tmp_path / "other.jsonl").write_text("\n".join(shorter) + "\n")
    with pytest.raises(LensflowError, match=r"en\.safetensors: holds other texts than .*other\.jsonl"):
        read_cache(files.states["en"], tmp_path / "other.jsonl", "post_norm")


# --- Batches, schedule, history ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 60), min_size=1, max_size=90), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_uses_every_pair_once(lengths, batch_size, seed):
    pairs = [(index, "zh") for index in range(len(lengths))]
    batches = epoch_batches(pairs, lengths, batch_size, torch.Generator().manual_seed(seed))
    assert sorted(pair for batch in batches for pair in batch) == pairs
    assert len(batches) == math.ceil(len(pairs) / batch_size)
    assert all(len(batch) <= batch_size for batch in batches)


def test_batches_hold_like_lengths_in_random_order():
    lengths = random.Random(0).sample(range(1, 65), 64)
    pairs = [(index, "zh") for index in range(64)]
    first, second = (epoch_batches(pairs, lengths, 8, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    members = [sorted(lengths[index] for index, _ in batch) for batch in first]
    assert sorted(members) == [list(range(start, start + 8)) for start in range(1, 65, 8)]
    assert members != sorted(members)
    assert first != second


def test_every_epoch_uses_every_pair_in_an_order_of_its_own(stages, tmp_path, monkeypatch):
    trainer, _ = make_trainer(stages("llama"), lens())
    seen = []
    take_step = trainer._train_step
    monkeypatch.setattr(trainer, "_train_step", lambda batch: (seen.extend(batch), take_step(batch)))
    trainer.run(tmp_path / "none.safetensors", "epochs")
    pairs = sorted(trainer.pairs["train"])
    assert pairs == sorted((index, language) for index in range(13) for language in ("zh", "sw"))
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
    trainer.evaluate_dev()
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
    with pytest.raises(LensflowError, match=r"^step \d+: the loss is not finite; lower lr or lambda \(texts: .*text-"):
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


def test_norms_are_not_decayed(stages):
    trainer, _ = make_trainer(stages("llama"), lens(weight_decay=0.3))
    decayed, kept = trainer.optimizer.param_groups
    norms = {p for name, p in trainer.stack.decoder.named_parameters() if "norm" in name and p.requires_grad}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    assert set(kept["params"]) == norms
    assert set(decayed["params"]) == set(layers_of(trainer.stack.decoder).parameters()) - norms


def test_bf16_updates_round_away_and_float32_ones_do_not(stages, tmp_path):
    files = stages("llama", torch.bfloat16)
    config = lens(lr=1e-5, warmup=0.0, weight_decay=0.0, schedule="constant")
    delta = load_file(train(files, tmp_path, config))
    backbone = AutoModelForCausalLM.from_pretrained(files.checkpoint, dtype=torch.float32).state_dict()
    moved = torch.cat([(value - backbone[name]).flatten() for name, value in delta.items()])
    assert all(value.dtype == torch.float32 for value in delta.values())
    assert (moved != 0).float().mean() > 0.99

    rounded = load_file(train(files, tmp_path / "rounded", config.model_copy(update={"precision": "backbone"})))
    assert all(value.dtype == torch.float32 for value in rounded.values())
    assert all(torch.equal(value, value.bfloat16().float()) for value in rounded.values())
    top = {name: backbone[name] for name in delta}
    still = torch.cat([(rounded.get(name, value) == value).flatten() for name, value in top.items()])
    assert 0.95 < still.float().mean() < 1


def test_the_precision_of_the_backbone_is_that_of_layers_gradients_and_optimizer(stages):
    files, config = stages("gemma3", torch.bfloat16), lens(precision="backbone", retain_on="mean")
    stack = TopStack(load_top_layers(files.checkpoint, CACHED, torch.bfloat16)[0], 2, "post_norm")
    setting, caches = files.setting("post_norm"), caches_of(files, "post_norm")
    target = objective(config, fitting.load(files.subspaces["post_norm"], setting), setting.targets)
    trainer = LensTrainer(config, setting, 0, stack, caches, target)
    loss = trainer.objective.loss(trainer.terms(trainer.pairs["train"][:4]))
    assert loss.dtype == torch.float32
    loss.backward()
    assert {p.grad.dtype for p in trainer._trained()} == {torch.bfloat16}
    trainer.optimizer.step()
    moments = [s["exp_avg"].dtype for s in trainer.optimizer.state.values()]
    assert set(moments) == {torch.bfloat16}


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

    def train_step(self: LensTrainer, batch: list[training.Pair]) -> None:
        if self.step == step and not while_saving:
            die()
        take_step(self, batch)

    def save(self: LensTrainer, scratch: Path) -> None:
        if self.step >= step and while_saving:
            training.save_file = lambda tensors, path, metadata: (path.write_bytes(b"half a file"), die())
        if self.step % 3 == 0:
            save_checkpoint(self, scratch)

    LensTrainer._train_step, LensTrainer.save_checkpoint = train_step, save  # type: ignore[method-assign]
    training.CHECKPOINT_SECONDS = 0.0
    cli.main(arguments)


def train_arguments(files, output, config, seed=0):
    settings = {"method": config.canonical(), "setting": files.setting("post_norm").canonical()}
    folder = files.checkpoint / "manifest.json"
    return [
        "train",
        *("--config", json.dumps(settings | {"seed": seed, "cached_layers": CACHED})),
        *("--backbone", str(folder), "--subspaces", str(files.subspaces["post_norm"]), "--output", str(output)),
        *("--states", *map(str, files.states.values())),
        *("--texts", *map(str, files.texts.values())),
    ]


def test_a_killed_training_goes_on_to_the_same_bits(stages, tmp_path, monkeypatch):
    files, config = stages("llama"), lens()
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
        assert cli.main(train_arguments(files, output, config)) == 0
    assert 3 <= resumed_at[0] <= steps[-1], steps
    for name in ("delta.safetensors", "history.jsonl", "dev_states.safetensors"):
        assert (output.parent / name).read_bytes() == (undisturbed.parent / name).read_bytes(), (name, steps)
    assert not scratch.exists()


@pytest.mark.parametrize("changed", [{"lr": 2e-3}, {"retain_on": "mean"}, {"lambda": 0.5}, {"seed": 1}])
def test_a_checkpoint_of_another_run_is_ignored(stages, tmp_path, changed):
    files = stages("llama")
    seed = changed.pop("seed", 0)
    config = lens(**changed)
    undisturbed = train(files, tmp_path / "undisturbed", config, seed)
    other, _ = make_trainer(files, lens())
    other._train_step(other.pairs["train"][:4])
    output = tmp_path / "disturbed" / "method" / f"seed{seed}" / "delta.safetensors"
    other.save_checkpoint(output.parent / ".training.safetensors")
    assert train(files, tmp_path / "disturbed", config, seed) == output
    assert output.read_bytes() == undisturbed.read_bytes()


def test_a_checkpoint_for_another_backbone_is_ignored(stages, tmp_path):
    trainer, _ = make_trainer(stages("llama"), lens())
    trainer._train_step(trainer.pairs["train"][:4])
    trainer.save_checkpoint(tmp_path / "scratch.safetensors")
    same, _ = make_trainer(stages("llama"), lens())
    same.load_checkpoint(tmp_path / "scratch.safetensors")
    assert same.step == 1
    other, _ = make_trainer(stages("mistral"), lens())
    other.load_checkpoint(tmp_path / "scratch.safetensors")
    assert other.step == 0
