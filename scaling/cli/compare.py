"""scaling compare: sealed predictions scored."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from families.units import BadInput, format_duration, format_size

from ..auditing.published import Correction, PublishedComparison, PublishedRow
from ..paths import StudyPaths, open_study
from ..scoring import Comparison, ComparisonRow, calibrate, comparisons_under
from ..scoring import compare_study as compare_runs
from ..scoring.refit import Refit, change_interval, change_name, change_value
from ..stats import format_loss, format_perplexity
from .output import JsonOption, StudyOption, YesOption, echo, format_table, log, print_json
from .run_options import ColumnsOption

if TYPE_CHECKING:
    from ..auditing.findings import Finding


# MERGED DOCSTRINGS
# A published table as text: the document's columns with corrections marked, ours, and the fit through its points.
# scaling audit: recompute a published table or one's own, and say what does not add up.

COMPARE_EPILOG = (
    "Example: scaling compare --study demo, or scaling compare --under studies, "
    "or scaling compare --published composer-gpt2"
)


def compare_study(
    study: StudyOption = Path("study"),
    under: Annotated[
        Path | None, typer.Option("--under", help="Instead: how often all studies under a folder held.")
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            "--published", help="Instead: a published format_table against its own law: composer-gpt2."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Open the seal and score its predictions by the runs that came after; writes comparison.json."""
    if under is not None and published is not None:
        raise BadInput("--under and --published are given; give one of them")
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
    """A published table, recomputed."""
    from ..auditing.published import compare_published

    found = compare_published(name)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for line in published_lines(found):
        echo(line)


def _all_studies(folder: Path, as_json: bool) -> None:
    """The predictions of every study, and how often their intervals held."""
    found = comparisons_under(folder)
    score = calibrate(tuple(found.values()))
    if as_json:
        studies = {name: one.model_dump(mode="json")["rows"] for name, one in found.items()}
        print_json({**score.model_dump(mode="json"), "rows": studies})
        return
    echo(outcome_table({name: one.rows for name, one in found.items()}))
    echo(score.sentence)


def compared(study: StudyPaths) -> Comparison:
    """Compare a study's sealed plan with its runs, complete the model cards, and log what is missing."""
    comparison = compare_runs(study)
    _complete_cards(study)
    for member in comparison.waiting:
        log(f"{member} is sealed and not finished; it is not scored yet")
    if comparison.no_refit:
        log(f"no refit: {comparison.no_refit}")
    return comparison


def _complete_cards(study: StudyPaths) -> None:
    """Write predicted and actual into the model cards of the study's rungs."""
    from train.model_card import write_cards

    written = write_cards(study)
    if written:
        log(f"{len(written)} model card{'s' * (len(written) != 1)} now tell what was predicted")


def comparison_text(found: Comparison) -> str:
    """What was predicted and what came, what it cost, and what the new runs change."""
    parts = [outcome_table({"": found.rows}), cost_table(found)]
    if found.refit is not None:
        parts.append(refit_text(found.refit))
    return "\n\n".join(parts)


