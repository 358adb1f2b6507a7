"""Predicted against actual: score the predictions of a sealed plan by the runs that were started from it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from statistics import fmean, stdev
from typing import ClassVar

from pydantic import Field

from families.units import BadInput

from ..files import Document, Record, StrPath, hashes, sha256_file
from ..paths import StudyPaths, open_study
from ..planning.match import same_size
from ..planning.planfile import PlanFile
from ..planning.seal import SealedPrediction, open_seal, sealed_predictions
from ..planning.stamp import Attestation, attestation_texts, stamps_of
from ..published_laws import PUBLISHED
from ..runs import Run
from ..runs.readers import read_runs
from ..runs.store import exists, gather_runs
from ..stats import Z_80, Interval, format_loss, perplexity
from .refit import Refit, refit_study
from .verify import Basis, Grade, Verdict, verify

SAME_REFIT = 1e-3  # relative difference of two fits of the same rows: machines round sums otherwise


class ComparisonRow(Record):
    """One sealed prediction and its outcome. Losses in nats per token; intervals are of the loss.

    Errors have one sign: positive where the prediction was too high.

    Args:
        actual_loss: of the run; the mean of several.
        run: its name; the first of several. runs: all of them.
        spread: standard deviation of the losses of several runs.
        error: predicted/actual − 1 of the loss.
        z: (predicted − actual) of the loss, in standard deviations of the prediction.
        grade: what shows that the prediction came before the run (docs/seal.md).
    """

    member: str
    tokens: float
    predicted_loss: float
    interval_80: Interval
    interval_95: Interval
    actual_loss: float
    actual_loss_se: float | None = None
    predicted_ppl: float
    actual_ppl: float
    sealed_at: str
    run: str = ""
    error: float
    z: float
    inside_80: bool
    inside_95: bool
    planned_flops: float | None = None
    booked_flops: float | None = None
    planned_hours: float | None = None
    booked_hours: float | None = None
    runs: tuple[str, ...] = ()
    spread: float | None = None
    grade: Grade = ""


class NotPrediction(ComparisonRow):
    """A run of a sealed member's size that is not the outcome of its prediction. It counts nowhere."""

    reasons: tuple[str, ...]


class Comparison(Document):
    """comparison.json: every scored prediction of a study, and the law refitted with the new runs.

    It is a result: whoever reads one computes it again from plan, runs and ledgers (`compared`).

    Attributes:
        rows: predictions that were met, each by the run or runs that were started from the seal.
        not_predictions: runs of the same size that do not count, each with its reasons.
        waiting: sealed members without a finished run.
        notes: what changed since the seal, a sentence each.
        attested: who attests the time of the seal, a sentence each; the first is `UNATTESTED` where no stamp holds.
        refit: None where the study has no law of its own.
        no_refit: why there is no refit; not in the file.
        disagreements: where a comparison.json that was there says otherwise; not in the file.
    """

    KIND: ClassVar[str] = "comparison"
    VERSION: ClassVar[int] = 2  # of version 1, z had the sign of actual − predicted, and every run was scored

    rows: tuple[ComparisonRow, ...]
    not_predictions: tuple[NotPrediction, ...] = ()
    waiting: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    attested: tuple[str, ...] = ()
    refit: Refit | None = None
    no_refit: str = Field(default="", exclude=True)
    disagreements: tuple[str, ...] = Field(default=(), exclude=True)

    @property
    def mean_bias(self) -> float:
        """Mean of predicted/actual − 1 of the loss.

        Raises:
            BadInput: nothing is scored.
        """
        if not self.rows:
            raise BadInput("there are 0 scored predictions; a mean needs at least 1")
        return fmean(row.error for row in self.rows)


