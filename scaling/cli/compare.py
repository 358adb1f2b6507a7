"""scaling compare: sealed predictions and published tables scored. scaling audit: tables recomputed."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from families.units import BadInput, format_duration, format_size

from ..auditing.published import Correction, PublishedComparison, PublishedRow
from ..paths import StudyPaths, open_study
from ..planning.stamp import UNATTESTED
from ..scoring import Comparison, ComparisonRow, NotPrediction, calibrate, comparisons_under
from ..scoring import compare_study as compare_runs
from ..scoring.refit import Refit, change_interval, change_name, change_value
from ..scoring.verify import GRADES
from ..stats import format_loss, format_perplexity
from .output import (
    WIDTH,
    JsonOption,
    StudyOption,
    YesOption,
    echo,
    fitting_table,
    format_table,
    log,
    print_json,
)
from .run_options import ColumnsOption

if TYPE_CHECKING:
    from ..auditing.findings import Finding


COMPARE_EPILOG = (
    "Example: scaling compare --study demo, or scaling compare --under studies, "
    "or scaling compare --published composer-gpt2"
)


def compare_study(
    study: StudyOption = Path("study"),
    under: Annotated[
        Path | None,
        typer.Option("--under", help="Instead: coverage of the intervals of all studies in a folder."),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option("--published", help="Instead: a published table against its law: composer-gpt2."),
    ] = None,
    versus: Annotated[
        Path | None, typer.Option("--versus", help="Instead: a verdict that scaling versus --seal wrote.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Table of that verdict's arms (default: the study's runs).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score sealed predictions against the runs finished since; writes comparison.json."""
    if sum(option is not None for option in (under, published, versus)) > 1:
        raise BadInput("--under, --published and --versus exclude each other")
    if versus is not None:
        from .versus import print_opened

        print_opened(versus, runs or study / "runs.jsonl", as_json)
        return
    if published is not None:
        _published(published, as_json)
        return
    if under is not None:
        _all_studies(under, as_json)
        return
    comparison = compared(open_study(study))
    if as_json:
        print_json(comparison.model_dump(mode="json"))
    else:
        echo(comparison_text(comparison))


def _published(name: str, as_json: bool) -> None:
    """Print a published table, recomputed."""
    from ..auditing.published import compare_published

    found = compare_published(name)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for line in published_lines(found):
        echo(line)


def _all_studies(folder: Path, as_json: bool) -> None:
    """Print the predictions of every study, and the coverage of their intervals."""
    found = comparisons_under(folder)
    score = calibrate(tuple(found.values())) if any(one.rows for one in found.values()) else None
    for name, one in found.items():
        for line in (*one.disagreements, *one.notes):
            log(f"{name}: {line}")
    if as_json:
        studies = {name: one.model_dump(mode="json") for name, one in found.items()}
        print_json(
            {
                **({} if score is None else score.model_dump(mode="json")),
                "rows": {name: one["rows"] for name, one in studies.items()},
                "not_predictions": {name: one["not_predictions"] for name, one in studies.items()},
                "attested": {name: one["attested"] for name, one in studies.items()},
            }
        )
        return
    if score is not None:
        echo(outcome_table({name: one.rows for name, one in found.items()}))
        echo(score.sentence)
        for line in (GRADES[score.grade], *score.apart):
            echo(line)
    else:
        echo("no sealed prediction is scored")
    for text in _attested(found):
        echo(text)
    apart = {name: one.not_predictions for name, one in found.items() if one.not_predictions}
    if apart:
        echo()
        echo(apart_text(apart))


def _attested(found: Mapping[str, Comparison]) -> Iterator[str]:
    """Yield who attests the times, of each study that is attested by anybody, then of the others together."""
    alone = 0
    for name, one in found.items():
        if one.rows and one.attested[:1] in ((), (UNATTESTED,)):
            alone += 1
        elif one.rows:
            yield f"{name}: {'; '.join(one.attested)}"
    if alone:
        yield UNATTESTED if alone == len(found) else f"{alone} of {len(found)} studies: {UNATTESTED}"


def compared(study: StudyPaths) -> Comparison:
    """Compare a study's sealed plan with its runs, complete the model cards, and log what is missing."""
    comparison = compare_runs(study)
    _complete_cards(study)
    for line in (*comparison.disagreements, *comparison.notes):
        log(line)
    for member in comparison.waiting:
        log(f"{member} is not finished, and not scored yet")
    if comparison.no_refit:
        log(f"no refit: {comparison.no_refit}")
    return comparison


def _complete_cards(study: StudyPaths) -> None:
    """Write predicted and actual into the model cards of the study's rungs."""
    from train.model_card import write_cards

    written = write_cards(study)
    if written:
        log(f"{len(written)} model card{'s' * (len(written) != 1)} completed with predicted and actual loss")


