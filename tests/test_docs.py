"""What the documents say is there, is there: verbs, options and keys of commands, kinds of files."""

import re
import shlex
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

import scaling
import train
from families.rules import MAKERS
from plots.output import REPORTS
from scaling.cli.app import VERBS, load
from scaling.files import Document
from scaling.fitting.fit import FORMS
from scaling.published_laws import PUBLISHED
from scaling.recipe import RULES
from train.config import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").glob("**/*.md") if path.name != "log.md"),
]


def commands(text):
    """Every command of the program in a page's code, a line each."""
    fence = re.compile(r"^```(?:console)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
    blocks = fence.findall(text)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", fence.sub("", text))
    return [line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith("scaling ")]


SAID = [(page.name, line) for page in PAGES for line in commands(page.read_text(encoding="utf-8"))]


def test_the_pages_hold_commands():
    assert len(SAID) > 40


@pytest.mark.parametrize(("page", "line"), SAID)
def test_every_command_of_a_page_has_a_verb_and_options_that_are_there(page, line):
    words = shlex.split(line, comments=True)
    verbs = {verb.name: verb for verb in VERBS}
    command = load(verbs[words[1]])
    known = {name for parameter in command.params for name in parameter.opts}
    for one in getattr(command, "commands", {}).values():
        known |= {name for parameter in one.params for name in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}
    if words[1] in ("train", "tune", "emit"):
        keys = {word.partition("=")[0] for word in words if re.match(r"[a-z0-9_]+=", word)}
        assert keys <= set(TrainConfig.model_fields)


def test_the_page_of_files_names_every_kind():
    for package in (scaling, train):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    kinds, left = set(), [Document]
    while left:
        one = left.pop()
        left += one.__subclasses__()
        if one.__module__.startswith(("scaling.", "train.")):
            kinds |= {one.__dict__["KIND"]} if "KIND" in one.__dict__ else set()
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith("| `kind` |"))
    assert set(re.findall(r"`(\w+)`", row)) - {"kind"} == kinds | {"runs", "ledger"}


@pytest.mark.parametrize(
    ("verb", "option", "names"),
    [
        ("fit", "form", FORMS),
        ("plan", "rule", tuple(RULES)),
        ("plan", "law", tuple(PUBLISHED)),
        ("predict", "law", tuple(PUBLISHED)),
        ("design", "architecture", tuple(MAKERS)),
        ("report", "form", tuple(REPORTS)),
    ],
)
def test_an_options_help_names_all_that_it_takes(verb, option, names):
    (command,) = (load(one) for one in VERBS if one.name == verb)
    (found,) = (parameter for parameter in command.params if parameter.name == option)
    assert [name for name in names if name not in found.help] == []
