"""Text as people have it: the held-out share is met and said, no text is on both sides, and what is left out is named."""

import bz2
import gzip
import json
import lzma
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from families.units import BadInput
from train.data import Need, check_shards
from train.data.prepare import prepare
from train.data.readers import SourceText, read_chunks
from train.data.split import find_cut
from train.data.text import role_of

LINES = [f"line {number} says that loss falls as a power of {number % 7} things\n" for number in range(2000)]
TEXT = "".join(LINES)
DOCUMENTS = [f"document {number} about model {number % 13} and the law of its loss" for number in range(400)]


def jsonl(documents, field="text"):
    return "".join(json.dumps({field: document, "id": 7}) + "\n" for document in documents)


def written(folder, **files):
    """A folder of files; `__` in a name stands for a dot, `___` for a slash."""
    for name, content in files.items():
        path = folder / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def split_of(source, tmp_path, **how):
    said = []
    manifest = prepare(str(source), tmp_path / "tokens", vocab_size=300, log=said.append, **how)
    return manifest, {file.name: file.split for file in manifest.files}, said


def ids_of(folder, manifest, side="train"):
    name = manifest.heldout.name if side == "heldout" else manifest.train[0].name
    return np.fromfile(folder / "tokens" / name, dtype=manifest.dtype)


def decoded(folder, manifest, side):
    from tokenizers import Tokenizer

    coder = Tokenizer.from_file(str(folder / "tokens" / "tokenizer.json"))
    return coder.decode(ids_of(folder, manifest, side).tolist())


# The held-out share


@pytest.mark.parametrize(
    "files",
    [
        {"train__jsonl": jsonl(DOCUMENTS * 3), "README__md": "# A card\n" * 90},
        {"corpus__jsonl": jsonl(DOCUMENTS) + jsonl([TEXT])},
        {"book__jsonl": jsonl([TEXT]) + jsonl(["short"])},
        {"one__txt": TEXT, "two__txt": TEXT.upper()},
        {"letters__txt": TEXT.replace("\n", " ")},
        {"big__txt": TEXT, **{f"small{i}__txt": LINES[i] for i in range(30)}},
        {f"part{i}__txt": TEXT[i * 6000 : i * 6000 + 6000] for i in range(20)},
        {"story__txt": "\n<|endoftext|>\n".join(LINES)},
        {"table__csv": "text,label\n" + "".join(f'"{document}, ""quoted""\nover lines",0\n' for document in DOCUMENTS)},
    ],
    ids=lambda files: next(iter(files)),
)  # fmt: skip
def test_the_held_out_share_is_met_whatever_the_files_are_and_it_is_said(files, tmp_path):
    manifest, _, said = split_of(written(tmp_path / "data", **files), tmp_path)
    tokens = manifest.heldout.tokens / (manifest.heldout.tokens + manifest.train_tokens)
    assert 0.05 / 1.5 <= manifest.held_share <= 0.05 * 1.5
    assert 0.05 / 1.6 <= tokens <= 0.05 * 1.6
    assert any("held out" in line and f"{manifest.held_share:.1%}" in line for line in said)


def test_a_cut_text_is_the_text_and_each_half_of_a_character_stays_with_the_other(tmp_path):
    source = written(tmp_path, run__txt="ü€" * 30_000) / "run.txt"
    manifest, _, _ = split_of(source, tmp_path)
    sides = [decoded(tmp_path, manifest, side) for side in ("train", "heldout")]
    assert "".join(sides) == "ü€" * 30_000


def test_a_text_is_cut_at_the_best_place_that_meets_the_share(tmp_path):
    kinds = {
        "documents.jsonl": (jsonl(DOCUMENTS), "document"),
        "lines.txt": (TEXT, "line"),
        "words.txt": (TEXT.replace("\n", " "), "space"),
        "letters.txt": ("a" * 90_000, "character"),
        "book.jsonl": (jsonl([TEXT]), "line"),
    }
    for name, (content, kind) in kinds.items():
        (tmp_path / name).write_text(content)
        assert find_cut(SourceText(name, tmp_path / name), 0.05).kind == kind, name


