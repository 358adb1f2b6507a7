"""Text from stores and models into them: fsspec's own stores stand for s3, which speaks the same interface."""

import json
from pathlib import Path

import fsspec
import pytest

from families.units import BadInput, RunFailed
from train.data.prepare import prepare
from train.data.remote import check_export, export, is_url, local_text

from .small_plan import planned, small_study
from .tiny import write_corpus


@pytest.fixture
def store():
    """An empty store that lives in this process's memory."""
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    yield found
    found.store.clear()


@pytest.fixture
def corpus(store, tmp_path):
    """The same text in a folder and in the store."""
    write_corpus(tmp_path / "corpus")
    store.put(str(tmp_path / "corpus"), "/bucket/corpus", recursive=True)
    return tmp_path / "corpus"


@pytest.mark.parametrize("where", ["s3://bucket/text", "file:///a", "memory://x"])
def test_a_url_is_told_from_a_path(where):
    assert is_url(where)
    assert not any(
        map(is_url, ("text", "./a:b", "/a//b", "C:\\text", "hub:owner/name", "stdlib", "s3:bucket"))
    )


def test_text_in_a_store_gives_the_tokens_of_the_same_text_in_a_folder(corpus, store, tmp_path):
    here = prepare(str(corpus), tmp_path / "a" / "data", vocab_size=300)
    there = prepare("memory://bucket/corpus", tmp_path / "b" / "data", vocab_size=300)
    assert [(file.name, file.sha256, file.split) for file in there.files] == [
        (file.name, file.sha256, file.split) for file in here.files
    ]
    assert (tmp_path / "a/data/heldout.bin").read_bytes() == (tmp_path / "b/data/heldout.bin").read_bytes()
    assert there.source == "memory://bucket/corpus"


def test_what_was_fetched_needs_no_store_again(corpus, store, tmp_path):
    first = prepare("memory://bucket/corpus", tmp_path / "study" / "data", vocab_size=300)
    store.store.clear()
    assert prepare("memory://bucket/corpus", tmp_path / "study" / "data", vocab_size=300) == first


def test_a_fetch_that_was_killed_goes_on_with_what_is_missing(corpus, store, tmp_path, monkeypatch):
    asked = []
    get = type(store).get_file

    def failing(self, name, *more, **options):
        asked.append(name)
        if len(asked) == 2:
            raise ConnectionResetError("the store hung up")
        return get(self, name, *more, **options)

    monkeypatch.setattr(type(store), "get_file", failing)
    with pytest.raises(BadInput, match=r"reading it failed: ConnectionResetError: the store hung up"):
        local_text("memory://bucket/corpus", tmp_path / "fetched")
    place = local_text("memory://bucket/corpus", tmp_path / "fetched")
    assert len(asked) == len(set(asked)) + 1
    found = {path.relative_to(place).as_posix() for path in Path(place).rglob("*") if path.is_file()}
    assert found == {path.relative_to(corpus).as_posix() for path in corpus.rglob("*") if path.is_file()}


def test_one_object_is_a_text_too_and_held_out_text_may_lie_in_a_store(corpus, store, tmp_path):
    store.pipe_file("/bucket/extra.txt", b"one more line of text that is held out\n" * 40)
    manifest = prepare(str(corpus), tmp_path / "data", vocab_size=300, validation="memory://bucket/extra.txt")
    assert [file.name for file in manifest.files if file.split == "heldout"] == ["validation/extra.txt"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("memory://bucket/none", "which holds no .txt"),
        ("nosuch://bucket/text", "Protocol not known: nosuch"),
        ("ftp://me:secret@host/text", "with a name and password in it"),
        ("file:///no/such/folder", "which holds no .txt|does not exist"),
    ],
)  # fmt: skip
def test_a_store_that_gives_nothing_is_one_line(data, message, store, tmp_path):
    with pytest.raises(BadInput, match=message) as caught:
        prepare(data, tmp_path / "study" / "data", vocab_size=300)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.json"))


def test_a_store_without_its_library_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(BadInput, match=r"reading it needs: pip install 'scaling-planner\[s3\]'"):
        local_text("s3://bucket/text", tmp_path)


