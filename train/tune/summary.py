"""Results of the tuner as facts and rows, for output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from families import params
from scaling.schedule import whole_steps

from ..config import TrainConfig
from .model import space_rows
from .probe import Tuning
from .tuner import ScalingCurve

TOKENS_PER_PARAM = 20  # of the run whose hours are shown, where tokens= is not given (Hoffmann et al. 2022)
DEVICES = (1, 2, 4, 8)  # numbers of devices whose hours are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """A setting of the training step: its speed, and the speed relative to the baseline."""

    name: str
    samples_per_s: float
    ratio: float
    setting: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """Time of a run on a number of devices; the seconds are of a step, `source` is measured or predicted."""

    devices: int
    seconds: float
    hours: float
    efficiency: float
    source: str


def tuning_config(merge: Callable[..., TrainConfig], words: Sequence[str]) -> TrainConfig:
    """Build the config of a run without text from key=value words, with 20 tokens per parameter by default."""
    if any(word.startswith("tokens=") for word in words):
        return merge(TrainConfig, words, data="none")
    spec = merge(TrainConfig, words, data="none", tokens=10**9).spec()
    return merge(TrainConfig, words, data="none", tokens=TOKENS_PER_PARAM * params(spec))


def tuning_facts(tuning: Tuning) -> dict[str, Any]:
    """Return the result of a tuning by the names of `--json`."""
    picked, verified, batch = tuning.picked, tuning.verified, tuning.batch
    assert picked is not None
    assert verified is not None
    return {
        "member": tuning.settings.member,
        "batch_size": batch,
        "best": picked.name,
        "micro_batch": picked.micro,
        "engine": picked.model.way.engine.model_dump(),
        "checkpointing": picked.model.way.checkpointing,
        "probes": tuning.probes,
        "experiments": len(tuning.tried),
        "tuning_seconds": tuning.seconds,
        "step_seconds": {"predicted": picked.step, "measured": verified.step},
        "memory": {"predicted": picked.memory, "measured": verified.probed.memory},
        "samples_per_s": {
            "baseline": tuning.baseline.samples_per_s(batch),
            "hand_tuned_predicted": None if tuning.hand is None else batch / tuning.hand.step,
            "tuned": batch / verified.step,
        },
        "spaces": [
            {"space": row.space, "experiments": row.experiments, "best": row.best, "best_name": row.best_name}
            for row in space_rows(tuning.tried, batch)
        ],
    }


def setting_rows(tuning: Tuning) -> list[SettingRow]:
    """Return the baseline, the plain engine at its best micro-batch if it fits, and the pick."""
    assert tuning.picked is not None
    plain, way, batch = tuning.baseline, tuning.picked.model.way, tuning.batch
    baseline = plain.samples_per_s(batch)
    settings = [("baseline", baseline, f"{plain.way.engine.name} {plain.way.name(plain.micro, batch)}")]
    if tuning.hand is not None:
        hand = f"{plain.way.engine.name} {tuning.hand.name}"
        settings.append(("hand-tuned (predicted)", batch / tuning.hand.step, hand))
    settings.append(("tuned", batch / tuning.step_seconds, f"{way.engine.name} {tuning.picked.name}"))
    return [
        SettingRow(
            name=name, samples_per_s=rate, ratio=rate / baseline if baseline else float("nan"), setting=text
        )
        for name, rate, text in settings
    ]


def curve_facts(curve: ScalingCurve) -> dict[str, Any]:
    """Return a scaling curve by the names of `--json`."""
    return {
        "threads_per_device": curve.threads,
        "measured_seconds": {str(count): seconds for count, seconds in curve.measured.items()},
        "floor_s": curve.model.floor,
        "parallel_s": curve.model.parallel,
        "exponent": curve.model.exponent,
        "pays_until": curve.model.pays_until(),
    }


def device_rows(tuning: Tuning, curve: ScalingCurve, tokens: int) -> tuple[list[DeviceRow], int]:
    """Return the time of a run by number of devices, and its steps."""
    steps = whole_steps(tokens, tuning.settings.batch_tokens)
    rows = []
    for count in sorted({*DEVICES, *curve.measured}):
        measured = curve.measured.get(count)
        seconds = curve.model.seconds(count) if measured is None else measured
        rows.append(
            DeviceRow(
                devices=count,
                seconds=seconds,
                hours=steps * seconds / 3600,
                efficiency=curve.model.efficiency(count),
                source="predicted" if measured is None else "measured",
            )
        )
    return rows, steps