def test_a_share_that_copies_make_impossible_is_refused(tmp_path):
    documents = [*DOCUMENTS, *DOCUMENTS[:1] * 4000]
    with pytest.raises(BadInput, match=r"can be held out where held_out=0\.05 asks for 5\.0%"):
        split_of(written(tmp_path / "data", copies__jsonl=jsonl(documents)), tmp_path)
    assert not (tmp_path / "tokens").exists()


# What names and contents say


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train.jsonl", "train"),
        ("wiki.valid.tokens", "heldout"),
        ("validation-00000-of-00002.parquet", "heldout"),
        ("dev_set.txt.gz", "heldout"),
        ("val/part1.txt", "heldout"),
        ("test_data.csv", "test"),
        ("tests/notes.md", ""),
        ("test_units.py", ""),
        ("held_out.jsonl", "heldout"),
        ("Hold-Out/part1.txt", "heldout"),
        ("valset.jsonl", "heldout"),
        ("wiki_valid_v1.en.jsonl", "heldout"),
        ("valid_data/part1.txt", "heldout"),
        ("testA.csv", "test"),
        ("test1.jsonl", "test"),
        ("testament.txt", ""),
        ("a_test_of_time.txt", ""),
        ("test_pilots/part1.txt", ""),
        ("part0.txt", ""),
    ],
)
def test_a_file_is_held_out_by_what_its_name_means(name, role, tmp_path):
    assert role_of(SourceText(name, tmp_path / name)) == role


def test_files_called_valid_are_held_out_and_test_is_never_trained_on(tmp_path):
    source = written(
        tmp_path / "data", train__txt=TEXT, valid__txt=TEXT[:9000].upper(), test__txt="secret\n" * 90
    )
    manifest, sides, said = split_of(source, tmp_path)
    assert sides == {"train.txt": "train", "valid.txt": "heldout"}
    assert "left out: test.txt: test text, never trained on" in said
    assert manifest.heldout_bytes == 9000
    with pytest.raises(BadInput, match="all held out by its name"):
        split_of(written(tmp_path / "other", test__txt=TEXT, dev__txt=TEXT), tmp_path / "b")


def test_hidden_files_are_left_out_links_are_followed_and_copies_are_on_one_side(tmp_path):
    parts = {f"play{i}__txt": TEXT[i * 6000 : i * 6000 + 6000] for i in range(20)}
    store = written(tmp_path / "store", **{f"shard{i}__txt": f"{i} {TEXT[::-1]}"[:6000] for i in range(5)})
    source = written(
        tmp_path / "data", **parts, __ipynb_checkpoints___play0__txt=TEXT[:6000], copy__txt=TEXT[:6000]
    )
    first = TEXT[:6000]
    written(
        source,
        play0__txt__gz=gzip.compress(first.encode()),
        windows__txt=first.replace("\n", "\r\n"),
        marked__txt="\ufeff" + first,
    )
    written(source, **{"__" + "_play1__txt": b"\x00\x05\x16\x07\xff"})
    (source / "shards").symlink_to(store)
    (source / "loop").symlink_to(source)
    manifest, sides, said = split_of(source, tmp_path)
    assert not any(part.startswith(".") for name in sides for part in name.split("/"))
    assert sum(name.startswith("shards/") for name in sides) == 5
    hashes = {split: {f.sha256 for f in manifest.files if f.split == split} for split in ("train", "heldout")}
    assert not hashes["train"] & hashes["heldout"]
    assert any("hidden" in line for line in said)
    assert any("copies of other files" in line for line in said)
    assert (
        sum(name in ("copy.txt", "marked.txt", "play0.txt", "play0.txt.gz", "windows.txt") for name in sides)
        == 1
    )
    assert any("read already" in line for line in said)


