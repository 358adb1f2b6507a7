"""A loaded tokenizer is neutral: it reads all of the text, its ids fit the model, and its own files go with the model."""

import json
import re

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from families import ModelSpec
from families.units import BadInput
from train.checkpoint import save_model
from train.data.prepare import prepare
from train.data.tokenizer import TRAINING_BYTES, load_tokenizer, spread, train_tokenizer
from train.model.config import build

DOCUMENTS = [f"document {number} about model {number % 13} and the law of its loss" for number in range(300)]


def jsonl(documents):
    return "".join(json.dumps({"text": document}) + "\n" for document in documents)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text(jsonl(DOCUMENTS))
    return path


@pytest.fixture
def coder():
    return train_tokenizer(DOCUMENTS, 300)


def saved(coder, path):
    path.parent.mkdir(exist_ok=True)
    coder.save(str(path))
    return str(path)


def test_truncation_and_padding_of_a_saved_tokenizer_are_switched_off(source, coder, tmp_path):
    plain = prepare(
        str(source), tmp_path / "a", vocab_size=300, tokenizer=saved(coder, tmp_path / "plain.json")
    )
    coder.enable_truncation(max_length=4)
    coder.enable_padding(length=64, pad_id=3)
    cut = prepare(str(source), tmp_path / "b", vocab_size=300, tokenizer=saved(coder, tmp_path / "cut.json"))
    assert cut.train[0].sha256 == plain.train[0].sha256
    assert cut.heldout_sha256 == plain.heldout_sha256
    written = Tokenizer.from_file(str(tmp_path / "b" / "tokenizer.json"))
    assert (written.truncation, written.padding) == (None, None)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (models.WordLevel({"law": 0}, unk_token="[UNK]"), "cannot encode the text: WordLevel error: Missing"),
        (models.WordPiece({"law": 0}, unk_token="[UNK]"), "cannot encode the text: WordPiece error: Missing"),
        (models.Unigram([("l", -1.0)]), "cannot encode the text: .*`unk_id` is missing"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_tokenizer_that_knows_no_unknown_is_refused_where_it_meets_one(model, said, source, tmp_path):
    coder = Tokenizer(model)
    coder.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(BadInput, match=said):
        prepare(str(source), tmp_path / "a", vocab_size=300, tokenizer=saved(coder, tmp_path / "t.json"))
    assert not (tmp_path / "a").exists()


def test_a_tokenizer_with_two_entries_of_one_id_is_refused(source, coder, tmp_path):
    facts = json.loads(coder.to_str())
    facts["model"]["vocab"]["zz"] = 5  # which has no merge and so could not be read back
    (tmp_path / "twice.json").write_text(json.dumps(facts))
    with pytest.raises(BadInput, match="two entries of id 5"):
        prepare(str(source), tmp_path / "a", vocab_size=300, tokenizer=str(tmp_path / "twice.json"))


@pytest.mark.parametrize("prefix", ["#" * 9, "é"[:1] + "#"])
def test_merges_on_which_the_library_panics_are_refused_without_its_trace(prefix, coder, tmp_path, capfd):
    facts = json.loads(coder.to_str())
    facts["model"]["continuing_subword_prefix"] = prefix
    (tmp_path / "prefix.json").write_text(json.dumps(facts))
    with pytest.raises(BadInput, match="is shorter than its continuing_subword_prefix"):
        load_tokenizer(str(tmp_path / "prefix.json"))
    assert capfd.readouterr().err == ""


def test_names_that_the_vocabulary_lacks_are_not_added_to_the_models_tokenizer(source, coder, tmp_path):
    from transformers import AutoTokenizer

    saved(coder, tmp_path / "theirs" / "tokenizer.json")
    facts = {"eos_token": "</s>", "pad_token": {"content": "<pad>"}, "bos_token": "<|endoftext|>"}
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(facts))
    prepare(str(source), tmp_path / "a", vocab_size=300, tokenizer=str(tmp_path / "theirs"))
    spec = ModelSpec(architecture="gpt2", n_layer=1, n_head=2, n_embd=16, n_positions=16, vocab_size=300)
    model = build(spec, seed=0, eos_token_id=coder.token_to_id("<|endoftext|>"))
    save_model(model, tmp_path / "a" / "tokenizer.json", tmp_path / "model")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert (len(loaded), loaded.eos_token, loaded.bos_token) == (300, "<|endoftext|>", "<|endoftext|>")


