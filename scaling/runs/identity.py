"""What rows must share to be compared, and what cannot be: states, checkpoints, vocabularies, copies, units."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median

from families.units import format_size

from .run import Run

_LONGEST_STATE = 60  # characters

TINY = 1e4  # parameters; a table whose largest size is below it likely states millions

MISMATCH = 2.5  # stated compute over 6·N·D, or its inverse: attention and counts of N explain less

LEAST_RATIO, MOST_RATIO = 0.1, 5e3  # tokens per parameter, in the median of runs that anybody trains

_LARGEST_LOSS = 13.0  # nats per token: above the ln of any vocabulary in use

_FINISHED = frozenset(
    (
        "finished", "completed", "complete", "done", "success", "succeeded", "ok", "passed", "published", "inactive",
        "converged", "ended",
    )
)  # fmt: skip

# Beginnings of the words of a state that is not finished, in the words of trackers, schedulers and clouds.
_UNFINISHED = (
    "crash", "fail", "kill", "running", "preempt", "pending", "schedul", "cancel", "abort", "timeout", "timed", "error", "oom",
    "memory", "diverg", "interrupt", "stopp", "queue", "starting", "unknown", "prun", "evict", "progress", "incomplete",
    "unfinished", "unsuccessful", "suspend", "stall", "explod", "broken", "deleted",
)  # fmt: skip

_STEADY = (
    "wsd",
    "constant",
    "stable",
    "trapez",
    "cooldown",
    "warmdown",
)  # schedules without a decay before the cooldown

_PADS = (8, 16, 32, 64, 128, 256, 512, 1024)  # to whose multiples a vocabulary is padded


def unfinished(state: object) -> str | None:
    """The state of a run that is not finished, in lower case; None for any other text.

    In the words of trackers and schedulers: crashed, "CANCELLED by 7", OOMKilled, InProgress, "not finished".
    """
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(state)[:_LONGEST_STATE])
    words = re.findall("[a-z]+", text.lower())
    negated = bool({"not", "nan"} & set(words))
    if negated or any(word.startswith(_UNFINISHED) for word in words):
        return " ".join(text.lower().split())
    return None


def state_notes(left_out: Sequence[tuple[str, str]], unread: Iterable[str]) -> list[str]:
    """Notes on rows left out by their state, and on states that say nothing.

    Args:
        left_out: (run, state) of each row that was left out.
        unread: states of the others.
    """
    notes = []
    if left_out:
        counted = Counter(state for _, state in left_out)
        states = ", ".join(f"{count} {state}" for state, count in counted.items())
        names = list(dict.fromkeys(run for run, _ in left_out))
        shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        notes.append(f"left out by their state, {_rows(len(left_out))}: {states} ({shown})")
    odd = sorted({str(state) for state in unread if state not in (None, "")}, key=str.lower)
    odd = [state for state in odd if not _FINISHED & set(re.findall("[a-z]+", state.lower()))]
    if odd:
        shown = ", ".join(repr(state[:_LONGEST_STATE]) for state in odd[:6])
        many = f"the state {shown} is" if len(odd) == 1 else f"the states {shown} are"
        notes.append(f"{many} not understood; such rows count")
    return notes


def mark_checkpoints(runs: Sequence[Run], *, keep_all: bool = False) -> tuple[list[Run], list[str]]:
    """Mark all but the last row of each run as mid-schedule, in a table that does not say which are annealed.

    Rows of one run, size, eval set, schedule and seed at different tokens are checkpoints. Under a schedule that is constant
    before its cooldown they compare with one another, and nothing is marked.

    Args:
        runs: the rows.
        keep_all: whether all rows count as annealed nevertheless.

    Returns:
        the rows, and a note where some run has several.
    """
    last: dict[tuple[object, ...], float] = {}
    several: set[tuple[object, ...]] = set()
    for run in runs:
        key = _series(run)
        if key in last and last[key] != run.tokens:
            several.add(key)
        last[key] = max(last.get(key, 0.0), run.tokens)
    if not several:
        return list(runs), []
    rows = [run for run in runs if _series(run) in several]
    names = {run.run for run in rows}
    of = f"no column annealed, and {_rows(len(rows))} of {len(names)} run{'s' if len(names) > 1 else ''}"
    if keep_all or all(any(word in run.schedule.lower() for word in _STEADY) for run in rows):
        return list(runs), [f"{of} at several tokens: all count as annealed"]
    marked = [
        run
        if (key := _series(run)) not in several or run.tokens == last[key]
        else run.model_copy(update={"annealed": False})
        for run in runs
    ]
    note = (
        f"{of} at several tokens: only the last of each counts as annealed; a column annealed, or --annealed all, "
        "changes that"
    )
    return marked, [note]


def mark_early(runs: Sequence[Run], early: Collection[int]) -> tuple[list[Run], list[str]]:
    """Mark the rows at these places, which end before the last step of their schedule, as mid-schedule.

    Under a schedule that is constant before its cooldown nothing is marked.

    Returns:
        the rows, and a note where some are marked.
    """
    marked = {place for place in early if not any(word in runs[place].schedule.lower() for word in _STEADY)}
    if not marked:
        return list(runs), []
    rows = [
        run.model_copy(update={"annealed": False}) if place in marked else run
        for place, run in enumerate(runs)
    ]
    return rows, [
        f"{_rows(len(marked))} end before the last step of their schedule, and do not count as annealed; a column annealed, or "
        "--annealed all, changes that"
    ]


def without_rates(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Leave out an lr that changes with the tokens of one run: the rate at that row, as trackers log it, and no setting.

    Returns:
        the rows, and a note where some run has such rates.
    """
    rates: dict[tuple[object, ...], dict[float, set[float | None]]] = {}
    for run in runs:
        rates.setdefault(_series(run), {}).setdefault(run.tokens, set()).add(run.lr)
    scheduled = {
        key
        for key, rows in rates.items()
        if all(len(lrs) == 1 for lrs in rows.values()) and len(set.union(*rows.values()) - {None}) > 1
    }
    if not scheduled:
        return list(runs), []
    kept = [run.model_copy(update={"lr": None}) if _series(run) in scheduled else run for run in runs]
    return kept, [
        "lr changes with the tokens of a run: it is the rate at a row and no setting, and is not read"
    ]


