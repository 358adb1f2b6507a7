"""How well the default predictor foretells the next decade of compute, against the plain forms, on public tables.

Beside the top decade of every group the same question is asked earlier in each study, on parts of it, and with the constants
of the prior chosen on other sources: what was tuned in view of these tables shows there.

Run: python benchmarks/extrapolation.py [--data DIR] [--quick] [--json] [--check]
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from leave_one_out import chosen_elsewhere

from families.units import BadInput
from scaling.fitting.backtest import GroupScore, backtest, split
from scaling.fitting.fit import fit
from scaling.fitting.selection import select_runs
from scaling.runs import Run, RunTable
from scaling.runs.readers import read_runs

# The tables on which the bars were set; a folder may hold others, of other units or settings.
SOURCES = (
    "cerebras_gpt_and_pythia",
    "chinchilla",
    "cs336_isoflop",
    "datablations",
    "gemstones",
    "nanochat_miniseries",
    "overtraining",
    "porian_isoflop",
    "routed_lm_dense",
)
APART = {"cs336": "noise-free", "c4_repeated": "repeated data", "dedup": "deduplicated, repeated"}
FEWEST_TRAINING_ROWS = 20
SHIFTS = (0.5, 1.0, 1.5)  # decades cut off the top first: the same question asked earlier in each study
SHARE, DRAWS = 0.6, 3  # of the runs of a group, drawn at random, and how often
FORMS = ("chinchilla", "general", "kaplan")
METHODS = (*FORMS, "mean", "default")
NOTABLY = 1.15  # times the better single form


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question: fit the cheap runs, foretell the held ones. `errors` holds each method's mean |relative error|."""

    source: str
    group: str
    kind: str
    cheap: tuple[Run, ...]
    held: tuple[Run, ...]
    errors: dict[str, float]

    @property
    def over_better(self) -> float:
        """The default's error over the better of Chinchilla's and the general form."""
        return self.errors["default"] / min(self.errors["chinchilla"], self.errors["general"])


