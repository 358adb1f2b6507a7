"""Models as shapes: parameters, FLOPs, memory, Hugging Face configs. Pure arithmetic, without dependencies."""

from .accounting import (
    Convention,
    count,
    params,
    params_kaplan,
    params_non_embedding,
    train_flops,
    train_flops_per_token,
)
from .members import FAMILIES, MEMBERS, Family, Member, family, member
from .spec import ModelSpec
from .units import BadInput

__all__ = [
    "FAMILIES",
    "MEMBERS",
    "BadInput",
    "Convention",
    "Family",
    "Member",
    "ModelSpec",
    "count",
    "family",
    "member",
    "params",
    "params_kaplan",
    "params_non_embedding",
    "train_flops",
    "train_flops_per_token",
]
