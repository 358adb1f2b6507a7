"""Scores of downstream tasks by run: a CSV, or the results*.json of lm-evaluation-harness 0.3 to 0.4, and chance levels."""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from families.units import BadInput, parse_size

from ..files import read_text
from ..untrusted import parse_csv, parse_json

# One over the number of choices (lm-evaluation-harness task definitions); accuracy of exact answers starts at 0.
CHANCE = {
    "anli_r1": 1 / 3, "anli_r2": 1 / 3, "anli_r3": 1 / 3, "arc_challenge": 0.25, "arc_easy": 0.25, "boolq": 0.5,
    "commonsense_qa": 0.2, "copa": 0.5, "gsm8k": 0.0, "hellaswag": 0.25, "lambada_openai": 0.0, "lambada_standard": 0.0,
    "logiqa": 0.25, "mathqa": 0.2, "mmlu": 0.25, "mnli": 1 / 3, "nq_open": 0.0, "openbookqa": 0.25, "piqa": 0.5,
    "race": 0.25, "rte": 0.5, "sciq": 0.25, "social_iqa": 1 / 3, "swag": 0.25, "triviaqa": 0.0, "webqs": 0.0, "wic": 0.5,
    "winogrande": 0.5, "wsc": 0.5, "wsc273": 0.5, "xwinograd": 0.5,
}  # fmt: skip

# Families whose tasks are all of one kind; MMLU's also have variants with other choices or answers in free text.
FAMILIES = {"blimp": 0.5, "mmlu": 0.25, "xcopa": 0.5, "xstorycloze": 0.5, "xwinograd": 0.5}
OTHERS = ("pro", "redux", "flan", "generative", "continuation", "llama", "cot", "prox")

METRICS = ("acc_norm", "acc", "exact_match", "em", "pass@1", "pass_at_1", "f1")

FILTERS = ("none", "", "strict-match", "get-answer", "remove_whitespace", "flexible-extract")

