"""The live forecast on runs whose tails are held back, and its alarms on runs with faults.

Run: python benchmarks/forecast.py [--json] [--check] [--regenerate DIR]. The runs are real (benchmarks/forecast_runs.py):
ladders of tiny models under wsd, cosine and constant rates, in twenty-eight studies. The constants of forecast and alarms
were chosen on twenty-four of them; HELD_BACK were opened after that, and only they count for the bars. What earlier forms gave
on studies opened after those is in docs/log.md. From code-u on the shapes are those of the ladder that the tool itself makes;
those before were drawn by hand, some with one layer.

A run is foreseen from the first third of its steps, taught by the study's smaller members, which a ladder trains before it. Bars
on forecasts are over runs to their full length, with smaller siblings of two sizes at least, as a plan's target has; shorter
rungs, whose first third is a tenth of the ladder, and runs with fewer siblings are listed as facts.

A run counts as healthy where no fault was put in and the model did not end, at its full length, more than 1 % above a smaller
one of the same schedule: of such a run something is wrong, though nobody made it so. Those are listed as facts too.
"""

import argparse
import json
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from families.units import BadInput
from scaling.fitting.fit import fit
from scaling.monitoring.alarms import first_alarm
from scaling.monitoring.curves import EMPTY, Curve, PlannedRung, RunCurves, RunPlan
from scaling.monitoring.forecast import forecast_final_loss
from scaling.runs import Run
from scaling.stats import Z_80

CURVES = Path(__file__).parent / "curves"
HELD_BACK = ("code-y", "docs-z", "code-aa", "docs-ab")
WITHIN, BUDGET, ENDED_ABOVE = 0.01, 0.10, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulty:
    """A run that went wrong after step `onset`, and how."""

    run: RunCurves
    fault: str
    onset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRuns:
    """A study's healthy runs, the same runs at constant rate, and the faulty ones."""

    name: str
    runs: tuple[RunCurves, ...]
    constant: tuple[RunCurves, ...]
    faulty: tuple[Faulty, ...]


def load(path: Path) -> Iterator[StudyRuns]:
    """The recorded curves of a file, or of all in a folder, by study."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    by_run: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        by_run[line["study"], line["run"]][line["part"]] = line
    for study in dict.fromkeys(line["study"] for line in lines):
        runs, constant, faulty = [], [], []
        for (where, name), parts in by_run.items():
            if where != study:
                continue
            facts = next(part for part in parts.values() if "underway" in part)
            underway = RunPlan.model_validate({"kind": "underway", "version": 1, **facts["underway"]})
            curves = {part: curve(line) for part, line in parts.items()}
            trunk = curves.get("trunk", EMPTY)
            branches = {rung.steps: curves[rung.folder] for rung in underway.rungs if rung.folder in curves}
            finals = {
                rung.steps: parts[rung.folder]["final"]
                for rung in underway.rungs
                if "final" in parts.get(rung.folder, {})
            }
            run = RunCurves(name=name, plan=underway, trunk=trunk, branches=branches, finals=finals)
            runs.append(run)
            if "constant" in facts:
                steps = facts["constant"]["steps"]
                flat = underway.model_copy(update={"rungs": (PlannedRung(steps=steps, folder="constant"),)})
                constant.append(
                    replace(run, plan=flat, branches={}, finals={steps: facts["constant"]["loss"]})
                )
            for part in parts:
                if part.startswith("fault"):
                    onset = int(curves[part].step[0]) // 10 * 10 if part.endswith("late") else 0
                    onset = underway.schedule_to(underway.steps[0]).decay_starts if onset else 0
                    ill = replace(
                        run, trunk=trunk.until(onset).followed_by(curves[part]), branches={}, finals={}
                    )
                    faulty.append(Faulty(run=ill, fault=part.removeprefix("fault-"), onset=onset))
        yield StudyRuns(name=study, runs=tuple(runs), constant=tuple(constant), faulty=tuple(faulty))


def curve(line: dict[str, Any]) -> Curve:
    """A part's curve."""
    values = {
        key: np.array(line[key], dtype=np.float64)
        for key in ("step", "loss", "norm", "eval_step", "eval_loss")
    }
    return Curve(**values)


def smaller(study: StudyRuns, run: RunCurves) -> list[RunCurves]:
    """What a ladder has finished when it comes to a run; a run at constant rate belongs to a ladder of such runs."""
    ladder = study.constant if run in study.constant else study.runs
    return [one for one in ladder if one.plan.params < run.plan.params and one.finals]


def plain_law(siblings: Sequence[RunCurves], run: RunCurves, steps: int) -> float | None:
    """The loss that L(N, D) fitted to the siblings' annealed rungs gives the run, whatever its curve; None where it cannot."""
    rows = [
        Run(
            run=f"{one.name}-{number}",
            params=one.plan.params,
            params_non_embedding=one.plan.params_non_embedding,
            tokens=length * one.plan.batch_tokens,
            loss=final,
        )
        for number, one in enumerate(siblings)
        for length, final in one.finals.items()
    ]
    try:
        return fit(rows).predict(run.plan.params, steps * run.plan.batch_tokens, force=True).loss
    except BadInput:
        return None


