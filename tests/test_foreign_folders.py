"""Model folders that others made: what cannot be read is one line, what was not stored is not invented, no code runs."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from families import ModelSpec
from families.architectures import REGISTRY, architecture
from families.units import BadInput
from train.checkpoint import save_model
from train.data.prepare import prepare
from train.data.tokenizer import load_tokenizer
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


SMALL = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128,
    "vocab_size": 512, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "v_head_dim": 24, "qk_nope_head_dim": 16, "n_group": 1,
    "topk_group": 1, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
OWN = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "deepseek_v3": {**LATENT, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    **{key: {"head_dim": 16} for key in ("gemma", "gemma2", "gemma3_text")},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REGISTRY)
def test_logits_of_every_architecture_are_transformers_own_to_1e_4(kind, tmp_path):
    """Of weights whose logits are as large as those of trained models, up to 20 or 40."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**SMALL, **OWN.get(kind, {})})
    config._experts_implementation = "eager"
    model = getattr(transformers, architecture(kind).model_class)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.5)
    model.save_pretrained(tmp_path / kind)
    ours = loaded_by_init(tmp_path / kind).eval()
    ours.config._experts_implementation = "eager"
    ids = torch.arange(7, 7 + 101 * 64, 101)[None, :] % 512
    with torch.no_grad():
        theirs = model(ids).logits
        off = (ours(ids).logits - theirs).abs().max()
    assert theirs.abs().max() > 10
    assert off <= 1e-4


def test_a_qwen2_folder_is_measured_with_the_tokenizer_that_stands_in_it(copy, tmp_path):
    """From the model's type alone transformers takes Qwen's own pre-tokenizer, and other tokens."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "qwen2", **{**SMALL, "vocab_size": 320}, eos_token_id=0, bos_token_id=0
    )
    folder = tmp_path / "qwen2"
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    shutil.copy(copy / "tokenizer.json", folder / "tokenizer.json")
    shutil.copy(copy / "tokenizer_config.json", folder / "tokenizer_config.json")
    text = "First Citizen:\n\n\nBefore we proceed 1234 any further,  hear me speak.\n" * 3
    found = load(folder, "cpu").tokenizer(text, add_special_tokens=False)["input_ids"]
    assert (
        found == Tokenizer.from_file(str(copy / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    )


def test_a_tokenizer_that_makes_the_library_panic_is_one_line(copy):
    """A merge shorter than the prefix that it is said to have, as spoilt files have it."""
    path = copy / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["continuing_subword_prefix"] = "1234567"
    path.write_text(json.dumps(found))
    for read in (lambda: load_tokenizer(str(path)), lambda: load(copy, "cpu")):
        with pytest.raises(BadInput, match="cannot be read"):
            read()