@pytest.mark.parametrize(
    "name", ["/bucket/up/../../../evil.txt", "/bucket/up/a//b.txt", "/bucket/up/a\nb.txt"]
)
def test_an_object_whose_name_would_leave_the_folder_is_refused(name, store, tmp_path):
    store.store[name] = fsspec.implementations.memory.MemoryFile(store, name, b"text\n")
    with pytest.raises(BadInput, match="that is no path of a file"):
        local_text("memory://bucket/up", tmp_path / "fetched")
    assert not list(tmp_path.rglob("*.txt"))


def finished(folder, run="a-s0", size=2000):
    """A rung as training leaves it, but for its weights."""
    from scaling.runs import Run
    from train.rung import RungFile

    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"w" * size)
    observation = Run(run=run, params=1e6, tokens=64, loss=3.0)
    RungFile(
        observation=observation, perplexity=20.0, bits_per_byte=1.0, loss_per_word=4.0, eval_tokens=9
    ).write(folder / "rung.json")
    return folder


def test_a_model_is_exported_once_and_its_rung_is_written_last(store, tmp_path, monkeypatch):
    rung = finished(tmp_path / "runs" / "a-s0" / "rung-64")
    put = type(store).put_file
    seen = []
    monkeypatch.setattr(
        type(store),
        "put_file",
        lambda self, *words, **more: (seen.append(words[1]), put(self, *words, **more)),
    )
    assert export((rung,), "memory://bucket/models") == ("memory://bucket/models/a-s0/rung-64",)
    held = {name.removeprefix("/bucket/models/a-s0/rung-64/") for name in store.store}
    assert held == {"model/config.json", "model/model.safetensors", "rung.json"}
    assert not any(name.endswith("rung.json") for name in seen)
    assert export((rung,), "memory://bucket/models") == ()
    assert len(seen) == 2


def test_an_export_that_fails_says_that_nothing_is_lost_and_the_same_command_ends_it(
    store, tmp_path, monkeypatch
):
    rungs = tuple(finished(tmp_path / f"rung-{k}", run=f"r{k}") for k in (1, 2))
    put = type(store).put_file

    def failing(self, here, there, **more):
        if "/r2/" in there:
            raise OSError("503 Slow Down")
        return put(self, here, there, **more)

    monkeypatch.setattr(type(store), "put_file", failing)
    with pytest.raises(
        RunFailed, match=r"503 Slow Down; 1 of 2 models were exported.*the same command"
    ) as caught:
        export(rungs, "memory://bucket/models")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(type(store), "put_file", put)
    assert export(rungs, "memory://bucket/models") == ("memory://bucket/models/r2/rung-2",)


@pytest.mark.parametrize("url", ["models", "/shared/models", "nosuch://bucket", "file:///dev/null/models"])
def test_a_place_that_takes_nothing_is_said_before_the_training(url):
    with pytest.raises(BadInput, match=r"export is '.*'(; it must be a URL|; writing it failed)"):
        check_export(url)


@pytest.mark.slow
def test_a_ladder_reads_from_a_store_and_writes_its_models_to_one(cli, tmp_path):
    plan, _ = small_study(tmp_path, planned("a", steps=4))
    data, out = (tmp_path / "corpus").as_uri(), (tmp_path / "models").as_uri()
    words = (
        "ladder",
        plan,
        "--data",
        data,
        "--study",
        tmp_path / "other",
        "--export",
        out,
        "--yes",
        "--json",
    )
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    (rung,) = json.loads(done.stdout)["rungs"]
    (there,) = (tmp_path / "models").glob("a-s0/rung-*")
    assert json.loads((there / "rung.json").read_text())["observation"]["loss"] == rung["loss"]
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        path.name for path in (there / "model").iterdir()
    }
    measured = cli("validate", there / "model", "--data", data, "--json")
    assert measured.returncode == 0, measured.stderr
    again = cli(*words)
    assert (again.returncode, json.loads(again.stdout)) == (0, json.loads(done.stdout))
    assert "exported" not in again.stderr
