"""Model folders that others made: what cannot be read is one line, what was not stored is not invented, no code runs."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from families import ModelSpec
from families.units import BadInput
from train.checkpoint import save_model
from train.data.prepare import prepare
from train.model.config import build
from train.model.pretrained import checkpoint_folder, checkpoint_spec, load_weights
from train.validate import continuation, load

from .tiny import write_corpus

KINDS = {
    "gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 32},
    "llama": {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "n_inner": 48},
    "bert": {"n_layer": 2, "n_head": 2, "n_embd": 32},
}


def spec_of(kind):
    return ModelSpec(architecture=kind, n_positions=32, vocab_size=320, **KINDS[kind])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    data = tmp_path_factory.mktemp("tokens")
    prepare(str(write_corpus(place / "corpus")), data, vocab_size=310, mask=True)
    for kind in KINDS:
        save_model(build(spec_of(kind), seed=1, eos_token_id=0), data / "tokenizer.json", place / kind)
    return place


@pytest.fixture
def copy(folders, tmp_path):
    """A folder of one's own to spoil; its name is one that a shell would stumble over."""
    return shutil.copytree(folders / "gpt2", tmp_path / 'it\'s a "model" $(touch ran)')


def loaded_by_init(folder):
    place = checkpoint_folder(str(folder))
    model = build(checkpoint_spec(place), seed=0)
    load_weights(model, checkpoint_spec(place), place)
    return model


def weights(folder):
    return load_file(folder / "model.safetensors")


def rewrite(folder, found):
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharded", [False, True])
def test_every_architecture_comes_back_to_the_bit_whole_or_in_shards(kind, sharded, folders, tmp_path):
    place = shutil.copytree(folders / kind, tmp_path / kind)
    if sharded:
        (place / "model.safetensors").unlink()
        load(folders / kind, "cpu").model.save_pretrained(place, max_shard_size="40KB")
        assert len(list(place.glob("model-*.safetensors"))) > 1
    expected = dict(build(spec_of(kind), seed=1).named_parameters())
    for found in (load(place, "cpu").model, loaded_by_init(place)):
        own = dict(found.named_parameters())
        assert own.keys() == expected.keys()
        assert all(torch.equal(own[name], expected[name]) for name in expected)


def test_a_path_with_spaces_and_quotes_is_a_path(copy):
    assert len(continuation(load(copy, "cpu"), "the loss")) >= len("the loss")
    loaded_by_init(copy)


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_no_pickle_is_opened(form, copy, tmp_path):
    (copy / "model.safetensors").unlink()
    path = copy / "pytorch_model.bin"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    else:
        torch.save({"weight": Touch(tmp_path / "ran")}, path)
    for read in (loaded_by_init, lambda folder: load(folder, "cpu")):
        with pytest.raises(BadInput, match=r"pytorch_model\.bin, a pickle that can run code"):
            read(copy)
    assert not (tmp_path / "ran").exists()


def test_the_folders_own_code_is_not_run_and_nobody_is_asked(copy, tmp_path):
    change_config(copy, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(BadInput, match="custom code"):
        load(copy, "cpu")
    with pytest.raises(BadInput, match="model_type 'own'"):
        loaded_by_init(copy)
    assert not (tmp_path / "ran").exists()


def drop(folder):
    found = weights(folder)
    del found["transformer.h.0.attn.c_attn.weight"]
    rewrite(folder, found)


def spoil(folder):
    found = weights(folder)
    found["transformer.h.1.mlp.c_fc.weight"][0, 0] = float("nan")
    rewrite(folder, found)


SPOILT = {
    "a weight is missing": (drop, "has no transformer.h.0.attn.c_attn.weight: 1 weights are missing"),
    "a layer is missing": (lambda folder: change_config(folder, n_layer=3), "12 weights are missing"),
    "a layer is too many": (lambda folder: change_config(folder, n_layer=1), "a layer that its config.json"),
    "another width": (lambda folder: change_config(folder, n_inner=64), r"of shape \(128,\); .* asks for \(64,\)"),
    "not finite": (spoil, r"h\.1\.mlp\.c_fc\.weight, of which some are not finite"),
    "cut off": (lambda folder: os.truncate(folder / "model.safetensors", 1000), "cannot be loaded: .*header"),
    "empty": (lambda folder: os.truncate(folder / "model.safetensors", 0), "cannot be loaded: .*header"),
    "no number": (lambda folder: change_config(folder, n_layer="two"), "cannot be loaded|n_layer is 'two'"),
    "no heads": (lambda folder: change_config(folder, n_head=0), "cannot be loaded|n_head is 0"),
    "no object": (lambda folder: (folder / "config.json").write_text("[1]"), "cannot be loaded|model_type None"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_folder_is_one_line_for_validate_and_for_init(name, copy):
    change, message = SPOILT[name]
    change(copy)
    for read in (loaded_by_init, lambda folder: load(folder, "cpu")):
        with pytest.raises(BadInput, match=message) as caught:
            read(copy)
        assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(copy):
    (copy / "model.safetensors").unlink()
    build(spec_of("gpt2"), seed=1).save_pretrained(copy, max_shard_size="40KB")
    gone = sorted(copy.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(BadInput, match=gone.name):
        load(copy, "cpu")


def test_masks_that_gpt2s_own_files_hold_are_no_layers(copy):
    found = weights(copy)
    found["transformer.h.0.attn.bias"] = torch.tril(torch.ones(1, 1, 32, 32))
    found["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    rewrite(copy, found)
    load(copy, "cpu")
    loaded_by_init(copy)


def test_a_folder_without_a_tokenizer_is_not_given_an_empty_one(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"it has no tokenizer\.json"):
        load(copy, "cpu")


def test_a_fresh_process_without_this_program_loads_the_folder(folders):
    code = (
        "import sys; from transformers import AutoModelForCausalLM as C, AutoModelForMaskedLM as M, AutoTokenizer as T;"
        "[print((M if 'bert' in f else C).from_pretrained(f, use_safetensors=True).num_parameters(), len(T.from_pretrained(f)))"
        " for f in sys.argv[1:]]; assert not {'train', 'scaling', 'families'} & sys.modules.keys()"
    )
    places = [str(folders / kind) for kind in KINDS]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *places], capture_output=True, text=True, check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    counts = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert counts == [sum(w.numel() for w in build(spec_of(kind), seed=1).parameters()) for kind in KINDS]
