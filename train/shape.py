"""The shape that a run was asked for, from a member, a checkpoint or keys, and what such a model is trained on."""

from collections.abc import Mapping
from typing import Any, Literal

from families import ModelSpec, member
from families.architectures import architecture
from families.design import name_of
from families.errors import BadInput
from families.presets import MEMBERS

ObjectiveKind = Literal["causal", "mlm"]
MASKED_SHARE = 0.15  # of a window's tokens are predicted (Devlin et al. 2019, 3.1)
_ENCODER = {"architecture": "bert", "n_positions": 512, "vocab_size": 30522}  # as the published BERTs have it

SHAPE_KEYS = ("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size")
SHAPE_FIELDS = ("architecture", *SHAPE_KEYS)


def asked_spec(
    family: str, init: str | None, objective: ObjectiveKind | None, given: Mapping[str, int]
) -> ModelSpec:
    """The checkpoint's shape (`init`) or the member's (`family`), changed where `given` says so."""
    if init is not None:
        return _spec_of_init(family, init, given)
    if {"n_layer", "n_head", "n_embd"} <= given.keys():
        usual: dict[str, Any] = {"architecture": "gpt2"} if objective != "mlm" else _ENCODER
        known = MEMBERS.get(family.strip().lower())
        if known is not None:
            usual = _ENCODER if known.spec.architecture == "bert" else _kind_of(known.spec, given)
        return ModelSpec(**{**usual, **given})
    base = member(family).spec
    shape = {name: getattr(base, name) for name in SHAPE_FIELDS if name != "n_inner"}
    inner = base.n_inner if given.get("n_embd") is None else 0
    return ModelSpec(**{**shape, **_kind_of(base, given), "n_inner": inner, **given})


def shown_name(family: str, spec: ModelSpec) -> str:
    """A published member's name; where its layers, heads or widths are others, one that tells the shape."""
    known = MEMBERS.get(family.strip().lower())
    told = ("n_layer", "n_head", "n_embd", "n_inner")
    if known is None or all(getattr(spec, key) == getattr(known.spec, key) for key in told):
        return family
    return name_of(spec)


def _spec_of_init(family: str, init: str, given: Mapping[str, int]) -> ModelSpec:
    from .init import check_same_shape, checkpoint_folder, checkpoint_spec

    theirs = checkpoint_spec(checkpoint_folder(init))
    asked = {field: getattr(theirs, field) for field in (*SHAPE_FIELDS, "n_kv_head")}
    known = MEMBERS.get(family.strip().lower())
    if known is not None:
        asked = {field: getattr(known.spec, field) for field in asked} | {"n_positions": theirs.n_positions}
    spec = ModelSpec(**{**asked, **given})
    check_same_shape(spec, theirs, init)
    return spec


def _kind_of(base: ModelSpec, given: Mapping[str, int]) -> dict[str, Any]:
    """A member's architecture, and its grouping of heads where they are as many as it has."""
    heads = base.n_kv_head if given.get("n_head", base.n_head) == base.n_head else 0
    return {"architecture": base.architecture, "n_kv_head": heads}


def objective_for(spec: ModelSpec) -> ObjectiveKind:
    """What an architecture is trained on."""
    return "causal" if architecture(spec.architecture).causal else "mlm"


def predicted_tokens(objective: ObjectiveKind, n_positions: int) -> int:
    """How many tokens of a window are predicted: each next one, or those that are masked."""
    return n_positions if objective == "causal" else max(1, round(MASKED_SHARE * n_positions))


def check_objective(wanted: ObjectiveKind | None, spec: ModelSpec) -> None:
    """Refuse an objective that the architecture cannot have.

    Raises:
        BadInput: saying what it is trained on.
    """
    own = objective_for(spec)
    if wanted not in (None, own):
        kind = "a decoder" if own == "causal" else "an encoder"
        raise BadInput(f"objective is {wanted}; {spec.architecture} is {kind}, which is trained with {own}")
