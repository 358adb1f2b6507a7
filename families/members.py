"""Members: models known by a name, and the published families of them, each with its source."""

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .accounting import params, params_non_embedding
from .architectures import config_json
from .published import PUBLISHED
from .spec import ModelSpec
from .units import BadInput, look_up

CONFIG = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A model known by a name: its shape, and where the name comes from.

    Args:
        name: as `family=` and file names take it, such as "gpt2-83m".
        spec: the shape.
        source: the publication or the rule that the shape is from.
    """

    name: str
    spec: ModelSpec
    source: str = ""

    @property
    def n_params(self) -> int:
        """All trainable parameters, embeddings included: transformers' own count."""
        return params(self.spec)

    @property
    def n_params_non_embedding(self) -> int:
        """Parameters without token and position embeddings."""
        return params_non_embedding(self.spec)

    def to_hf_config(self, folder: str | Path | None = None, *, replace: bool = False) -> dict[str, Any]:
        """Build the model's Hugging Face config, and write it as config.json where a folder is given.

        Every argument that matters is stated; dropout is off, since the library's default of 0.1 costs loss in a
        single epoch.

        Args:
            folder: where to write config.json, made if missing; `AutoConfig.from_pretrained(folder)` reads it.
            replace: overwrite a config.json that differs.

        Returns:
            The config as a dictionary, equal to that of the library's config object but for the library's version.

        Raises:
            BadInput: the folder holds another config.json and `replace` is false, or it cannot be written.
        """
        if folder is not None:
            _write(Path(folder) / CONFIG, config_text(self.spec), replace=replace)
        return config_json(self.spec, None)


def config_text(spec: ModelSpec) -> str:
    """A model's config.json, equal to what the installed transformers writes, without importing it."""
    from importlib.metadata import PackageNotFoundError, version  # slow to load, and seldom needed

    try:
        installed = version("transformers")
    except PackageNotFoundError:  # a config needs no library; only a model does
        installed = None
    return json.dumps(config_json(spec, installed), indent=2, sort_keys=True) + "\n"


def _write(path: Path, text: str, *, replace: bool) -> None:
    """Write whole or not at all."""
    try:
        if path.exists() and not replace and path.read_text(encoding="utf-8") != text:
            raise BadInput(f"{path} is there and is not this model's; give another folder, or replace=True")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        try:
            with temporary.open("x", encoding="utf-8") as file:
                file.write(text)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Members that differ in size alone, smallest first, as a law needs them."""

    name: str
    members: tuple[Member, ...] = field(default=())
    source: str = ""


_CARD = "MosaicML Composer's GPT-2 model card: the Pareto members under Kaplan's law"

_RADFORD = "Radford et al. 2019, as published on the Hugging Face hub"


def _gpt2(name: str, n_layer: int, n_embd: int, n_head: int, source: str) -> Member:
    return Member(name=name, spec=ModelSpec(n_layer=n_layer, n_embd=n_embd, n_head=n_head), source=source)


# Tiny has 2 heads of 64 in the published checkpoint (google/bert_uncased_L-2_H-128_A-2); lists that say 4 are wrong.
_TURC = "Turc et al. 2019 (miniatures) and Devlin et al. 2019, as published on the Hugging Face hub"

_PAIR = "HuggingFaceM4's deep and shallow pair at context 2048; heads of 64 are our choice"

_LLAMA = "as published on the Hugging Face hub"


def _bert(name: str, n_layer: int, n_embd: int, n_head: int) -> Member:
    spec = ModelSpec(
        architecture="bert", n_layer=n_layer, n_embd=n_embd, n_head=n_head, n_positions=512, vocab_size=30522
    )
    return Member(name=name, spec=spec, source=_TURC)


def _llama(
    name: str, n_layer: int, n_embd: int, n_head: int, n_kv_head: int, inner: int, context: int
) -> Member:
    spec = ModelSpec(
        architecture="llama",
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_kv_head=n_kv_head,
        n_inner=inner,
        n_positions=context,
        vocab_size=32000,
    )
    return Member(name=name, spec=spec, source=_LLAMA)


def _pair(name: str, n_layer: int, n_embd: int) -> Member:
    spec = ModelSpec(n_layer=n_layer, n_embd=n_embd, n_head=n_embd // 64, n_positions=2048)
    return Member(name=name, spec=spec, source=_PAIR)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="gpt2-kaplan",
            source=_CARD,
            members=(
                _gpt2("gpt2-52m", 8, 512, 8, _CARD),
                _gpt2("gpt2-83m", 10, 640, 10, _CARD),
                _gpt2("gpt2-125m", 12, 768, 12, _CARD),
            ),
        ),
        Family(
            name="gpt2",
            source=_RADFORD,
            members=(
                _gpt2("gpt2", 12, 768, 12, _RADFORD),
                _gpt2("gpt2-medium", 24, 1024, 16, _RADFORD),
                _gpt2("gpt2-large", 36, 1280, 20, _RADFORD),
                _gpt2("gpt2-xl", 48, 1600, 25, _RADFORD),
            ),
        ),
        Family(
            name="gpt2-deep-shallow",
            source=_PAIR,
            members=(_pair("gpt2-shallow-1b32", 24, 2048), _pair("gpt2-deep-1b56", 48, 1600)),
        ),
        Family(
            name="bert",
            source=_TURC,
            members=(
                _bert("bert-tiny", 2, 128, 2),
                _bert("bert-mini", 4, 256, 4),
                _bert("bert-small", 4, 512, 8),
                _bert("bert-medium", 8, 512, 8),
                _bert("bert-base", 12, 768, 12),
                _bert("bert-large", 24, 1024, 16),
            ),
        ),
        Family(
            name="llama",
            source=_LLAMA,
            members=(
                _llama("tinyllama-1.1b", 22, 2048, 32, 4, 5632, 2048),
                _llama("llama-2-7b", 32, 4096, 32, 32, 11008, 4096),
            ),
        ),
        *(
            Family(
                name=name,
                source=source,
                members=tuple(Member(name=each, spec=spec, source=source) for each, spec in specs),
            )
            for name, (source, specs) in PUBLISHED.items()
        ),
    )
}


MEMBERS: dict[str, Member] = {
    member.name: member for family in FAMILIES.values() for member in family.members
}


def member(name: str) -> Member:
    """The published member of that name, in any case, or the model of a config.json, by its path or its folder's.

    Raises:
        BadInput: with the nearest match, or a file that cannot be read.
    """
    from .configs import is_config_path, read_config  # which makes members

    if name.strip().lower() not in MEMBERS and is_config_path(name):
        return read_config(name)
    return look_up(MEMBERS, name, "family")


def family(name: str) -> Family:
    """The published family of that name, in any case.

    Raises:
        BadInput: with the nearest match.
    """
    return look_up(FAMILIES, name, "family")