def main() -> int:
    """Print a table, or one JSON object; status 1 with --check if a bar fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "../shared/data")
    parser.add_argument("--quick", action="store_true", help="the top decade only")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    found = sources(options.data)
    groups = {name: runs for source in found.values() for name, runs in source.items()}
    scores = {name: one for name, runs in groups.items() if (one := score(runs))}
    counted = {
        name: one
        for name, one in scores.items()
        if one.fit_rows >= FEWEST_TRAINING_ROWS and name not in APART
    }
    cases = [
        case
        for source, members in found.items()
        for name, runs in members.items()
        if name in counted
        for case in asked(source, name, runs, quick=options.quick)
    ]
    kinds = {
        kind: [case for case in cases if case.kind == kind] for kind in dict.fromkeys(c.kind for c in cases)
    }
    elsewhere = None if options.quick else chosen_elsewhere(cases)
    bars = judged(counted, scores.get("c4_repeated"), kinds, elsewhere)
    result = {
        "groups": [row(one) for one in scores.values()],
        "splits": {kind: summary(members) for kind, members in kinds.items()},
        "notably_worse": [
            {"group": c.group, "kind": c.kind, "fit_rows": len(c.cheap), "held_rows": len(c.held), **c.errors}
            for c in sorted(cases, key=lambda case: -case.over_better)
            if c.over_better > NOTABLY
        ],
        "constants_chosen_elsewhere": elsewhere,
        "bars": bars,
    }
    print(json.dumps(result, indent=2) if options.json else text(result))
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


def sources(folder: Path) -> dict[str, dict[str, RunTable]]:
    """Every group of the tables in SOURCES, by file: groups of one file share a laboratory, a text or a way of measuring."""
    return {
        name: read_runs(folder / f"{name}.csv").by_group()
        for name in SOURCES
        if (folder / f"{name}.csv").exists()
    }


def tables(folder: Path) -> dict[str, RunTable]:
    """Every group of every table."""
    return {name: runs for members in sources(folder).values() for name, runs in members.items()}


def before(runs: tuple[Run, ...], shift: float) -> tuple[Run, ...]:
    """The runs whose compute lies at least `shift` decades below the largest."""
    top = max(run.flops for run in runs) / 10**shift
    return tuple(run for run in runs if run.flops <= top * (1 + 1e-9))


def drawn(runs: tuple[Run, ...], seed: int) -> tuple[Run, ...]:
    """A share of the runs, each with all of its rows."""
    names = sorted({run.run for run in runs})
    order = np.random.default_rng([seed, 77]).permutation(names)
    kept = set(order[: max(4, round(SHARE * len(names)))].tolist())
    return tuple(run for run in runs if run.run in kept)


def score(runs: tuple[Run, ...]) -> GroupScore | None:
    """The top-decade backtest, or None where the rows are too few, or curves of one variable."""
    try:
        found = backtest(runs).groups[0]
    except BadInput:
        return None
    return found if set(FORMS) <= set(found.forms) else None


def asked(source: str, name: str, runs: tuple[Run, ...], *, quick: bool) -> list[Case]:
    """The questions that one group can answer, each cheap part at most once."""
    mixed = len({run.annealed for run in runs}) > 1
    runs, _ = select_runs(runs, group=None, annealed="only" if mixed else None)
    wanted = [("top decade", runs, "top-decade")]
    if not quick:
        wanted += [("earlier decades", before(runs, shift), "top-decade") for shift in SHIFTS]
        wanted += [("top 20 % of the rows", runs, "top-20%")]
        wanted += [
            (f"{100 * SHARE:g} % of the runs", drawn(runs, seed), "top-decade") for seed in range(DRAWS)
        ]
    seen: set[tuple[frozenset[Run], frozenset[Run]]] = set()
    found = []
    for kind, rows, holdout in wanted:
        cheap, held = split(rows, holdout)
        key = (frozenset(cheap), frozenset(held))
        if len(cheap) < FEWEST_TRAINING_ROWS or not held or key in seen:
            continue
        seen.add(key)
        found.append(
            Case(source=source, group=name, kind=kind, cheap=cheap, held=held, errors=errors(cheap, held))
        )
    return found


def errors(cheap: Sequence[Run], held: Sequence[Run]) -> dict[str, float]:
    """Mean |relative error| of each method on the held runs.

    `mean` is the bare mean of Chinchilla's and the general form, weighted by their inverse squared rollout errors.
    """
    one = fit(cheap, annealed="all", bootstrap=0, coordinates=("unique_tokens",))
    table = RunTable.of(held, one.convention)
    foretold, weights = {}, {}
    for form in FORMS:
        plain = fit(cheap, form=form, convention=one.convention, annealed="all", bootstrap=0)
        foretold[form] = np.asarray(plain.predict(table.N, table.D, force=True).loss)
        weights[form] = (plain.forms[0].rollout_error or 1.0) ** -2
    total = weights["chinchilla"] + weights["general"]
    foretold["mean"] = sum(weights[form] / total * foretold[form] for form in ("chinchilla", "general"))
    foretold["default"] = np.asarray(one.predict(table.N, table.D, force=True).loss)
    return {name: float(np.abs(foretold[name] / table.L - 1).mean()) for name in METHODS}


def summary(cases: Sequence[Case]) -> dict[str, float]:
    """Means over cases, the default's ratios, and how often it is notably worse than the better single form."""
    means = {name: float(np.mean([case.errors[name] for case in cases])) for name in METHODS}
    return {
        "cases": len(cases),
        **means,
        "over_chinchilla": means["default"] / means["chinchilla"],
        "over_mean": means["default"] / means["mean"],
        "notably_worse": float(np.mean([case.over_better > NOTABLY for case in cases])),
        "mean_notably_worse": float(
            np.mean(
                [
                    case.errors["mean"] > NOTABLY * min(case.errors["chinchilla"], case.errors["general"])
                    for case in cases
                ]
            )
        ),
    }


