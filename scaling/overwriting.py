"""A file that is there is written over where it is what the same command writes; any other only when told (--yes)."""

import json
from pathlib import Path

from families.errors import BadInput

from .files import Document


def check_document(path: Path, kind: type[Document], *, replace: bool = False) -> None:
    """Refuse a place for a JSON file of ours that holds anything but one of its kind.

    Raises:
        BadInput: such a file is there.
    """
    if path.is_file() and not replace:
        try:
            there = json.loads(path.read_bytes())
        except ValueError:
            there = None
        if not (isinstance(there, dict) and there.get("kind") == kind.KIND):
            _refuse(path, f"a {kind.KIND}")


def check_opening(path: Path, opening: bytes | str, what: str, *, replace: bool = False) -> None:
    """Refuse a place that holds a file which begins with other words than `opening`, the beginning of what is to be
    written; `what` names that, as in "a table of runs".

    Raises:
        BadInput: such a file is there.
    """
    if path.is_file() and not replace:
        words = (opening.encode() if isinstance(opening, str) else opening).split()
        if path.read_bytes().split(maxsplit=len(words))[: len(words)] != words:
            _refuse(path, what)


def _refuse(path: Path, what: str) -> None:
    raise BadInput(f"{path} is there and is not {what}; give another --out, or --yes to replace it")