def test_documents_that_are_held_out_are_not_trained_on(tmp_path):
    documents = [f"{text} and so on" for text in DOCUMENTS]
    source = written(tmp_path, docs__jsonl=jsonl([documents[-1], *documents, "Yes.", "Yes."])) / "docs.jsonl"
    manifest, _, said = split_of(source, tmp_path)
    held = decoded(tmp_path, manifest, "heldout")
    assert documents[-1] in held
    assert documents[-1] not in decoded(tmp_path, manifest, "train")
    assert "left out: 1 training documents that are held out too" in said


def test_held_out_lines_that_are_trained_on_are_said(tmp_path):
    part = "".join(LINES[100:200])
    within = written(tmp_path / "within", train__txt=TEXT, valid__txt=part)
    assert any(line.startswith("100% of the held-out lines") for line in split_of(within, tmp_path)[2])
    records = written(
        tmp_path / "records", train__jsonl=jsonl(DOCUMENTS), valid__txt="\n\n".join(DOCUMENTS[:40])
    )
    assert any("of the held-out lines" in line for line in split_of(records, tmp_path / "b")[2])
    apart = written(tmp_path / "apart", train__txt=TEXT, valid__txt=part.replace("says", "said"))
    assert not any("of the held-out lines" in line for line in split_of(apart, tmp_path / "c")[2])


def test_documents_between_ends_of_text_are_on_one_side(tmp_path):
    stories = [f"{text} and so on\n" for text in DOCUMENTS]
    source = written(tmp_path, all__txt="<|endoftext|>\n".join([stories[-1], *stories])) / "all.txt"
    manifest, _, _ = split_of(source, tmp_path)
    assert stories[-1].strip() in decoded(tmp_path, manifest, "heldout")
    assert stories[-1].strip() not in decoded(tmp_path, manifest, "train")
    assert stories[0].strip() in decoded(tmp_path, manifest, "train")


# Formats


def test_one_text_gives_the_same_tokens_in_every_format_and_compression(tmp_path):
    import pyarrow as pa
    from pyarrow import ipc, parquet

    table = pa.table({"text": DOCUMENTS, "id": list(range(400))})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    plain = jsonl(DOCUMENTS).encode()
    with pa.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as sink:
        sink.write(plain)
    written(
        tmp_path,
        a__jsonl=plain,
        a__jsonl__gz=gzip.compress(plain),
        a__jsonl__xz=lzma.compress(plain),
        a__jsonl__bz2=bz2.compress(plain),
        content__jsonl=jsonl(DOCUMENTS, "content"),
        own__jsonl=jsonl(DOCUMENTS, "plot"),
        a__ndjson=plain,
        capital__jsonl=jsonl(DOCUMENTS, "Text"),
        bars__csv="id|text\n" + "".join(f"1|{document}\n" for document in DOCUMENTS),
        quoting__tsv="text\tid\n" + "".join(f'"{document}"\t1\n' for document in DOCUMENTS),
        a__json=json.dumps([{"text": document} for document in DOCUMENTS]),
        data__json=json.dumps({"version": 1, "data": [{"text": document} for document in DOCUMENTS]}),
        lines__json=plain,
        a__csv="id,text\n" + "".join(f'1,"{document}"\n' for document in DOCUMENTS),
        a__tsv="text\tid\n" + "".join(f"{document}\t1\n" for document in DOCUMENTS),
    )
    expected = DOCUMENTS
    for path in sorted(tmp_path.iterdir()):
        assert list(read_chunks(SourceText(path.name, path))) == expected, path.name


def test_a_quotation_mark_in_a_table_of_tabs_swallows_no_rows(tmp_path):
    (tmp_path / "a.tsv").write_text("id\ttext\n" + "".join(f'1\t"{document}\n' for document in DOCUMENTS))
    assert list(read_chunks(SourceText("a.tsv", tmp_path / "a.tsv"))) == [
        f'"{document}' for document in DOCUMENTS
    ]


