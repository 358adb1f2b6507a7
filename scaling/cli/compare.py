"""scaling compare: sealed predictions scored."""

from pathlib import Path
from typing import Annotated

import typer

from ..calibration import calibrate, comparisons_under
from ..compare import Comparison, compare
from ..files import hashes
from ..runs import gather_runs, read_runs
from ..seal import open_seal
from ..study import Study, open_study
from .show import JsonOption, StudyOption, print_json, say, table

EPILOG = "Example: scaling compare --study demo, or scaling compare --under studies"


def compare_study(
    study: StudyOption = Path("study"),
    under: Annotated[
        Path | None, typer.Option("--under", help="Instead: how often all studies under a folder held.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Open the seal and score its predictions by the runs that came after; writes comparison.json."""
    if under is not None:
        _all_studies(under, as_json)
        return
    found = compared(open_study(study))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        say(comparison_table(found))


def _all_studies(folder: Path, as_json: bool) -> None:
    """The predictions of every study, and how often their intervals held."""
    found = comparisons_under(folder)
    score = calibrate(tuple(found.values()))
    if as_json:
        studies = {name: one.model_dump(mode="json")["rows"] for name, one in found.items()}
        print_json({**score.model_dump(mode="json"), "rows": studies})
        return
    rows = tuple(row for one in found.values() for row in one.rows)
    say(comparison_table(Comparison(rows=rows)))
    say(score.sentence)


def compared(study: Study) -> Comparison:
    """Compare a study's sealed plan with its runs, and keep the result beside them."""
    plan = open_seal(study.plan)
    gather_runs(study.runs)
    found = compare(plan, read_runs(study.runs).runs, hashes((study.plan, study.runs)))
    found.write(study.comparison)
    return found


def comparison_table(found: Comparison) -> str:
    """Predicted and actual loss and perplexity, a line for each member."""
    from families.units import format_size

    rows = [
        [
            row.member,
            format_size(row.tokens),
            f"{row.predicted_loss:.3f}",
            f"{row.interval_80[0]:.3f}–{row.interval_80[1]:.3f}",
            f"{row.actual_loss:.3f}",
            f"{row.predicted_ppl:.2f}",
            f"{row.actual_ppl:.2f}",
            f"{row.error:+.2%}",
            "80 %" if row.inside_80 else "95 %" if row.inside_95 else "outside",
        ]
        for row in found.rows
    ]
    headers = [
        "member",
        "tokens",
        "predicted",
        "80 % interval",
        "actual",
        "ppl pred.",
        "ppl",
        "error",
        "inside",
    ]
    return table(headers, rows)