def test_random_dropout_of_a_saved_tokenizer_is_switched_off(coder, tmp_path):
    facts = json.loads(coder.to_str())
    facts["model"]["dropout"] = 0.5
    (tmp_path / "random.json").write_text(json.dumps(facts))
    loaded = load_tokenizer(str(tmp_path / "random.json"))
    assert loaded.encode(DOCUMENTS[0]).ids == coder.encode(DOCUMENTS[0]).ids


def of_words(words):
    tokenizer = Tokenizer(
        models.WordLevel({"<unk>": 0, "</s>": 1} | {w: i + 2 for i, w in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def of_letters(letters):
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.parametrize(
    ("made", "lost"),
    [
        (of_words(["kept"]), 50),
        (of_words(["kept", "lost"]), 0),
        (of_letters("kep"), 62.5),
        (of_letters("keptlos"), 0),
    ],
    ids=["unknown words", "all words", "dropped letters", "all letters"],
)
def test_text_that_a_tokenizer_loses_is_said(made, lost, tmp_path):
    """Of "kept lost" a letter in five of eight is none of k, e and p."""
    (tmp_path / "text.txt").write_text("kept lost\n" * 2000)
    said = []
    prepare(
        str(tmp_path / "text.txt"), tmp_path / "data", vocab_size=300, tokenizer=saved(made, tmp_path / "coder.json"),
        log=said.append,
    )  # fmt: skip
    found = [line for line in said if "loses" in line]
    assert len(found) == bool(lost)
    assert not lost or float(re.search(r"loses ([\d.]+)%", found[0])[1]) == pytest.approx(lost, abs=1.5)


def test_markers_that_are_no_special_tokens_are_said(tmp_path, coder):
    text = "<|endoftext|>\n".join(f"{text}</s>" for text in DOCUMENTS * 5)
    (tmp_path / "text.txt").write_text(text)
    for tokenizer, named in (
        (None, "</s>"),
        (saved(of_words(["law"]), tmp_path / "w.json"), "</s>, <|endoftext|>"),
    ):
        said = []
        prepare(
            str(tmp_path / "text.txt"), tmp_path / f"data-{named[-1]}-{tokenizer is None}", vocab_size=300,
            tokenizer=tokenizer, log=said.append,
        )  # fmt: skip
        assert any(f"the text holds {named}, no special token" in line for line in said)


def gapped(coder, end):
    facts = json.loads(coder.to_str())
    facts["model"]["vocab"]["<|endoftext|>"] = end
    for token in facts["added_tokens"]:
        token["id"] = end
    return Tokenizer.from_str(json.dumps(facts))


def test_ids_with_a_gap_are_refused_by_a_model_that_is_too_small_and_said_by_one_that_is_not(
    source, coder, tmp_path
):
    name = saved(gapped(coder, 70_000), tmp_path / "gap.json")
    with pytest.raises(BadInput, match=r"70001 entries .*greatest id is 70,000.*give vocab_size=70001"):
        prepare(str(source), tmp_path / "data", vocab_size=512, tokenizer=name)
    said = []
    manifest = prepare(str(source), tmp_path / "data", vocab_size=70_016, tokenizer=name, log=said.append)
    assert manifest.dtype == "uint32"
    ids = np.fromfile(tmp_path / "data" / manifest.train[0].name, dtype=manifest.dtype)
    assert ids.max() == manifest.eos_token_id == 70_000
    assert any("gaps" in line for line in said)


def test_a_marker_in_the_text_is_one_id_and_no_text_unless_it_is_asked_to_be(tmp_path):
    marked, plain = tmp_path / "marked.txt", tmp_path / "plain.txt"
    marked.write_text("\n<|endoftext|>\n".join(DOCUMENTS) + "\n<|endoftext|>\n")
    plain.write_text(marked.read_text().replace("<|endoftext|>", ""))
    one = prepare(str(marked), tmp_path / "a", vocab_size=290)
    ids = np.fromfile(tmp_path / "a" / one.train[0].name, dtype=one.dtype)
    assert (ids == one.eos_token_id).sum() == 286
    learned = Tokenizer.from_file(str(tmp_path / "a" / "tokenizer.json")).get_vocab()
    assert not [name for name in learned if "endof" in name and name != "<|endoftext|>"]
    held = plain.read_text()[-one.heldout_bytes :]
    assert one.heldout_bytes == len(held.encode())
    assert one.heldout_words == len(held.split())
    text = prepare(str(marked), tmp_path / "b", vocab_size=290, special_tokens="text")
    ids = np.fromfile(tmp_path / "b" / text.train[0].name, dtype=text.dtype)
    assert (ids == text.eos_token_id).sum() == 1


def test_a_vocabulary_far_too_large_for_the_text_is_said(source, tmp_path):
    large = train_tokenizer([" ".join(f"word{i}{j}" for i in range(99)) for j in range(99)], 3000)
    said = []
    prepare(
        str(source),
        tmp_path / "a",
        vocab_size=3000,
        tokenizer=saved(large, tmp_path / "large.json"),
        log=said.append,
    )
    assert any("of which" in line and "leave out tokenizer=" in line for line in said)
    said.clear()
    prepare(str(source), tmp_path / "b", vocab_size=300, log=said.append)
    assert not any("of which" in line for line in said)


def test_a_tokenizers_own_config_and_chat_template_go_with_the_model(source, coder, tmp_path):
    from transformers import AutoTokenizer

    place = tmp_path / "theirs"
    coder.add_special_tokens(["<pad>", "<start>"])
    saved(coder, place / "tokenizer.json")
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "bos_token": "<start>",
        "pad_token": "<pad>",
        "auto_map": {"AutoTokenizer": ["own.Tokenizer", None]},
    }
    (place / "tokenizer_config.json").write_text(json.dumps(facts))
    (place / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    (place / "additional_chat_templates").mkdir()
    (place / "additional_chat_templates" / "tool.jinja").write_text("{{ tools }}")
    prepare(str(source), tmp_path / "data", vocab_size=310, tokenizer=str(place))
    model = tmp_path / "model"
    spec = ModelSpec(n_layer=1, n_head=1, n_embd=8, n_positions=32, vocab_size=310)
    save_model(build(spec, seed=0, eos_token_id=299), tmp_path / "data" / "tokenizer.json", model)
    loaded = AutoTokenizer.from_pretrained(model)
    assert (loaded.pad_token, loaded.bos_token, loaded.eos_token) == ("<pad>", "<start>", "<|endoftext|>")
    assert loaded.apply_chat_template([{"content": "loss"}], tokenize=False) == "[loss]"
    assert loaded.chat_template["tool"] == "{{ tools }}"
    assert loaded.model_max_length == 32
    assert loaded(["loss", "the law of loss"], padding=True)["input_ids"]
    assert "auto_map" not in (model / "tokenizer_config.json").read_text()


def test_a_tokenizer_is_known_by_its_contents(source, coder, tmp_path):
    first = prepare(
        str(source), tmp_path / "data", vocab_size=300, tokenizer=saved(coder, tmp_path / "a.json")
    )
    again = prepare(
        str(source), tmp_path / "data", vocab_size=300, tokenizer=saved(coder, tmp_path / "b.json")
    )
    assert again == first
    other = train_tokenizer(["entirely different words"], 280)
    with pytest.raises(BadInput, match="made with tokenizer="):
        prepare(str(source), tmp_path / "data", vocab_size=300, tokenizer=saved(other, tmp_path / "a.json"))


def test_a_tokenizer_is_trained_on_pieces_spread_over_a_large_text():
    total = 8 * TRAINING_BYTES
    piece = "x" * (TRAINING_BYTES // 16)
    kept = [number for number, _ in enumerate(spread((piece for _ in range(128)), total))]
    assert 15 <= len(kept) <= 17


def test_special_tokens_stay_text_where_that_is_asked(coder, tmp_path):
    name = saved(coder, tmp_path / "t.json")
    assert load_tokenizer(name).encode("<|endoftext|>").ids == [299]
    assert len(load_tokenizer(name, "text").encode("<|endoftext|>").ids) > 1


def test_a_long_text_encoded_in_portions_has_its_own_tokens(tmp_path):
    from train.data.readers import SourceText, read_chunks

    words = np.random.default_rng(0).choice(
        [" the", "\n", " ", "  ", "loss", ".", "'s", "\n\n", "ü", "12"], 160_000
    )
    path = tmp_path / "long.txt"
    path.write_text("".join(words))
    manifest = prepare(str(path), tmp_path / "data", vocab_size=290)
    coder = load_tokenizer(str(tmp_path / "data" / "tokenizer.json"))
    train, held = (
        np.fromfile(tmp_path / "data" / shard.name, dtype=manifest.dtype)
        for shard in (manifest.train[0], manifest.heldout)
    )
    (whole,) = read_chunks(SourceText("long.txt", path))
    cut = len(whole.encode()[: -manifest.heldout_bytes].decode())
    assert coder.encode(whole[:cut]).ids == train[:-1].tolist()
    assert coder.encode(whole[cut:]).ids == held[:-1].tolist()
    assert manifest.heldout_words == len(whole[cut:].split())
