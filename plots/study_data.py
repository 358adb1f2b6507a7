"""The contents of a study's folder for reports and figures: files read once, learning curves, what is missing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from families.units import BadInput
from scaling.files import check_file, read_text
from scaling.fitting.predictor import Fit, load_law
from scaling.laws import PARAMS_FIELD
from scaling.paths import StudyFile, StudyPaths, open_study
from scaling.planning.pilot import ladder_flops
from scaling.planning.planfile import PlanFile, PlannedMember
from scaling.planning.seal import open_seal
from scaling.runs import Run
from scaling.runs.readers import read_runs
from scaling.runs.store import WorkEntry, exists, read_totals
from scaling.scoring import Comparison, compared, comparisons_under
from scaling.scoring.verify import GRADES
from scaling.stats import MOST_CURVES, MOST_DRAWN, MOST_READ, Array, subsample_evenly
from scaling.untrusted import parse_json

FEWEST_POINTS = 10  # of a curve that can be called rising
LARGEST_VOCABULARY = 262_144  # Gemma's
BAD_SHARE = 0.5  # a report shows the good rows and names the bad ones; a fit is stricter
MOST_POINTS = 400  # of one curve; more cannot be told apart


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurve:
    """One metrics.jsonl, arrays of shape (points,), losses in nats per token.

    Attributes:
        run: name of the training run.
        part: "trunk", "rung-TOKENS", or "" for a run without branches.
        tokens: trained on.
        loss: on training batches.
        tokens_per_s: positive timings; empty where it was not timed.
    """

    run: str
    part: str
    tokens: Array
    loss: Array
    tokens_per_s: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyData:
    """A study as it lies on disk; None where a file is missing.

    Attributes:
        folder: of the study.
        study_file: study.json.
        data_manifest: data.json, {} without one.
        ladder: ladder.json.
        plan: plan.json.
        seal_intact: whether the plan is sealed and unchanged since.
        runs: the good rows of runs.jsonl.
        work: the ledger's totals, one entry for each part of a run.
        law: law.json.
        comparison: comparison.json.
        curves: learning curves of the runs, of very many runs a part.
        missing: sentences on what is not there yet.
        warnings: sentences on what looks wrong.
        unread_runs: number of runs whose curves were not read, because there are very many.
        n_studies: more than 1 where this is the outcome of all studies under a folder.
    """

    folder: Path
    study_file: StudyFile | None = None
    data_manifest: dict[str, Any]
    ladder: PlanFile | None = None
    plan: PlanFile | None = None
    seal_intact: bool = False
    runs: tuple[Run, ...] = ()
    work: tuple[WorkEntry, ...] = ()
    law: Fit | None = None
    comparison: Comparison | None = None
    curves: tuple[LossCurve, ...] = ()
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unread_runs: int = 0
    n_studies: int = 1

    @property
    def title(self) -> str:
        """The study's own title, else its folder's name."""
        if self.n_studies != 1:
            return f"Sealed predictions of {self.n_studies} studies in {self.folder.resolve().name}"
        return self.study_file.title if self.study_file else self.folder.resolve().name

    @property
    def members(self) -> tuple[PlannedMember, ...]:
        """Members to be trained: the ladder's, then the plan's own."""
        return tuple(member for plan in (self.ladder, self.plan) if plan for member in plan.members)

    @property
    def comparable_runs(self) -> tuple[Run, ...]:
        """Annealed runs that the law applies to; without a law, all annealed runs.

        They have its group, eval set and convention of N; runs that did not learn are left out.
        """
        if self.law is None:
            return tuple(run for run in self.runs if run.annealed)
        field = PARAMS_FIELD[self.law.convention]
        return tuple(
            run
            for run in self.runs
            if run.annealed
            and run.loss <= _chance_loss(run)
            and getattr(run, field) is not None
            and (not self.law.group or run.group == self.law.group)
            and (not self.law.eval_set or run.eval_set == self.law.eval_set)
        )

    @property
    def sealed_runs(self) -> frozenset[str]:
        """Names of the runs whose loss was sealed before they were trained; they are not in the law."""
        rows = self.comparison.rows if self.comparison else ()
        return frozenset(name for row in rows for name in row.runs)

    @property
    def planned_flops(self) -> dict[str, float]:
        """Planned training FLOPs by run: of a ladder, its trunk once and each cooldown.

        A member's run is named after it, with its seed: gpt2-52m-s0.
        """
        planned = {member.member: ladder_flops(member) for member in self.members}
        names = dict.fromkeys([*(work.run for work in self.work), *(run.run for run in self.runs)])
        return {name: planned[stem] for name in names if (stem := name.rpartition("-s")[0]) in planned}

    @property
    def subsampled(self) -> "StudyData":
        """At most MOST_CURVES curves and about MOST_DRAWN observations, evenly by size and by compute, for figures.

        The best observation, the sealed ones, and those of the runs whose curve is drawn are kept.
        """
        named = sort_by_size((curve.run for curve in self.curves), self.runs)
        with_curve = set(subsample_evenly(named, MOST_CURVES))
        curves = tuple(curve for curve in self.curves if curve.run in with_curve)
        if len(self.runs) <= MOST_DRAWN:
            return replace(self, curves=curves)
        always = with_curve | self.sealed_runs
        best = min(self.runs, key=lambda run: run.loss)
        rest = [run for run in self.runs if run.run not in always and run is not best]
        rest.sort(key=lambda run: (run.flops, run.run))
        kept = {id(run) for run in subsample_evenly(rest, MOST_DRAWN)} | {id(best)}
        runs = tuple(run for run in self.runs if run.run in always or id(run) in kept)
        return replace(self, curves=curves, runs=runs)


def load_study(folder: Path) -> StudyData:
    """Read a study; of a folder that holds studies, all their predictions.

    Raises:
        BadInput: a file is broken or newer than this program, or there is nothing to report.
    """
    study = open_study(folder)
    if not (exists(study.runs) or any(p.exists() for p in (study.law, study.plan, study.ladder))):
        if any(folder.glob("*/**/comparison.json")):
            return _load_outcomes(folder)
        raise BadInput(
            f"{folder} holds no runs.jsonl, law.json, plan.json or ladder.json; there is nothing to report"
        )
    warnings: list[str] = []
    runs: tuple[Run, ...] = ()
    if exists(study.runs):
        reading = read_runs(study.runs, max_bad_share=BAD_SHARE, least=0)
        runs = reading.runs
        warnings += [f"runs.jsonl {bad}; left out" for bad in reading.bad[:5]]
    plan, intact = _read_plan(study, warnings)
    law = load_law(study.law) if study.law.exists() else None
    comparison = _compared(study, intact, warnings)
    folders = sort_by_size(_subfolders(study.folder / "runs"), runs)
    with_curves = subsample_evenly(folders, MOST_READ)
    loaded = StudyData(
        folder=folder,
        study_file=StudyFile.read(study.file) if study.file.exists() else None,
        data_manifest=_read_object(study.data / "data.json"),
        ladder=PlanFile.read(study.ladder) if study.ladder.exists() else None,
        plan=plan,
        seal_intact=intact,
        runs=runs,
        work=read_totals(study.ledger) if exists(study.ledger) else (),
        law=law,
        comparison=comparison,
        curves=tuple(_read_curves(study, with_curves)),
        unread_runs=len(folders) - len(with_curves),
        missing=tuple(_missing(runs, law, plan, comparison)),
    )
    return replace(loaded, warnings=(*warnings, *_data_warnings(loaded)))


def _load_outcomes(folder: Path) -> StudyData:
    """The outcomes of every study under a folder, members named with their study."""
    comparisons = comparisons_under(folder)
    rows = tuple(
        row.model_copy(update={"member": name if len(comparison.rows) == 1 else f"{name}: {row.member}"})
        for name, comparison in comparisons.items()
        for row in comparison.rows
    )
    warnings = [
        f"{name}: {line}"
        for name, comparison in comparisons.items()
        for line in (*comparison.disagreements, *comparison.notes, *_apart(comparison))
    ]
    return StudyData(
        folder=folder,
        data_manifest={},
        comparison=Comparison(rows=rows) if rows else None,
        n_studies=len(comparisons),
        warnings=tuple(warnings),
    )


def _compared(study: StudyPaths, intact: bool, warnings: list[str]) -> Comparison | None:
    """The comparison as plan, runs and ledgers give it; `warnings` gets what does not count and what disagrees."""
    comparison = compared(study, refits=True) if intact else None
    if comparison is None:
        if study.comparison.exists():
            warnings.append("comparison.json is not shown: no sealed plan and finished run bear it out")
        return None
    warnings += [*comparison.disagreements, *comparison.notes, *_apart(comparison)]
    return comparison


def _apart(comparison: Comparison) -> list[str]:
    return [
        f"{row.run or row.member} is {GRADES[row.grade]}, and counts nowhere: {'; '.join(row.reasons)}"
        for row in comparison.not_predictions
    ]


def _read_plan(study: StudyPaths, warnings: list[str]) -> tuple[PlanFile | None, bool]:
    """The plan and whether its seal is intact; a broken seal is added to `warnings` as the first."""
    if not study.plan.exists():
        return None, False
    plan = PlanFile.read(study.plan)
    if plan.seal is None:
        return plan, False
    try:
        return open_seal(study.plan), True
    except BadInput as error:
        warnings.insert(0, f"the seal is broken: {error}")
        return plan, False


def _missing(
    runs: tuple[Run, ...], law: Fit | None, plan: PlanFile | None, comparison: Comparison | None
) -> list[str]:
    lines = []
    if not runs:
        lines.append("No run is finished yet: train the ladder (scaling ladder ladder.json).")
    if law is None:
        lines.append("No law is fitted yet: run scaling fit on runs.jsonl.")
    if plan is None:
        lines.append("Nothing is planned yet: run scaling plan.")
    elif plan.seal is None:
        lines.append("The plan is not sealed: its predictions could have been changed after the run.")
    if comparison is None:
        lines.append("No sealed prediction has been scored yet: train its run, then run scaling compare.")
    return lines


def _data_warnings(study: StudyData) -> list[str]:
    """Warnings on runs and curves: other groups or eval sets than the law's, runs that did not learn or diverged."""
    warnings = []
    annealed = [run for run in study.runs if run.annealed]
    others = len([run for run in annealed if run.loss <= _chance_loss(run)]) - len(study.comparable_runs)
    if study.law is not None and others:
        warnings.append(
            f"{others} of {len(annealed)} runs have another group, eval set or "
            "count of N than the law; figures of the law leave them out"
        )
    sets = {run.eval_set for run in study.runs}
    if len(sets) > 1:
        warnings.append(
            f"losses are on {len(sets)} eval sets: {', '.join(sorted(sets))}; they are not comparable"
        )
    untrained = dict.fromkeys(run.run for run in study.runs if run.loss > _chance_loss(run))
    if untrained:
        warnings.append(
            f"{len(untrained)} of the runs end{'s' if len(untrained) == 1 else ''} above the loss of guessing and did not "
            f"learn; figures of the law leave them out: {', '.join(list(untrained)[:5])}"
        )
    rising = dict.fromkeys(c.run for c in study.curves if c.part in ("", "trunk") and _loss_rises(c.loss))
    if rising:
        warnings.append(
            f"training loss rose instead of falling in {len(rising)} run{'s' if len(rising) > 1 else ''}, which diverged: "
            f"{', '.join(list(rising)[:5])}"
        )
    drawn = study.subsampled
    all_curves, shown = ({curve.run for curve in data.curves} for data in (study, drawn))
    if len(shown) < len(all_curves) or study.unread_runs:
        unread = f"; the curves of {study.unread_runs:,} runs were not read" if study.unread_runs else ""
        total = len(all_curves) + study.unread_runs
        warnings.append(
            f"figures draw the curves of {len(shown):,} of {total:,} runs, evenly by size{unread}"
        )
    if len(drawn.runs) < len(study.runs):
        warnings.append(
            f"figures draw {len(drawn.runs):,} of {len(study.runs):,} observations, evenly by compute; the law and the "
            "totals include all"
        )
    sizes = {run.n_params() for run in study.runs}
    if len(study.runs) > 1 and len(sizes) == 1:
        warnings.append("all runs are of one size: the dependence of loss on N is not identified")
    return warnings