def comparison_text(found: Comparison) -> str:
    """Format predicted and actual losses, cost, and the refit with the new runs."""
    parts = []
    if found.rows:
        shown = [f"{GRADES[grade]}" for grade in dict.fromkeys(row.grade for row in found.rows)]
        seals = "\n".join([*shown, *found.attested, *_means(found.rows)])
        parts += [f"{outcome_table({'': found.rows})}\n{seals}", cost_table(found)]
    if found.not_predictions:
        parts.append(apart_text({"": found.not_predictions}))
    if found.refit is not None:
        parts.append(refit_text(found.refit))
    return "\n\n".join(parts)


def _means(rows: Iterable[ComparisonRow]) -> Iterator[str]:
    """Yield what is scored where several runs match."""
    for row in rows:
        if row.spread is not None:
            yield (
                f"{row.member}: the mean of {len(row.runs)} runs, standard deviation {row.spread:.4f}: "
                f"{', '.join(row.runs)}"
            )


def apart_text(found: Mapping[str, tuple[NotPrediction, ...]]) -> str:
    """Format the runs that are not the outcome of a prediction, each with its reasons; they count nowhere."""
    lines = ["Not predictions, which count nowhere (losses in nats per token)"]
    for study, rows in found.items():
        for row in rows:
            where = f"{study}/{row.run or row.member}" if study else row.run
            verdict = f"{GRADES[row.grade]}: {'; '.join(row.reasons)}"
            first = f"{where}: predicted {format_loss(row.predicted_loss)}, actual {format_loss(row.actual_loss)}; "
            lines += wrap(first + verdict, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def outcome_table(found: Mapping[str, tuple[ComparisonRow, ...]]) -> str:
    """Format predicted and actual loss and perplexity, one line for each member of each study.

    Interval, error, z and "inside" are of the loss; error and z are positive where the prediction was too high.

    The key of `found` is the name of a study, empty for a single one.
    """
    rows = [
        [
            row.member if not study else study if len(of_study) == 1 else f"{study}/{row.member}",
            format_size(row.tokens),
            format_loss(row.predicted_loss),
            f"{format_loss(row.interval_80[0])}–{format_loss(row.interval_80[1])}",
            format_loss(row.actual_loss),
            format_perplexity(row.predicted_ppl),
            format_perplexity(row.actual_ppl),
            f"{row.error:+.2%}",
            f"{row.z:+.1f}",
            "80 %" if row.inside_80 else "95 %" if row.inside_95 else "outside",
        ]
        for study, of_study in found.items()
        for row in of_study
    ]
    header = [
        "member" if "" in found else "study",
        "tokens",
        "predicted",
        "80 % interval",
        "actual",
        "ppl pred.",
        "ppl",
        "error",
        "z",
        "inside",
    ]
    return fitting_table(header, rows, ["ppl pred.", "ppl"])


def cost_table(found: Comparison) -> str:
    """Format training FLOPs and time, planned and recorded."""
    rows = [
        [
            row.member,
            *(
                "–" if flops is None else format_size(flops)
                for flops in (row.planned_flops, row.booked_flops)
            ),
            *(
                "–" if hours is None else format_duration(3600 * hours)
                for hours in (row.planned_hours, row.booked_hours)
            ),
        ]
        for row in found.rows
    ]
    return format_table(["member", "FLOPs planned", "recorded", "time planned", "recorded"], rows)


def refit_text(found: Refit) -> str:
    """Format the law before and after the refit."""
    summary = (
        f"Refitted with the new runs, {found.rows_before} rows become {found.rows_after}: {found.form_before} -> "
        f"{found.form_after} ({found.status})"
    )
    lines = [
        *wrap(summary, WIDTH),
        format_table(
            ["", "before", "80 % interval", "after", "80 % interval"],
            [
                [
                    change_name(found, one),
                    change_value(one, one.before),
                    change_interval(one, one.before_80),
                    change_value(one, one.after),
                    change_interval(one, one.after_80),
                ]
                for one in found.changes
            ],
        ),
    ]
    return "\n".join(lines)


def published_lines(found: PublishedComparison) -> Iterator[str]:
    """Yield a published table, its recomputation, corrections and fit, in lines of at most WIDTH columns."""
    yield from wrap(f"{found.title}, as printed; [a] marks a correction. Predicted: {found.law}", WIDTH)
    yield ""
    yield format_table(
        ["member", "parameters", f"hours {found.hardware}", "tokens", "final loss", "ppl predicted", "ppl"],
        [_printed(row) for row in found.rows],
    )
    yield ""
    yield "Recomputed from the shapes, the training files and the law"
    yield ""
    yield format_table(
        ["member", "parameters", "MFU", "tokens", "law's tokens", "law's loss", "ppl predicted", "ppl error"],
        [
            [
                row.member,
                f"{row.params:,}",
                "–" if row.mfu is None else f"{row.mfu:.1%}",
                format_size(row.tokens),
                format_size(row.law_tokens, 4),
                format_loss(row.predicted_loss),
                f"{row.predicted_ppl:.5f}",
                f"{row.error:+.1%}",
            ]
            for row in found.rows
        ],
    )
    yield ""
    yield "Corrections"
    for one in found.corrections:
        yield from _correction(one)
    yield ""
    yield from _fit(found)


def _printed(row: PublishedRow) -> list[str]:
    def cell(column: str, text: str) -> str:
        return f"{text} [{row.marks[column]}]" if column in row.marks else text

    hours = "–" if row.hours is None else f"{int(row.hours):02d}:{round(60 * (row.hours % 1)):02d}"
    return [
        cell("member", row.member),
        cell("params", format_size(row.printed_params or row.params)),
        cell("hours", hours),
        cell("tokens", format_size(row.printed_tokens or row.tokens)),
        cell("loss", f"{row.printed_loss:.2f}"),
        f"{row.printed_predicted_ppl or row.predicted_ppl:.2f}",
        cell("ppl", f"{row.actual_ppl:.2f}"),
    ]


def _correction(one: Correction) -> Iterable[str]:
    """Yield a correction: its mark, the stated and recomputed numbers, and the reason."""
    first, *rest = one.findings
    for finding in [first, *rest]:
        if finding is not first and first.where.startswith("all "):
            continue
        numbers = " -> ".join(filter(None, (finding.stated, finding.recomputed)))
        yield from wrap(
            f"{finding.check}, {finding.where}: {numbers}; {finding.explanation}",
            WIDTH,
            initial_indent=f"[{one.mark}] " if finding is first else "    ",
            subsequent_indent="    ",
        )


def _fit(found: PublishedComparison) -> Iterable[str]:
    fit = found.fit
    spread = f" (80 %: {fit.exponent_80[0]:.4f} to {fit.exponent_80[1]:.4f})" if fit.exponent_80 else ""
    yield from wrap(
        f"Power law fitted to the {len(found.rows)} outcomes: L falls as C_min^-{fit.exponent:.4f}{spread}, the law's as "
        f"C_min^-{fit.law_exponent:.3f}. They cross at {fit.factor:.1f}x the budget of {fit.largest}, "
        f"{format_size(fit.crossing_flops)} FLOPs; at {format_size(fit.ahead_flops)} FLOPs the law predicts "
        f"{format_loss(fit.ahead_law)} and the fit {format_loss(fit.ahead_own)} nats per token.",
        WIDTH,
    )
    yield from wrap(f"Source: {found.source}.", WIDTH)


AUDIT_EPILOG = "Example: scaling audit model-card.md"

_TITLES = {"mismatch": "Inconsistent", "suspicious": "Suspicious", "ok": "Consistent"}


def audit(
    table: Annotated[
        Path, typer.Argument(help="File with tables (.csv, .jsonl, Markdown, …), or a config.json.")
    ],
    columns: ColumnsOption = "",
    out: Annotated[Path | None, typer.Option("--out", help="Write the audit to this file as JSON.")] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> int:
    """Recompute parameters, tokens, FLOPs, MFU, perplexity and trends of a table; explain inconsistencies."""
    from ..auditing import Audit
    from ..auditing import audit as audit_table
    from ..files import refuse_overwrite
    from ..runs.readers import parse_columns

    if out is not None:
        refuse_overwrite(out, Audit, replace=yes)
    result = audit_table(table, column_names=parse_columns(columns))
    if out is not None:
        result.write(out)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return 0
    tables = f"{result.tables} table{'' if result.tables == 1 else 's'}"
    echo(
        f"{result.source}: {tables}, {result.rows} rows or members, {len(result.findings)} checks; stated -> recomputed"
    )
    for note in result.notes:
        for line in wrap(f"note: {note}", width=100, subsequent_indent="  "):
            echo(line)
    for verdict, number in result.counts.items():
        if number:
            echo()
            echo(f"{_TITLES[verdict]} ({number})")
            for line in finding_lines(finding for finding in result.findings if finding.verdict == verdict):
                echo(line)
    return 0


def finding_lines(findings: "Iterable[Finding]") -> Iterable[str]:
    """Yield each finding: check, place and both numbers on a line, the explanation below it."""
    for finding in findings:
        stated, recomputed = finding.stated or "", finding.recomputed or ""
        numbers = " -> ".join(filter(None, (stated, recomputed)))
        yield from wrap(
            f"  {finding.check:<22} {finding.where}: {numbers}"
            if numbers
            else f"  {finding.check:<22} {finding.where}",
            width=WIDTH,
            subsequent_indent=" " * 25,
        )
        if finding.explanation:
            yield from wrap(
                finding.explanation, width=WIDTH, initial_indent=" " * 25, subsequent_indent=" " * 25
            )