def compare_study(study: StudyPaths | StrPath) -> Comparison:
    """Score a study's sealed plan by its runs, refit its law with them, and write comparison.json.

    Brings the study's runs.jsonl up to date too. Where the law cannot be refitted, `Comparison.no_refit` says why; where the
    comparison.json that was there says otherwise, `Comparison.disagreements`.

    Args:
        study: the folder of a study, or its paths.

    Returns:
        what was written to comparison.json.

    Raises:
        BadInput: the seal is broken or missing, or none of its members is finished; nothing is written then.
    """
    paths = study if isinstance(study, StudyPaths) else open_study(Path(study))
    plan = open_seal(paths.plan)
    runs = read_runs(paths.runs)
    comparison = compare(plan, runs, study=paths)
    comparison = comparison.model_copy(update=_refitted(paths, plan, runs, comparison))
    disagreements = _disagreements(paths, comparison)
    gather_runs(paths.runs)
    inputs = hashes((paths.plan, paths.runs))
    comparison = comparison.model_copy(update={"disagreements": disagreements, "inputs": inputs})
    comparison.write(paths.comparison)
    return comparison


def compared(study: StudyPaths, *, refits: bool = False) -> Comparison | None:
    """A study's comparison as its plan, runs and ledgers give it, whatever comparison.json says; writes nothing.

    Args:
        study: its paths.
        refits: fit the law with the new runs too, and check what comparison.json says of that; else there is no refit.

    Returns:
        the comparison; None where no sealed member is finished, or the plan's predictions are a published law's.

    Raises:
        BadInput: the seal is broken, or a file cannot be read.
    """
    if not (study.plan.exists() and exists(study.runs)):
        return None
    plan = PlanFile.read(study.plan)
    if plan.seal is None or not any(member.prediction for member in plan.members):
        return None
    if plan.law is not None and plan.law.name in PUBLISHED:
        return (
            None  # predicted on another text: there is nothing to score, and a report is no place to refuse
        )
    runs = read_runs(study.runs, max_bad_share=1.0, least=0)
    try:
        comparison = compare(open_seal(study.plan), runs, study=study)
    except NothingScored:
        return None
    if refits:
        comparison = comparison.model_copy(update=_refitted(study, plan, runs, comparison))
    update: dict[str, object] = {"disagreements": _disagreements(study, comparison)}
    if study.comparison.exists():
        update["created_at"] = Comparison.read(study.comparison).created_at
    return comparison.model_copy(update=update)


def _refitted(
    study: StudyPaths, plan: PlanFile, runs: Sequence[Run], comparison: Comparison
) -> dict[str, object]:
    """`refit` of a comparison, or `no_refit`, the reason why there is none."""
    try:
        return {"refit": refit_study(study, plan, runs, _new_runs(plan, runs, comparison))}
    except BadInput as error:
        return {"no_refit": str(error)}


class NothingScored(BadInput):
    """A plan without predictions, or none of whose members is finished."""


def compare(
    plan: PlanFile | StrPath,
    runs: Sequence[Run] | StrPath,
    inputs: Mapping[str, str] | None = None,
    *,
    study: StudyPaths | StrPath | None = None,
) -> Comparison:
    """Score every prediction of a sealed plan whose run is finished, and was started from the seal (docs/seal.md).

    Args:
        plan: a sealed plan, or its file.
        runs: runs, or a file that `read_runs` reads.
        inputs: SHA-256 of each file behind the comparison, by name; default: those of the files that are given.
        study: the study whose run folders show the order. Default: the folder of `runs`, where that is a file; runs in
            memory alone show no order, and are listed under `not_predictions`.

    Raises:
        BadInput: the plan is not sealed, its file was edited after sealing, or none of its members is finished.
    """
    files = [Path(source) for source in (plan, runs) if isinstance(source, str | PathLike)]
    if study is None and isinstance(runs, str | PathLike):
        study = Path(runs).parent
    if isinstance(plan, str | PathLike):
        plan = open_seal(Path(plan))
    if isinstance(runs, str | PathLike):
        runs = read_runs(runs)
    paths = study if isinstance(study, StudyPaths) or study is None else StudyPaths(Path(study))
    basis = Basis(plan=plan, study=paths)
    rows: list[ComparisonRow] = []
    others: list[NotPrediction] = []
    waiting: list[str] = []
    for prediction in sealed_predictions(plan):
        row, apart = outcome(basis, prediction, runs)
        others += apart
        if row is not None:
            rows.append(row)
        elif not apart:
            waiting.append(prediction.member)
    stamps = stamps_of(paths.plan, plan) if paths is not None else ()
    if not rows and not others:
        tokens = plan.member(waiting[0]).tokens
        raise NothingScored(f"no run of {waiting[0]} with {tokens:g} tokens is finished; train it first")
    return Comparison(
        rows=tuple(rows),
        not_predictions=tuple(others),
        waiting=tuple(waiting),
        notes=(*_notes(basis, runs), *_late(basis, rows, runs, stamps)),
        attested=() if paths is None else attestation_texts(stamps),
        inputs=hashes(files) if inputs is None else dict(inputs),
    )


