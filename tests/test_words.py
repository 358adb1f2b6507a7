"""Prose: no private phrase in help, messages or pages; public functions with many parameters describe them."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import pytest

from scaling.cli.app import VERBS, load

ROOT = Path(__file__).parents[1]
PACKAGES = ("families", "scaling", "train", "plots")
PHRASES = (
    "kaplan would", "wanted by", "no law prefers", "no law wants", "as true as it is", "and leave.", "leave; do not",
    "hears", "is told", "what is believed", "how it stands", "is not kept", "on offer", "ill-", "does not add up",
    "nobody", "somebody", "of one's own", "speaks for all", "goes on where it was", "tells it better", "a slip of",
    "what may be spent", "foretell", "foretold", "promised", "whatever the way", "the one in hand",
)  # fmt: skip

UNATTESTED = "attested by nobody but this machine"  # a grade that compare prints (docs/seal.md)

PATTERN = re.compile(
    r"\b(?:" + "|".join(re.escape(phrase).rstrip(r"\ ") for phrase in PHRASES) + ")", re.IGNORECASE
)


def product_files():
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def pages():
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def strings(path):
    """String literals of a module, docstrings among them."""
    return [node.value for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)]  # fmt: skip


def phrases(path):
    texts = strings(path) if path.suffix == ".py" else [path.read_text(encoding="utf-8")]
    said = (" ".join(text.split()).replace(UNATTESTED, "") for text in texts)
    return sorted({match[0].lower() for text in said for match in PATTERN.finditer(text)})


def commands():
    for verb in VERBS:
        command = load(verb)
        yield from getattr(command, "commands", {verb.name: command}).values()


FILES = [
    path for path in (*product_files(), *pages()) if path.name != "log.md"  # which quotes what was changed
]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_phrase_in_strings_and_pages(path):
    assert not phrases(path)


def test_no_private_phrase_in_help():
    for command in commands():
        with command.make_context(command.name, [], resilient_parsing=True) as context:
            assert not PATTERN.findall(" ".join(command.get_help(context).split())), command.name


def public_functions(module):
    """Public functions and methods that a module defines, with their qualified names."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for inner, method in vars(value).items():
                function = getattr(method, "__func__", method)
                if not inner.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{inner}", function


def lacking(module):
    """Functions of four and more parameters without a section `Args:`."""
    for name, function in public_functions(module):
        count = len([one for one in inspect.signature(function).parameters if one not in ("self", "cls")])
        if count >= 4 and "Args:" not in (function.__doc__ or ""):
            yield name


MODULES = [
    module.name
    for package in PACKAGES
    for module in walk_packages(import_module(package).__path__, f"{package}.")
    if not module.name.startswith("scaling.cli.")  # their parameters are options, each with its help
]


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_of_four_parameters_describe_them(name):
    assert not list(lacking(import_module(name)))
