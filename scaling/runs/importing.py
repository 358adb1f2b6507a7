"""Import of a table of runs into a study: its rows become rows of the study's runs.jsonl."""

from pathlib import Path

from .readers import read_study_text
from .run import RunTable
from .store import imported_text

_UNNAMED = "row "  # what the reader calls a row of a table that names no runs


def import_runs(own: Path, table: RunTable, source: Path) -> tuple[str, RunTable]:
    """The text of a study's runs.jsonl with a table's rows in it, and the runs of that text.

    Rows of an earlier import of a file of that name are replaced. Nothing is written.

    Args:
        own: the study's runs.jsonl, which may not exist yet.
        table: the rows, with what their reader had to say.
        source: the file or folder that they were read from.

    Raises:
        BadInput: the study's file cannot be read, or has bad rows of its own.
    """
    name = source.resolve().name
    rows = [
        run.model_copy(update={"run": f"{source.stem} {run.run}"}) if run.run.startswith(_UNNAMED) else run
        for run in table
    ]
    text = imported_text(own, rows, name)
    study = read_study_text(text, own)
    return text, RunTable(
        study.runs,
        warnings=dict.fromkeys((*table.warnings, *study.warnings)),
        bad=(*table.bad, *study.bad),
        ignored_columns=table.ignored_columns,
    )