def _loss_rises(loss: Array) -> bool:
    """True if the last tenth of a curve lies above its first tenth."""
    tenth = max(len(loss) // 10, 1)
    return len(loss) >= FEWEST_POINTS and bool(loss[-tenth:].mean() > loss[:tenth].mean())


def _chance_loss(run: Run) -> float:
    """1.05 times the loss of a uniform guess, ln(vocabulary), nats per token; without a vocabulary, of the largest in use."""
    return 1.05 * math.log(run.vocab_size or LARGEST_VOCABULARY)


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where there is no file or no object in it."""
    if not path.exists():
        return {}
    try:
        value = parse_json(read_text(path))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def sort_by_size(names: Iterable[str], runs: Sequence[Run]) -> list[str]:
    """Distinct names of training runs by their size; those of unknown size come first."""
    sizes = {run.run: run.n_params() for run in runs}
    return sorted(set(names), key=lambda name: (sizes.get(name, 0.0), name))


def run_names(curves: Sequence[LossCurve], runs: Sequence[Run]) -> list[str]:
    """Names of all training runs with a curve or an observation, smallest first."""
    return sort_by_size([*(curve.run for curve in curves), *(run.run for run in runs)], runs)


def _subfolders(root: Path) -> list[str]:
    try:
        return [path.name for path in root.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []


def _read_curves(study: StudyPaths, names: Sequence[str]) -> list[LossCurve]:
    """Every metrics.jsonl of those runs, in the order of their paths; broken lines are skipped.

    A run with a folder of its own (out=) is a study of itself: its parts lie next to the other files.
    """
    root = study.folder / "runs"
    paths = {
        path: path.relative_to(root).parts
        for name in names
        for path in (root / name).glob("**/metrics.jsonl")
    }
    own_run = str(_read_object(study.folder / "run.json").get("run", ""))
    if own_run:
        paths |= {path: (own_run, *path.parts[-2:]) for path in study.folder.glob("*/metrics.jsonl")}
    curves = []
    for path, parts in sorted(paths.items()):
        rows = _read_lines(path)
        timing = {
            row["step"]: row.get("tokens_per_s")
            for row in _read_lines(path.with_name("timing.jsonl"))
            if _is_positive(row.get("step"))
        }
        rows = [row for row in rows if _is_positive(row.get("tokens")) and _is_positive(row.get("loss"))]
        if not rows:
            continue
        speeds = [
            row.get("tokens_per_s") or timing.get(row["step"] if _is_positive(row.get("step")) else None)
            for row in rows
        ]
        curves.append(
            LossCurve(
                run=parts[0],
                part=parts[1] if len(parts) > 2 else "",
                tokens=np.array([row["tokens"] for row in rows], dtype=np.float64),
                loss=np.array([row["loss"] for row in rows], dtype=np.float64),
                tokens_per_s=np.array([s for s in speeds if _is_positive(s)], dtype=np.float64),
            )
        )
    return curves


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a JSONL file, [] without one; a line that is being written is skipped."""
    if not path.exists():
        return []
    rows = []
    check_file(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    for line in text.splitlines():
        try:
            row = parse_json(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def smooth(loss: Array, share: float = 0.06) -> Array:
    """Moving average over a window of that share of the curve, truncated at its ends; shape as `loss`."""
    half = max(3, round(len(loss) * share / 2))
    sums = np.concatenate([[0.0], np.cumsum(loss)])
    index = np.arange(len(loss))
    first, last = np.maximum(index - half, 0), np.minimum(index + half, len(loss) - 1)
    return np.asarray((sums[last + 1] - sums[first]) / (last - first + 1))


def smooth_with_trunk(curve: LossCurve, curves: Sequence[LossCurve]) -> tuple[Array, Array]:
    """Tokens and smoothed loss of a curve; a cooldown is smoothed together with its trunk, and starts on it."""
    trunk = next((c for c in curves if c.run == curve.run and c.part == "trunk"), None)
    if trunk is None or not curve.part.startswith("rung"):
        return curve.tokens, smooth(curve.loss)
    before = trunk.tokens < curve.tokens[0]
    start = max(int(before.sum()) - 1, 0)
    loss = smooth(np.concatenate([trunk.loss[before], curve.loss]))
    return np.concatenate([trunk.tokens[before], curve.tokens])[start:], loss[start:]


def thin(values: Array, most: int = MOST_POINTS) -> Array:
    """At most that many values, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return values
    return np.asarray(values[np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))])
