"""Models as shapes: parameters, FLOPs, memory, Hugging Face configs. Pure arithmetic, without dependencies."""

from .accounting import (
    Convention,
    count,
    params,
    params_active,
    params_kaplan,
    params_non_embedding,
    train_flops,
    train_flops_per_token,
)
from .configs import read_config, spec_of_config
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
    "params_active",
    "params_kaplan",
    "params_non_embedding",
    "read_config",
    "spec_of_config",
    "train_flops",
    "train_flops_per_token",
]
