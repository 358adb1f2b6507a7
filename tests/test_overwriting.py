"""No --out takes the place of a file that is something else, in any verb that has one, unless --yes says so."""

import shutil

import pytest

from families.units import BadInput
from scaling.cli.app import build

from .synthetic import write_study
from .test_table import write_run

MINE = "run,size,note\nmine,1,years of work\n"
CARD = "| member | parameters |\n|---|---|\n| GPT-2 117M | 124M |\n"
EMIT = ["family=gpt2", "tokens=1B", "batch_size=8"]
VERBS = {
    "plan": ["--budget", "1e19", "--out", "mine"],
    "pilot": ["--target", "125M", "--out", "mine"],
    "fit": ["study/runs.jsonl", "--out", "mine"],
    "audit": ["card.md", "--out", "mine"],
    "table": ["tuned", "--out", "mine"],
    "report": ["--study", "study", "--format", "json", "--out", "mine"],
    "plot": ["surface", "--study", "study", "--out", "mine.csv"],
    "families": ["emit", "gpt2", "--out", "."],
    "emit": ["--deepspeed", *EMIT, "--out", "."],
    "design": ["--depth", "2", "--width", "128", "--vocab", "512", "--out", "."],
}


def typed(*words):
    return build()(list(words), standalone_mode=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("overwriting") / "study")


@pytest.fixture
def here(study, tmp_path, monkeypatch):
    shutil.copytree(study, tmp_path / "study")
    write_run(tmp_path / "tuned", "gpt2-s0")
    (tmp_path / "card.md").write_text(CARD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def target(verb, here):
    if verb == "design":
        typed("design", *VERBS["design"])
        return next(here.glob("gpt2-*/config.json"))
    return here / {"plot": "mine.csv", "families": "config.json", "emit": "ds_config.json"}.get(verb, "mine")


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_that_is_something_else_stays_and_yes_replaces_it(verb, here):
    path = target(verb, here)
    path.write_text(MINE)
    with pytest.raises(BadInput, match=f"{path.name} exists and is not .*; give another --out, or --yes"):
        typed(verb, *VERBS[verb])
    assert path.read_text() == MINE
    assert [place for place in here.iterdir() if place.name == "config.json"] == (
        [path] if verb == "families" else []
    )
    typed(verb, *VERBS[verb], "--yes")
    assert path.read_text() != MINE


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("plan",)])
def test_what_the_same_command_wrote_is_replaced_without_asking(verb, here):
    path = target(verb, here)
    for _ in range(2):
        typed(verb, *VERBS[verb])
    assert path.stat().st_size


def test_a_fit_does_not_replace_its_own_table(here):
    (here / "mine.csv").write_text("run,params,tokens,loss\n" + "a,1e6,1e8,4\nb,2e6,1e8,3.8\n")
    with pytest.raises(BadInput, match=r"mine.csv exists and is not a law"):
        typed("fit", "mine.csv", "--out", "mine.csv")
