"""What a report says in sentences, and its lists of facts: worked out from the values, the same in every format."""

import math

from families.units import BadInput, format_duration, format_size
from scaling.fitting.forms import Status

from .predictions import verdicts
from .study_data import StudyData
from .tables import advice_table

Facts = list[tuple[str, str]]


def headline(seen: StudyData) -> str:
    """The whole study in one sentence, behind the alarm if there is one."""
    return f"{seal_warning(seen)} {_outcome(seen)}".strip()


def seal_warning(seen: StudyData) -> str:
    """What must be read before anything else: that the plan is not the one that was sealed; "" where it is."""
    if seen.plan is None or seen.plan.seal is None or seen.seal_intact:
        return ""
    return (
        f"The seal is broken: plan.json was edited after it was sealed at {seen.plan.seal.sealed_at}, so nothing it says "
        "was promised before the run."
    )


def _outcome(seen: StudyData) -> str:
    if seen.comparison and seen.comparison.rows:
        return verdicts(seen.comparison.rows) + "."
    if seen.plan and seen.plan.seal:
        sealed = [member for member in seen.plan.members if member.prediction]
        if sealed and sealed[0].prediction:
            how = "Planned" if seal_warning(seen) else "Sealed, not yet met by its run"
            return (
                f"{how}: {sealed[0].member} on {format_size(sealed[0].tokens)} tokens "
                f"is to reach a loss of {sealed[0].prediction.loss:.3f}."
            )
    if seen.law:
        return f"A law fitted on {seen.law.rows} points of {seen.law.runs} runs; nothing is sealed yet."
    if seen.runs:
        return f"Runs without a law: {len(seen.runs)} observed, nothing fitted yet."
    return "A plan; nothing is trained yet."


def question_facts(seen: StudyData) -> Facts:
    """The question, the text and the machine."""
    facts: Facts = [("study", seen.title)]
    if seen.plan and seen.plan.budget:
        facts.append(("budget", f"{seen.plan.budget.text}, {format_size(seen.plan.budget.flops)} FLOPs"))
    if seen.study:
        facts.append(("seed", str(seen.study.seed)))
        if seen.study.seconds:
            facts.append(("sized to", f"{format_duration(seen.study.seconds)} of training"))
        if seen.study.machine:
            facts.append(("machine", f"{seen.study.machine}, Python {seen.study.python}"))
    data = seen.data
    files = data.get("files")
    if isinstance(files, list):
        facts.append(("text", f"{len(files)} files" + _bytes(files)))
    for shards, words in ((data.get("train"), "training tokens"), ([data.get("heldout")], "held-out tokens")):
        if total := _sum(shards, "tokens"):
            facts.append((words, format_size(total)))
    if data.get("vocab_size"):
        facts.append(("vocabulary", str(data["vocab_size"])))
    if seen.runs:
        names = {run.run for run in seen.runs}
        facts.append(("observations", f"{len(seen.runs)}, from {len(names)} training runs"))
    if seen.work:
        flops, seconds = sum(w.flops for w in seen.work), sum(w.wall_s for w in seen.work)
        facts.append(("booked", f"{format_size(flops)} FLOPs in {format_duration(seconds)} of training"))
    return facts


def _bytes(files: list[object]) -> str:
    total = _sum(files, "bytes")
    return f", {format_size(total)} bytes" if total else ""


def _sum(records: object, key: str) -> int:
    """Of a number that each record of a list has; a file edited by hand may lack it."""
    found = records if isinstance(records, list) else []
    return sum(one[key] for one in found if isinstance(one, dict) and isinstance(one.get(key), int))


def sealed(seen: StudyData) -> Facts:
    """When the promise was frozen, under which law, and whether it is whole."""
    if seen.plan is None or seen.plan.seal is None:
        return []
    seal = seen.plan.seal
    facts = [("sealed at", seal.sealed_at), ("digest (SHA-256)", seal.digest)]
    if seen.plan.law:
        facts.append(("law", f"{seen.plan.law.name}, SHA-256 {seal.law_sha256 or 'none'}"))
    whole = (
        "unbroken: the plan is as it was sealed"
        if seen.seal_intact
        else "BROKEN: the plan was edited after it was sealed"
    )
    return [*facts, ("seal", whole)]


