"""scaling fit, predict and backtest: a law from runs, the loss of a run by it, and its score on held-out runs."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from families.units import BadInput, nearest

from .output import (
    WIDTH,
    JsonOption,
    SeedOption,
    StudyOption,
    YesOption,
    echo,
    fitting_table,
    log,
    print_json,
    readable_study,
)
from .run_options import (
    BadRowsOption,
    ColumnsOption,
    ConventionOption,
    CoordinatesOption,
    EvalSetOption,
    LossUnitOption,
    RunsArgument,
    WithOption,
    log_notes,
    parse_coordinates,
    read_and_warn,
    read_curve_or_runs,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..fitting.downstream import ScoreFit
    from ..fitting.predictor import Fit
    from ..runs import Run


FIT_EPILOG = "Example: scaling fit runs.csv --columns params=N,tokens=D --out law.json"

DOUBTFUL = 1


def fit(
    runs: RunsArgument = None,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study",
            callback=readable_study,
            help="Folder of the study (default: study); with RUNS, import them into it.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the law here (law.json of the study without RUNS).")
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--form", help="auto, chinchilla, general, kaplan, L(N), L(D), L(C) or data-constrained."
        ),
    ] = "auto",
    convention: ConventionOption = None,
    columns: ColumnsOption = "",
    group: Annotated[
        str | None, typer.Option("--group", help="The group to fit, where there are several.")
    ] = None,
    eval_set: EvalSetOption = None,
    annealed: Annotated[
        str | None,
        typer.Option("--annealed", help="only (default): leave mid-schedule points out; all: include them."),
    ] = None,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=0, help="Resamples of whole runs.")] = 200,
    bad_rows: BadRowsOption = 0.0,
    loss_unit: LossUnitOption = "nats",
    coordinates: CoordinatesOption = None,
    own: WithOption = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Refit under other loss functions and outlier policies.")
    ] = False,
    conventions: Annotated[
        bool, typer.Option("--conventions", help="Show the exponents under each count of N.")
    ] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Profile likelihood of the exponents.")] = False,
    isoflop: Annotated[
        bool, typer.Option("--isoflop", help="Show approaches 1 and 2 and their bias on the fitted surface.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            help="Write surface, isoflops, residuals, profile and, with settings, valley as .svg; of one variable, "
            "curve and residuals.",
        ),
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> int:
    """Fit a scaling law to runs, certify it, and print its card."""
    from textwrap import fill

    from ..files import atomic_writes, check_writable, refuse_overwrite, sha256_bytes
    from ..fitting import sensitivity as reports
    from ..fitting.fit import fit as fit_runs
    from ..fitting.forms import Status
    from ..fitting.lawfile import LawFile
    from ..fitting.selection import default_annealed, one_of_annealed, one_of_conventions
    from ..monitoring.curves import curve_hashes
    from ..runs.importing import import_runs
    from ..runs.store import gather_runs
    from ..runs.trackers import input_hashes

    place = study or Path("study")
    store = place / "runs.jsonl"
    source = runs or store
    imports = (
        runs is not None
        and study is not None
        and not (store.exists() and runs.exists() and store.samefile(runs))
    )
    if runs is None or study is not None:
        out = out or place / "law.json"
    if out is not None:
        refuse_overwrite(out, LawFile, replace=yes)
        check_writable(out)
    if plot is not None:
        check_writable(plot / "surface.svg")
    named, kinds = parse_coordinates(coordinates, own)
    reading = (
        read_and_warn(source, columns, bad_rows, loss_unit, annealed, own=tuple(kinds), notes=False)
        if imports or runs is None
        else read_curve_or_runs(source, columns, bad_rows, loss_unit, annealed, own=tuple(kinds), notes=False)
    )
    notes = reading.warnings
    texts: dict[Path, bytes | str] = {}
    inputs = {} if runs is None else curve_hashes(source) or input_hashes(source)
    if imports:
        check_writable(store)
        imported, text, reading = len(reading), *import_runs(store, reading, source)
        texts[store] = text
        inputs |= {store.name: sha256_bytes(text.encode())}
    try:
        fitted = fit_runs(
            reading,
            coordinates=named,
            own=kinds,
            form=form,
            convention=one_of_conventions(convention),
            group=group,
            eval_set=eval_set,
            annealed=one_of_annealed(annealed) or default_annealed(reading, group),
            seed=seed,
            bootstrap=bootstrap,
        )
    except BadInput:
        log_notes(notes)  # they may be the reason
        raise
    log_notes(line for line in notes if as_json or line not in fitted.card["warnings"])  # once for a reader
    chosen = fitted.data or reading
    extras: dict[str, Any] = {}
    lines: list[str] = []
    for name, requested, report in (
        ("sensitivity", sensitivity, lambda: reports.sensitivity_report(fitted, chosen)),
        ("conventions", conventions, lambda: reports.conventions_report(chosen)),
        ("profile", profile, lambda: reports.profile_report(fitted, chosen)),
        ("isoflop", isoflop, lambda: reports.isoflop_report(fitted, chosen)),
    ):
        if requested:
            extras[name], more = report()
            lines += more
    files = {} if plot is None else _draw(fitted, chosen, plot)
    if runs is None:
        gather_runs(source)  # only now: a refusal leaves the study as it was
        inputs = input_hashes(source)
    fitted = replace(fitted, inputs=inputs)
    atomic_writes(texts | files | ({} if out is None else {out: fitted.document().dump()}))
    if imports:
        log(f"imported {imported} rows of {source.name} into {store}")
    for path in files:
        log(f"wrote {path}")
    if as_json:
        print_json({**fitted.document().model_dump(mode="json"), **extras})
    else:
        for name, text in fitted.card.items():
            echo(fill(f"{name:<25} {text}", width=100, subsequent_indent=" " * 26))
        for line in lines:
            echo(line)
        if out is not None:
            echo(f"wrote {out}")
        else:
            log("not saved; use --out law.json")
    if fitted.status is not Status.OK:
        log(f"scaling: the fit is doubtful ({fitted.status.value}): {fitted.detail or fitted.status.message}")
        return DOUBTFUL
    return 0


def _draw(fitted: "Fit", runs: "Sequence[Run]", folder: Path) -> dict[Path, str]:
    """The figures of a fit as SVG, by the files they go to."""
    from plots.frontier import isoflops
    from plots.law import profile, residuals, surface
    from plots.style import svg
    from plots.valley import valley

    from ..fitting.sensitivity import profiles_of
    from ..fitting.valley import settings_of

    if fitted.variable:
        from plots.curve import curve

        figures = {"curve": curve(fitted, runs), "residuals": residuals(fitted, runs)}
        return {folder / f"{name}.svg": svg(drawn.figure, name) for name, drawn in figures.items()}
    figures = {
        "surface": surface(fitted, runs),
        "isoflops": isoflops(fitted, runs),
        "residuals": residuals(fitted, runs),
        "profile": profile(profiles_of(fitted, runs)[1]),
    }
    if settings_of(fitted):
        figures["valley"] = valley(fitted, runs)
    return {folder / f"{name}.svg": svg(drawn.figure, name) for name, drawn in figures.items()}


PREDICT_EPILOG = "Example: scaling predict law.json family=gpt2-83m tokens=5.5B"


def predict(
    law: Annotated[str, typer.Argument(help="A law.json, or kaplan, chinchilla, hoffmann.")],
    words: Annotated[
        list[str],
        typer.Argument(
            help="family=gpt2-83m or params=85M, tokens=5.5B, and the law's coordinates, such as lr=1e-3; or compute=1e21; "
            "for a law of one variable, that variable alone.",
            metavar="KEY=VALUE...",
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Predict past 1,000 times the fitted N, D or compute.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the interval's sources: noise, constants, drift, …")
    ] = False,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            help="Also downstream scores: a folder of lm-eval results, or a CSV of run, task, score, with FLOPs as compute "
            "where no table has the losses.",
        ),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Table with the losses of those runs (with --scores).")
    ] = None,
    chance: Annotated[
        list[str] | None,
        typer.Option("--chance", help="Chance score of a task, like my_task=0.25; repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict loss, perplexity and downstream scores with intervals, of one run or of the best split of compute."""
    from textwrap import fill

    from ..fitting.columns import KNOWN
    from ..planning.law import PredictQuery, coordinates_of, predict
    from .keys import pairs
    from .run_options import merge

    names = coordinates_of(law)
    for word in words:
        key = word.partition("=")[0]
        if key in KNOWN and key not in names:
            depends = (
                f"depends on {', '.join(names)} besides N and D" if names else "depends on N and D alone"
            )
            raise BadInput(f"{key} is given, and {law} {depends}")
    given = pairs(words, [*PredictQuery.model_fields, *names])
    settings = {name: given[name] for name in names if name in given}
    rest = [word for word in words if word.partition("=")[0] not in settings]
    answer = predict(law, merge(PredictQuery, rest), settings=settings, force=force, explain=explain)
    curves = [] if scores is None else _scores(scores, runs, chance or ())
    told = {
        task: curve
        if isinstance(curve, str)
        else curve.predict_loss(answer.loss, answer.loss_interval_80, 6 * answer.params * answer.tokens)
        for task, curve in curves
    }
    log_notes(answer.warnings)
    if as_json:
        print_json(answer.model_copy(update={"scores": told}).model_dump(mode="json"))
        return
    for line in answer.lines():
        echo(fill(line, WIDTH, subsequent_indent="  ") if len(line) > WIDTH else line)
    for task, score in told.items():
        if isinstance(score, str):
            echo(f"score      {score}")
            continue
        low, high = score["interval_80"]
        name = f"{task} ({score['metric']})" if score["metric"] else task
        turn = ", which turn with scale" if score["turns"] else ""
        echo(
            f"score      {name} {score['score']:.3f}   80 %: {low:.3f} to {high:.3f}   by {score['form']}, {score['runs']} "
            f"runs{turn}"
        )


