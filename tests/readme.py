"""The console blocks of README.md: run as a reader would, and written anew.

    python -m tests.readme --write

replaces what README shows after each "$ scaling …" of a ```console block by what the commands print now. A line "…" stands for
lines left out: what README shows of a command is its first lines, the lines between two "…", and so on.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Step:
    """A command, and the lines shown after it."""

    command: str
    shown: tuple[str, ...]


def steps(text):
    """The commands of all console blocks, in order."""
    found = []
    for block in BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.rstrip("\n").split("\n")
            found.append(Step(command, tuple(shown)))
    return found


def said(command, place):
    """What a command prints on standard output."""
    words = shlex.split(command)
    assert words[0] == "scaling"
    program = [sys.executable, "-P", "-c", "from scaling.cli import main; main()", *words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=place, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return tuple(done.stdout.rstrip("\n").split("\n"))


def folder(place):
    """Fill a folder with what README's commands read."""
    shutil.copytree(ROOT / "examples", place / "examples")
    (place / "text").mkdir()
    (place / "text" / "part.txt").write_text("Some text.\n" * 2000)
    return place


def missing(shown, printed):
    """The first shown line that is not printed in its order, numbers within a hundredth; None where all are."""
    at = 0
    for line in shown:
        if line == "…":
            continue
        while at < len(printed) and not same(line, printed[at]):
            at += 1
        if at == len(printed):
            return line
        at += 1
    return None


def same(line, other):
    """True for lines of the same words, numbers within a hundredth, whatever the spaces."""
    number = re.compile(r"\d[\d,]*\.?\d*(?:e[+-]?\d+)?")
    if number.sub("#", " ".join(line.split())) != number.sub("#", " ".join(other.split())):
        return False
    pairs = zip(number.findall(line), number.findall(other), strict=True)
    values = [(float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs]
    return all(abs(a - b) <= 0.01 * max(abs(a), abs(b)) for a, b in values)


def main():
    """Write README's blocks anew; the number of shown lines of a command stays as it is where it is cut."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as place:
        folder(Path(place))
        for step in steps(text):
            printed = said(step.command, place)
            lost = missing(step.shown, printed)
            print(f"{step.command}: {'as shown' if lost is None else f'no longer: {lost}'}")
            if lost is not None and asked.write:
                kept = printed[: len(step.shown) - 1] if "…" in step.shown else printed
                fresh = [*kept, "…"] if "…" in step.shown else list(kept)
                text = text.replace("\n".join([step.command, *step.shown]), "\n".join([step.command, *fresh]))
    if asked.write:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
