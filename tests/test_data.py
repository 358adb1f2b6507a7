"""Text becomes tokens, and tokens become batches that depend on seed and step alone."""

import json

import numpy as np
import pytest

from families.units import BadInput
from train.data import DataManifest, Tokens, batch
from train.data.prepare import prepare
from train.data.split import split_texts
from train.data.text import find_texts

from .tiny import write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "corpus")


@pytest.fixture(scope="module")
def prepared(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return folder, prepare(str(corpus), folder, vocab_size=300)


def test_decoding_the_tokens_gives_the_text_back(corpus, prepared):
    from tokenizers import Tokenizer

    folder, manifest = prepared
    ids = np.fromfile(folder / manifest.heldout.name, dtype=manifest.dtype)
    held = [file.name for file in manifest.files if file.split == "heldout"]
    order = [text.name for text in split_texts(find_texts(str(corpus)), 0.05).held]
    assert sorted(held) == sorted(order)
    text = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids.tolist(), skip_special_tokens=True)
    assert text == "".join((corpus / name).read_text(encoding="utf-8") for name in order)
    assert manifest.heldout_bytes == sum((corpus / name).stat().st_size for name in held)


def test_no_file_is_in_both_splits_and_every_document_ends(corpus, prepared):
    folder, manifest = prepared
    assert {file.split for file in manifest.files} == {"train", "heldout"}
    ids = np.fromfile(folder / manifest.train[0].name, dtype=manifest.dtype)
    documents = sum(file.split == "train" for file in manifest.files)
    assert (ids == manifest.eos_token_id).sum() == documents
    assert ids[-1] == manifest.eos_token_id == manifest.vocab_size - 1


def test_preparing_twice_reads_what_is_there(corpus, prepared):
    folder, manifest = prepared
    before = (folder / "data.json").stat().st_mtime_ns
    assert prepare(str(corpus), folder, vocab_size=300) == manifest
    assert (folder / "data.json").stat().st_mtime_ns == before


def test_other_text_in_the_same_folder_is_refused(prepared, tmp_path):
    folder, _ = prepared
    other = write_corpus(tmp_path / "other", files=3)
    with pytest.raises(BadInput, match="other text or settings"):
        prepare(str(other), folder, vocab_size=300)


@pytest.fixture(scope="module")
def tokens(prepared):
    folder, manifest = prepared
    return Tokens.open(folder, manifest.train, manifest.dtype, 16)