def outcome_table(found: Mapping[str, tuple[ComparisonRow, ...]]) -> str:
    """Predicted and actual loss and perplexity, a line for each member of each study (by name; "": the only one)."""
    rows = [
        [
            row.member if not study else study if len(of_study) == 1 else f"{study}/{row.member}",
            format_size(row.tokens),
            format_loss(row.predicted_loss),
            "–".join(map(format_loss, row.interval_80)),
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
    return format_table(header, rows)


def cost_table(found: Comparison) -> str:
    """Training FLOPs and time, planned and booked."""
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
    return format_table(["member", "FLOPs planned", "booked", "time planned", "booked"], rows)


def refit_text(found: Refit) -> str:
    """The law without and with the new runs."""
    said = (
        f"Refitted with the new runs, {found.rows_before} rows become {found.rows_after}: {found.form_before} -> "
        f"{found.form_after} ({found.status})"
    )
    lines = [
        *wrap(said, 100),
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
    """The whole answer, line by line, within 100 columns."""
    yield from wrap(f"{found.title}, as printed; [a] marks what does not add up. Predicted: {found.law}", 100)
    yield ""
    yield format_table(
        ["member", "parameters", f"hours {found.hardware}", "tokens", "final loss", "ppl predicted", "ppl"],
        [_printed(row) for row in found.rows],
    )
    yield ""
    yield "Recomputed from each shape, the training files and the law"
    yield ""
    yield format_table(
        ["member", "parameters", "MFU", "tokens", "law's tokens", "law's loss", "ppl predicted", "error"],
        [
            [
                row.member,
                f"{row.params:,}",
                "–" if row.mfu is None else f"{row.mfu:.1%}",
                format_size(row.tokens),
                format_size(row.law_tokens, 4),
                f"{row.predicted_loss:.6f}",
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
    """The letter, each number stated and recomputed, and why; a finding on all rows speaks for each."""
    first, *rest = one.findings
    for finding in [first, *rest]:
        if finding is not first and first.where.startswith("all "):
            continue
        numbers = " -> ".join(filter(None, (finding.stated, finding.recomputed)))
        yield from wrap(
            f"{finding.check}, {finding.where}: {numbers}; {finding.explanation}",
            100,
            initial_indent=f"[{one.mark}] " if finding is first else "    ",
            subsequent_indent="    ",
        )


def _fit(found: PublishedComparison) -> Iterable[str]:
    fit = found.fit
    spread = f" (80 %: {fit.exponent_80[0]:.4f} to {fit.exponent_80[1]:.4f})" if fit.exponent_80 else ""
    yield from wrap(
        f"Our fit through the {len(found.rows)} outcomes: L falls as C_min^-{fit.exponent:.4f}{spread}, the law's as "
        f"C_min^-{fit.law_exponent:.3f}. They cross at {fit.factor:.1f}x the budget of {fit.largest}, "
        f"{format_size(fit.crossing_flops)} FLOPs; at {format_size(fit.ahead_flops)} FLOPs the law says "
        f"{fit.ahead_law:.3f} and the fit {fit.ahead_own:.3f} nats per token.",
        100,
    )
    yield from wrap(f"Source: {found.source}.", 100)


AUDIT_EPILOG = "Example: scaling audit model-card.md"

_TITLES = {"mismatch": "Does not add up", "suspicious": "Looks wrong", "ok": "Adds up"}


def audit(
    table: Annotated[Path, typer.Argument(help="A .csv, .tsv, .jsonl or Markdown file with tables.")],
    columns: ColumnsOption = "",
    out: Annotated[Path | None, typer.Option("--out", help="Write the audit here as JSON.")] = None,
    as_json: JsonOption = False,
    yes: YesOption = False,
) -> int:
    """Recompute parameters, tokens, FLOPs, MFU, perplexity and trends of a table, and explain what is off."""
    from ..auditing import Audit
    from ..auditing import audit as audit_table
    from ..files import refuse_overwrite
    from ..runs.readers import parse_columns

    if out is not None:
        refuse_overwrite(out, Audit, replace=yes)
    found = audit_table(table, column_names=parse_columns(columns))
    if out is not None:
        found.write(out)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return 0
    tables = f"{found.tables} table{'' if found.tables == 1 else 's'}"
    echo(
        f"{found.source}: {tables}, {found.rows} rows or members, {len(found.findings)} checks; stated -> recomputed"
    )
    for verdict, number in found.counts.items():
        if number:
            echo()
            echo(f"{_TITLES[verdict]} ({number})")
            for line in lines(finding for finding in found.findings if finding.verdict == verdict):
                echo(line)
    return 0


def lines(findings: "Iterable[Finding]") -> Iterable[str]:
    """Each finding: what and where with both numbers on a line, the explanation below it."""
    from textwrap import wrap

    for finding in findings:
        stated, recomputed = finding.stated or "", finding.recomputed or ""
        numbers = " -> ".join(filter(None, (stated, recomputed)))
        yield from wrap(
            f"  {finding.check:<22} {finding.where}: {numbers}"
            if numbers
            else f"  {finding.check:<22} {finding.where}",
            width=100,
            subsequent_indent=" " * 25,
        )
        if finding.explanation:
            yield from wrap(
                finding.explanation, width=100, initial_indent=" " * 25, subsequent_indent=" " * 25
            )