def foretell(study: StudyRuns) -> Iterator[dict[str, Any]]:
    """Each run of a study foreseen from its first third, beside what came and what simpler ways say."""
    for run in (*study.runs, *study.constant):
        siblings = smaller(study, run)
        for steps, final in run.finals.items():
            try:
                seen = forecast_final_loss(run, siblings, steps=steps, until=steps // 3)
            except BadInput as error:
                print(f"{study.name} {run.name} {steps}: {error}", file=sys.stderr)
                continue
            whole, part = run.rung(steps), run.rung(steps).until(steps // 3)
            truth = final if seen.target == "held-out" else float(whole.eval_loss[-1])
            annealed = [one for one in study.runs if one.plan.params < run.plan.params and one.finals]
            law = plain_law(annealed, run, steps)
            kind = run.plan.schedule if run.plan.rungs[0].cooldown or "cosine" in run.name else "constant"
            yield {
                "study": study.name, "run": run.name, "schedule": kind, "steps": steps,
                "whole": steps == max(run.finals), "target": seen.target,
                "sizes": len({one.plan.params for one in siblings}), "final": truth, "forecast": seen.loss,
                "error": seen.loss / truth - 1, "inside_80": abs(seen.loss - truth) <= Z_80 * seen.sd,
                "half_width_80": Z_80 * seen.sd / truth,
                "law_error": None if law is None else law / truth - 1,
                "last_error": float(part.eval_loss[-1]) / truth - 1,
            }  # fmt: skip


def alarms(study: StudyRuns) -> Iterator[dict[str, Any]]:
    """Each run of a study, healthy or not, and when an alarm was raised."""
    for run in (*study.runs, *study.constant):
        for steps in run.finals:
            siblings = smaller(study, run)
            found = first_alarm(run, siblings, steps)
            yield {
                "study": study.name, "run": run.name, "steps": steps, "fault": None, "siblings": len(siblings),
                "ended_above": ended_above(run, siblings), "flagged_as": found and found.fault,
            }  # fmt: skip
    for ill in study.faulty:
        steps = max(ill.run.plan.steps)
        found = first_alarm(ill.run, smaller(study, ill.run), steps, since=ill.onset)
        yield {
            "study": study.name, "run": ill.run.name, "steps": steps, "fault": ill.fault,
            "siblings": len(smaller(study, ill.run)), "flagged_as": found and found.fault,
            "after": None if found is None else (found.step - ill.onset) / steps,
        }  # fmt: skip


def ended_above(run: RunCurves, siblings: Sequence[RunCurves]) -> float:
    """How far a run of full length ended above the best smaller one of its length and schedule, as a share."""
    steps = max(run.finals)
    ends = [
        one.finals[steps]
        for one in siblings
        if one.plan.schedule == run.plan.schedule and steps in one.finals
    ]
    return run.finals[steps] / min(ends) - 1 if ends else 0.0


def share(values: Iterable[bool]) -> float:
    """Of true ones."""
    found = list(values)
    return float(np.mean(found)) if found else float("nan")


def within(rows: Sequence[dict[str, Any]]) -> float:
    """Share of forecasts within 1 % of what came."""
    return share(abs(row["error"]) < WITHIN for row in rows)


def flagged(row: dict[str, Any]) -> bool:
    """Whether an alarm was raised."""
    return row["flagged_as"] is not None


def in_time(row: dict[str, Any]) -> bool:
    """Whether one was raised within a tenth of the budget after the fault began."""
    return row["after"] is not None and row["after"] <= BUDGET


def mean_error(rows: Sequence[dict[str, Any]], key: str = "error") -> float:
    """Mean |relative error|."""
    return float(np.mean([abs(row[key]) for row in rows])) if rows else float("nan")


def main() -> int:
    """Print the bars; exit status 1 under --check where one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="taken for the benchmarks' common form; nothing is read")
    parser.add_argument("--curves", type=Path, default=CURVES, help="recorded curves")
    parser.add_argument(
        "--regenerate", type=Path, metavar="DIR", help="train all runs afresh in DIR, and use those"
    )
    parser.add_argument("--runs", action="store_true", help="list every run")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.regenerate:
        script = Path(__file__).with_name("forecast_runs.py")
        subprocess.run([sys.executable, "-P", str(script), str(options.regenerate)], check=True)
        options.curves = options.regenerate / "runs.jsonl"
    studies = list(load(options.curves))
    told = [row for study in studies for row in foretell(study)]
    rung = [row for study in studies for row in alarms(study)]
    bars, facts = score(told, rung)
    if options.json:
        print(
            json.dumps(
                {"bars": bars, "facts": facts, "forecasts": told, "alarms": rung}, indent=2, default=float
            )
        )
    else:
        report(bars, facts, told if options.runs else [])
    return 1 if options.check and not all(bar["holds"] for bar in bars) else 0


def score(
    told: list[dict[str, Any]], rung: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Bars over the studies held back, and what else there is to know."""
    held = [row for row in told if row["study"] in HELD_BACK]
    taught = [row for row in held if row["sizes"] >= 2 and row["whole"]]
    with_law = [row for row in taught if row["law_error"] is not None]
    ill = [row for row in rung if row["fault"] and row["study"] in HELD_BACK]
    sound = [row for row in rung if not row["fault"] and row["study"] in HELD_BACK]
    healthy = [row for row in sound if row["ended_above"] <= ENDED_ABOVE]
    bars: list[dict[str, Any]] = [
        {"name": "runs foreseen within 1 % from a third", "value": within(taught), "at_least": 0.8},
        {
            "name": "mean error / that of the law's plain loss",
            "value": mean_error(with_law) / mean_error(with_law, "law_error"),
            "at_most": 1.0,
        },
        {
            "name": "mean error / that of the last value",
            "value": mean_error(taught) / mean_error(taught, "last_error"),
            "at_most": 1.0,
        },
        {
            "name": "faults flagged within 10 % of the budget",
            "value": share(map(in_time, ill)),
            "at_least": 1.0,
        },
        {"name": "healthy runs flagged", "value": share(map(flagged, healthy)), "at_most": 0.05},
    ]
    for bar in bars:
        bar["holds"] = bool(
            bar["value"] >= bar["at_least"] if "at_least" in bar else bar["value"] <= bar["at_most"]
        )
    facts: dict[str, Any] = {
        "runs": {
            "forecasts": len(taught), "with a law beside": len(with_law), "faults": len(ill), "healthy": len(healthy),
        }
    }  # fmt: skip
    groups = {
        "held back, siblings of 2 sizes or more": taught,
        "held back, 2 sizes, with all shorter rungs": [row for row in held if row["sizes"] >= 2],
        "held back, siblings of 1 size": [row for row in held if row["sizes"] == 1 and row["whole"]],
        "held back, no siblings": [row for row in held if row["sizes"] == 0 and row["whole"]],
        "constants chosen here, siblings of 2 sizes or more": [
            row for row in told if row["study"] not in HELD_BACK and row["sizes"] >= 2 and row["whole"]
        ],
    }
    for kind in ("wsd", "cosine", "constant"):
        groups[f"held back, 2 sizes, {kind}"] = [row for row in taught if row["schedule"] == kind]
    for name, rows in groups.items():
        facts[name] = {
            "runs": len(rows),
            "within 1 %": within(rows),
            "mean error": mean_error(rows),
            "law's": mean_error([row for row in rows if row["law_error"] is not None], "law_error"),
            "last value's": mean_error(rows, "last_error"),
            "80 % intervals held": share(row["inside_80"] for row in rows),
            "half width": float(np.mean([row["half_width_80"] for row in rows])) if rows else float("nan"),
        }
    late = [row["after"] for row in ill if row["after"] is not None]
    elsewhere = [row for row in rung if row["study"] not in HELD_BACK]
    facts["faults"] = {
        "found after, mean share of the budget": float(np.mean(late)) if late else float("nan"),
        "latest": max(late, default=float("nan")),
        "elsewhere flagged in time": share(in_time(row) for row in elsewhere if row["fault"]),
        "elsewhere without a fault flagged": share(flagged(row) for row in elsewhere if not row["fault"]),
    }
    above = [row for row in rung if not row["fault"] and row["ended_above"] > ENDED_ABOVE]
    facts["ended above a smaller one, of all studies"] = {
        "runs": len(above),
        "flagged": share(map(flagged, above)),
    }
    facts["without a fault, ended above or not"] = {"runs": len(sound), "flagged": share(map(flagged, sound))}
    return bars, facts


def report(bars: list[dict[str, Any]], facts: dict[str, Any], told: list[dict[str, Any]]) -> None:
    """The bars and facts as lines."""
    for row in told:
        law = "" if row["law_error"] is None else f"law {row['law_error']:+.2%}"
        where = f"{row['study']} {row['run']:16} {row['schedule']:8} {row['steps']:5} sizes {row['sizes']}"
        numbers = f"final {row['final']:.3f} forecast {row['forecast']:.3f} {row['error']:+.2%}"
        print(f"{where} {row['target']:8} {numbers} ± {row['half_width_80']:.2%} {law}")
    for bar in bars:
        limit = f"at least {bar['at_least']:g}" if "at_least" in bar else f"at most {bar['at_most']:g}"
        print(f"{bar['name']:45} {bar['value']:8.3f}  {limit:14} {'holds' if bar['holds'] else 'FAILS'}")
    for name, values in facts.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in values.items()))


if __name__ == "__main__":
    sys.exit(main())
