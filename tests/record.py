"""`make calibration`: every sealed prediction of the project, hit or miss, by reach, from the studies' own files.

    python -m tests.record --write

writes docs/calibration.md, docs/studies/figures/reach.svg, and what README.md and docs/studies/README.md say of the record
between two marks. Nothing is typed: a study counts where its seal verifies (scaling.scoring.verify), and only there.
"""

import argparse
import io
import re
from contextlib import redirect_stdout
from itertools import groupby
from statistics import fmean

from families.units import format_size
from plots import style
from plots.predictions import by_reach, reach_text, score_text
from scaling.cli.compare import compare_study
from scaling.files import atomic_write
from scaling.scoring import NotPrediction
from scaling.scoring.record import SealedResult, sealed_results
from scaling.scoring.verify import GRADES
from scaling.stats import format_loss

from .gallery import ROOT, STUDIES

PAGE = ROOT / "calibration.md"
FIGURE = STUDIES / "figures" / "reach.svg"
UNDER = "scaling compare --under docs/studies"

INTRODUCTION = """# Calibration: every sealed prediction, hit or miss

Each line is a prediction that was sealed before its run, and what came. Reach is the target's training FLOPs in units of
the costliest run that its law was fitted on. Error and z are positive where the prediction was too high. What a grade
proves stands in [the seal](seal.md#grades). `make calibration` writes this page from the studies' plans, ledgers and runs;
a test fails where it says otherwise.

![Predicted against actual, by reach](studies/figures/reach.svg)
"""


def held(result):
    """The narrowest interval that held."""
    return "80 %" if result.row.inside_80 else "95 %" if result.row.inside_95 else "none"


def line(result):
    """A prediction as a row of the table."""
    promised = result.member.prediction
    interval = "–".join(map(format_loss, promised.interval_80))
    start = [reach_text(result.reach), f"[{result.study}](studies/{result.study}/README.md)"]
    start += [result.sealed_at[:16].replace("T", " "), format_loss(promised.loss), interval]
    if result.row is None:
        return [*start, "sealed, not opened", "", "", "", ""]
    row = result.row
    if isinstance(row, NotPrediction):
        return [*start, format_loss(row.actual_loss), "", "", "does not count", "; ".join(row.reasons)]
    runs = f" (mean of {len(row.runs)})" if len(row.runs) > 1 else ""
    scored = [f"{format_loss(row.actual_loss)}{runs}", f"{100 * row.error:+.2f} %", f"{row.z:+.1f}"]
    return [*start, *scored, held(result), GRADES[row.grade]]


def table(header, rows):
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)) + "\n"


def decade(result):
    """The reach as the issue asks for it: rounded to one digit."""
    return 0.0 if result.reach is None else float(f"{result.reach:.1g}")


def summary(results):
    """Coverage and error by reach."""
    rows = []
    for reach, group in groupby((one for one in results if one.counts), key=decade):
        found = [one.row for one in group]
        rows.append(
            [
                reach_text(reach),
                str(len(found)),
                str(sum(row.inside_80 for row in found)),
                str(sum(row.inside_95 for row in found)),
                f"{100 * fmean(row.error for row in found):+.2f} %",
                f"{100 * fmean(abs(row.error) for row in found):.2f} %",
            ]
        )
    return table(["reach", "predictions", "in 80 %", "in 95 %", "mean bias", "mean error"], rows)


def sentence(results):
    """The record in one sentence, those of the best grade first."""
    parts = []
    for grade, meaning in GRADES.items():
        rows = [one for one in results if one.counts and one.row.grade == grade]
        if rows:
            near, far = min(one.reach for one in rows), max(one.reach for one in rows)
            reach = reach_text(far) if near == far else f"{near:.2g} to {reach_text(far)}"
            inside = (sum(one.row.inside_80 for one in rows), sum(one.row.inside_95 for one in rows))
            error = 100 * fmean(abs(one.row.error) for one in rows)
            parts.append(
                f"{len(rows)} sealed predictions at {reach} the compute of the ladder ({meaning}): 80 % intervals "
                f"held {inside[0]}, 95 % intervals {inside[1]}, mean error {error:.2g} % of the loss"
            )
    waiting = sum(one.row is None for one in results)
    return "; ".join(parts) + (f"; {waiting} sealed and not opened yet" if waiting else "") + "."


def page(results: tuple[SealedResult, ...]) -> str:
    """The whole of docs/calibration.md."""
    header = ["reach", "study", "sealed (UTC)", "predicted", "80 % interval"]
    header += ["actual", "error", "z", "held", "grade"]
    attested = sorted({text for one in results for text in one.attested})
    return "\n".join(
        [
            INTRODUCTION,
            sentence(results) + "\n",
            summary(results),
            table(header, map(line, results)),
            "Of the time: " + "; ".join(attested) + ".\n",
        ]
    )


def marked(text, name, content):
    """A page with what stands between two marks written anew."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def compared():
    """What UNDER prints."""
    with redirect_stdout(io.StringIO()) as printed:
        compare_study(under=STUDIES)
    return printed.getvalue().rstrip("\n")


def outcome(result):
    """A prediction and what came, in a few sentences."""
    member, promised = result.member, result.member.prediction
    reach = f"{reach_text(result.reach)} the compute of the costliest run behind the law"
    start = f"Sealed {result.sealed_at}: {member.member}, {format_size(member.tokens)} tokens, {reach}. "
    if result.row is None:
        low, high = map(format_loss, promised.interval_80)
        return f"{start}Predicted {format_loss(promised.loss)} nats per token ({low} to {high} at 80 %); **not opened yet**."
    if not result.counts:
        return f"{start}Its run does not count: {'; '.join(result.row.reasons)}."
    row = result.row
    seeds = (
        f"; the mean of {len(row.runs)} seeds, {row.spread:.4f} apart (one standard deviation)"
        if row.spread
        else ""
    )
    minutes = f" The target trained for {60 * row.booked_hours:.1f} minutes." if row.booked_hours else ""
    return f"{start}**{score_text(row)}**, z {row.z:+.1f}{seeds}. {GRADES[row.grade].capitalize()}.{minutes}"


def written(results):
    """Every text that this script writes, by path."""
    pages = {PAGE: page(results)}
    for path, links in (
        (ROOT.parent / "README.md", "[All of them](docs/calibration.md)."),
        (STUDIES / "README.md", "[All of them, with their grades](../calibration.md)."),
    ):
        pages[path] = marked(path.read_text(encoding="utf-8"), "record", f"{sentence(results)} {links}")
    for one in results:
        path = STUDIES / one.study / "README.md"
        pages[path] = marked(path.read_text(encoding="utf-8"), "outcome", outcome(one))
    shown = "\n".join(["```", f"$ {UNDER}", compared(), "```"])
    pages[STUDIES / "README.md"] = marked(pages[STUDIES / "README.md"], "under", shown)
    return pages


def main():
    """Write them, or name those that differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    results = sealed_results(STUDIES)
    for path, text in written(results).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path.relative_to(ROOT.parent)}: {'written' if asked.write else 'differs'}")
            if asked.write:
                atomic_write(path, text)
    if asked.write:
        atomic_write(FIGURE, style.svg(by_reach(results).figure, "reach"))


if __name__ == "__main__":
    main()
