"""Sentences and lists of facts of a report, derived from the values, the same in every format."""

import math

from families.units import BadInput, format_duration, format_size
from scaling.fitting.forms import Status
from scaling.fitting.one_variable import WORDS
from scaling.fitting.predictor import Fit
from scaling.paths import StudyPaths
from scaling.planning.stamp import attestations
from scaling.scoring.verify import GRADES
from scaling.stats import format_loss

from .predictions import scores_text
from .study_data import StudyData
from .tables import advise_next_run

Facts = list[tuple[str, str]]


def headline(study: StudyData) -> str:
    """The study in one sentence, after the warning of a broken seal if there is one."""
    return f"{seal_warning(study)} {_outcome(study)}".strip()


def seal_warning(study: StudyData) -> str:
    """A warning that plan.json is not the plan that was sealed; "" where it is, or where nothing is sealed."""
    if study.plan is None or study.plan.seal is None or study.seal_intact:
        return ""
    return (
        f"The seal is broken: plan.json was edited after it was sealed at {study.plan.seal.sealed_at}, so its predictions "
        "may have been changed after the run."
    )


def _outcome(study: StudyData) -> str:
    if study.comparison and study.comparison.rows:
        return scores_text(study.comparison.rows) + "."
    if study.plan and study.plan.seal:
        sealed = [member for member in study.plan.members if member.prediction]
        if sealed and sealed[0].prediction:
            state = "Planned" if seal_warning(study) else "Sealed, not yet trained"
            return (
                f"{state}: {sealed[0].member} on {format_size(sealed[0].tokens)} tokens "
                f"is predicted to reach a loss of {format_loss(sealed[0].prediction.loss)}."
            )
    if study.law:
        return _optimum(study.law)
    if study.runs:
        return f"Runs without a law: {len(study.runs)} observed, nothing fitted yet."
    return "A plan; nothing is trained yet."


def is_fit_only(study: StudyData) -> bool:
    """True for a law and its runs without any plan: a page about the law, its optimum first."""
    return study.law is not None and study.plan is None and study.ladder is None and study.comparison is None


def _optimum(law: Fit) -> str:
    """The best size at ten times the fitted compute, with its intervals."""
    fitted = f"a law fitted on {law.rows} points of {law.runs} runs"
    if law.variable:
        found = law.predict(*law.point(times=10), force=True)
        bounds = found.interval_80
        held = (
            f" (80 %: {format_loss(float(bounds[0]))} to {format_loss(float(bounds[1]))})" if bounds else ""
        )
        return (
            f"A loss of {format_loss(float(found.loss))}{held} is expected at ten times the {WORDS[law.variable]} of the "
            f"data, by {fitted}."
        )
    try:
        best = law.allocate(10 * law.domain.C[1])
    except BadInput:
        return f"{fitted[0].upper()}{fitted[1:]}; it has no compute-optimal size."
    N, loss = best.N_interval_80, best.loss_interval_80
    size = f" (80 %: {format_size(N[0])} to {format_size(N[1])})" if N else ""
    reached = f" ({format_loss(loss[0])} to {format_loss(loss[1])})" if loss else ""
    return (
        f"At {format_size(best.C)} FLOPs, ten times the fitted compute, {format_size(best.N)} parameters{size} on "
        f"{format_size(best.D)} tokens are best: loss {format_loss(best.loss)}{reached}, by {fitted}."
    )


def question_facts(study: StudyData) -> Facts:
    """Budget, text, machine and recorded work."""
    facts: Facts = [("study", study.title)]
    if study.plan and study.plan.budget:
        facts.append(("budget", f"{study.plan.budget.text}, {format_size(study.plan.budget.flops)} FLOPs"))
    if study.study_file:
        facts.append(("seed", str(study.study_file.seed)))
        if study.study_file.seconds:
            facts.append(("sized to", f"{format_duration(study.study_file.seconds)} of training"))
        if study.study_file.machine:
            facts.append(("machine", f"{study.study_file.machine}, Python {study.study_file.python}"))
    data = study.data_manifest
    files = data.get("files")
    if isinstance(files, list):
        facts.append(("text", f"{len(files)} files" + _bytes(files)))
    for shards, label in ((data.get("train"), "training tokens"), ([data.get("heldout")], "held-out tokens")):
        if total := _sum(shards, "tokens"):
            facts.append((label, format_size(total)))
    if data.get("vocab_size"):
        facts.append(("vocabulary", str(data["vocab_size"])))
    if study.runs:
        names = {run.run for run in study.runs}
        facts.append(("observations", f"{len(study.runs)}, from {len(names)} training runs"))
    if study.work:
        flops, seconds = sum(w.flops for w in study.work), sum(w.wall_s for w in study.work)
        facts.append(("recorded", f"{format_size(flops)} FLOPs in {format_duration(seconds)} of training"))
    return facts


def _bytes(files: list[object]) -> str:
    total = _sum(files, "bytes")
    return f", {format_size(total)} bytes" if total else ""


def _sum(records: object, key: str) -> int:
    """Sum of an integer field over a list of records; records edited by hand may lack it."""
    rows = records if isinstance(records, list) else []
    return sum(row[key] for row in rows if isinstance(row, dict) and isinstance(row.get(key), int))


