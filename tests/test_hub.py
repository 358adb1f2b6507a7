"""Data sets of the hub, text held out by name, and Parquet: what is read, where it goes, and what is said without it."""

import json
import sys
import types

import numpy as np
import pytest

from families.units import BadInput
from train.data import remote
from train.data.prepare import prepare
from train.data.remote import KNOWN, fetch, hub_set

from .tiny import write_corpus

ARTICLE = ["\n", " = Laws = \n", "\n", " Loss falls . \n", " = = Scaling = = \n", " As a power . \n", "\n"]


class Library(types.ModuleType):
    """Stands in for the library `datasets`: rows by split, and what was asked for."""

    def __init__(self, **splits):
        super().__init__("datasets")
        self.splits, self.asked = splits, []

    def load_dataset(self, path, config=None):
        self.asked.append((path, config))
        return {name: [{"text": text} for text in texts] for name, texts in self.splits.items()}


@pytest.fixture
def library(monkeypatch):
    other = [line.replace("Laws", "Bounds") for line in ARTICLE]
    found = Library(train=ARTICLE * 30, validation=other * 6, test=["never read"])
    monkeypatch.setitem(sys.modules, "datasets", found)
    monkeypatch.setattr(remote, "hub_answers", lambda: True)
    return found


def lines(folder):
    return [
        json.loads(line)["text"]
        for path in sorted(folder.iterdir())
        for line in path.read_text().splitlines()
    ]


def test_an_article_is_a_document_with_all_its_sections(library, tmp_path):
    train, held = fetch("wikitext-2", KNOWN["wikitext-2"], tmp_path / "hub")
    assert library.asked == [("Salesforce/wikitext", "wikitext-2-raw-v1")]
    assert lines(train)[0] == "".join(ARTICLE) + "\n"
    assert (len(lines(train)), len(lines(held))) == (30, 6)
    assert "".join(lines(train)).strip() == "".join(ARTICLE * 30).strip()


def test_a_data_set_is_fetched_once_and_its_own_split_is_held_out(library, tmp_path):
    manifest = prepare("wikitext-2", tmp_path / "data", vocab_size=280)
    assert {(file.name, file.split) for file in manifest.files} == {
        ("00000.jsonl", "train"),
        ("validation/00000.jsonl", "heldout"),
    }
    assert manifest.source == "wikitext-2"
    assert all(len(file.sha256) == 64 for file in manifest.files)
    ids = np.fromfile(tmp_path / "data" / manifest.heldout.name, dtype=manifest.dtype)
    assert (ids == manifest.eos_token_id).sum() == 6
    assert prepare("wikitext-2", tmp_path / "data", vocab_size=280) == manifest
    assert len(library.asked) == 1


def test_reviews_are_documents_and_the_test_split_is_held_out(library, tmp_path):
    library.splits = {"train": ["Good .", "Bad .", ""], "test": ["So so ."]}
    train, held = fetch("imdb", KNOWN["imdb"], tmp_path / "hub")
    assert (lines(train), lines(held)) == (["Good .", "Bad ."], ["So so ."])


def test_a_large_set_becomes_many_files_so_that_it_can_be_split(library, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "SHARD_CHARACTERS", 500)
    library.splits = {"train": [f"document {i} " * 4 for i in range(60)]}
    train, held = fetch("openwebtext", KNOWN["openwebtext"], tmp_path / "hub")
    assert held is None
    assert len(list(train.iterdir())) > 5
    assert len(lines(train)) == 60


def test_any_other_set_is_named_by_its_owner(library, tmp_path):
    assert hub_set("hub:owner/name:part").config == "part"
    assert hub_set("some/path") is None
    with pytest.raises(BadInput, match="hub:OWNER/NAME"):
        hub_set("hub:")


def test_a_folder_of_that_name_is_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imdb").mkdir()
    assert hub_set("imdb") is None


def test_without_the_extra_or_a_network_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "hub_answers", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"pip install 'scaling-planner\[hub\]'") as caught:
        prepare("wikitext-2", tmp_path / "data", vocab_size=280)
    assert "\n" not in str(caught.value)

    class Offline(Library):
        def load_dataset(self, path, config=None):
            raise ConnectionError("many\nlines")

    monkeypatch.setitem(sys.modules, "datasets", Offline())
    with pytest.raises(BadInput, match="the hub cannot be reached") as caught:
        prepare("wikitext-2", tmp_path / "data", vocab_size=280)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "hub").exists()


# Text held out by name


def test_text_held_out_by_name_is_scored_and_never_trained_on(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", files=6)
    other = tmp_path / "other.txt"
    other.write_text("a text of its own about plans\n" * 40)
    manifest = prepare(str(corpus), tmp_path / "data", vocab_size=280, validation=str(other))
    assert [file.name for file in manifest.files if file.split == "heldout"] == ["validation/other.txt"]
    assert manifest.heldout_bytes == other.stat().st_size
    assert sum(file.split == "train" for file in manifest.files) == 6
    with pytest.raises(BadInput, match="other text or settings"):
        prepare(str(corpus), tmp_path / "data", vocab_size=280)


def test_held_out_text_is_told_from_a_folder_of_the_data_that_is_called_validation(tmp_path):
    corpus, other = write_corpus(tmp_path / "corpus", files=3), tmp_path / "part00.txt"
    (corpus / "validation").mkdir()
    (corpus / "part00.txt").rename(corpus / "validation" / "part00.txt")
    (corpus / "validation" / "part00.md").write_text("notes, which are no split\n" * 100)
    other = other.with_suffix(".md")
    other.write_text("held out indeed\n" * 100)
    manifest = prepare(str(corpus), tmp_path / "data", vocab_size=280, validation=str(other))
    assert {file.name: file.split for file in manifest.files} == {
        "part01.txt": "train",
        "part02.txt": "train",
        "validation/part00.md": "train",
        "_validation/part00.md": "heldout",
    }
    assert manifest.heldout_bytes == other.stat().st_size


def test_text_cannot_be_trained_on_and_held_out(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", files=6)
    with pytest.raises(BadInput, match="held-out text must not be trained on"):
        prepare(str(corpus), tmp_path / "data", vocab_size=280, validation=str(corpus / "part01.txt"))


# Parquet and JSONL


def test_parquet_gives_its_text_column_one_document_a_row(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = [f"row {i} of a table about scaling laws and their loss" for i in range(200)]
    parquet.write_table(pa.table({"id": list(range(200)), "text": rows}), tmp_path / "rows.parquet")
    manifest = prepare(str(tmp_path / "rows.parquet"), tmp_path / "data", vocab_size=280)
    ids = np.fromfile(tmp_path / "data" / manifest.train[0].name, dtype=manifest.dtype)
    held = np.fromfile(tmp_path / "data" / manifest.heldout.name, dtype=manifest.dtype)
    assert (ids == manifest.eos_token_id).sum() + (held == manifest.eos_token_id).sum() == 200
    parquet.write_table(pa.table({"title": rows, "abstract": rows}), tmp_path / "bad.parquet")
    with pytest.raises(BadInput, match="no column 'text', but title, abstract; field= names another"):
        prepare(str(tmp_path / "bad.parquet"), tmp_path / "other", vocab_size=280)


def test_a_line_of_json_may_hold_what_unicode_calls_a_line_end(tmp_path):
    path = tmp_path / "docs.jsonl"
    texts = [f"document {i}\u2028with a separator\x85and laws of loss" for i in range(100)]
    path.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8"
    )
    manifest = prepare(str(path), tmp_path / "data", vocab_size=280)
    assert manifest.train_tokens > 100