def judged(
    counted: dict[str, GroupScore],
    repeated: GroupScore | None,
    kinds: dict[str, list[Case]],
    elsewhere: dict[str, Any] | None,
) -> list[dict[str, Any]]:
    """What is promised."""
    top = [
        (one.default.mean_error, {n: s.mean_error for n, s in one.forms.items()}) for one in counted.values()
    ]
    mine, plain = (float(np.mean(v)) for v in ([d for d, _ in top], [f["chinchilla"] for _, f in top]))
    found = [
        bar("default over chinchilla, top decade", mine / plain, 0.65),
        bar(
            "default over the best single form, worst group of the top decade",
            max(d / min(f.values()) for d, f in top),
            NOTABLY,
        ),
    ]
    if elsewhere is not None:
        found.append(
            bar("the same with constants chosen on other sources", elsewhere["over_chinchilla"], 0.65)
        )
    for kind, cases in kinds.items():
        if kind != "top decade":
            found.append(bar(f"default over the bare mean, {kind}", summary(cases)["over_mean"], 1.0))
            found.append(bar(f"default over chinchilla, {kind}", summary(cases)["over_chinchilla"], 1.0))
    if repeated is not None:
        base = repeated.forms["chinchilla"].mean_error
        worth = repeated.forms["data-constrained"].mean_error / base
        found.append(bar("data-constrained over chinchilla, repeated data", worth, 0.5))
        found.append(bar("default over chinchilla, repeated data", repeated.default.mean_error / base, 0.5))
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
    lines = [_header("top decade by group", ("fit/held", *FORMS, "default", "bias", "in 80 %", "width"))]
    lines += [
        f"{g['group'][:24]:<25}{g['fit_rows']:>5}/{g['held_rows']:<3}"
        + _cells(g[form] for form in (*FORMS, "default"))
        + f"{g['bias']:>+9.2%}{g['coverage_80']:>9.0%}{g['relative_width_80']:>9.1%}  {g['apart']}"
        for g in result["groups"]
    ]
    lines += ["", _header("mean over cases", ("cases", *METHODS, "/chinch.", "/mean", ">1.15"))]
    lines += [
        f"{kind:<25}{s['cases']:>9}"
        + _cells(s[name] for name in METHODS)
        + f"{s['over_chinchilla']:>9.2f}{s['over_mean']:>9.2f}{s['notably_worse']:>9.0%}"
        for kind, s in result["splits"].items()
    ]
    lines.append(
        "mean: Chinchilla's and the general form by inverse squared rollout error. /: the default over it."
    )
    lines.append(
        f">1.15: share of cases where the default errs more than {NOTABLY} times the better single form "
        + "(the bare mean: "
        + ", ".join(f"{s['mean_notably_worse']:.0%}" for s in result["splits"].values())
        + ")"
    )
    if result["notably_worse"]:
        lines += ["", _header("worst of these cases", ("fit/held", *METHODS))]
        lines += [
            f"{c['group'][:24]:<25}{c['fit_rows']:>5}/{c['held_rows']:<3}"
            + _cells(c[name] for name in METHODS)
            + f"  {c['kind']}"
            for c in result["notably_worse"][:12]
        ]
    other = result["constants_chosen_elsewhere"]
    if other is not None:
        lines += ["", "constants chosen on all sources but one, top decade of that one:"]
        lines += [
            f"  {one['source']:<24} default {one['default']:.2%}, Chinchilla {one['chinchilla']:.2%}; chosen: {one['chosen']}"
            for one in other["sources"]
        ]
        lines.append(
            f"  all: {other['over_chinchilla']:.3f} of Chinchilla's error; with the constants in use "
            f"{other['in_use']:.3f}; the best of {other['settings']} settings in hindsight {other['hindsight']:.3f}, "
            f"the worst {other['worst']:.3f}"
        )
    lines.append("")
    lines += [
        f"{'ok  ' if b['holds'] else 'FAIL'} {b['name']}: {b['value']:.3f} (at most {b['at_most']})"
        for b in result["bars"]
    ]
    return "\n".join(lines)


def _header(title: str, columns: Sequence[str]) -> str:
    return f"{title:<25}" + "".join(f"{name.replace('chinchilla', 'chinch.'):>9}" for name in columns)


def _cells(values: Iterable[float]) -> str:
    return "".join(f"{value:>9.2%}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