def test_a_field_can_be_named_and_one_that_is_not_clear_is_asked_for(tmp_path):
    rows = "".join(json.dumps({"title": "t", "summary": document}) + "\n" for document in DOCUMENTS)
    source = written(tmp_path, rows__jsonl=rows) / "rows.jsonl"
    with pytest.raises(BadInput, match=r"line 1 has no field 'text' .*field= names another: title, summary"):
        split_of(source, tmp_path)
    manifest, _, _ = split_of(source, tmp_path, field="summary")
    assert DOCUMENTS[0] in decoded(tmp_path, manifest, "train")


def test_what_is_no_text_is_not_taken_for_it(tmp_path):
    chats = [
        {"id": str(i), "messages": [{"role": "user", "content": text}]} for i, text in enumerate(DOCUMENTS)
    ]
    archive = tmp_path / "text.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(written(tmp_path / "in", a__txt=TEXT) / "a.txt", "a.txt")
    files = written(
        tmp_path,
        chats__jsonl="".join(json.dumps(chat) + "\n" for chat in chats),
        bare__csv="".join(f'"{document}\nand more","0"\n' for document in DOCUMENTS),
    )
    for name, message in {"chats.jsonl": "holds the turns of a chat", "bare.csv": "no column 'text'"}.items():
        with pytest.raises(BadInput, match=message):
            split_of(files / name, tmp_path)
    with pytest.raises(BadInput, match="which is no text"):
        split_of(archive, tmp_path)
    for name, content in {"lines.txt": jsonl(DOCUMENTS), "page.html": f"<html>{TEXT}</html>"}.items():
        (tmp_path / name).write_text(content)
        _, _, said = split_of(tmp_path / name, tmp_path / name.replace(".", "-"))
        assert f"{name} is read as" in said[0]


def test_what_a_folder_holds_besides_text_is_named(tmp_path):
    source = written(
        tmp_path / "data", a__txt=TEXT, photo__png=b"\x89PNG\0", scores__json='{"loss": 3}', Makefile="all:\n",
        README__md="Cite it.\n" * 90,
    )  # fmt: skip
    _, _, said = split_of(source, tmp_path)
    left = "\n".join(said)
    for name in ("photo.png", "scores.json", "Makefile", "README.md"):
        assert name in left


def test_a_pipe_and_a_name_that_is_not_text_are_named(tmp_path):
    folder = written(tmp_path / "data", a__txt=TEXT)
    os.mkfifo(folder / "pipe.txt")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text(TEXT)
    said = split_of(folder, tmp_path)[2]
    assert "left out: pipe.txt: a pipe, a device or a socket" in said
    assert r"left out: \udcff.txt: a name that is not UTF-8" in said


def test_a_folder_that_the_datasets_library_saved_is_read(tmp_path):
    import pyarrow as pa
    from pyarrow import ipc

    for split, documents in {"train": DOCUMENTS, "validation": ["other words of law"] * 20}.items():
        (tmp_path / "saved" / split).mkdir(parents=True)
        table = pa.table({"text": documents})
        path = tmp_path / "saved" / split / "data-00000-of-00001.arrow"
        with pa.OSFile(str(path), "wb") as sink, ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        (tmp_path / "saved" / split / "state.json").write_text("{}")
    _, sides, _ = split_of(tmp_path / "saved", tmp_path)
    assert list(sides.values()) == ["train", "heldout"]