_MOST_NAMES = 6  # of runs that a message lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of one task.

    Args:
        task: its name.
        by_run: by run name, between 0 and 1; of a negated Brier score 1 more than it is.
        metric: that was read, such as "acc_norm,none"; empty where the file names none.
        compute: FLOPs by run name, where the file states them.
        added: to each score, to lie between 0 and 1: 1 for a negated Brier score.
    """

    task: str
    by_run: Mapping[str, float]
    metric: str = ""
    compute: Mapping[str, float] = field(default_factory=dict)
    added: float = 0.0


def known_chance(task: str) -> float | None:
    """Score of guessing of a known task, or of one of a known family such as mmlu_anatomy; None for others."""
    name = task.split(",")[0]
    family, _, rest = name.partition("_")
    if name in CHANCE or family not in FAMILIES or not rest:
        return CHANCE.get(name)
    return None if rest.startswith(OTHERS) else FAMILIES[family]


def parse_chance(words: Sequence[str]) -> dict[str, float]:
    """Parse "task=0.25" words; of a negated Brier score between -1 and 0.

    Raises:
        BadInput: another form, or a chance level that is not at least -1 and below 1.
    """
    found = {}
    for word in words:
        task, _, value = word.partition("=")
        try:
            level = float(value)
        except ValueError:
            level = math.nan
        if not (task and -1 <= level < 1):
            raise BadInput(f"chance is {word!r}; it must be like my_task=0.25")
        found[task] = level
    return found


def read_scores(path: Path, runs: Collection[str] = ()) -> list[Scores]:
    """Scores from a CSV of columns run, task, score (and compute), or from lm-evaluation-harness's results*.json in a folder.

    In a folder each result belongs to the run that one of its sub-folders or its model is called after, as far as `runs` has
    that name; else to the innermost sub-folder, or the model. Of several results of a task the last by name counts.

    Args:
        path: the CSV or the folder.
        runs: names of the runs.

    Raises:
        BadInput: no such file, no result in the folder, a task with two scores of a run in a CSV, or a score that is not
            between 0 and 1, or -1 and 0 throughout.
    """
    found = list(_of_folder(path, runs)) if path.is_dir() else list(_of_csv(path))
    if not found:
        raise BadInput(
            f"{path} has no scores: results*.json of lm-evaluation-harness, or a CSV of run, task, score"
        )
    tasks = dict.fromkeys(row.task for row in found)
    return [_scores(task, [row for row in found if row.task == task]) for task in tasks]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    task: str
    run: str
    score: float
    where: str
    metric: str = ""
    compute: float | None = None


def _scores(task: str, rows: Sequence[_Row]) -> Scores:
    negated = all(-1 <= row.score <= 0 for row in rows) and any(row.score < 0 for row in rows)
    added = 1.0 if negated else 0.0
    for row in rows:
        if not 0 <= row.score + added <= 1:
            raise BadInput(f"{row.where}: score of {task} is {row.score:g}; it must be between 0 and 1")
    metrics = list(dict.fromkeys(row.metric for row in rows))
    if len(metrics) > 1:
        raise BadInput(f"{task} has scores by {' and by '.join(map(repr, metrics))}: they do not compare")
    return Scores(
        task=task,
        by_run={row.run: row.score + added for row in rows},
        metric=metrics[0],
        compute={row.run: row.compute for row in rows if row.compute is not None},
        added=added,
    )


def _of_csv(path: Path) -> Iterator[_Row]:
    header: list[str] = []
    seen: dict[tuple[str, str], str] = {}
    for line, cells in parse_csv(read_text(path), ","):
        where = f"{path} line {line}"
        if isinstance(cells, str):
            raise BadInput(f"{where}: {cells}")
        if not cells or not header:
            header = header or [cell.strip() for cell in cells]
            continue
        row = dict(zip(header, cells, strict=False))
        try:
            compute = parse_size(row["compute"], "compute") if row.get("compute") else None
            name = row["run"] if "run" in header or compute is None else f"line {line}"
            found = _Row(
                task=row["task"].strip(),
                run=name.strip(),
                score=float(row["score"] or "nan"),
                where=where,
                compute=compute,
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            raise BadInput(f"{where} is not run, task, score: {error}") from error
        if (before := seen.setdefault((found.task, found.run), where)) != where:
            raise BadInput(
                f"{where}: {found.run} has a score of {found.task} already, in {before.rpartition(' ')[2]}"
            )
        yield found


def _of_folder(path: Path, runs: Collection[str]) -> Iterator[_Row]:
    for file in sorted(path.rglob("results*.json"), key=lambda file: (file.parent, file.name)):
        try:
            value = parse_json(read_text(file))
        except json.JSONDecodeError as error:
            raise BadInput(f"{file} is not JSON: {error.msg} at line {error.lineno}") from error
        results = value.get("results") if isinstance(value, dict) else None
        if not isinstance(results, dict):
            raise BadInput(f"{file} has no results of lm-evaluation-harness")
        groups = value.get("groups")
        names = _names(file, path, value)
        run = next((name for name in names if name in runs), names[0])
        for task, metrics in {**(groups if isinstance(groups, dict) else {}), **results}.items():
            taken = _metric(metrics) if isinstance(metrics, dict) else None
            if taken is not None:
                yield _Row(task=str(task), run=run, score=taken[1], where=str(file), metric=taken[0])


def _names(file: Path, root: Path, value: Mapping[str, Any]) -> list[str]:
    """What the run of a result may be called: its folders from the inside out, then its model, each also by its last part.

    lm-evaluation-harness writes a model's path as a folder with "__" in place of "/".
    """
    inside = [] if file.parent == root else [folder.name for folder in (file.parent, *file.parent.parents)]
    folders = inside[: len(file.parent.relative_to(root).parts)]
    config = value.get("config")
    config = config if isinstance(config, dict) else {}
    arguments = config.get("model_args")
    if isinstance(arguments, str):
        pairs = (word.partition("=") for word in arguments.split(","))
        arguments = {name.strip(): text for name, _, text in pairs}
    arguments = arguments if isinstance(arguments, dict) else {}
    models = [
        value.get("model_name"),
        arguments.get("pretrained"),
        arguments.get("path"),
        arguments.get("model"),
    ]
    stated = [str(model) for model in models if isinstance(model, str) and model]
    parts = [
        part for text in (*folders, *stated) for part in (text, *reversed(text.replace("__", "/").split("/")))
    ]
    first = [text.rpartition("/")[2] for text in stated]
    return [*folders[:1], *(first if not folders else []), *filter(None, parts), file.stem]


def _metric(metrics: Mapping[str, Any]) -> tuple[str, float] | None:
    """The first metric by METRICS and then FILTERS that is a number: "exact_match,strict-match" and its value."""
    found = {}
    for key, value in metrics.items():
        name, _, chosen = str(key).partition(",")
        if name in METRICS and isinstance(value, int | float) and not isinstance(value, bool):
            rank = FILTERS.index(chosen) if chosen in FILTERS else len(FILTERS)
            found[METRICS.index(name), rank, str(key)] = float(value)
    return None if not found else (min(found)[2], found[min(found)])


def unmatched(scores: Scores, runs: Collection[str]) -> str:
    """The names of scored runs and of runs, for a message that few of them agree."""
    shown = [", ".join(list(dict.fromkeys(names))[:_MOST_NAMES]) for names in (scores.by_run, runs)]
    return f"scored are {shown[0]}; the runs are {shown[1]}"
