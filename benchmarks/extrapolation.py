"""How well the default predictor foretells the next decade of compute, against the plain forms, on public tables.

Run: python benchmarks/extrapolation.py [--data DIR] [--json] [--check]
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from scaling.backtest import GroupScore, backtest
from scaling.runs import Run, by_group, compute_of, read_runs

APART = {"cs336": "noise-free", "c4_repeated": "repeated data", "dedup": "deduplicated, repeated"}
FEWEST_TRAINING_ROWS = 20
SHIFTS = (0.5, 1.0, 1.5)  # decades cut off the top first: the same question asked earlier in each study


def main() -> int:
    """Print a table, or one JSON object; status 1 with --check if a bar fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "../shared/data")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    runs = tables(options.data)
    scores = {name: score(rows) for name, rows in runs.items()}
    counted = {
        name: one
        for name, one in scores.items()
        if one and one.fit_rows >= FEWEST_TRAINING_ROWS and name not in APART
    }
    earlier = [
        one
        for name in counted
        for shift in SHIFTS
        if (one := score(before(runs[name], shift))) and one.fit_rows >= FEWEST_TRAINING_ROWS
    ]
    found = bars(counted, scores.get("c4_repeated"))
    result = {
        "groups": [row(one) for one in scores.values() if one],
        "mean_error": {
            form: mean(counted.values(), form) for form in ("chinchilla", "general", "kaplan", "default")
        },
        "earlier_decades": {
            "splits": len(earlier),
            **{form: mean(earlier, form) for form in ("chinchilla", "general", "default")},
        },
        "bars": found,
    }
    print(json.dumps(result, indent=2) if options.json else text(result))
    return 1 if options.check and not all(bar["holds"] for bar in found) else 0


def tables(folder: Path) -> dict[str, tuple[Run, ...]]:
    """Every group of every table."""
    return {
        name: rows
        for path in sorted(folder.glob("*.csv"))
        for name, rows in by_group(read_runs(path).runs).items()
    }


def before(runs: tuple[Run, ...], shift: float) -> tuple[Run, ...]:
    """The runs whose compute lies at least `shift` decades below the largest."""
    top = max(map(compute_of, runs)) / 10**shift
    return tuple(run for run in runs if compute_of(run) <= top * (1 + 1e-9))


def score(runs: tuple[Run, ...]) -> GroupScore | None:
    """The top-decade backtest, or None where the rows are too few."""
    try:
        return backtest(runs).groups[0]
    except ValueError:
        return None


def error(one: GroupScore, form: str) -> float:
    """Mean |relative error| of a form, or of the default predictor."""
    return one.default.mean_error if form == "default" else one.forms[form].mean_error


def mean(scores: Any, form: str) -> float:
    """Mean over groups."""
    return float(np.mean([error(one, form) for one in scores]))


def bars(counted: dict[str, GroupScore], repeated: GroupScore | None) -> list[dict[str, Any]]:
    """What issue 3 asks."""
    worst = max(
        error(one, "default") / min(s.mean_error for s in one.forms.values()) for one in counted.values()
    )
    found = [
        bar(
            "default over chinchilla, mean error",
            mean(counted.values(), "default") / mean(counted.values(), "chinchilla"),
            0.65,
        ),
        bar("default over the best single form, worst group", worst, 1.15),
    ]
    if repeated is not None:
        plain = error(repeated, "chinchilla")
        found.append(
            bar(
                "data-constrained over chinchilla, repeated data",
                error(repeated, "data-constrained") / plain,
                0.5,
            )
        )
        found.append(bar("default over chinchilla, repeated data", error(repeated, "default") / plain, 0.5))
    return found


def bar(name: str, value: float, at_most: float) -> dict[str, Any]:
    """One bar."""
    return {"name": name, "value": value, "at_most": at_most, "holds": bool(value <= at_most)}


def row(one: GroupScore) -> dict[str, Any]:
    """One group for the table."""
    return {
        "group": one.group,
        "fit_rows": one.fit_rows,
        "held_rows": one.held_rows,
        "compute_ratio": one.compute_ratio,
        **{form: s.mean_error for form, s in one.forms.items()},
        "default": one.default.mean_error,
        "bias": one.default.bias,
        "coverage_80": one.default.coverage_80,
        "relative_width_80": one.default.relative_width_80,
        "apart": APART.get(one.group, "few rows" if one.fit_rows < FEWEST_TRAINING_ROWS else ""),
    }


def text(result: dict[str, Any]) -> str:
    """The result for a person."""
    columns = ("fit/held", "chinch.", "general", "kaplan", "default", "bias", "in 80 %")
    lines = [f"{'group':<22}" + "".join(f"{name:>9}" for name in columns) + f"{'width':>8}"]
    lines += [
        f"{g['group'][:21]:<22}{g['fit_rows']:>5}/{g['held_rows']:<3}"
        + "".join(f"{g[form]:>9.2%}" for form in ("chinchilla", "general", "kaplan", "default"))
        + f"{g['bias']:>+9.2%}{g['coverage_80']:>9.0%}{g['relative_width_80']:>8.1%}  {g['apart']}"
        for g in result["groups"]
    ]
    lines.append(
        "mean over groups that count: " + ", ".join(f"{k} {v:.2%}" for k, v in result["mean_error"].items())
    )
    early = result["earlier_decades"]
    lines.append(
        f"{early['splits']} earlier decades of the same groups: "
        + ", ".join(f"{form} {early[form]:.2%}" for form in ("chinchilla", "general", "default"))
    )
    lines += [
        f"{'ok  ' if b['holds'] else 'FAIL'} {b['name']}: {b['value']:.3f} (at most {b['at_most']})"
        for b in result["bars"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
