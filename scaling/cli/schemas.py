"""JSON schemas of what the verbs print with --json."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NotRequired

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from families.units import BadInput, nearest

DRAFT = "https://json-schema.org/draft/2020-12/schema"


class Closed(TypedDict):
    """An object without other keys."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # where pydantic looks for it


class MemberRow(TypedDict):
    """A model: its shape, and its exact counts."""

    member: str
    architecture: str
    n_layer: int
    n_head: int
    n_embd: int
    n_inner: int
    n_kv_head: int
    n_positions: int
    vocab_size: int
    config: dict[str, Any]
    params: int
    params_non_embedding: int
    params_active: int
    parameters_by_part: dict[str, int]
    train_flops_per_token: float


class DesignedMember(MemberRow):
    """A designed model; `path` is the config.json written, if any."""

    ratio: float
    path: str | None


class Designed(Closed):
    """Designed models."""

    members: list[DesignedMember]


class FamilyMember(MemberRow):
    """A published model, or that of a config.json; `estimated`: counted by transformers, not from a known architecture."""

    source: str
    counts: dict[str, int]
    params_kaplan: int
    training_memory: dict[str, float]
    hugging_face: dict[str, Any]
    estimated: bool
    notes: list[str]


class Members(Closed):
    """Published models."""

    members: list[FamilyMember]


class Written(Closed):
    """A config.json that was written."""

    member: str
    path: str
    params: int


class Accelerators(Closed):
    """The catalogue of accelerators. Peaks in FLOP/s by format, memory in bytes, bandwidth in bytes/s, price in USD/hour."""

    accelerators: list[dict[str, Any]]
    own: str


class DeviceTimes(Closed):
    """With --times: T(n) = floor_s + parallel_s * n^-exponent, in seconds."""

    devices: int
    seconds: float
    efficiency: float
    pays_until: int
    floor_s: float
    parallel_s: float
    exponent: float
    fit_error: float


class PilotFacts(Closed):
    """Pilot ladders for a target; half widths are of the 80 % interval, as shares of its loss."""

    target: str
    target_tokens: float
    target_flops: float
    flops: float
    share_of_target: float
    deviation: float
    half_width_80: float
    guarded_half_width_80: float
    members: list[dict[str, Any]]
    path: str | None


class PlanHeadline(TypedDict):
    """The budget of a plan, and where the plan was written."""

    budget: str | None
    budget_flops: float | None
    mfu: float | None
    mfu_source: str | None
    accelerator: str | None
    devices: int | None
    sealed_at: str | None
    recipes: NotRequired[dict[str, dict[str, Any]]]
    path: str | None


class FitReports(TypedDict):
    """Reports that options of `fit` add."""

    sensitivity: NotRequired[Any]
    conventions: NotRequired[Any]
    profile: NotRequired[Any]
    isoflop: NotRequired[Any]


class PlotFacts(Closed):
    """A figure that was drawn."""

    name: str
    title: str
    about: str
    out: str


class ReportPath(TypedDict):
    """Where report.html is."""

    report: str


class Passed(TypedDict):
    """Whether every published result was reproduced."""

    passed: bool


class Rungs(Closed):
    """Finished rungs, the fields of each one's observation first; `jobs` where Slurm runs them, by member."""

    rungs: NotRequired[list[dict[str, Any]]]
    failed: NotRequired[dict[str, Any]]
    jobs: NotRequired[dict[str, str]]


class Rows(Closed):
    """Finished runs as rows of a table of fine-tuning results."""

    rows: list[dict[str, Any]]


