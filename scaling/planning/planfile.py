"""plan.json: members to train, their tokens and predicted losses."""

import datetime
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field

from families import ModelSpec, accounting, params, params_non_embedding, train_flops
from families.memory import degrees_text
from families.units import BadInput

from ..budget import Budget
from ..files import (
    Document,
    Record,
    atomic_writes,
    parse_time,
    refuse_overwrite,
)
from ..laws import LawReference, Prediction
from ..recipe import Recipe
from ..stats import Interval, perplexity


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Tokens = Annotated[int, BeforeValidator(_whole)]  # a JSON integer beyond 64 bits is read as a float


class PlannedLoss(Record):
    """Predicted loss in nats per token, and its perplexity; intervals where the law has any."""

    loss: float = Field(gt=0)
    interval_80: Interval | None = None
    interval_95: Interval | None = None
    ppl: float = Field(gt=0)

    @classmethod
    def of(cls, prediction: Prediction) -> Self:
        """A law's prediction of one run."""
        loss = float(prediction.loss)
        return cls(
            loss=loss,
            interval_80=prediction.interval_80,
            interval_95=prediction.interval_95,
            ppl=perplexity(loss),
        )


class Choice(Record):
    """One member at a number of tokens, costed exactly. Losses in nats per token.

    Args:
        params: all parameters; `params_non_embedding` leaves the embeddings out; `N` is what the law counts.
        budget: text of the budget that this is a choice of.
        share: of the budget, or of a target's least cost, that it takes, serving included where that was asked for.
        converged_loss: under Kaplan's frontier, whose `loss` is L(C_min) of one compute-efficient pass, what the same N
        reaches when those tokens are trained on until nothing improves, L(N, D); None under other laws.
        hours: of wall clock on the budget's devices; None where the budget names none. price: USD, likewise.
        epochs: passes over the distinct tokens there are, where that was asked.
        inference_flops_per_token: forward pass over the full context; `inference_flops` for the tokens asked
        for, `inference_hours` and `inference_price` on the budget's devices at its MFU.
        preferred_by: laws for which it is within the indifference band of their own choice.
        extrapolation: how many times N, D or compute lie beyond what the law was fitted on; 1 within.
    """

    member: str
    architecture: str = "gpt2"
    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int
    vocab_size: int
    params: int
    params_non_embedding: int
    N: float
    tokens: Tokens
    tokens_per_param: float
    flops: float
    budget: str = ""
    share: float | None
    loss: float
    ppl: float
    converged_loss: float | None = None
    interval_80: Interval | None = None
    interval_95: Interval | None = None
    hours: float | None = None
    price: float | None = None
    epochs: float | None = None
    inference_flops_per_token: float
    inference_flops: float = 0.0
    inference_hours: float | None = None
    inference_price: float | None = None
    extrapolation: float = 1.0
    preferred_by: tuple[str, ...] = ()


class OtherChoice(Record):
    """Choice of another law for the same budget."""

    law: str
    source: str
    choice: Choice


class MfuCase(Record):
    """What another MFU would change: the best choice for the same time or money, or the same one in another time."""

    mfu: float
    flops: float
    choice: Choice


class LadderRung(Record):
    """One of several budgets, and its choice."""

    budget: Budget
    choice: Choice


class BandMember(Record):
    """A member about as good as the best, and its extra cost.

    Args:
        nats: loss above the best's at the same budget.
        extra_flops: training FLOPs beyond the budget with which it would reach the best's loss, None where the data
            there are never let it; hours and price of those.
    """

    choice: Choice
    nats: float
    extra_flops: float | None
    extra_hours: float | None = None
    extra_price: float | None = None


class Band(Record):
    """The indifference band: all within so many nats of the best, or that reach it for a share more of its cost.

    cheapest_to_train reaches the band's edge with the fewest FLOPs; cheapest_to_serve has the fewest per token.
    """

    within_nats: float | None = None
    within_share: float | None = None
    members: tuple[BandMember, ...]
    cheapest_to_train: str
    cheapest_to_serve: str


