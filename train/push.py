"""A finished model on the Hugging Face hub: card, weights, config and tokenizer, and nothing else."""

import re
from collections.abc import Callable
from pathlib import Path

from families.units import BadInput, RunFailed, format_bytes
from scaling.files import Record, read_text

from .data import DataManifest
from .data.prepare import find_prepared_data, model_folder
from .data.remote import first_error_line, hub_answers
from .model_card import CARD
from .rung import RUN

# What a model needs; run.json and rung.json, which name folders of this machine, stay here.
_FILES = re.compile(
    r"README\.md|config\.json|generation_config\.json|model[-\w]*\.safetensors(\.index\.json)?"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|chat_template\.(jinja|json)"
)

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Push(Record):
    """What is pushed, and where; `done` is False where nothing was sent.

    Args:
        folder: the model's folder.
        repo: user/name.
        files: bytes of each file by name.
        url: of the commit, or of the repository where nothing was sent.
        done: True where it was sent.
        reason: why nothing was sent.
    """

    folder: str
    repo: str
    files: dict[str, int]
    url: str
    private: bool
    done: bool
    reason: str = ""

    @property
    def lines(self) -> list[str]:
        """What was sent or would be, for people."""
        kind = "private" if self.private else "public"
        rows = [f"  {name}  {format_bytes(size)}" for name, size in self.files.items()]
        said = (
            f"pushed {self.folder} to {self.url}"
            if self.done
            else f"would push {self.folder} to {self.repo} ({kind}):"
        )
        return [said, *rows, *([self.reason] if self.reason else [])]


def push(
    folder: Path,
    repo: str,
    *,
    public: bool = False,
    dry_run: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Push:
    """Send a model's folder to the hub (HF_ENDPOINT) as one commit; without a token nothing is sent.

    Args:
        folder: the model's folder, a rung's or a run's.
        repo: user/name on the hub; made if it does not exist.
        public: True to make a new repository public.
        dry_run: True to send nothing.
        log: called with a message.

    Raises:
        BadInput: no model, or no name of a repository.
        RunFailed: the hub cannot be reached or refuses; the model is whole where it was trained.
    """
    if not _NAME.fullmatch(repo) or len(repo) > 96:
        raise BadInput(
            f"{repo!r} is no name on the hub; it must be user/name, of letters, digits, '-', '_' and '.'"
        )
    place = model_folder(folder)
    paths = [path for path in sorted(place.iterdir()) if path.is_file() and _FILES.fullmatch(path.name)]
    if not any(path.suffix == ".safetensors" for path in paths):
        raise BadInput(f"{place} has no model.safetensors; train the run to its end first")
    contents: dict[str, bytes | Path] = {path.name: path for path in paths}
    if (place / CARD).is_file():
        contents[CARD] = _card(place).encode()
    files = {
        name: len(part) if isinstance(part, bytes) else part.stat().st_size for name, part in contents.items()
    }
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    token = get_token()
    api = HfApi(token=token)
    planned = Push(
        folder=str(place),
        repo=repo,
        files=files,
        url=f"{api.endpoint}/{repo}",
        private=not public,
        done=False,
    )
    if dry_run:
        return planned.model_copy(update={"reason": "nothing was sent: --dry-run"})
    if token is None:
        reason = "nothing was sent: there is no token; hf auth login, or HF_TOKEN in the environment, gives one that may write"
        return planned.model_copy(update={"reason": reason})
    if not hub_answers():
        raise RunFailed(f"{api.endpoint} cannot be reached; nothing was sent; try the same command later")
    log(f"sending {format_bytes(sum(files.values()))} to {api.endpoint}/{repo}")
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        commit = api.create_commit(
            repo,
            operations=[CommitOperationAdd(name, part) for name, part in contents.items()],
            commit_message=f"Add {place.parent.parent.name or place.name}",
        )
    except Exception as error:  # the library raises many kinds
        said = first_error_line(error).replace(token, "***")
        raise RunFailed(f"{api.endpoint} refused {repo}: {said}; the model is whole in {place}") from error
    return planned.model_copy(update={"done": True, "url": str(commit.commit_url)})


def _card(place: Path) -> str:
    """Return the model's card without the folders of this machine: of a path the last part is left."""
    text = read_text(place / CARD)
    named = [_recorded(place, RUN, "init")]
    data = find_prepared_data(place, None)
    if data is not None:
        manifest = DataManifest.read(data / "data.json")
        named += [manifest.source, manifest.tokenizer, *manifest.inputs.values()]
    for path in sorted((path for path in named if "/" in path), key=len, reverse=True):
        text = text.replace(path, Path(path).name)
    return text


def _recorded(place: Path, file: str, key: str) -> str:
    from .config import Settings

    return str(getattr(Settings.read(place / file), key)) if (place / file).is_file() else ""