def _scores(path: Path, runs: Path | None, chance: "Sequence[str]") -> "list[tuple[str, ScoreFit | str]]":
    """A curve of each task, or why there is none."""
    from ..fitting.downstream import fit_scores
    from ..fitting.downstream_scores import parse_chance, read_scores
    from ..runs.readers import read_runs

    known = parse_chance(chance)
    table = () if runs is None else read_runs(runs)
    scored = read_scores(path, {run.run for run in table})
    if unknown := set(known) - {task.task for task in scored}:
        raise BadInput(
            f"chance names {min(unknown)!r}; {nearest(min(unknown), [task.task for task in scored])}"
        )
    found: list[tuple[str, ScoreFit | str]] = []
    for task in scored:
        if runs is None and not task.compute:
            raise BadInput("--scores needs --runs, the table with the losses of the runs that were scored")
        if task.added:
            log(f"note: scores of {task.task} are between -1 and 0: taken as negated Brier scores")
        try:
            found.append((task.task, fit_scores(task, table, chance=known.get(task.task))))
        except BadInput as error:
            found.append((task.task, str(error)))
    return found


BACKTEST_EPILOG = "Example: scaling backtest runs.csv --columns params=N,tokens=D --holdout top-decade"


def backtest(
    runs: RunsArgument = None,
    study: StudyOption = Path("study"),
    holdout: Annotated[
        str, typer.Option("--holdout", help="top-decade, top-20%, params>X, tokens>X or compute>X.")
    ] = "top-decade",
    convention: ConventionOption = None,
    columns: ColumnsOption = "",
    group: Annotated[
        str | None, typer.Option("--group", help="The group to fit, where there are several.")
    ] = None,
    eval_set: EvalSetOption = None,
    annealed: Annotated[
        str | None,
        typer.Option("--annealed", help="only (default): leave mid-schedule points out; all: include them."),
    ] = None,
    bad_rows: BadRowsOption = 0.0,
    loss_unit: LossUnitOption = "nats",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Fit the cheap runs, predict the expensive ones, and score each form and the default predictor."""
    from ..fitting.backtest import backtest as run_backtest
    from ..fitting.fit import REPEATED
    from ..fitting.selection import of_group, one_of_annealed, one_of_conventions
    from .output import Progress

    source = runs or study / "runs.jsonl"
    reading = read_curve_or_runs(source, columns, bad_rows, loss_unit, annealed)
    bar = Progress(elsewhere=False)
    result = run_backtest(
        of_group(reading, group),
        holdout=holdout,
        convention=one_of_conventions(convention),
        annealed=one_of_annealed(annealed),
        eval_set=eval_set,
        seed=seed,
        progress=bar.at,
    )
    bar.end()
    for name, excluded in result.left_out.items():
        log(f"group {name!r}: left out {excluded}")
    for name, reason in result.skipped.items():
        log(f"skipped group {name!r}: {reason}")
    for score in result.groups:
        if score.doubt:
            log(f"group {score.group!r}: {score.doubt}")
    if as_json:
        print_json(asdict(result))
        return
    echo(f"mean |predicted/actual - 1| of the loss on held-out rows ({holdout})")
    shared = ["default", "bias", "in 80 %", "width"]
    for forms in dict.fromkeys(tuple(score.forms) for score in result.groups):
        shown = [form for form in forms if form != REPEATED]
        rows = [
            [
                score.group[:28] or "(none)",
                f"{score.fit_rows}/{score.held_rows}",
                f"{score.compute_ratio:.3g}x",
                *(f"{score.forms[form].mean_error:.2%}" for form in shown),
                f"{score.default.mean_error:.2%}",
                f"{score.default.bias:+.2%}",
                f"{score.default.coverage_80:.0%}",
                f"{score.default.relative_width_80:.1%}",
            ]
            for score in result.groups
            if tuple(score.forms) == forms
        ]
        names = ["chinch." if form == "chinchilla" else form for form in shown]
        header = ["group", "fit/held", "reach", *names, *shared]
        echo(fitting_table(header, rows, ("bias", "reach")))  # --json has them
