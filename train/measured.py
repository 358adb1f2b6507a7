"""Which model is measured again, and on which data: found before torch is loaded, so that a wrong name is said at once."""

from pathlib import Path

from families.errors import BadInput

from .rung import MODEL, RUNG, RungFile
from .stores import is_url
from .text import find_texts

DATA = "data.json"
ABOVE = 5  # folders above a model in which its data may lie


def model_folder(folder: Path) -> Path:
    """The folder to load: itself, a rung's model, or the model of a run's longest rung.

    Raises:
        BadInput: there is no config.json in any of them.
    """
    rungs = sorted(folder.glob(f"rung-*/{RUNG}"), key=lambda path: RungFile.read(path).observation.tokens)
    for place in (folder, folder / MODEL, *(path.parent / MODEL for path in reversed(rungs))):
        if (place / "config.json").is_file():
            return place
    raise BadInput(f"{folder} holds no config.json; it must be a Hugging Face model folder, a rung or a run")


def prepared(place: Path, data: str | None) -> Path | None:
    """The folder of prepared tokens: the one that is named, or the nearest above the model; None where there is none.

    Raises:
        BadInput: what is named is neither such a folder nor a text.
    """
    above = [parent / "data" for parent in list(place.resolve().parents)[:ABOVE]]
    named = above if data is None else [Path(data), Path(data) / "data"]
    found = next((folder for folder in named if (folder / DATA).is_file()), None)
    if found is None and data is not None and not is_url(data):
        find_texts(data)  # which says what is wrong with a path
    return found