def outcome(
    basis: Basis, prediction: SealedPrediction, runs: Sequence[Run]
) -> tuple[ComparisonRow | None, list[NotPrediction]]:
    """Score one prediction: the row that counts, if any, and the runs of its size that do not.

    Args:
        basis: the sealed plan and its study.
        prediction: one of its predictions.
        runs: all runs; those of another size are left out, and a row that stands there twice counts once.
    """
    member = basis.plan.member(prediction.member)
    matches = {
        (run.run, run.row_hash): run
        for run in runs
        if run.annealed and same_size(member, run.params, run.tokens)
    }
    graded = [(run, verify(basis, member, run)) for run in matches.values()]
    grades = {verdict.grade for _, verdict in graded if verdict.counts}
    grade: Grade = "chain" if "chain" in grades else "clock"
    held = [run for run, verdict in graded if verdict.grade == grade]
    finished = {basis.files_of(run).seed_of(run) for run in held}
    missing = [str(seed) for seed in basis.seal.named if seed not in finished]
    if held and missing:  # those that came out well are not scored without the others
        reason = f"the plan names seeds {basis.seal.named_text}: there is no finished run of {' and '.join(missing)}"
        graded = [
            (run, Verdict("undecided", (reason,)) if run in held else verdict) for run, verdict in graded
        ]
        held = []
    row = score(prediction, held, grade=grade) if held else None
    apart = [
        NotPrediction(
            **score(prediction, [run]).model_dump(exclude={"grade"}),
            grade=verdict.grade,
            reasons=verdict.reasons,
        )
        for run, verdict in graded
        if run not in held
    ]
    return row, apart


def score(prediction: SealedPrediction, runs: Run | Sequence[Run], *, grade: Grade = "") -> ComparisonRow:
    """Score a prediction by an annealed run of the same member and tokens, or by the mean of several.

    Args:
        prediction: the sealed prediction.
        runs: the run, or at least one.
        grade: what shows that the prediction came first.
    """
    runs = [runs] if isinstance(runs, Run) else runs
    low, high = prediction.interval_80
    deviation = (high - low) / (2 * Z_80)
    actual = fmean(run.loss for run in runs)
    errors = [run.loss_se for run in runs if run.loss_se is not None]
    hours = [run.wall_s / 3600 for run in runs if run.wall_s is not None]
    booked = [run.compute for run in runs if run.compute is not None]
    return ComparisonRow(
        member=prediction.member,
        tokens=prediction.tokens,
        predicted_loss=prediction.loss,
        interval_80=prediction.interval_80,
        interval_95=prediction.interval_95,
        actual_loss=actual,
        actual_loss_se=math.hypot(*errors) / len(runs) if len(errors) == len(runs) else None,
        predicted_ppl=perplexity(prediction.loss),
        actual_ppl=perplexity(actual),
        sealed_at=prediction.sealed_at,
        run=runs[0].run,
        error=prediction.loss / actual - 1,
        z=(prediction.loss - actual) / deviation if deviation > 0 else 0.0,
        inside_80=low <= actual <= high,
        inside_95=prediction.interval_95[0] <= actual <= prediction.interval_95[1],
        planned_flops=prediction.flops,
        booked_flops=fmean(booked) if booked else None,
        planned_hours=prediction.hours,
        booked_hours=fmean(hours) if hours else None,
        runs=tuple(run.run for run in runs),
        spread=stdev(run.loss for run in runs) if len(runs) > 1 else None,
        grade=grade,
    )


