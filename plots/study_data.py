"""What there is to look at in a study's folder: whatever files exist, read once, and what is missing said."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from families.units import BadInput
from scaling.fitting.predictor import Fit, load_law
from scaling.planning.planfile import PlanFile, PlannedMember, open_seal
from scaling.runs import Run, compute_of
from scaling.runs.readers import read_runs
from scaling.runs.store import WorkEntry, exists, read_totals
from scaling.scoring import Comparison, comparisons_under
from scaling.stats import MOST_CURVES, MOST_DRAWN, MOST_READ, Array, subsample_evenly
from scaling.study import Study, StudyFile, open_study

# MERGED DOCSTRINGS
# Learning curves as values: smoothed, joined with the trunk they left, thinned.
FEWEST_POINTS = 10  # of a curve that can be said to rise

LARGEST_VOCABULARY = 262_144  # Gemma's

BAD_SHARE = 0.5  # a report shows the good rows and names the bad ones; a fit is stricter


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurve:
    """One metrics.jsonl: `part` is "trunk", "rung-TOKENS" or "" for a run without branches. Losses in nats/token."""

    run: str
    part: str
    tokens: Array
    loss: Array
    tokens_per_s: Array  # empty where it was not timed


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyData:
    """A study as it lies on disk. `missing` and `doubts` are sentences for the reader."""

    folder: Path
    study: StudyFile | None
    data: dict[str, Any]
    ladder: PlanFile | None
    plan: PlanFile | None
    seal_intact: bool
    runs: tuple[Run, ...]
    work: tuple[WorkEntry, ...]  # one entry for each part of a run
    law: Fit | None
    comparison: Comparison | None
    curves: tuple[LossCurve, ...]
    missing: tuple[str, ...]
    doubts: tuple[str, ...]
    unread: int = 0  # runs whose curves were not read, as a study of thousands has more than a page can show
    studies: int = 1  # more where this is the outcome of all studies under a folder

    @property
    def title(self) -> str:
        """The study's own title, else its folder's name."""
        if self.studies != 1:
            return f"Sealed predictions of {self.studies} studies in {self.folder.resolve().name}"
        return self.study.title if self.study else self.folder.resolve().name

    @property
    def members(self) -> tuple[PlannedMember, ...]:
        """What is to be trained: the ladder's members, then the plan's own."""
        return tuple(member for plan in (self.ladder, self.plan) if plan for member in plan.members)

    @property
    def lawful(self) -> tuple[Run, ...]:
        """Annealed runs that the law can be held against: its group, its eval set, its convention of N; those that did
        not learn are left out.
        """
        if self.law is None:
            return tuple(run for run in self.runs if run.annealed)
        field = "params" if self.law.convention == "total" else "params_non_embedding"
        return tuple(
            run
            for run in self.runs
            if run.annealed
            and run.loss <= _guessing(run)
            and getattr(run, field) is not None
            and (not self.law.group or run.group == self.law.group)
            and (not self.law.eval_set or run.eval_set == self.law.eval_set)
        )

    @property
    def thinned(self) -> "StudyData":
        """As figures draw it: of very many curves and observations a few, evenly by size and by compute.

        The best observation, the sealed ones, and those of the runs whose curve is drawn are among them.
        """
        named = smallest_first((curve.run for curve in self.curves), self.runs)
        with_curve = set(subsample_evenly(named, MOST_CURVES))
        curves = tuple(curve for curve in self.curves if curve.run in with_curve)
        if len(self.runs) <= MOST_DRAWN:
            return replace(self, curves=curves)
        stays = with_curve | self.held
        best = min(self.runs, key=lambda run: run.loss)
        rest = [run for run in self.runs if run.run not in stays and run is not best]
        rest.sort(key=lambda run: (compute_of(run), run.run))
        kept = {id(run) for run in subsample_evenly(rest, MOST_DRAWN)} | {id(best)}
        runs = tuple(run for run in self.runs if run.run in stays or id(run) in kept)
        return replace(self, curves=curves, runs=runs)

    @property
    def held(self) -> frozenset[str]:
        """Runs whose loss was sealed before they were trained; the law has not seen them."""
        return frozenset(row.run for row in self.comparison.rows) if self.comparison else frozenset()


def load_study(folder: Path) -> StudyData:
    """Read a study; of a folder that holds studies, all their predictions.

    Raises:
        BadInput: a file is broken or newer than this program, or there is nothing to look at.
    """
    place = open_study(folder)
    if not (exists(place.runs) or any(p.exists() for p in (place.law, place.plan, place.ladder))):
        if any(folder.glob("*/**/comparison.json")):
            return _studies(folder)
        raise BadInput(
            f"{folder} holds no runs.jsonl, law.json, plan.json or ladder.json; there is nothing to report"
        )
    doubts: list[str] = []
    runs: tuple[Run, ...] = ()
    if exists(place.runs):
        reading = read_runs(place.runs, max_bad_share=BAD_SHARE, least=0)
        runs = reading.runs
        doubts += [f"runs.jsonl {bad}; left out" for bad in reading.bad[:5]]
    plan, intact = _plan(place, doubts)
    law = load_law(place.law) if place.law.exists() else None
    comparison = Comparison.read(place.comparison) if place.comparison.exists() else None
    folders = smallest_first(_run_folders(place.folder / "runs"), runs)
    read = subsample_evenly(folders, MOST_READ)
    seen = StudyData(
        folder=folder,
        study=StudyFile.read(place.file) if place.file.exists() else None,
        data=_object(place.data / "data.json"),
        ladder=PlanFile.read(place.ladder) if place.ladder.exists() else None,
        plan=plan,
        seal_intact=intact,
        runs=runs,
        work=read_totals(place.ledger) if exists(place.ledger) else (),
        law=law,
        comparison=comparison,
        curves=tuple(_curves(place, read)),
        unread=len(folders) - len(read),
        missing=tuple(_missing(runs, law, plan, comparison)),
        doubts=(),
    )
    return _with_doubts(seen, doubts)


def _studies(folder: Path) -> StudyData:
    """The outcomes of every study under a folder, members named with their study."""
    found = comparisons_under(folder)
    rows = tuple(
        row.model_copy(update={"member": name if len(one.rows) == 1 else f"{name}: {row.member}"})
        for name, one in found.items()
        for row in one.rows
    )
    return StudyData(
        folder=folder,
        study=None,
        data={},
        ladder=None,
        plan=None,
        seal_intact=False,
        runs=(),
        work=(),
        law=None,
        comparison=Comparison(rows=rows),
        curves=(),
        missing=(),
        doubts=(),
        studies=len(found),
    )


def _plan(place: Study, doubts: list[str]) -> tuple[PlanFile | None, bool]:
    if not place.plan.exists():
        return None, False
    plan = PlanFile.read(place.plan)
    if plan.seal is None:
        return plan, False
    try:
        return open_seal(place.plan), True
    except BadInput as error:
        doubts.insert(0, f"the seal is broken: {error}")
        return plan, False


def _missing(
    runs: tuple[Run, ...], law: Fit | None, plan: PlanFile | None, comparison: Comparison | None
) -> list[str]:
    said = []
    if not runs:
        said.append("No run is finished yet: train the ladder (scaling ladder ladder.json).")
    if law is None:
        said.append("No law is fitted yet: run scaling fit on runs.jsonl.")
    if plan is None:
        said.append("Nothing is planned yet: run scaling plan.")
    elif plan.seal is None:
        said.append("The plan is not sealed: what it says was not promised before the run.")
    if comparison is None:
        said.append("No sealed prediction has met its run yet: train it, then run scaling compare.")
    return said


def _with_doubts(seen: StudyData, doubts: list[str]) -> StudyData:
    annealed = [run for run in seen.runs if run.annealed]
    others = len([run for run in annealed if run.loss <= _guessing(run)]) - len(seen.lawful)
    if seen.law is not None and others:
        doubts.append(
            f"{others} of {len(annealed)} runs have another group, eval set or "
            "count of N than the law; figures of the law leave them out"
        )
    sets = {run.eval_set for run in seen.runs}
    if len(sets) > 1:
        doubts.append(f"losses are on {len(sets)} eval sets: {', '.join(sorted(sets))}; they do not compare")
    lost = dict.fromkeys(run.run for run in seen.runs if run.loss > _guessing(run))
    if lost:
        doubts.append(
            f"{len(lost)} of the runs end{'s' if len(lost) == 1 else ''} above the loss of guessing and did not learn; figures "
            f"of the law leave them out: {', '.join(list(lost)[:5])}"
        )
    rose = dict.fromkeys(c.run for c in seen.curves if c.part in ("", "trunk") and _loss_rises(c.loss))
    if rose:
        doubts.append(
            f"training loss rose instead of falling in {len(rose)} run{'s' if len(rose) > 1 else ''}, which diverged: "
            f"{', '.join(list(rose)[:5])}"
        )
    drawn = seen.thinned
    with_curve, shown = ({curve.run for curve in one.curves} for one in (seen, drawn))
    if len(shown) < len(with_curve) or seen.unread:
        unread = f"; the curves of {seen.unread:,} runs were not read at all" if seen.unread else ""
        doubts.append(
            f"figures draw the curves of {len(shown):,} of {len(with_curve) + seen.unread:,} runs, evenly by size{unread}"
        )
    if len(drawn.runs) < len(seen.runs):
        doubts.append(
            f"figures draw {len(drawn.runs):,} of {len(seen.runs):,} observations, evenly by compute; the law and the sums "
            "are of all"
        )
    sizes = {run.params or run.params_non_embedding for run in seen.runs}
    if len(seen.runs) > 1 and len(sizes) == 1:
        doubts.append("all runs are of one size: how loss depends on N cannot be told")
    return replace(seen, doubts=tuple(doubts))


def _loss_rises(loss: Array) -> bool:
    """Did the last tenth of a curve lie above its first tenth?"""
    tenth = max(len(loss) // 10, 1)
    return len(loss) >= FEWEST_POINTS and bool(loss[-tenth:].mean() > loss[:tenth].mean())


def _guessing(run: Run) -> float:
    """Nats per token of a model that has learned nothing: ln of the vocabulary, of the largest in use where none is named."""
    return 1.05 * math.log(run.vocab_size or LARGEST_VOCABULARY)


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def smallest_first(names: Iterable[str], runs: Sequence[Run]) -> list[str]:
    """Names of training runs by their size, each once; those whose size is not known come first."""
    sizes = {run.run: run.params or run.params_non_embedding or 0.0 for run in runs}
    return sorted(set(names), key=lambda name: (sizes.get(name, 0.0), name))


def _run_folders(root: Path) -> list[str]:
    try:
        return [path.name for path in root.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []


def _curves(place: Study, names: Sequence[str]) -> list[LossCurve]:
    """Every metrics.jsonl of those runs, in the order of names; a line that is being written is passed over.

    A run with a folder of its own (out=) is a study of itself: its parts lie beside the other files.
    """
    root = place.folder / "runs"
    paths = {
        path: path.relative_to(root).parts
        for name in names
        for path in (root / name).glob("**/metrics.jsonl")
    }
    alone = str(_object(place.folder / "run.json").get("run", ""))
    if alone:
        paths |= {path: (alone, *path.parts[-2:]) for path in place.folder.glob("*/metrics.jsonl")}
    found = []
    for path, parts in sorted(paths.items()):
        rows = _lines(path)
        timing = {row.get("step"): row.get("tokens_per_s") for row in _lines(path.with_name("timing.jsonl"))}
        rows = [row for row in rows if _positive(row.get("tokens")) and _positive(row.get("loss"))]
        if not rows:
            continue
        speeds = [row.get("tokens_per_s") or timing.get(row.get("step")) for row in rows]
        found.append(
            LossCurve(
                run=parts[0],
                part=parts[1] if len(parts) > 2 else "",
                tokens=np.array([row["tokens"] for row in rows], dtype=np.float64),
                loss=np.array([row["loss"] for row in rows], dtype=np.float64),
                tokens_per_s=np.array([s for s in speeds if _positive(s)], dtype=np.float64),
            )
        )
    return found


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


MOST_POINTS = 400  # of one curve; more cannot be seen


def smooth(loss: Array, share: float = 0.06) -> Array:
    """Mean over a window of that share of the curve, cut off at its ends: the loss of single batches is noisy."""
    half = max(3, round(len(loss) * share / 2))
    sums = np.concatenate([[0.0], np.cumsum(loss)])
    index = np.arange(len(loss))
    first, last = np.maximum(index - half, 0), np.minimum(index + half, len(loss) - 1)
    return np.asarray((sums[last + 1] - sums[first]) / (last - first + 1))


def joined(curve: LossCurve, curves: Sequence[LossCurve]) -> tuple[Array, Array]:
    """A curve's tokens and smoothed loss; a cooldown is smoothed together with the trunk it left, and starts on it."""
    trunk = next((c for c in curves if c.run == curve.run and c.part == "trunk"), None)
    if trunk is None or not curve.part.startswith("rung"):
        return curve.tokens, smooth(curve.loss)
    before = trunk.tokens < curve.tokens[0]
    start = max(int(before.sum()) - 1, 0)
    loss = smooth(np.concatenate([trunk.loss[before], curve.loss]))
    return np.concatenate([trunk.tokens[before], curve.tokens])[start:], loss[start:]


def thin(values: Array, most: int = MOST_POINTS) -> Array:
    """At most that many, evenly, first and last among them."""
    if len(values) <= most:
        return values
    return np.asarray(values[np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))])


def ordered(curves: Sequence[LossCurve], runs: Sequence[Run]) -> list[str]:
    """Names of training runs, smallest first."""
    return smallest_first([*(curve.run for curve in curves), *(run.run for run in runs)], runs)
