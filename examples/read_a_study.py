"""Read a finished study, score its sealed prediction, and draw its figures and its report.

    python examples/read_a_study.py [FOLDER]

The study trained four small GPT-2s on Python's standard library, and sealed the loss of a fifth before training it.
"""

import sys
import tempfile
from pathlib import Path

import scaling as sc

STUDY = Path(__file__).resolve().parents[1] / "docs" / "studies" / "stdlib"


def main(folder: Path) -> sc.Comparison:
    """Write the figures and the report into a folder; the study itself is only read."""
    study = sc.Study(STUDY)
    print(study)
    print(study.runs())
    print(study.law())

    plan = study.plan()
    print(f"sealed at {plan.sealed_at}: {', '.join(member.member for member in plan.members)}")

    comparison = study.compare(write=False)
    for row in comparison.rows:
        inside = "inside" if row.inside_80 else "outside"
        print(
            f"{row.member}: predicted {row.predicted_loss:.4f}, actual {row.actual_loss:.4f} ({row.error:+.2%}), "
            f"{inside} its 80 % interval"
        )

    for name in ("predicted", "surface", "residuals"):
        study.plot(name).savefig(folder / f"{name}.png")
    print("report:", study.report(folder / "report.html"))
    return comparison


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