class PlannedMember(Record):
    """A member to train: shape, tokens, rungs, recipe, memory, and the prediction if there is one yet.

    Args:
        config: entries of its Hugging Face config that differ from its architecture's usual ones.
        micro_batch: sequences in one forward pass on one device, the most that fit. memory: bytes by part with it.
        shards: devices that share weights, gradients and optimiser states; 1 where each holds them all.
        tensor, pipeline, context_parallel, expert: degrees of model parallelism, where sharding alone does not fit it; `shards`
            are then the replicas times the context degree, which share all states without a pipeline, and with one the
            optimiser's alone.
    """

    member: str
    architecture: str = "gpt2"
    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_positions: int
    vocab_size: int
    n_kv_head: int = 0
    config: dict[str, Any] = Field(default_factory=dict)
    params: int
    params_non_embedding: int
    tokens: int = Field(ge=1)
    rungs: tuple[int, ...] = ()
    flops: float = Field(gt=0)
    hours: float | None = None
    recipe: Recipe
    prediction: PlannedLoss | None = None
    micro_batch: int | None = None
    checkpointing: bool = False
    shards: int = 1
    tensor: int = 1
    pipeline: int = 1
    context_parallel: int = 1
    expert: int = 1
    memory: dict[str, int] = Field(default_factory=dict)

    @property
    def params_active(self) -> int:
        """Parameters that one token passes through."""
        return accounting.params_active(self.spec)

    @classmethod
    def of(
        cls,
        name: str,
        spec: ModelSpec,
        *,
        tokens: int,
        recipe: Recipe,
        rungs: tuple[int, ...] = (),
        prediction: PlannedLoss | None = None,
        hours: float | None = None,
        micro_batch: int | None = None,
        checkpointing: bool = False,
        shards: int = 1,
        degrees: tuple[int, int, int, int] = (1, 1, 1, 1),
        memory: dict[str, int] | None = None,
    ) -> Self:
        """A member from its spec, with exact counts of parameters and FLOPs.

        Args:
            name: the member's name.
            spec: its shape.
            tokens: training tokens.
            recipe: hyperparameters.
            rungs: tokens at which it is observed, ascending, the last of them `tokens` (default: its end alone).
            prediction: predicted loss, where there is one yet.
            hours: wall clock on the planned devices, where they are known.
            micro_batch: sequences in one forward pass on one device.
            checkpointing: activations are recomputed in the backward pass.
            shards: devices that share weights, gradients and optimiser states.
            degrees: of tensor, pipeline, expert and context parallelism.
            memory: bytes on one device by part, at that micro-batch.
        """
        return cls(
            member=name,
            **{field: getattr(spec, field) for field in _SPEC_FIELDS if field != "config"},
            config=dict(spec.config),
            params=params(spec),
            params_non_embedding=params_non_embedding(spec),
            tokens=tokens,
            rungs=rungs,
            flops=train_flops(spec, tokens),
            hours=hours,
            recipe=recipe,
            prediction=prediction,
            micro_batch=micro_batch,
            checkpointing=checkpointing,
            shards=shards,
            tensor=degrees[0],
            pipeline=degrees[1],
            expert=degrees[2],
            context_parallel=degrees[3],
            memory=memory or {},
        )

    @property
    def spec(self) -> ModelSpec:
        """The shape alone."""
        return ModelSpec(**{field: getattr(self, field) for field in _SPEC_FIELDS})

    @property
    def model_parallel(self) -> bool:
        """True if it needs tensor, pipeline, context or expert parallelism, which engines of others have."""
        return self.tensor * self.pipeline * self.context_parallel * self.expert > 1

    @property
    def degrees_text(self) -> str:
        """The degrees above 1 in words."""
        return degrees_text(self.tensor, self.pipeline, self.expert, self.context_parallel)

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens at which it is observed: its rungs, or its end alone."""
        return self.rungs or (self.tokens,)


_SPEC_FIELDS = tuple(field for field in ModelSpec.__dataclass_fields__ if field in PlannedMember.model_fields)


class Seal(Record):
    """Time of sealing, what it binds besides the plan, and the SHA-256 of the plan's canonical JSON without this digest.

    Args:
        data_sha256: text that the runs behind the law read; "" where that is not known.
        seed: seed of the run that is to be scored; None where the plan names several, or none.
        seeds: all seeds that it names; the mean of their runs is scored, once every one is finished.
        format: 1 for seals of 0.1.0, whose runs did not carry their digest; 2 for those that do.
    """

    sealed_at: str
    law_sha256: str
    digest: str
    data_sha256: str = ""
    seed: int | None = None
    seeds: tuple[int, ...] = ()
    format: int = 1

    @property
    def named(self) -> tuple[int, ...]:
        """Seeds that the plan names; none in plans of before, which score the mean of all runs that match."""
        return self.seeds or (() if self.seed is None else (self.seed,))

    @property
    def named_text(self) -> str:
        """The seeds in words: "0", or "0, 1 and 2"."""
        return " and ".join(filter(None, (", ".join(map(str, self.named[:-1])), *map(str, self.named[-1:]))))

    @property
    def time(self) -> datetime.datetime:
        """Time of sealing.

        Raises:
            BadInput: it is no time with a zone, in ISO 8601.
        """
        return parse_time(self.sealed_at, "sealed_at")


class PlanFile(Document):
    """plan.json. `frontier` holds the Pareto-optimal choices, `members` what is to be trained.

    `sizes` are the choices of the sizes asked for, each at the same budget or target; `sensitivity` those at other MFUs.
    """

    KIND: ClassVar[str] = "plan"
    VERSION: ClassVar[int] = 2  # of version 1, seals were not carried by their runs
    MADE_BY: ClassVar[str] = "scaling plan --budget 8xA100-hours --out plan.json"

    budget: Budget | None = None
    law: LawReference | None = None
    recommended: Choice | None = None
    frontier: tuple[Choice, ...] = ()
    ladder: tuple[LadderRung, ...] = ()
    sizes: tuple[Choice, ...] = ()
    sensitivity: tuple[MfuCase, ...] = ()
    includes_serving: bool = False
    band: Band | None = None
    others: tuple[OtherChoice, ...] = ()
    members: tuple[PlannedMember, ...] = ()
    notes: tuple[str, ...] = ()
    seal: Seal | None = None

    def spent(self, choice: Choice) -> float:
        """FLOPs that the plan's budget or target counts for a choice: of training, and of serving where it includes that."""
        return choice.flops + (choice.inference_flops if self.includes_serving else 0.0)

    def headline(self) -> dict[str, object]:
        """The budget's numbers under the keys of `--json`, and the time of sealing."""
        budget = self.budget
        return {
            "budget": None if budget is None else budget.text,
            "budget_flops": None if budget is None else budget.flops,
            "mfu": None if budget is None else budget.mfu,
            "mfu_source": None if budget is None else budget.mfu_source,
            "accelerator": None if budget is None else budget.accelerator,
            "devices": None if budget is None else budget.devices,
            "sealed_at": None if self.seal is None else self.seal.sealed_at,
        }

    def member(self, name: str) -> PlannedMember:
        """The planned member of that name.

        Raises:
            BadInput: naming those there are.
        """
        for planned in self.members:
            if planned.member == name:
                return planned
        known = ", ".join(planned.member for planned in self.members)
        raise BadInput(f"member is {name!r}; the plan has {known or 'none'}")

    def only(self, names: Sequence[str]) -> "PlanFile":
        """Return the plan with these members alone; without names, the plan itself.

        Raises:
            BadInput: the plan has no member of a name.
        """
        if not names:
            return self
        return self.model_copy(update={"members": tuple(self.member(name) for name in names)})


