"""plan(): the planner for notebooks and scripts, and Plan, the value it returns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from families.units import BadInput, format_size

from ..budget import Budget
from ..files import StrPath
from ..fitting.forms import Status
from ..fitting.predictor import Fit
from ..laws import LawReference, LossModel
from ..paths import StudyPaths
from ..recipe import DEFAULT_RULE
from .match import sealed_text
from .planfile import Band, Choice, LadderRung, OtherChoice, PlanFile, PlannedMember, write_plan
from .query import PlanQuery, answer_query, isoflop_curves, own_runs
from .seal import read_verified_plan, seal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Size = float | str  # a plain number, or text like 85M, 5.5B and 1.4e18


class HasFolder(Protocol):
    """A study, of which a plan needs the folder."""

    @property
    def folder(self) -> Path:
        """The study's folder."""


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """A plan: the recommended model, its tokens and predicted loss, and everything else that plan.json holds.

    A plan is a value: `seal` returns a sealed copy, and nothing is written before `save`.

    Args:
        document: the contents of plan.json.

    Examples:
        >>> made = plan("8xA100-hours", law="chinchilla")
        >>> made.recommended.member
        'gpt2-151m-l13-d832'
        >>> made.sealed_at is None, made.seal().sealed_at is None
        (True, False)
    """

    document: PlanFile
    _query: PlanQuery | None = None
    _law: LossModel | None = None

    def __repr__(self) -> str:
        """The recommendation and what to know about it, as a notebook shows it."""
        lines = []
        if self.budget is not None and self.law is not None:
            lines.append(
                f"{self.budget.text}: {format_size(self.budget.flops)} FLOPs, by law {self.law.name}"
            )
        for choice in [rung.choice for rung in self.ladder] or filter(None, [self.document.recommended]):
            lines.append(_line(choice))
        if self.band is not None and len(self.band.members) > 1:
            lines.append(f"about as good: {', '.join(one.choice.member for one in self.band.members)}")
        if self.document.recommended is None:
            lines += [f"{one.member}: {format_size(one.tokens)} tokens" for one in self.members]
        lines.append("not sealed" if self.sealed_at is None else f"sealed at {self.sealed_at}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    @property
    def recommended(self) -> Choice:
        """The model to train: its shape, tokens, loss in nats per token with intervals, FLOPs, hours and price.

        Of several budgets it is that of the largest; `ladder` has the others.

        Raises:
            BadInput: the plan lists runs to make, such as a pilot's, and recommends no model.
        """
        if self.document.recommended is None:
            raise BadInput("the plan recommends no model; it lists runs to make, as members")
        return self.document.recommended

    @property
    def budget(self) -> Budget | None:
        """The budget; the largest of several; None in a plan without one."""
        return self.document.budget

    @property
    def law(self) -> LawReference | None:
        """The law behind the predictions; None in a plan without predictions."""
        return self.document.law

    @property
    def members(self) -> tuple[PlannedMember, ...]:
        """The models to train, each with its recipe, memory and prediction."""
        return self.document.members

    @property
    def frontier(self) -> tuple[Choice, ...]:
        """The Pareto-optimal choices of loss against FLOPs, smallest model first."""
        return self.document.frontier

    @property
    def ladder(self) -> tuple[LadderRung, ...]:
        """Each of several budgets with its choice; empty for a single budget."""
        return self.document.ladder

    @property
    def band(self) -> Band | None:
        """The indifference band: models about as good as the recommended one, and what each costs instead."""
        return self.document.band

    @property
    def others(self) -> tuple[OtherChoice, ...]:
        """The choices of other published laws for the same budget."""
        return self.document.others

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions and doubts, a sentence each."""
        return self.document.notes

    @property
    def sealed_at(self) -> str | None:
        """The time at which the plan was sealed, in UTC as ISO 8601; None where it is not sealed."""
        return None if self.document.seal is None else self.document.seal.sealed_at

    def plot(self) -> "Figure":
        """Draw the loss that each size reaches for the budget, the recommended size and those about as good."""
        curves = () if self._query is None else isoflop_curves(self._query, self.document, law=self._law)
        runs = () if self._query is None else own_runs(self._query.study)
        figure: Figure = import_module("plots.notebook").plot_plan(self.document, curves, runs)
        return figure

    def seal(self, *, seed: int | Sequence[int] | None = None) -> "Plan":
        """Seal the predictions: with the time, the law's hash, and a digest that shows any later edit.

        Args:
            seed: seed of the run that is to be scored, or several, whose mean is. Default: the study's, else 0.

        Returns:
            The sealed plan.

        Raises:
            BadInput: the plan is sealed already.
        """
        study = None if self._query is None else self._query.study
        text = sealed_text(study, self.document) if study is not None else ""
        if seed is None:
            seed = 0 if study is None else StudyPaths(Path(study)).seed()
        seeds = (seed,) if isinstance(seed, int) else tuple(seed)
        return replace(self, document=seal(self.document, data_sha256=text, seeds=seeds))

    def save(self, path: StrPath, *, replace: bool = False) -> Path:
        """Write plan.json, whole or not at all.

        Args:
            path: the file.
            replace: overwrite a sealed plan, or a file that is no plan.

        Returns:
            The file's path.

        Raises:
            BadInput: such a file is there and `replace` is false, or the folder cannot be written.
        """
        file = Path(path)
        write_plan(self.document, file, replace=replace)
        return file


def load_plan(path: StrPath) -> Plan:
    """Read plan.json.

    Args:
        path: the file.

    Returns:
        The plan. Its figure lacks the isoFLOP curves, which the file does not hold.

    Raises:
        BadInput: no such file, not a plan, or a sealed plan that was edited since.
    """
    return Plan(read_verified_plan(Path(path)))


def plan(
    budget: str | float | Budget | None = None,
    *,
    law: LossModel | StrPath | None = None,
    family: str | None = None,
    mfu: float | str | None = None,
    on: str | None = None,
    params: Size | Sequence[Size] | None = None,
    target_loss: float | None = None,
    target_ppl: float | None = None,
    tokens_available: Size | None = None,
    inference_tokens: Size | None = None,
    budget_includes_serving: bool = False,
    within: float | str | None = None,
    rule: str = DEFAULT_RULE,
    ratio: float | None = None,
    head_size: int | None = None,
    vocab_size: int | str | None = None,
    experts: int | str | Sequence[int] | None = None,
    n_positions: int | None = None,
    times: str | None = None,
    price: float | None = None,
    study: HasFolder | StrPath | None = None,
    force: bool = False,
) -> Plan:
    """Plan a model for a budget, or the cheapest one for a target: `scaling plan` as a function.

    Sizes are plain numbers or text like "85M". One of budget, target_loss and target_ppl is needed.

    Args:
        budget: training FLOPs as a number, or text like "8xA100-hours", "24h@8xA100", "1.4e18" or "0.02 PF-days", several
            separated by commas; or a `Budget`.
        law: a fit, a published law, its name, or the path of a law.json. Default: the study's own, else "chinchilla".
        family: a published member or family, "all" or "grid" of designed shapes.
        mfu: model FLOPs utilisation as a share of the dense peak, or "estimate". Default: measured on the study's runs or
            this machine's probes, else 0.4, and the plan says which.
        on: devices like "8xA100", which give a budget in FLOPs its hours and price.
        params: a fixed number of parameters, or several, each of which gets its tokens.
        target_loss: the loss to reach, in nats per token, in place of a budget.
        target_ppl: the perplexity per token to reach, in place of a budget.
        tokens_available: distinct training tokens there are; beyond them data repeats.
        inference_tokens: tokens to serve, whose cost is shown beside that of training.
        budget_includes_serving: the budget pays for serving too, so that smaller models are trained longer.
        within: width of the indifference band: nats as a number, or a share of the cost like "2%". Default: 0.01 nats.
        rule: recipe of learning rate and batch: "capped", "width", "card", "kaplan", "porian", "deepseek" or "steplaw".
        ratio: n_embd per layer of designed shapes.
        head_size: n_embd per attention head of designed shapes.
        vocab_size: vocabulary of designed shapes, or "auto" for the best by the law's term, else by Tao et al. 2024.
        experts: routed experts of a layer, of a family that has them: a number, several to choose from, or "auto".
        n_positions: context length in tokens: of designed shapes, or shorter than published members' own.
        times: measured times by number of devices, like "1=66m40s,8=9m".
        price: USD per device-hour, in place of the catalogue's.
        study: a study or its folder, whose law, shapes and measured MFU are used.
        force: predict even more than 1,000 times outside the law's domain.

    Returns:
        The plan, not sealed and not written.

    Raises:
        BadInput: arguments that contradict each other, a value out of range, or a target or budget out of reach.

    Examples:
        >>> made = plan(1e18, law="chinchilla", on="1xA100")
        >>> made.recommended.member, round(made.recommended.loss, 2)
        ('gpt2-83m', 3.53)
    """
    query = PlanQuery(
        budget=budget.text if isinstance(budget, Budget) else _text(budget),
        law=law if law is None or isinstance(law, str) else _path(law),
        mfu=_text(mfu),
        family=family,
        on=on,
        target_loss=target_loss,
        target_ppl=target_ppl,
        params=_several(params),
        tokens_available=_text(tokens_available),
        inference_tokens=_text(inference_tokens),
        budget_includes_serving=budget_includes_serving,
        within=_text(within),
        rule=rule,
        ratio=ratio,
        head_size=head_size,
        vocab=_text(vocab_size),
        experts=_several(experts),
        context=_text(n_positions),
        force=force,
        study=_folder(study),
        times=times,
        price=price,
    )
    model = law if isinstance(law, LossModel) else None
    if isinstance(model, Fit) and model.status is Status.NOT_CONVERGED:
        raise BadInput("the fit did not converge; fit again before planning with it")
    given = budget if isinstance(budget, Budget) else None
    if given is not None and (mfu is not None or on is not None or price is not None):
        raise BadInput(
            f"budget {given.text!r} has its own devices, MFU and price; leave mfu, on and price out"
        )
    document, _ = answer_query(query, law=model, budget=given)
    return Plan(document, query, model)


def _text(value: float | str | None) -> str | None:
    """A value as the command line takes it; a float keeps every digit, as 1e20 rather than 1e+20."""
    return value if value is None or isinstance(value, str) else repr(value).replace("e+", "e")


def _several(sizes: Size | Sequence[Size] | None) -> str | None:
    if sizes is None or isinstance(sizes, int | float | str):
        return _text(sizes)
    return ",".join(filter(None, map(_text, sizes)))


def _path(law: LossModel | PathLike[str]) -> str | None:
    """The path of a law's file, as the command line tells it from a published name."""
    return None if isinstance(law, LossModel) else str(Path(law).absolute())


def _folder(study: HasFolder | StrPath | None) -> Path | None:
    if study is None or isinstance(study, str | PathLike):
        return None if study is None else Path(study)
    return study.folder


def _line(choice: Choice) -> str:
    line = (
        f"{choice.member}: L{choice.n_layer} d{choice.n_embd} h{choice.n_head}, {format_size(choice.params)} parameters, "
        f"{format_size(choice.tokens)} tokens, loss {choice.loss:.4f}"
    )
    if choice.interval_80 is not None:
        line += f" (80 %: {choice.interval_80[0]:.4f} to {choice.interval_80[1]:.4f})"
    if choice.hours is not None:
        line += f", {choice.hours:,.2f} hours"
    return line if choice.price is None else f"{line}, {choice.price:,.2f} USD"
