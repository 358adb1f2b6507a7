"""What a model is: shapes, parameters, FLOPs, Hugging Face configs. Pure arithmetic, no library needed."""

from .accounting import params, params_kaplan, params_non_embedding, train_flops, train_flops_per_token
from .members import FAMILIES, MEMBERS, Family, Member, family, member
from .spec import ModelSpec
from .units import BadInput

__all__ = [
    "FAMILIES",
    "MEMBERS",
    "BadInput",
    "Family",
    "Member",
    "ModelSpec",
    "family",
    "member",
    "params",
    "params_kaplan",
    "params_non_embedding",
    "train_flops",
    "train_flops_per_token",
]