def test_an_epoch_visits_every_window_once(tokens):
    count = len(tokens) - len(tokens) % 8
    seen = np.concatenate([batch(tokens, 8, 0, step) for step in range(count // 8)])
    assert len(np.unique(seen[:, :], axis=0)) <= len(seen)
    starts = {row.tobytes() for row in tokens.windows(np.arange(len(tokens)))}
    assert {row.tobytes() for row in seen} <= starts
    everything = tokens.windows(np.arange(len(tokens)))
    last = batch(tokens, len(tokens), 0, 0)
    assert sorted(row.tobytes() for row in last) == sorted(row.tobytes() for row in everything)


def test_a_batch_is_a_function_of_seed_and_step(tokens):
    assert np.array_equal(batch(tokens, 8, 3, 5), batch(tokens, 8, 3, 5))
    assert not np.array_equal(batch(tokens, 8, 3, 5), batch(tokens, 8, 4, 5))
    assert not np.array_equal(batch(tokens, 8, 3, 5), batch(tokens, 8, 3, 6))


def test_epochs_have_orders_of_their_own(tokens):
    size = len(tokens)
    assert not np.array_equal(batch(tokens, size, 0, 0), batch(tokens, size, 0, 1))


def test_windows_overlap_by_the_one_token_that_is_predicted_next(tokens):
    windows = tokens.windows(np.array([0, 1]))
    assert windows[0, -1] == windows[1, 0]
    assert windows.shape == (2, 17)


def test_a_shorter_shard_than_the_manifest_says_is_refused(prepared, tmp_path):
    folder, manifest = prepared
    (tmp_path / manifest.train[0].name).write_bytes((folder / manifest.train[0].name).read_bytes()[:-2])
    with pytest.raises(BadInput, match=r"data\.json says"):
        Tokens.open(tmp_path, manifest.train, manifest.dtype, 16)


def test_one_file_is_cut_at_a_line(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("".join(f"line {i} of the text\n" for i in range(500)))
    manifest = prepare(str(path), tmp_path / "data", vocab_size=280)
    assert manifest.heldout_bytes == pytest.approx(0.05 * path.stat().st_size, rel=0.1)
    assert [file.split for file in manifest.files] == ["both"]


def test_jsonl_gives_its_text_field_one_document_a_line(tmp_path):
    path = tmp_path / "docs.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"document {i} about scaling laws"}) + "\n" for i in range(200))
    )
    manifest = prepare(str(path), tmp_path / "data", vocab_size=280)
    ids = np.fromfile(tmp_path / "data" / manifest.train[0].name, dtype=manifest.dtype)
    assert (ids == manifest.eos_token_id).sum() > 100


def test_a_tokenizer_folder_in_gpt2s_own_format_is_read(corpus, prepared, tmp_path):
    folder, manifest = prepared
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    old = tmp_path / "tokenizer"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (old / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    again = prepare(str(corpus), tmp_path / "data", vocab_size=300, tokenizer=str(old))
    assert again.heldout_sha256 == manifest.heldout_sha256


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "no .txt"),
        (lambda path: (path.mkdir(), (path / "a.txt").write_text("")), "empty"),
        (lambda path: (path.mkdir(), (path / "a.txt").write_bytes(b"\xff\xfe\xff")), "not UTF-8"),
        (lambda path: (path.mkdir(), (path / "a.jsonl").write_text('{"body": 1}\n')), "no field 'text'"),
    ],
)
def test_text_that_cannot_be_used_is_named(make, message, tmp_path):
    make(tmp_path / "text")
    with pytest.raises(BadInput, match=message):
        prepare(str(tmp_path / "text"), tmp_path / "data", vocab_size=300)
    assert not (tmp_path / "data" / "data.json").exists()


def test_a_tokenizer_larger_than_the_model_is_refused(corpus, prepared, tmp_path):
    folder, _ = prepared
    with pytest.raises(BadInput, match="must hold them"):
        prepare(str(corpus), tmp_path / "data", vocab_size=260, tokenizer=str(folder / "tokenizer.json"))


def test_a_manifest_reads_back_as_written(prepared):
    folder, manifest = prepared
    assert DataManifest.read(folder / "data.json") == manifest


def jsonl(*texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


DOCUMENTS = [f"document {index} about the quick brown fox" for index in range(200)]


def prepared_of(folder, name, content):
    source = folder / name
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    manifest = prepare(str(source), folder / f"{name}.tokens", vocab_size=300)
    (shard,) = manifest.train
    ids = np.fromfile(folder / f"{name}.tokens" / shard.name, dtype=manifest.dtype)
    return manifest, ids.tolist()


def test_documents_are_the_same_whatever_marks_bytes_ends_lines_or_is_empty(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    plain = jsonl(*DOCUMENTS)
    table = tmp_path / "table.parquet"
    parquet.write_table(pa.table({"text": [None, "", *DOCUMENTS]}), table)
    same = {
        "marked.jsonl": b"\xef\xbb\xbf" + plain.encode(),
        "windows.jsonl": plain.replace("\n", "\r\n"),
        "gaps.jsonl": plain.replace("\n", "\n\n \n", 7).rstrip("\n"),
        "empty.jsonl": jsonl("", "") + plain + jsonl(""),
        "column.parquet": table.read_bytes(),
    }
    manifest, ids = prepared_of(tmp_path, "plain.jsonl", plain)
    assert ids.count(manifest.eos_token_id) == 190
    for name, content in same.items():
        other, found = prepared_of(tmp_path, name, content)
        assert found == ids, name
        assert other.heldout_sha256 == manifest.heldout_sha256


def test_a_mark_of_the_byte_order_is_not_text(tmp_path):
    text = "\n".join(DOCUMENTS)
    _, plain = prepared_of(tmp_path, "plain.txt", text)
    _, marked = prepared_of(tmp_path, "marked.txt", b"\xef\xbb\xbf" + text.encode())
    assert marked == plain


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "\\ud800 x"}', r"line 1 holds half a character, '\\ud800'"),
        ("[" * 200_000, "line 1 is not JSON"),
        ('{"text": "x", "n": ' + "9" * 5000 + "}", "line 1 is not JSON: Exceeds the limit"),
        ('{"text": null}', "line 1 has no field 'text' holding a string"),
        ("[1]", "line 1 has no field 'text' holding a string"),
    ],
)
def test_a_line_that_is_no_document_is_named(line, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        prepared_of(tmp_path, "bad.jsonl", line + "\n" + jsonl(*DOCUMENTS))


def test_a_damaged_table_or_one_without_strings_is_one_line(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    def table(values):
        path = tmp_path / "table.parquet"
        parquet.write_table(pa.table({"text": values}), path)
        return path.read_bytes()

    whole = table(DOCUMENTS)
    cases = {
        b"PAR1junkjunkPAR1": "cannot read .*smaller than the size",
        whole[:-30]: "cannot read .*magic bytes",
        whole[:40] + b"\xff" * 40 + whole[80:]: "cannot read",
        table(list(range(200))): "a column 'text' of int64; it must hold strings",
        table([text.encode() for text in DOCUMENTS]): "of binary; it must hold strings",
        table([[text] for text in DOCUMENTS]): "of list<",
    }
    for number, (content, message) in enumerate(cases.items()):
        with pytest.raises(BadInput, match=message):
            prepared_of(tmp_path, f"bad{number}.parquet", content)


def test_a_word_as_long_as_a_picture_does_not_hold_up_the_tokenizer(tmp_path):
    picture = "x" * 400_000 + "\n" + " " * 400_000 + "\n"
    manifest, ids = prepared_of(tmp_path, "picture.md", picture + "\n".join(DOCUMENTS))
    assert manifest.vocab_size <= 300
    from tokenizers import Tokenizer

    coder = Tokenizer.from_file(str(tmp_path / "picture.md.tokens" / "tokenizer.json"))
    assert coder.decode(ids, skip_special_tokens=True).startswith("x" * 400_000)


def test_a_file_called_as_a_split_goes_by_its_folders_name():
    from train.data.text import dataset_name

    names = {"../text/wikitext-2/test.txt": "wikitext-2", "wikitext-2": "wikitext-2", "a/plays.txt": "plays"}
    assert {path: dataset_name(path) for path in names} == names
    assert dataset_name("test.txt") == "test"
