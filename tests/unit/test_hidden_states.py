import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lensflow.artifacts import states as states_module
from lensflow.artifacts.weights import WeightFiles
from lensflow.cli import main
from lensflow.errors import LensflowError
from lensflow.models.batching import batches_by_length
from lensflow.models.loading import layers_of, load_decoder
from lensflow.models.streaming import StreamedDecoder
from lensflow.schema.extraction import Extraction
from lensflow.stages import extract_hidden_states
from lensflow.storage import parts
from lensflow.storage.atomic import write_jsonl
from lensflow.storage.integrity import RECORD
from tests import tiny

SEQUENCES = tiny.random_sequences(11, seed=5, longest=17)
NAMES = [f"text-{index}" for index in range(len(SEQUENCES))]


def extract(decoder, trainable=2, batch_tokens=40, pooling="last"):
    extraction = Extraction(trainable_layers=trainable, batch_tokens=batch_tokens, pooling=pooling)
    texts = extract_hidden_states.Sequences("zh", NAMES, SEQUENCES)
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(decoder, StreamedDecoder):
            return next(extract_hidden_states.stream(decoder, [texts], extraction, [Path(scratch)]))
        return extract_hidden_states.extract(decoder, texts, extraction, Path(scratch))


def alone(checkpoint, dtype=torch.float32):
    """Hidden states of each text run alone: (L+1, T, d) with the states before the final norm, and (T, d) after it."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).eval()
    tops = []
    layers_of(model.base_model)[-1].register_forward_hook(lambda module, args, output: tops.append(output))
    with torch.no_grad():
        for ids in SEQUENCES:
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            yield torch.cat([*states[:-1], tops.pop()]), states[-1][0]


def assert_same(found, expected):
    """Up to rounding: batches are added in another order than single texts (seen with AVX2: 1.3e-5)."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.ROPES])
