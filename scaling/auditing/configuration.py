"""Audit of a config.json: its exact counts, against the size in its folder's name and the bytes of the weights beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from families import params, params_active, params_non_embedding, train_flops_per_token
from families.configs import LARGEST_FILE, is_estimated, read_config
from families.members import CONFIG, Member
from families.units import BadInput

from ..files import read_text
from ..untrusted import parse_json
from .findings import Finding, Verdict
from .tables import size_in

INDEX = "model.safetensors.index.json"

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_NEAR = 0.1  # share by which a name's size may be off: Llama-2-70B has 68.98B


def config_file(path: Path) -> Path | None:
    """The config.json that a path is or holds; None for anything else."""
    if path.is_dir():
        return path / CONFIG if (path / CONFIG).is_file() else None
    if path.suffix != ".json":
        return None
    config = _object(path) if path.is_file() and path.stat().st_size <= LARGEST_FILE else None
    return path if isinstance(config, dict) and isinstance(config.get("model_type"), str) else None


def config_findings(file: Path) -> list[Finding]:
    """The counts of a configuration, and what beside it agrees with them or does not.

    Raises:
        BadInput: the configuration is not understood.
    """
    return list(_findings(file, read_config(file)))


def _findings(file: Path, member: Member) -> Iterator[Finding]:
    spec, where = member.spec, member.name
    count = params(spec)
    active = params_active(spec)
    said = f"{params_non_embedding(spec):,} without embeddings" + (
        f", {active:,} active" if active != count else ""
    )
    how = "counted by transformers" if is_estimated(spec) else f"exact count for {spec.architecture}"
    yield Finding(
        check="parameters",
        where=where,
        recomputed=f"{count:,}",
        verdict=Verdict.OK,
        explanation=f"{how}; {said}",
    )
    yield Finding(
        check="FLOPs", where=where, recomputed=f"{train_flops_per_token(spec):,} per token", verdict=Verdict.OK,
        explanation="training; 6·N_active and attention" if is_estimated(spec) else f"training; 6·N is {6 * active:,}",
    )  # fmt: skip
    stated = size_in(file.resolve().parent.name)
    if stated is not None:
        off = count / stated.value - 1
        near = stated.agrees(count) or abs(off) <= _NEAR
        yield Finding(
            check="name", where=where, stated=stated.text, recomputed=f"{count:,}",
            verdict=Verdict.OK if near else Verdict.MISMATCH, severity=abs(off),
            explanation="" if near else f"the configuration has {off:+.0%} of the parameters in its folder's name",
        )  # fmt: skip
    yield from _weights(file, where, count)


def _weights(file: Path, where: str, count: int) -> Iterator[Finding]:
    """The bytes that an index of shards states, against the count; a tied head may stand there or not."""
    config, index = _object(file), _object(file.with_name(INDEX))
    about = index.get("metadata") if isinstance(index, dict) else None
    total = about.get("total_size") if isinstance(about, dict) else None
    size = (
        _BYTES.get(str(config.get("dtype", config.get("torch_dtype")))) if isinstance(config, dict) else None
    )
    if not isinstance(total, int) or not size or total <= 0:
        return
    off = total / size / count - 1
    right = abs(off) < 1e-3
    yield Finding(
        check="weights", where=where, stated=f"{total:,} bytes", recomputed=f"{count * size:,} bytes",
        verdict=Verdict.OK if right else Verdict.SUSPICIOUS, severity=abs(off),
        explanation=f"{size} bytes a parameter" + ("" if right else f": {INDEX} says {off:+.1%}"),
    )  # fmt: skip


def _object(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except (BadInput, json.JSONDecodeError):
        return None