def law_facts(seen: StudyData) -> Facts:
    """The fit card, led by the verdict."""
    if seen.law is None:
        return []
    status = seen.law.status
    facts = [("verdict", f"{status.value}: {seen.law.detail or status.message}")]
    return [*facts, *((key, text) for key, text in seen.law.card.items() if key != "status")]


def _refit(seen: StudyData) -> str:
    """What the sealed runs change, or that they are not in the law yet."""
    found = seen.comparison.refit if seen.comparison else None
    loss = found.change("loss") if found else None
    if found is None or loss is None:
        return "The sealed runs are not in the law yet: refit with them (scaling fit) before the next plan."
    said = (
        f"The sealed runs are not in the law yet: refit with them (scaling fit). At {format_size(found.flops)} FLOPs "
        f"that moves the prediction from {loss.before:.3f} to {loss.after:.3f}"
    )
    if loss.before_80 and loss.after_80:
        before, after = (high - low for low, high in (loss.before_80, loss.after_80))
        said += f" and its 80 % interval from {before:.2g} to {after:.2g} nats wide"
    return said + "."


def recommendations(seen: StudyData) -> list[str]:
    """What to do next, and why: each sentence follows from a number in the study."""
    said: list[str] = []
    law = seen.law
    if law is None:
        return list(seen.missing)
    if law.status is not Status.OK:
        said.append(f"The fit is {law.status.value}: {law.status.message}. Mend that before spending more.")
    predictor = law
    try:
        best = predictor.allocate(predictor.domain.C[1])
    except BadInput as error:
        said.append(f"No split of a budget can be advised: {error}.")
    else:
        low, high = predictor.domain.N
        if low > best.N:
            said.append(
                f"At the largest compute fitted the best size, {format_size(best.N)} parameters, lies below the smallest "
                f"run ({format_size(low)}): add smaller members on more tokens, so that the optimum lies among the runs."
            )
        elif high < best.N:
            said.append(
                f"At the largest compute fitted the best size, {format_size(best.N)} parameters, lies above the largest "
                f"run ({format_size(high)}): add a larger member, so that the optimum lies among the runs."
            )
        reach = math.log10(predictor.domain.C[1] / predictor.domain.C[0])
        if reach < 1.5:
            said.append(
                f"The fitted runs span {reach:.1f} factors of ten in compute; a rung ten times cheaper or dearer "
                "would tell the exponents more than another seed."
            )
    if seen.comparison and seen.comparison.rows:
        if any(not row.inside_95 for row in seen.comparison.rows):
            said.append(
                "A sealed prediction missed its 95 % interval: look at that run before trusting the next one."
            )
        said.append(_refit(seen))
    elif seal_warning(seen):
        said.append("Put back the plan.json that was sealed, or plan anew: what was edited is not trained.")
    elif seen.plan and seen.plan.seal:
        said.append("Train what is sealed (scaling ladder plan.json), then run scaling compare.")
    found = advice_table(seen)
    if found is not None and found[1].offers:
        target, best_offer = found[0], found[1].offers[0]
        said.append(
            f"To foretell {format_size(target.N)} parameters on {format_size(target.D)} tokens more surely, train a ladder of "
            f"{best_offer.purchase.member.name} to {format_size(best_offer.purchase.tokens)} tokens "
            f"({format_size(best_offer.purchase.flops)} FLOPs): the 80 % interval goes from "
            f"±{100 * found[1].half_width_80:.1f} % to ±{100 * best_offer.half_width_80:.1f} % (scaling next)."
        )
    warnings = law.card.get("warnings", "none")
    if warnings != "none":
        said.append(f"The fit warns: {warnings}.")
    return said