def schema(verb: str) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of what a verb prints with --json.

    Raises:
        BadInput: there is no such verb, or its schema needs the extra [train].
    """
    if verb not in SCHEMAS:
        raise BadInput(f"verb is {verb!r}; {nearest(verb, SCHEMAS, 30)}")
    try:
        found = SCHEMAS[verb]()
    except ModuleNotFoundError as error:
        from ..extras import TRAIN_EXTRA, training_needs

        if (error.name or "").partition(".")[0] not in TRAIN_EXTRA:
            raise
        raise BadInput(training_needs([error.name or ""])) from error
    return {"$schema": DRAFT, "title": f"scaling {verb} --json", **found}


def _of(
    where: str | type, more: type | None = None, without: tuple[str, ...] = ()
) -> Callable[[], dict[str, Any]]:
    """Return a function that makes the schema of a type, "module:name" or itself, with the keys of another beside its own."""

    def made() -> dict[str, Any]:
        found = _schema_of(where)
        for key in without:
            found["properties"].pop(key, None)
        if more is not None:
            added = _schema_of(more)
            found["properties"] |= added["properties"]
            found["$defs"] = {**found.get("$defs", {}), **added.get("$defs", {})}
            found["required"] = sorted({*found.get("required", ()), *added.get("required", ())})
            found["additionalProperties"] = False
        found["required"] = [key for key in found.get("required", ()) if key in found["properties"]]
        return found

    return made


def _schema_of(where: str | type) -> dict[str, Any]:
    kind: Any = where
    if isinstance(where, str):
        module, _, name = where.partition(":")
        kind = getattr(import_module(module), name)
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    found = adapter.json_schema(mode="serialization")
    if (
        kind is not where and "properties" not in found and "$ref" not in found
    ):  # it has a serializer of its own
        found = adapter.json_schema(mode="validation")
    reference = found.pop("$ref", None)  # a type that others refer to stands among the definitions
    return {**found, **found["$defs"][reference.rpartition("/")[2]]} if reference else dict(found)


def _any_of(*parts: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """Return a function that makes the schema of one of several objects."""

    def made() -> dict[str, Any]:
        found = [part() for part in parts]
        definitions: dict[str, Any] = {}
        for one in found:
            definitions |= one.pop("$defs", {})
        return {"anyOf": found, "$defs": definitions}

    return made


class NextRun(Closed):
    """Recommended runs, best first; half widths are of the target's 80 % interval, as shares of its loss."""

    half_width_80: float
    offers: list[dict[str, Any]]


class StudyRows(Closed):
    """With --under: the rows of each study's comparison."""

    rows: dict[str, list[dict[str, Any]]]
    not_predictions: dict[str, list[dict[str, Any]]]
    attested: dict[str, list[str]]


class Ingested(Closed):
    """Runs of another engine that were added to a study."""

    runs: list[dict[str, Any]]


class StampFacts(Closed):
    """A sealed plan's digest, and who attests its time."""

    digest: str
    sealed_at: str
    attested: list[str]


class VersusFacts(Closed):
    """B against A: the compute multiplier with intervals at several scales, in FLOPs, and a verdict."""

    a: str
    b: str
    runs: Any
    verdict: str
    scaling: str
    trend_per_decade: float
    compute: list[float]
    at: list[dict[str, Any]]
    pays_from: float | None
    crossing: Any
    cost: Any
    noise: float
    freedom: float
    settings: Any
    runs_that_decide: NotRequired[list[dict[str, Any]]]


class ReportFacts(TypedDict):
    """What a report says first, and where it is."""

    headline: str
    doubts: list[str]
    not_drawn: dict[str, str]
    report: str


class TuneFacts(TypedDict):
    """The fastest settings for training on this machine, predicted and measured."""

    member: str
    batch_size: int
    best: str
    micro_batch: int
    tuning_seconds: float
    curve: NotRequired[dict[str, Any]]


class Emitted(TypedDict):
    """Paths of the files written for each target, by target."""


_COMPARISON = _of("scaling.scoring:Comparison")
SCHEMAS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "design": _of(Designed),
    "families list": _of(Members),
    "families show": _of(FamilyMember),
    "families emit": _of(Written),
    "hardware": _any_of(_of(Accelerators), _of(DeviceTimes)),
    "pilot": _of(PilotFacts),
    "next": _any_of(_of(NextRun), _of(VersusFacts)),
    "stamp": _of(StampFacts),
    "versus": _of(VersusFacts),
    "simulate": _of("scaling.planning.simulate:SimulationResult"),
    "plan": _of("scaling.planning.planfile:PlanFile", PlanHeadline),
    "fit": _of("scaling.fitting.lawfile:LawFile", FitReports),
    "predict": _of("scaling.planning.law:PredictResult"),
    "backtest": _of("scaling.fitting.backtest:Backtest"),
    "audit": _of("scaling.auditing:Audit"),
    "train": _of(Rungs),
    "ladder": _of(Rungs),
    "emit": _of(Emitted),
    "ingest": _of(Ingested),
    "tune": _of(TuneFacts),
    "generate": _of("train.generate:Generated"),
    "push": _of("train.push:Push"),
    "validate": _of("train.validate:Validation"),
    "watch": _of("scaling.monitoring:Assessment"),
    "table": _of(Rows),
    "compare": _any_of(
        _COMPARISON,
        _of("scaling.scoring.calibration:Calibration", StudyRows),
        _of(StudyRows),
        _of("scaling.auditing.published:PublishedComparison"),
        _of("scaling.scoring.versus:Opened"),
    ),
    "report": _of(ReportFacts),
    "plot": _of(PlotFacts),
    "doctor": _of("scaling.doctor:Checkup", Passed),
    "demo": _of("scaling.scoring:Comparison", ReportPath),
}
