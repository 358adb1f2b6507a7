"""What a finished rung leaves for others: a model folder that says what it is, and the run's account of itself."""

from pathlib import Path

from scaling.study import Study

from .card import Facts, outcome, write_card
from .config import Settings
from .data import count_windows
from .manifest import DataManifest
from .rung import MODEL, RUN, RUNG, TRUNK, RungFile
from .tensorboard import Scalars
from .trainer_state import write_state


def leave(branch: Path, study: Path, settings: Settings, rung: RungFile, manifest: DataManifest) -> None:
    """Beside the weights: the settings, the observation and the model card; beside the metrics: trainer_state.json.

    Args:
        study: the folder whose sealed plan, if there is one, may have foretold this rung.
    """
    model = branch / MODEL
    settings.write(model / RUN)
    rung.write(model / RUNG)
    sealed = outcome(Study(study).plan, rung)
    write_card(model, Facts(settings=settings, rung=rung, manifest=manifest, sealed=sealed))
    windows = count_windows(manifest, settings.n_positions, settings.data_fraction)
    write_state(branch, branch.parent / TRUNK, settings, rung, windows * settings.n_positions)


def mark_end(branch: Path, step: int, rung: RungFile) -> None:
    """The rung's own loss as TensorBoard's eval/loss, beside the events of its steps."""
    scalars = Scalars(branch, step)
    run = rung.observation
    scalars.write({"step": step, "rung_loss": run.loss, "tokens": run.tokens})
    scalars.close()
