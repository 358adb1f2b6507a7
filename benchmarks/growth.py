"""How time and memory grow with a study: its runs, a plan's members, people at work at once, and bytes of text.

Run: python benchmarks/growth.py [--only PART] [--json] [--check] [--quick]. Each part has three sizes, each stage is a process
of its own with one thread. `runs`: a simulated study as in `scale.py` (10,000 runs are 1,000,000 ledger rows), and the verbs
that read it. `members`: a sealed plan of as many members, all of them trained. `users`: processes at once on one study, each
of which adds a run and ledger entries, fits, plans and reports; afterwards nothing may be lost. `text`: a text of as many
bytes, of shuffled documents of the standard library, is tokenised by a vocabulary of 8,192 that is trained on it. Bars are
on processor time, which a busy machine changes little: the exponent of its growth, and the most megabytes resident.

To measure another version, put its folder first: PYTHONPATH=OTHER python benchmarks/growth.py.
"""

import argparse
import json
import math
import random
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scale import measured

EXPONENT = 1.2  # of processor time, at the most
SCALING = [sys.executable, "-c", "from scaling.cli import main; main()"]
ENTRIES = 200  # ledger entries that each user appends


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one stage took at one size. `seconds` of wall clock, `busy` of processor; `megabytes` resident at the most."""

    part: str
    stage: str
    size: int
    seconds: float
    busy: float
    megabytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One quantity that grows.

    Args:
        sizes: three of it, the last being what is promised; `quick` are smaller ones.
        run: costs by stage of one size, in an empty folder.
        most: megabytes by stage at the largest size.
    """

    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    run: Callable[[Path, int], Mapping[str, tuple[float, float, float]]]
    most: Mapping[str, float]


def python(code: str) -> list[str]:
    """A command that runs a line of Python."""
    return [sys.executable, "-c", code]


def documents() -> list[str]:
    """The sources of the running interpreter's library, packages installed beside it left out."""
    root = Path(sysconfig.get_path("stdlib"))
    return [
        path.read_text(encoding="utf-8", errors="ignore")
        for path in sorted(root.rglob("*.py"))
        if "site-packages" not in path.parts
    ]


def write_text(path: Path, size: int) -> None:
    """Write a text of `size` bytes: the documents, shuffled anew each time they are through."""
    every, rng, left = documents(), random.Random(0), size
    with path.open("wb") as file:
        while left > 0:
            rng.shuffle(every)
            for document in every:
                data = f"{document}\n\n".encode()[:left]
                file.write(data)
                left -= len(data)


def text_costs(place: Path, size: int) -> dict[str, tuple[float, float, float]]:
    """Tokenise a text of `size` bytes, as `train` and `ladder` do at their start."""
    write_text(place / "text.txt", size)
    code = (
        "from pathlib import Path; from train.data.prepare import prepare; "
        f"made = prepare({str(place / 'text.txt')!r}, Path({str(place / 'data')!r}), vocab_size=8192); "
        "print(made.train_tokens + made.heldout.tokens)"
    )
    return {"tokenise": measured(python(code))}


PARTS: dict[str, Part] = {
    "text": Part(
        sizes=(20_000_000, 200_000_000, 2_000_000_000), quick=(2_000_000, 6_000_000, 20_000_000),
        run=text_costs, most={"tokenise": 1000.0},
    ),
}  # fmt: skip


def costs(name: str, size: int) -> list[Cost]:
    """One part at one size, in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as place:
        found = PARTS[name].run(Path(place), size)
    rows = [
        Cost(part=name, stage=stage, size=size, seconds=taken, busy=busy, megabytes=memory)
        for stage, (taken, busy, memory) in found.items()
    ]
    for row in rows:
        print(f"{name} {row.stage} {size:,}: {row.seconds:.1f} s, {row.busy:.1f} s of processor, {row.megabytes:.0f} MB",
              file=sys.stderr, flush=True)  # fmt: skip
    return rows


def exponent(rows: Sequence[Cost]) -> float:
    """Slope of log processor time against log size, by the two largest: smaller ones are the interpreter's start."""
    before, last = sorted(rows, key=lambda row: row.size)[-2:]
    return math.log(last.busy / before.busy) / math.log(last.size / before.size)


def bars_of(rows: Sequence[Cost]) -> list[dict[str, Any]]:
    """What is promised of each stage."""
    bars = []
    for name, part in PARTS.items():
        for stage, most in part.most.items():
            own = [row for row in rows if (row.part, row.stage) == (name, stage)]
            if not own:
                continue
            largest = max(own, key=lambda row: row.size)
            bars.append(
                {
                    "name": f"{name}, {stage}: megabytes at {largest.size:,}",
                    "value": largest.megabytes,
                    "at_most": most,
                }
            )
            if len(own) > 1:
                bars.append(
                    {"name": f"{name}, {stage}: exponent", "value": exponent(own), "at_most": EXPONENT}
                )
    for bar in bars:
        bar["holds"] = bar["value"] <= bar["at_most"]
    return bars


def main() -> int:
    """Print the costs and the bars; exit status 1 under --check where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="taken for the benchmarks' common form; nothing is read")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="one part; repeatable")
    parser.add_argument("--sizes", help="sizes of that part, with commas")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    rows = []
    for name in options.only or PARTS:
        part = PARTS[name]
        sizes = part.quick if options.quick else part.sizes
        if options.sizes:
            sizes = tuple(int(word) for word in options.sizes.split(","))
        for size in sizes:
            rows += costs(name, size)
    bars = bars_of(rows)
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "bars": bars}, indent=2))
    else:
        for bar in bars:
            print(
                f"{'ok  ' if bar['holds'] else 'FAIL'} {bar['name']}: {bar['value']:.3g} (at most {bar['at_most']:.3g})"
            )
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


if __name__ == "__main__":
    sys.exit(main())
