"""`make figures`: the gallery's pictures from its studies' files, and README's from the report in a browser.

The same files give the same bytes under one version of matplotlib; README's picture depends on the browser's fonts as well.
"""

import base64
import shutil
import sys
import tempfile
from pathlib import Path

from plots import style
from plots.figures import OUTCOME_FIGURES, draw_figures
from plots.report import report
from plots.study_data import load_study
from scaling.files import atomic_write

from .browser import CHROMIUM, Browser

ROOT = Path(__file__).parents[1] / "docs"
STUDIES = ROOT / "studies"
SHOWN = ("predicted", "forecast", "learning", "frontier")
SHOWN_FAR = ("predicted", "learning")  # of the studies made from a recipe
README = STUDIES / "stdlib"  # whose report README shows
WIDTH, HEIGHT = 1185, 1860


def draw(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Each figure of a study, or of a folder of studies, as SVG; its data are the study's own files."""
    drawn, _ = draw_figures(load_study(folder), names)
    written = []
    for one in drawn:
        path = folder / "figures" / f"{one.name}.svg"
        atomic_write(path, style.svg(one.figure, one.name))
        written.append(path)
    return written


def screenshot(folder: Path, out: Path) -> None:
    """The top of a study's report, as a browser shows it."""
    temporary = Path(tempfile.mkdtemp())
    try:
        study = load_study(folder)
        drawn, not_drawn = draw_figures(study)
        (temporary / "report.html").write_text(report(study, drawn, not_drawn), encoding="utf-8")
        browser = Browser(temporary / "profile")
        try:
            browser.open((temporary / "report.html").as_uri(), width=WIDTH)
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
            taken = browser.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        finally:
            browser.close()
        atomic_write(out, base64.b64decode(taken["data"]))
    finally:
        shutil.rmtree(temporary)


def main() -> None:
    """Draw all of them; without a browser README's picture stays as it is, and that is said."""
    for folder in sorted(path.parent for path in STUDIES.glob("*/study.json")):
        for path in draw(folder, SHOWN):
            print(path.relative_to(ROOT))
    for folder in sorted(path.parent for path in STUDIES.glob("*/recipe.json")):
        if not (folder / "runs.jsonl").exists():
            continue  # a recipe that is not trained yet
        for path in draw(folder, SHOWN_FAR):
            print(path.relative_to(ROOT))
    for path in draw(STUDIES, OUTCOME_FIGURES):
        print(path.relative_to(ROOT))
    if Path(CHROMIUM).exists():
        screenshot(README, ROOT / "report.png")
        print("report.png")
    else:
        print(f"report.png is as it was: {CHROMIUM} is not there", file=sys.stderr)


if __name__ == "__main__":
    main()