def refuse_model_parallel(members: Iterable[PlannedMember], what: str) -> None:
    """Refuse members that need tensor, pipeline, context or expert parallelism.

    Args:
        members: the planned members.
        what: what does not have it.

    Raises:
        BadInput: the first of them.
    """
    for one in members:
        if one.model_parallel:
            raise BadInput(
                f"{one.member} needs {one.degrees_text}, which {what} does not have: "
                "scaling emit --to megatron or automodel, or plan for more or larger devices"
            )


def write_plan(
    plan: PlanFile, path: Path, *, replace: bool = False, beside: Mapping[Path, bytes | str] | None = None
) -> None:
    """Write a plan; a sealed one, or a file that is no plan, is replaced only with `replace`.

    Args:
        plan: what to write.
        path: where.
        replace: whether whatever is there may go.
        beside: other files, by path; all are written, or none.

    Raises:
        BadInput: such a file is there, or the folder cannot be written.
    """
    with _one_writer(path.parent):
        # Asked before the check: a plan that appears from here on is never replaced.
        new = not path.exists() and not replace
        check_replaceable(path, replace=replace)
        atomic_writes({path: plan.dump(), **(beside or {})}, new=path if new else None)


def check_replaceable(path: Path, *, replace: bool = False) -> None:
    """Refuse to replace a sealed plan, or a file that is no plan, without `replace`.

    Raises:
        BadInput: such a file is there.
    """
    refuse_overwrite(path, PlanFile, replace=replace)
    if path.exists() and not replace:
        there = PlanFile.read(path)
        if there.seal is not None:
            raise BadInput(
                f"{path} holds a plan sealed at {there.seal.sealed_at}; "
                "give another --out, or --yes to replace it"
            )


@contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, so that of two plans at once the second finds the first's seal.

    A folder that is not there yet is not locked, nor one of a file system without locks.
    """
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
    if descriptor is None:
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
