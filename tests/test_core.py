"""The planner needs no torch: every verb but those that train works with the training packages hidden."""

import subprocess
import sys
from pathlib import Path

import pytest

from families.units import BadInput
from scaling import extras

from . import core


@pytest.mark.slow
def test_every_verb_but_those_that_train_works_without_the_training_packages():
    done = subprocess.run(
        [sys.executable, str(Path(core.__file__)), "--blocked"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(extras, "importable", lambda name: name == "torch")
    with pytest.raises(BadInput, match=r"^train needs transformers: pip install 'scaling-planner\[train\]'$"):
        extras.require_training("train")


def test_every_verb_of_the_command_line_is_tried_without_torch():
    from scaling.cli.app import VERBS

    tried = {words.split()[0] for words in (*core.WORK, *(words for words, _ in core.REFUSED))}
    assert {verb.name for verb in VERBS} <= tried
    refused = {words.split()[0] for words, _ in core.REFUSED} - {"emit"}
    assert {verb.name for verb in VERBS if verb.trains} == refused
