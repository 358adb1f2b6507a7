"""Study: the folder that holds the files of one question, as an object for notebooks and scripts."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import StrPath
from .fitting.predictor import Fit, load_law
from .paths import StudyPaths, open_study
from .planning.api import Plan, load_plan
from .runs import RunTable
from .runs.readers import read_runs
from .runs.store import exists
from .scoring import Comparison, compare, compare_study
from .scoring.refit import comparable_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Study:
    """A folder with the files of one question: runs.jsonl, law.json, plan.json, comparison.json, report.html.

    Each method reads the file of its name; what a command has written is what a notebook sees, and the reverse.

    Args:
        folder: the study's folder; it need not exist yet.

    Raises:
        BadInput: the study was written by a newer version.

    Examples:
        >>> study = Study("docs/studies/stdlib")
        >>> len(study.runs()), study.law().convention
        (17, 'total')
    """

    def __init__(self, folder: StrPath) -> None:
        self.paths: StudyPaths = open_study(Path(folder))

    def __repr__(self) -> str:
        """The folder and the files it holds."""
        names = ("file", "ladder", "runs", "law", "plan", "comparison", "report")
        there = [path.name for path in (getattr(self.paths, name) for name in names) if path.exists()]
        return f"Study({str(self.folder)!r}): {', '.join(there) or 'empty'}"

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.paths.folder

    def runs(self) -> RunTable:
        """Read the observations, runs.jsonl.

        Returns:
            One row for each measured loss, with the reader's warnings.

        Raises:
            BadInput: there is no such file, or a row in it is broken.
        """
        return read_runs(self.paths.runs)

    def law(self) -> Fit:
        """Read the fitted law, law.json.

        Returns:
            The fit. Its data are the study's annealed runs of the law's group and eval set, those that were trained since
            among them.

        Raises:
            BadInput: there is no such file, or it holds another kind of document.
        """
        law = load_law(self.paths.law)
        if not exists(self.paths.runs):
            return law
        return replace(law, data=comparable_runs(law, self.runs()).counted(law.convention))

    def plan(self) -> Plan:
        """Read the plan, plan.json. `scaling.plan(..., study=folder)` makes one.

        Raises:
            BadInput: there is no such file, or a sealed plan was edited after it was sealed.
        """
        return load_plan(self.paths.plan)

    def compare(self, *, write: bool = True) -> Comparison:
        """Score the sealed predictions by the runs that came after.

        Args:
            write: refit the law with those runs too, and write comparison.json, which the report shows.

        Returns:
            A row for each sealed member whose run is finished: predicted and actual loss in nats per token, error,
            and whether the 80 % and 95 % intervals held.

        Raises:
            BadInput: the plan is missing, not sealed or edited since, or none of its members is finished.
        """
        return compare_study(self.paths) if write else compare(self.paths.plan, self.paths.runs)

    def report(self, out: StrPath | None = None) -> Path:
        """Write report.html, and its figures as PNG, SVG and CSV beside it.

        Args:
            out: the page to write, in place of the study's own.

        Returns:
            The path of the page.

        Raises:
            BadInput: there is nothing to report, or `out` holds another file.
        """
        path, _ = self._plots("output").write_report(
            self.folder, None if out is None else Path(out), replace=out is None
        )
        return Path(path)

    def plot(self, name: str) -> "Figure":
        """Draw one figure of the study, such as "surface", "residuals", "predicted" or "learning".

        Raises:
            BadInput: no figure of that name, naming the nearest, or the study lacks what it shows.
        """
        figure: Figure = self._plots("notebook").plot_study(self.folder, name)
        return figure

    @staticmethod
    def _plots(module: str) -> Any:
        """A module of the floor above, by name: this one does not depend on it."""
        return import_module(f"plots.{module}")