def _series(run: Run) -> tuple[object, ...]:
    return run.run, run.group, run.params, run.params_non_embedding, run.eval_set, run.schedule, run.seed


def vocabularies(runs: Iterable[Run]) -> list[int]:
    """The vocabularies that runs state, smallest first; one that is another padded to a multiple of 8 to 1,024 is the same."""
    kept: list[int] = []
    for size in sorted({run.vocab_size for run in runs if run.vocab_size is not None}):
        if not any(-(-kept[-1] // pad) * pad == size for pad in _PADS if kept):
            kept.append(size)
    return kept


def data_warnings(runs: Sequence[Run], rows: Sequence[object]) -> list[str]:
    """A line for each thing that looks wrong: sizes in millions, losses that are none, swapped columns, copies.

    Args:
        runs: the runs.
        rows: the row that each run was read from; equal ones are copies.
    """
    if not runs:
        return []
    copies = len(rows) - len({repr(row) for row in rows})
    warnings = [
        _size_warning(runs),
        _loss_warning(runs),
        _compute_warning(runs),
        _unique_warning(runs),
        _schedule_warning(runs),
        _context_warning(runs),
        f"{copies} row{' is an exact copy' if copies == 1 else 's are exact copies'} of another; each counts"
        if copies
        else "",
        _conflict_warning(runs, rows),
    ]
    return [line for line in warnings if line]


def _size_warning(runs: Sequence[Run]) -> str:
    sizes = [run.n_params() for run in runs]
    if max(sizes) < TINY:
        return f"the largest N is {max(sizes):g}: sizes are counted in parameters, so 124 million is 124M or 124e6"
    ratio = median(run.tokens / size for run, size in zip(runs, sizes, strict=True))
    largest = max(run.tokens for run in runs)
    if ratio < LEAST_RATIO:
        return (
            f"D/N is {ratio:.3g} in the median and the largest D is {format_size(largest)}: tokens are counted one by one, so "
            "300 billion is 300B or 300e9; or are N and D swapped?"
        )
    if ratio > MOST_RATIO:
        return (
            f"D/N is {ratio:.3g} in the median and the largest N is {format_size(max(sizes))}: sizes are counted in "
            "parameters, so 124 million is 124M or 124e6"
        )
    return ""


def _loss_warning(runs: Sequence[Run]) -> str:
    bounds = [math.log(run.vocab_size) if run.vocab_size else _LARGEST_LOSS for run in runs]
    above = [(run, bound) for run, bound in zip(runs, bounds, strict=True) if run.loss > bound]
    if not above:
        return ""
    worst, bound = max(above, key=lambda pair: pair[0].loss)
    guess = f"ln {worst.vocab_size:,} = {bound:.2f}, that of guessing" if worst.vocab_size else f"{bound:g}"
    what = (
        "a perplexity is read with --loss-unit ppl"
        if len(above) > len(runs) / 2
        else "has that run diverged?"
    )
    return f"the loss is above {guess}, in {_rows(len(above))}, {worst.loss:.4g} in {worst.run}: {what}"


def _compute_warning(runs: Sequence[Run]) -> str:
    ratios = [
        run.compute / (6 * run.n_params() * run.tokens)
        for run in runs
        if run.compute and run.compute_kind != "exact"
    ]
    if not ratios or 1 / MISMATCH <= (ratio := median(ratios)) <= MISMATCH:
        return ""
    return (
        f"compute is {format_size(ratio)} times 6·N·D in the median: are N, D and compute in the same units, and "
        "none of them swapped?"
    )


def _unique_warning(runs: Sequence[Run]) -> str:
    stated = [run for run in runs if run.unique_tokens is not None]
    more = [run for run in stated if run.unique_tokens and run.unique_tokens > run.tokens * 1.001]
    if not more or len(more) * 2 <= len(stated):
        return ""
    return (
        f"unique_tokens are more than tokens in {len(more)} of {_rows(len(stated))}, and are a part of them: are the two "
        "columns swapped? --columns tokens=unique_tokens,unique_tokens=tokens"
    )


def _schedule_warning(runs: Sequence[Run]) -> str:
    names = sorted({run.schedule for run in runs if run.schedule and run.annealed})
    if len(names) < 2:
        return ""
    return (
        f"the rows have {len(names)} schedules ({', '.join(names[:4])}), which may end at different losses: "
        "--columns group=schedule and --group fit those of one"
    )


def _context_warning(runs: Sequence[Run]) -> str:
    sizes = sorted({run.n_positions for run in runs if run.n_positions is not None})
    if len(sizes) < 2:
        return ""
    return (
        f"the rows have {len(sizes)} contexts ({', '.join(f'{size:,}' for size in sizes[:4])}), and a longer one lowers the "
        "loss of the same model: --columns group=n_positions and --group fit those of one"
    )


def _conflict_warning(runs: Sequence[Run], rows: Sequence[object]) -> str:
    """Rows that state one observation (run, size, tokens, eval set, schedule, seed) and different losses."""
    losses: dict[tuple[object, ...], set[float]] = {}
    for run in runs:
        losses.setdefault(
            (*_series(run), run.tokens, run.unique_tokens, run.lr, run.batch_tokens), set()
        ).add(run.loss)
    several = [key for key, values in losses.items() if len(values) > 1]
    if not several:
        return ""
    many = "1 observation has" if len(several) == 1 else f"{len(several)} observations have"
    return f"{many} rows with different losses (run {several[0][0]!r} at one number of tokens, for one); each counts"


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def derived_tokens(values: Mapping[str, object]) -> tuple[float, str] | None:
    """Tokens that a row does not state, and what they follow from; None where nothing says.

    Args:
        values: numbers by field of `Run` or helper: steps or max_steps, batch_tokens, batch, n_positions, grad_accumulation,
            micro_batch, devices, samples, unique_tokens, epochs, tokens_per_param, compute, params, params_non_embedding,
            total_flos.
    """

    def number(name: str) -> float | None:
        value = values.get(name)
        usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        return float(value) if usable else None  # type: ignore[arg-type]

    steps, batch_tokens, batch, context = map(number, ("steps", "batch_tokens", "batch", "n_positions"))
    steps = steps or number("max_steps")
    accumulated = number("grad_accumulation")
    micro, devices = number("micro_batch"), number("devices")
    if steps and batch_tokens:
        return steps * batch_tokens, "steps × batch_tokens"
    if (samples := number("samples")) and context:
        return samples * context, "sequences × context"
    more = " × gradient accumulation" if accumulated else ""
    if steps and batch and context:
        return steps * batch * context * (accumulated or 1.0), f"steps × batch × context{more}"
    if steps and micro and devices and context:
        tokens = steps * micro * devices * context * (accumulated or 1.0)
        return tokens, f"steps × batch of a device × devices × context{more}"
    unique, epochs = number("unique_tokens"), number("epochs")
    if unique and epochs:
        return unique * epochs, "unique_tokens × epochs"
    compute, total, body, flos = map(number, ("compute", "params", "params_non_embedding", "total_flos"))
    size = total or body
    if (ratio := number("tokens_per_param")) and size:
        return ratio * size, "tokens per parameter × N"
    if compute and size:
        return compute / (6 * size), "compute/(6·N)"
    if flos and body:  # transformers' floating_point_ops
        return flos / (6 * body), "total_flos/(6·N without embeddings)"
    return None