def test_a_spoilt_offset_of_a_table_is_refused_and_does_not_end_the_process(tmp_path):
    """Found by tests.nasty: a segmentation fault."""
    import pyarrow as pa
    from pyarrow import ipc

    path, table = tmp_path / "a.arrow", pa.table({"text": ["some", "text"]})
    with pa.OSFile(str(path), "wb") as sink, ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    good = path.read_bytes()
    spoilt = good.replace(
        np.array([0, 4, 8], np.int32).tobytes(), np.array([0, 4, 2**30], np.int32).tobytes()
    )
    assert spoilt != good
    path.write_bytes(spoilt)
    with pytest.raises(BadInput, match="cannot read"):
        list(read_chunks(SourceText("a.arrow", path)))


def test_a_byte_that_is_no_text_is_where_it_is_said_to_be(tmp_path):
    source = written(tmp_path, old__txt=(TEXT[:50_000] + "caf\u00e9 " + TEXT).encode("latin-1")) / "old.txt"
    with pytest.raises(BadInput, match="at byte 50003;"):
        split_of(source, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TEXT.encode("utf-16-le"), "NUL, as in UTF-16 without its mark"),
        (TEXT.encode("utf-32"), "NUL, as in UTF-16 without its mark and in UTF-32"),
        (gzip.compress(TEXT.encode()), r"is compressed by gzip \(\.gz\) by its first bytes"),
        (b"PK\x03\x04\x14\x00\xff" + b"zip" * 99, "a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "git lfs pull fetches it"),
    ],
)
def test_what_is_no_text_under_a_texts_name_is_refused_by_what_it_is(content, said, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(BadInput, match=said):
        split_of(tmp_path / "a.txt", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]


def test_a_mark_says_that_text_is_utf_16(tmp_path):
    written(tmp_path, wide__txt=TEXT.encode("utf-16"), plain__txt=TEXT)
    wide, plain = (list(read_chunks(SourceText(n, tmp_path / n))) for n in ("wide.txt", "plain.txt"))
    assert wide == plain


# The text's identity


def test_the_same_text_is_known_by_any_path_and_is_not_needed_again(tmp_path, monkeypatch):
    source = written(tmp_path / "here", t__txt=TEXT) / "t.txt"
    manifest, _, _ = split_of(source, tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    assert split_of("./t.txt", tmp_path)[0] == manifest
    (tmp_path / "here").rename(tmp_path / "there")
    assert split_of(tmp_path / "there" / "t.txt", tmp_path)[0] == manifest
    (tmp_path / "there" / "t.txt").rename(tmp_path / "there" / "renamed.txt")
    assert split_of(tmp_path / "there" / "renamed.txt", tmp_path)[0] == manifest
    (tmp_path / "there" / "renamed.txt").unlink()
    assert split_of(source, tmp_path)[0] == manifest
    (tmp_path / "there" / "t.txt").write_text(TEXT + "more\n")
    with pytest.raises(BadInput, match="1 of them new; 1 of the old gone"):
        split_of(tmp_path / "there" / "t.txt", tmp_path)


def test_tokens_that_were_changed_are_refused_with_the_files_name(tmp_path):
    source = written(tmp_path, t__txt=TEXT) / "t.txt"
    manifest, _, _ = split_of(source, tmp_path)
    for name in ("train-00000.bin", "heldout.bin", "tokenizer.json"):
        path = tmp_path / "tokens" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:200] + b"\0" * 100 + whole[300:])
        with pytest.raises(BadInput, match=f"{name} is not what was written"):
            split_of(source, tmp_path)
        path.write_bytes(whole)
    check_shards(tmp_path / "tokens", manifest)


def test_a_refusal_names_the_size_that_would_fit(tmp_path):
    source = written(tmp_path, t__txt=TEXT[:6000]) / "t.txt"
    with pytest.raises(BadInput, match=r"or batch_size=\d+ or n_positions=\d+$") as refused:
        split_of(source, tmp_path, need=Need(n_positions=512, batch_size=64))
    positions = int(str(refused.value).rsplit("=", 1)[1])
    need = Need(n_positions=positions, batch_size=64)
    assert split_of(source, tmp_path, need=need)[0].train_tokens