def seal_facts(study: StudyData) -> Facts:
    """Time and digest of the seal, its law, and whether it is intact; [] where nothing is sealed."""
    if study.plan is None or study.plan.seal is None:
        return []
    seal = study.plan.seal
    facts = [("sealed at", seal.sealed_at), ("digest (SHA-256)", seal.digest)]
    if study.plan.law:
        facts.append(("law", f"{study.plan.law.name}, SHA-256 {seal.law_sha256 or 'none'}"))
    state = (
        "intact: the plan is unchanged since it was sealed"
        if study.seal_intact
        else "BROKEN: the plan was edited after it was sealed"
    )
    facts.append(("seal", state))
    rows = study.comparison.rows if study.comparison else ()
    grades = dict.fromkeys(GRADES[row.grade] for row in rows)
    attested = study.comparison.attested if study.comparison else attestations(StudyPaths(study.folder).plan)
    more = (("order", "; ".join(grades)), ("time", "; ".join(attested)))
    return [*facts, *((label, text) for label, text in more if text)]


def law_facts(study: StudyData) -> Facts:
    """The fit card, after the fit's status; [] without a law."""
    if study.law is None:
        return []
    status = study.law.status
    facts = [("status", f"{status.value}: {study.law.detail or status.message}")]
    return [*facts, *((key, text) for key, text in study.law.card.items() if key != "status")]


def _refit(study: StudyData) -> str:
    """Advice to refit with the sealed runs, with the change it makes where that is known."""
    refit = study.comparison.refit if study.comparison else None
    loss = refit.change("loss") if refit else None
    if refit is None or loss is None:
        return "The sealed runs are not in the law yet: refit with them (scaling fit) before the next plan."
    sentence = (
        f"The sealed runs are not in the law yet: refit with them (scaling fit). At {format_size(refit.flops)} FLOPs "
        f"that moves the prediction from {format_loss(loss.before)} to {format_loss(loss.after)}"
    )
    if loss.before_80 and loss.after_80:
        before, after = (high - low for low, high in (loss.before_80, loss.after_80))
        sentence += f" and the width of its 80 % interval from {before:.2g} to {after:.2g} nats"
    return sentence + "."


def recommendations(study: StudyData) -> list[str]:
    """Recommended next steps with their reasons, a sentence each."""
    sentences: list[str] = []
    law = study.law
    if law is None:
        return list(study.missing)
    if law.status is not Status.OK:
        sentences.append(
            f"The fit is {law.status.value}: {law.status.message}. Resolve this before training more runs."
        )
    predictor = law
    try:
        best = predictor.allocate(predictor.domain.C[1])
    except BadInput as error:
        sentences.append(f"No size is the best of a budget: {error}.")
    else:
        low, high = predictor.domain.N
        if low > best.N:
            sentences.append(
                f"At the largest compute fitted the best size, {format_size(best.N)} parameters, is below the smallest "
                f"run ({format_size(low)}): add smaller members on more tokens, so that the runs bracket the optimum."
            )
        elif high < best.N:
            sentences.append(
                f"At the largest compute fitted the best size, {format_size(best.N)} parameters, is above the largest "
                f"run ({format_size(high)}): add a larger member, so that the runs bracket the optimum."
            )
        decades = math.log10(predictor.domain.C[1] / predictor.domain.C[0])
        if decades < 1.5:
            sentences.append(
                f"The fitted runs span {decades:.1f} decades of compute; a rung ten times cheaper or costlier "
                "would constrain the exponents more than another seed."
            )
    if study.comparison and study.comparison.rows:
        if any(not row.inside_95 for row in study.comparison.rows):
            sentences.append(
                "A sealed run ended outside its 95 % interval: examine that run before relying on the next prediction."
            )
        sentences.append(_refit(study))
    elif seal_warning(study):
        sentences.append(
            "Restore the plan.json that was sealed, or make a new plan: an edited plan is not trained."
        )
    elif study.plan and study.plan.seal:
        sentences.append("Train the sealed members (scaling ladder plan.json), then run scaling compare.")
    advised = advise_next_run(study)
    if advised is not None and advised[1].offers:
        target, advice = advised
        best_offer = advice.offers[0]
        sentences.append(
            f"To narrow the prediction for {format_size(target.N)} parameters on {format_size(target.D)} tokens, train a "
            f"ladder of {best_offer.ladder.member.name} to {format_size(best_offer.ladder.tokens)} tokens "
            f"({format_size(best_offer.ladder.flops)} FLOPs): the 80 % interval goes from "
            f"±{100 * advice.half_width_80:.1f} % to ±{100 * best_offer.half_width_80:.1f} % (scaling next)."
        )
    elif advised is not None:
        target, advice = advised
        sentences.append(
            f"No single ladder within the budget narrows the prediction for {format_size(target.N)} parameters on "
            f"{format_size(target.D)} tokens (±{100 * advice.half_width_80:.1f} %) by a hundredth (scaling next)."
        )
    if is_fit_only(study) and not law.variable:
        sentences.append("Nothing is planned yet: scaling plan turns a budget into a model by this law.")
    warnings = law.card.get("warnings", "none")
    if warnings != "none":
        sentences.append(f"The fit warns: {warnings}.")
    return sentences