def _notes(basis: Basis, runs: Sequence[Run]) -> tuple[str, ...]:
    """What changed since the seal: law.json, and the observations behind it."""
    notes, study = [], basis.study
    if study is not None and study.law.exists() and sha256_file(study.law) != basis.seal.law_sha256:
        notes.append(
            "law.json is not the law that was sealed (fitted again, or edited); the sealed prediction stands"
        )
    behind = set(basis.plan.law.row_hashes) if basis.plan.law is not None else set()
    gone = len(behind - {run.row_hash for run in runs})
    if behind and gone and gone < len(behind):
        notes.append(
            f"{gone} of the {len(behind)} observations behind the sealed law are no longer in the runs as they were"
        )
    return tuple(notes)


def _late(
    basis: Basis, rows: Sequence[ComparisonRow], runs: Sequence[Run], stamps: Sequence[Attestation]
) -> Iterator[str]:
    """Yield the rows whose run began, by its own files, before every stamp of the seal: those say nothing of the order."""
    times = [stamp.time for stamp in stamps if stamp.holds and stamp.time is not None]
    for row in rows if times else ():
        began = [basis.files_of(run).began for run in runs if run.run in row.runs]
        first = min((time for time in began if time is not None), default=None)
        if first is not None and first < min(times):
            yield f"{row.member}: the seal was stamped after its run began; the stamp says nothing of their order"


def _new_runs(plan: PlanFile, runs: Sequence[Run], comparison: Comparison) -> list[str]:
    """Names of the compared runs that the sealed law was not fitted to."""
    behind = set(plan.law.row_hashes) if plan.law is not None else set()
    fitted = {run.run for run in runs if run.row_hash in behind}
    names = [name for row in (*comparison.rows, *comparison.not_predictions) for name in row.runs]
    return [name for name in names if name not in fitted]


def _disagreements(study: StudyPaths, comparison: Comparison) -> tuple[str, ...]:
    """Where a comparison.json says otherwise than plan, runs and ledgers do; of one that cannot be read, that it cannot."""
    if not study.comparison.exists():
        return ()
    try:
        stored = Comparison.read(study.comparison)
    except BadInput as error:
        return (str(error),)
    lines = []
    counted = {row.member: row for row in comparison.rows}
    apart = {row.member: row for row in comparison.not_predictions}
    names = [row.member for row in stored.rows]
    for row in stored.rows:
        fresh = counted.get(row.member)
        if fresh is None and row.member in apart:
            reason = apart[row.member].reasons[0]
            lines.append(f"comparison.json counts {row.member}, which does not count: {reason}")
        elif fresh is None:
            lines.append(f"comparison.json scores {row.member}, of which there is no finished run")
        elif names.count(row.member) > 1:
            lines.append(f"comparison.json has {row.member} {names.count(row.member)} times; it counts once")
        else:
            for name in ("predicted_loss", "actual_loss"):
                told, true = getattr(row, name), getattr(fresh, name)
                if told != true:
                    which = name.replace("_", " ")
                    lines.append(
                        f"comparison.json has {format_loss(told)} as {which} of {row.member}; "
                        f"it is {format_loss(true)}"
                    )
            if (row.inside_80, row.inside_95) != (fresh.inside_80, fresh.inside_95) and not lines:
                lines.append(f"comparison.json says otherwise of {row.member}'s intervals")
    same = study.runs.exists() and stored.inputs == hashes((study.plan, study.runs))
    if same and stored.refit is not None and comparison.refit is not None:
        lines += _refit_disagreements(stored, comparison.refit)
    return tuple(dict.fromkeys(lines))


def _refit_disagreements(stored: Comparison, fresh: Refit) -> Iterator[str]:
    """Yield the first quantity that a comparison.json has otherwise for the refit of the very same plan and runs."""
    told = stored.refit
    for new in fresh.changes:
        old = told.change(new.quantity) if told is not None else None
        for when in ("before", "after"):
            was = getattr(old, when) if old is not None else math.nan
            if not math.isclose(was, getattr(new, when), rel_tol=SAME_REFIT):
                yield (
                    f"comparison.json has {was:.4g} as {new.quantity} {when} the refit; it is {getattr(new, when):.4g} "
                    f"(edited, or fitted by another version: it was written by {stored.tool})"
                )
                return
