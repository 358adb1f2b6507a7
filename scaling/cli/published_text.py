"""A published table as text: the document's columns with corrections marked, ours, and the fit through its points."""

from collections.abc import Iterable, Iterator
from textwrap import wrap

from families.units import format_size

from ..published_compare import Correction, PublishedComparison, PublishedRow
from .show import table


def published_lines(found: PublishedComparison) -> Iterator[str]:
    """The whole answer, line by line, within 100 columns."""
    yield from wrap(f"{found.title}, as printed; [a] marks what does not add up. Predicted: {found.law}", 100)
    yield ""
    yield table(
        ["member", "parameters", f"hours {found.hardware}", "tokens", "final loss", "ppl predicted", "ppl"],
        [_printed(row) for row in found.rows],
    )
    yield ""
    yield "Recomputed from each shape, the training files and the law"
    yield ""
    yield table(
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