def test_states_are_those_of_each_text_alone(checkpoint, family, pooling):
    found = extract(load_decoder(checkpoint(family)), pooling=pooling)
    start = 0
    for index, (layers, post_norm) in enumerate(alone(checkpoint(family))):
        stop = start + len(SEQUENCES[index])
        of_text = layers[1:, -1] if pooling == "last" else layers[1:].mean(dim=1)
        assert_same(found.layers[:, index], of_text)
        of_text = post_norm[-1] if pooling == "last" else post_norm.mean(dim=0)
        assert_same(found.post_norm[index], of_text)
        assert_same(found.tokens[start:stop], layers[tiny.LAYERS - 2])
        start = stop
    assert found.lengths.tolist() == [len(ids) for ids in SEQUENCES]
    assert len(found.tokens) == start


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.ROPES])
def test_layer_by_layer_gives_the_same_bits(checkpoint, family, dtype, pooling):
    folder = checkpoint(family, dtype)
    whole = extract(load_decoder(folder), pooling=pooling)
    streamed = extract(StreamedDecoder(folder, SEQUENCES), pooling=pooling)
    for name in ("layers", "post_norm", "tokens", "lengths"):
        assert torch.equal(getattr(streamed, name), getattr(whole, name)), name


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_plain_attention_gives_the_same_states(checkpoint, family):
    folder = checkpoint(family)
    fused = extract(load_decoder(folder))
    whole, streamed = load_decoder(folder, attention="eager"), StreamedDecoder(folder, SEQUENCES, attention="eager")
    for decoder, config in ((whole, whole.config), (streamed, streamed.module.config)):
        assert config._attn_implementation == "eager"
        plain = extract(decoder)
        for name in ("layers", "post_norm", "tokens"):
            torch.testing.assert_close(getattr(plain, name), getattr(fused, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_layers_run_in_the_precision_that_is_asked_for(checkpoint, tmp_path, memory):
    """The checkpoint has float32."""
    found = {}
    for dtype in (None, "bfloat16"):
        output = tmp_path / str(dtype) / "zh.safetensors"
        keys = {"memory": memory, "dtype": dtype, "attention": "eager"}
        assert main.main(arguments_of(checkpoint, tmp_path, output, **keys)) == 0
        found[dtype] = states_module.load(output)
    assert (found[None].layers.dtype, found["bfloat16"].layers.dtype) == (torch.float32, torch.bfloat16)
    error = (found["bfloat16"].layers.float() - found[None].layers).norm() / found[None].layers.norm()
    assert 1e-4 < error < 5e-2


def test_no_more_than_one_layer_is_ever_held(checkpoint, monkeypatch):
    decoder = StreamedDecoder(checkpoint("llama"), SEQUENCES)
    used = {token for ids in SEQUENCES for token in ids}
    assert decoder.module.get_input_embeddings().weight.shape == (len(used), tiny.WIDTH)
    held = []
    run = decoder.run

    def watch(index, *states):
        layers = layers_of(decoder.module)
        held.append([i for i, layer in enumerate(layers) if any(not p.is_meta for p in layer.parameters())] == [index])
        return run(index, *states)

    monkeypatch.setattr(decoder, "run", watch)
    extract(decoder)
    assert len(held) >= tiny.LAYERS
    assert all(held)


@pytest.mark.parametrize("spoil", ["missing", "shape", "table"])
def test_a_checkpoint_that_cannot_be_streamed(checkpoint, tmp_path, spoil):
    source = checkpoint("llama")
    shutil.copy(source / "config.json", tmp_path)
    weights = {name: WeightFiles(source).read(name) for name in WeightFiles(source).location}
    if spoil == "table":
        del weights["model.embed_tokens.weight"]
    elif spoil == "missing":
        del weights["model.layers.2.mlp.up_proj.weight"]
    else:
        weights["model.layers.2.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, tmp_path / "model.safetensors")
    name = "embed_tokens" if spoil == "table" else r"layers\.2\.mlp\.up_proj"
    message = rf"model type 'llama': .*'model\.{name}\.weight'.*; set extraction\.memory: resident$"
    with pytest.raises(LensflowError, match=message):
        extract(StreamedDecoder(tmp_path, SEQUENCES))


def test_layers_that_hand_more_than_states_on_cannot_be_streamed(checkpoint):
    decoder = StreamedDecoder(checkpoint("llama"), SEQUENCES)
    # The layer's own hooks see it before the decoder does.
    layers_of(decoder.module)[0].register_forward_hook(lambda module, args, output: (output, output[..., :1]))
    with pytest.raises(
        LensflowError, match=r"model type 'llama': layers pass more than their states .* extraction\.memory: resident$"
    ):
        extract(decoder)


@pytest.mark.parametrize("family", ["gemma3", "mistral"])
def test_states_do_not_depend_on_the_batch(checkpoint, family):
    decoder = load_decoder(checkpoint(family))
    single, together = extract(decoder, batch_tokens=1), extract(decoder, batch_tokens=10_000)
    for name in ("layers", "post_norm", "tokens", "lengths"):
        torch.testing.assert_close(getattr(single, name), getattr(together, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trainable", [1, tiny.LAYERS])
def test_token_states_enter_the_lowest_trainable_layer(checkpoint, trainable):
    tokens = extract(load_decoder(checkpoint("llama")), trainable).tokens
    wanted = torch.cat([layers[tiny.LAYERS - trainable] for layers, _ in alone(checkpoint("llama"))])
    torch.testing.assert_close(tokens, wanted, rtol=1e-5, atol=1e-5)


def test_without_trainable_layers_no_token_states_are_kept(checkpoint):
    assert extract(load_decoder(checkpoint("llama")), trainable=0).tokens.shape == (0, tiny.WIDTH)


def test_states_keep_the_precision_of_the_checkpoint(checkpoint):
    found = extract(load_decoder(checkpoint("llama", torch.bfloat16)))
    assert {found.layers.dtype, found.post_norm.dtype, found.tokens.dtype} == {torch.bfloat16}
    wanted = torch.stack([post_norm[-1] for _, post_norm in alone(checkpoint("llama", torch.bfloat16), torch.bfloat16)])
    error = (found.post_norm.float() - wanted.float()).norm(dim=1) / wanted.float().norm(dim=1)
    assert error.max() < 0.03


def test_more_trainable_layers_than_there_are(checkpoint):
    with pytest.raises(LensflowError, match=r"extraction\.trainable_layers: 5 is more than the model's 4"):
        extract(load_decoder(checkpoint("llama")), trainable=5)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_state_that_is_not_finite_is_named(checkpoint, layer):
    decoder = load_decoder(checkpoint("llama"))
    turn = batches_by_length([len(ids) for ids in SEQUENCES], 1).index([3])
    calls = itertools.count()

    def spoil(module, args, output):
        if next(calls) == turn:
            output[0, -1, 7] = torch.inf

    layers_of(decoder)[layer].register_forward_hook(spoil)
    with pytest.raises(LensflowError, match=rf"^zh, text text-3: the state after layer {layer + 1} is not finite; .+$"):
        extract(decoder, batch_tokens=1)


def test_saved_states_are_read_back(checkpoint, tmp_path):
    found = extract(load_decoder(checkpoint("llama", torch.bfloat16)))
    states_module.save(tmp_path / "zh.safetensors", found, NAMES)
    read = states_module.load(tmp_path / "zh.safetensors")
    for name in ("layers", "post_norm", "tokens", "lengths"):
        assert torch.equal(getattr(read, name), getattr(found, name))


def test_damaged_states_are_reported_in_one_line(tmp_path):
    path = tmp_path / "zh.safetensors"
    path.write_bytes(b"half")
    with pytest.raises(LensflowError, match=r"zh\.safetensors: cannot be read .+delete it and run again$"):
        states_module.load(path)


# --- Killed, and run again --------------------------------------------------------------------------------------------


def killed_at(shards: int, half: bool, arguments: list[str]) -> None:
    """Run the command line; after so many shards, die before the next file is written or in the middle of it."""
    write, written = states_module.save_file, itertools.count()

    def save(tensors: object, path: Path, **rest: object) -> None:
        if next(written) == shards:
            if half:
                path.write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        write(tensors, path, **rest)

    states_module.save_file = parts.save_file = save
    main.main(arguments)


def die(*arguments):
    context = multiprocessing.get_context("forkserver")  # clean processes that share one import of torch
    context.set_forkserver_preload([__name__, "transformers.models.llama.modeling_llama"])
    process = context.Process(target=killed_at, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def arguments_of(checkpoint, folder, *outputs, **changes):
    """The command line for 11 texts of a language, or of several, in batches of at most 40 tokens."""
    manifest = tiny.backbone(checkpoint("llama"), folder / "backbone" / "manifest.json")
    texts = [folder / f"{language}.jsonl" for language, _ in zip(("zh", "en", "sw"), outputs, strict=False)]
    for letter, path in zip("xyz", texts, strict=False):
        rows = [{"id": name, "split": "train", "prompt": letter * (3 * n + 1)} for n, name in enumerate(NAMES)]
        write_jsonl(path, rows)
    config = {"prompt": {"format": "plain", "template": "{prompt}"}, "extraction": {"batch_tokens": 40} | changes}
    return [
        *("extract-hidden-states", "--config", json.dumps(config), "--backbone", str(manifest)),
        *("--texts", *map(str, texts), "--outputs", *map(str, outputs)),
    ]


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_a_killed_extraction_goes_on_at_the_last_finished_shard(checkpoint, tmp_path, memory, monkeypatch):
    lengths = [3 * n + 2 for n in range(len(NAMES))]
    total = {"resident": len(batches_by_length(lengths, 40)), "stream": tiny.LAYERS}[memory]
    undisturbed, output = tmp_path / "undisturbed.safetensors", tmp_path / "killed" / "zh.safetensors"
    assert main.main(arguments_of(checkpoint, tmp_path, undisturbed, memory=memory)) == 0
    arguments = arguments_of(checkpoint, tmp_path, output, memory=memory)
    finished = 0
    # The last one dies in the middle of the output itself.
    for shards, half in ((1, False), (1, True), (0, False), (total - 2, True)):
        die(shards, half, arguments)
        finished += shards
        (scratch,) = output.parent.glob("*.parts")
        if memory == "resident":
            assert len(list(scratch.glob("[0-9]*.safetensors"))) == finished
        else:
            assert load_file(scratch / "layers.safetensors")["done"] == finished
        assert not output.exists()
    written = []
    write = states_module.save_file
    for module in (states_module, parts):
        monkeypatch.setattr(
            module, "save_file", lambda tensors, path, **rest: (written.append(path), write(tensors, path, **rest))
        )
    assert main.main(arguments) == 0
    assert len(written) == 1  # nothing was left to compute
    assert output.read_bytes() == undisturbed.read_bytes()
    assert not list(output.parent.glob("*.parts"))


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_a_damaged_shard_is_computed_again(checkpoint, tmp_path, memory, caplog):
    undisturbed, output = tmp_path / "undisturbed.safetensors", tmp_path / "killed" / "zh.safetensors"
    assert main.main(arguments_of(checkpoint, tmp_path, undisturbed, memory=memory)) == 0
    arguments = arguments_of(checkpoint, tmp_path, output, memory=memory)
    die(2, False, arguments)
    shards = sorted(output.parent.glob("*.parts/*.safetensors"))
    for shard, flipped in zip(shards, (True, False), strict=False):
        content = bytearray(shard.read_bytes())
        content[-5] ^= 1
        shard.write_bytes(content if flipped else content[:-5])
    assert main.main(arguments) == 0
    for shard in shards:
        assert f"{shard}: damaged (truncated or changed); it was removed and is made again" in caplog.text
    assert output.read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_shards_of_another_run_are_ignored(checkpoint, tmp_path, memory):
    undisturbed, output = tmp_path / "undisturbed.safetensors", tmp_path / "killed" / "zh.safetensors"
    assert main.main(arguments_of(checkpoint, tmp_path, undisturbed, memory=memory, max_tokens=5)) == 0
    die(2, False, arguments_of(checkpoint, tmp_path, output, memory=memory))
    assert main.main(arguments_of(checkpoint, tmp_path, output, memory=memory, max_tokens=5)) == 0
    assert output.read_bytes() == undisturbed.read_bytes()
    assert sorted(output.parent.iterdir()) == [output, output.with_name(f"{output.name}{RECORD}")]


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """How the backbone was loaded, each time that it was."""
    found = []
    for name in ("load_decoder", "StreamedDecoder"):
        load = getattr(extract_hidden_states, name)
        monkeypatch.setattr(
            extract_hidden_states, name, lambda *given, load=load, name=name: (found.append(name), load(*given))[1]
        )
    return found


@pytest.mark.parametrize(("memory", "loaded"), [("resident", "load_decoder"), ("stream", "StreamedDecoder")])
def test_languages_share_one_loading_and_only_what_is_missing_is_computed(checkpoint, tmp_path, loads, memory, loaded):
    names = ("zh", "en", "sw")
    alone, together = (
        [tmp_path / folder / f"{name}.safetensors" for name in names] for folder in ("alone", "together")
    )
    for number in range(len(names)):  # each in a job of its own
        assert main.main(arguments_of(checkpoint, tmp_path, *alone[: number + 1], memory=memory)) == 0
        assert loads == [loaded] * (number + 1)
    loads.clear()
    command = arguments_of(checkpoint, tmp_path, *together, memory=memory)
    assert main.main(command) == 0
    assert loads == [loaded]
    assert [path.read_bytes() for path in together] == [path.read_bytes() for path in alone]
    assert sorted(together[0].parent.iterdir()) == sorted([*together, *(Path(f"{path}{RECORD}") for path in together)])

    def again() -> list[str]:
        before = [path.stat().st_ino for path in together]
        assert main.main(command) == 0
        return [name for name, path, inode in zip(names, together, before, strict=True) if path.stat().st_ino != inode]

    assert again() == []
    assert loads == [loaded]
    texts = tmp_path / "en.jsonl"
    texts.write_text(texts.read_text().replace("yyyy", "zzzz"))
    together[2].write_bytes(together[2].read_bytes()[:-1])
    assert again() == ["en", "sw"]
    assert loads == [loaded] * 2
    assert together[1].read_bytes() != alone[1].read_bytes()
    assert together[2].read_bytes() == alone[2].read_bytes()
    command = arguments_of(checkpoint, tmp_path, *together, memory=memory, max_tokens=5)
    texts.write_text(texts.read_text().replace("yyyy", "zzzz"))
    assert again() == list(names)


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_what_a_killed_job_had_finished_is_not_computed_again(checkpoint, tmp_path, memory, monkeypatch):
    outputs = [tmp_path / "killed" / f"{name}.safetensors" for name in ("zh", "en")]
    command = arguments_of(checkpoint, tmp_path, *outputs, memory=memory)
    shards = {"resident": len(batches_by_length([3 * n + 2 for n in range(len(NAMES))], 40)), "stream": tiny.LAYERS}
    die(2 * shards[memory] + 1, False, command)  # when it writes the second output
    assert [path.exists() for path in outputs] == [True, False]
    outputs[0].unlink()  # as Snakemake does
    monkeypatch.setattr(parts, "write", lambda *_: pytest.fail("something was computed again"))
    assert main.main(command) == 0
    assert [len(states_module.load(path).lengths) for path in outputs] == [len(NAMES)] * 2


def test_streaming_never_loads_the_whole_decoder(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("lensflow.models.loading.load_decoder", lambda *_: pytest.fail("the whole decoder was loaded"))
    assert main.main(arguments_of(checkpoint, tmp_path, tmp_path / "zh.safetensors", memory="stream")) == 0


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_batches_by_length(lengths, budget):
    batches = batches_by_length(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)
    for batch in batches[:-1]:  # none ends before it is full
        assert (len(batch) + 1) * lengths[batch[0]] > budget


def test_running_a_model_imports_nothing_that_it_does_not_need(checkpoint):
    """A second and 100 MB of every stage; if this fails, transformers asks for them in another way than it did."""
    program = (
        "import sys; from pathlib import Path; from lensflow.models.loading import load_decoder\n"
        f"load_decoder(Path({str(checkpoint('llama'))!r}))\n"
        "print(sorted({'sklearn', 'scipy.optimize', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
