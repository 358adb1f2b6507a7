"""scaling compare: sealed predictions scored."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Annotated

import typer

from families.errors import BadInput
from families.units import format_duration, format_size

from ..calibration import calibrate, comparisons_under
from ..compare import Comparison, ComparisonRow
from ..compare import compare_study as score_study
from ..perplexity import format_perplexity
from ..refit import Refit, change_interval, change_name, change_value
from ..runs import gather_runs
from ..study import Study, open_study
from .show import JsonOption, StudyOption, note, print_json, say, table

EPILOG = "Example: scaling compare --study demo, or --under studies, or --published composer-gpt2"


def compare_study(
    study: StudyOption = Path("study"),
    under: Annotated[
        Path | None, typer.Option("--under", help="Instead: how often all studies under a folder held.")
    ] = None,
    published: Annotated[
        str | None,
        typer.Option("--published", help="Instead: a published table against its own law: composer-gpt2."),
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
    found = compared(open_study(study))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        say(comparison_text(found))


def _published(name: str, as_json: bool) -> None:
    """A published table, recomputed."""
    from ..published_compare import compare_published
    from .published_text import published_lines

    found = compare_published(name)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    for line in published_lines(found):
        say(line)


def _all_studies(folder: Path, as_json: bool) -> None:
    """The predictions of every study, and how often their intervals held."""
    found = comparisons_under(folder)
    score = calibrate(tuple(found.values()))
    if as_json:
        studies = {name: one.model_dump(mode="json")["rows"] for name, one in found.items()}
        print_json({**score.model_dump(mode="json"), "rows": studies})
        return
    say(outcome_table({name: one.rows for name, one in found.items()}))
    say(score.sentence)


def compared(study: Study) -> Comparison:
    """Compare a study's sealed plan with its runs, and keep the result beside them."""
    gather_runs(study.runs)
    found, why_not = score_study(study)
    found.write(study.comparison)
    _complete_cards(study)
    for member in found.waiting:
        note(f"{member} is sealed and not finished; it is not scored yet")
    if why_not:
        note(f"no refit: {why_not}")
    return found


def _complete_cards(study: Study) -> None:
    """Write predicted and actual into the model cards of the study's rungs."""
    from train.card import write_cards

    written = write_cards(study)
    if written:
        note(f"{len(written)} model card{'s' * (len(written) != 1)} now tell what was predicted")


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
            f"{row.predicted_loss:.3f}",
            f"{row.interval_80[0]:.3f}–{row.interval_80[1]:.3f}",
            f"{row.actual_loss:.3f}",
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
    return table(header, rows)


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
    return table(["member", "FLOPs planned", "booked", "time planned", "booked"], rows)


def refit_text(found: Refit) -> str:
    """The law without and with the new runs."""
    said = (
        f"Refitted with the new runs, {found.rows_before} rows become {found.rows_after}: {found.form_before} -> "
        f"{found.form_after} ({found.status})"
    )
    lines = [
        *wrap(said, 100),
        table(
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
