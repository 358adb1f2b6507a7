"""Claims that are recomputed from facts held in the project or typed here with their source; no table is needed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scaling import Law, Run, RunTable, fit, published_law
from scaling.auditing import audit_text
from scaling.auditing.findings import Finding, Verdict
from scaling.auditing.published import compare_published
from scaling.doctor import GOPHER, local_exponent
from scaling.fitting.isoflop import bias_of_approach_2
from scaling.published_runs import published_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One recomputed number.

    Args:
        what: what it is, with its unit.
        value: as computed here.
        paper: as published; None where the paper prints no such number.
        at_least, at_most: where the value must lie.
        form: how the numbers are printed.
    """

    what: str
    value: float
    paper: float | None
    at_least: float
    at_most: float
    form: str = ".4g"

    @property
    def holds(self) -> bool:
        """True within the limits."""
        return bool(self.at_least <= self.value <= self.at_most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A published claim, and how it is recomputed.

    Args:
        name: for --only.
        title: of the section.
        source: paper, and where in it the numbers stand.
        says: what was published.
        found: what the recomputation shows.
        table: file name of the table that it needs; "" for none.
        checks: the numbers, from the folder of tables.
    """

    name: str
    title: str
    source: str
    says: str
    found: str
    table: str = ""
    checks: Callable[[Path], list[Check]]


def near(what: str, value: float, paper: float, within: float, form: str = ".4g") -> Check:
    """A value that must be the paper's, within an absolute tolerance."""
    return Check(
        what=what, value=value, paper=paper, at_least=paper - within, at_most=paper + within, form=form
    )


def between(
    what: str, value: float, low: float, high: float, form: str = ".4g", paper: float | None = None
) -> Check:
    """A value that must lie between two limits, whatever the paper prints."""
    return Check(what=what, value=value, paper=paper, at_least=low, at_most=high, form=form)


def wrong(findings: tuple[Finding, ...], check: str) -> list[Finding]:
    """The findings of one check of an audit that are not right."""
    return [one for one in findings if one.check == check and one.verdict is not Verdict.OK]


def card(folder: Path) -> list[Check]:
    """Kaplan's frontier on MosaicML Composer's GPT-2 card."""
    found = compare_published("composer-gpt2")
    rows = [
        near(
            f"{row.member}: predicted perplexity", row.predicted_ppl, row.printed_predicted_ppl, 0.005, ".2f"
        )
        for row in found.rows
        if row.printed_predicted_ppl
    ]
    refuted = {
        one.column
        for one in found.corrections
        if any(finding.verdict is Verdict.MISMATCH for finding in one.findings)
    }
    return [
        *rows,
        between("exponent through its own three outcomes", found.fit.exponent, 0.045, 0.0465, paper=0.050),
        between(
            "compute at which that line crosses Kaplan's, over the largest run's", found.fit.factor, 7.0, 8.0
        ),
        between("largest share of 8 A100 that its hours imply", max(row.mfu or 0 for row in found.rows), 0.08, 0.085),
        between("columns with a mismatch by `scaling audit`", len(refuted), 3, 3, ".0f"),
    ]  # fmt: skip


GPT2 = """
| Parameters | Layers | d_model |
|------------|--------|---------|
| 117M       | 12     | 768     |
| 345M       | 24     | 1024    |
| 762M       | 36     | 1280    |
| 1542M      | 48     | 1600    |
"""


def gpt2(folder: Path) -> list[Check]:
    """The sizes of GPT-2, as its paper prints them."""
    found = wrong(audit_text(GPT2), "parameters")
    counts = [float(str(one.recomputed).replace(",", "")) for one in found]
    printed = (117e6, 345e6, 762e6, 1542e6)
    return [
        between("rows of four that `scaling audit` calls wrong", len(found), 4, 4, ".0f"),
        *(
            between(
                f"exact count of the {stated / 1e6:.0f}M, in millions",
                count / 1e6,
                stated / 1e6 * 1.005,
                stated / 1e6 * 1.07,
                ".1f",
                paper=stated / 1e6,
            )
            for count, stated in zip(sorted(counts), printed, strict=True)
        ),
    ]


def exponents(folder: Path) -> list[Check]:
    """Kaplan's exponent from Chinchilla's law."""
    laws = {name: published_law(name).law for name in ("hoffmann", "chinchilla")}
    return [
        near(f"exponent of N* without embeddings, at Kaplan's sizes, {name}'s law", local_exponent(law), 0.73, 0.07, ".3f")
        for name, law in laws.items()
    ] + [
        near(f"exponent in all parameters, {name}'s law", law.beta / (law.alpha + law.beta), 0.50, 0.06, ".3f")
        for name, law in laws.items()
    ]  # fmt: skip


ASYMMETRIC = Law(E=3.169, A=215886.0, B=4750.0, alpha=0.684, beta=0.439)


def isoflop_grid(law: Law) -> RunTable:
    """Seven sizes over 1/16 to 16 times the optimum at five budgets from 1e18 to 1e20 FLOPs, without noise."""
    rows = []
    for compute in np.geomspace(1e18, 1e20, 5).tolist():
        for size in (law.allocate(compute).N * np.geomspace(1 / 16, 16, 7)).tolist():
            tokens = compute / 6 / size
            rows.append(
                Run(
                    run=f"{compute:.3g} {size:.3g}",
                    params=size,
                    tokens=tokens,
                    loss=float(law.loss(size, tokens)),
                )
            )
    return RunTable(rows)


def approaches(folder: Path) -> list[Check]:
    """Hoffmann's third approach against the first two, and the bias of the second."""
    hoffmann, besiroglu = (published_law(name).law for name in ("hoffmann", "chinchilla"))
    bias = {
        name: bias_of_approach_2(law, isoflop_grid(law), C=1e22)
        for name, law in (("asymmetric", ASYMMETRIC), ("even", besiroglu))
    }
    return [
        near(
            "approach 3, exponent by its printed alpha and beta",
            hoffmann.beta / (hoffmann.alpha + hoffmann.beta),
            0.46,
            0.01,
            ".3f",
        ),
        between(
            "approach 3, N* in billions for Gopher's 5.76e23 FLOPs",
            hoffmann.allocate(GOPHER).N / 1e9,
            30,
            34,
            ".1f",
            paper=70,
        ),
        near("Besiroglu's refit of it, N* in billions", besiroglu.allocate(GOPHER).N / 1e9, 70, 4, ".1f"),
        near(
            "Besiroglu's refit, tokens per parameter",
            besiroglu.allocate(GOPHER).tokens_per_param,
            20,
            2,
            ".1f",
        ),
        between(
            "approach 2 without noise, N* at 1e22 over the true one: alpha 0.684, beta 0.439",
            bias["asymmetric"].ratio,
            1.26,
            1.28,
            ".3f",
        ),
        between("the same on Besiroglu's law, alpha 0.348, beta 0.366", bias["even"].ratio, 0.9, 1.1, ".3f"),
    ]


MUON = ((2.19e17, 3.7404), (1.70e18, 3.3834), (9.00e18, 3.1230))  # FLOPs, macro loss (marin#5619)


def marin(folder: Path) -> list[Check]:
    """marin's frontier with a pinned floor, and one of its three-point fits."""
    rows = [
        Run(run=f"{compute:g}", params=compute**0.5 / 6, tokens=compute**0.5, compute=compute, loss=loss)
        for compute, loss in MUON
    ]
    three = fit(rows, form="L(C)", bootstrap=0)
    law, ahead = three.main_form.law, 2.83e19**0.5
    A, floor = 95.18, 1.6
    slope = math.log(A / (2.725 - floor)) / math.log(3e20)
    pinned = Law(E=floor, A=A, B=0.0, alpha=slope, beta=0.0)
    return [
        near("MuonH ladder, floor of the fit through three runs", law.E, 0.578, 0.0006, ".3f"),
        near("its A", law.A, 32.63, 0.006, ".2f"),
        near("its exponent", law.alpha, 0.0584, 0.00006, ".4f"),
        near(
            "its loss at 2.83e19 FLOPs",
            float(three.predict(ahead / 6, ahead, force=True).loss),
            2.958,
            0.0006,
            ".3f",
        ),
        near(
            "1e23 FLOPs, floor 1.6 and A 95.18 through 2.725 at 3e20: predicted loss",
            float(pinned.loss(1e23, 1.0)),
            2.252,
            0.002,
            ".3f",
        ),
        near("1e21 FLOPs by the same line", float(pinned.loss(1e21, 1.0)), 2.598, 0.01, ".3f"),
        between("2.252 over what came, 2.234, less 1", 2.252 / 2.234 - 1, 0.0075, 0.0085, "+.2%"),
    ]


# Dey et al. 2023's table of training FLOPs, and its law of the Pile's test loss.
CEREBRAS_FLOPS = (2.6e18, 1.3e19, 6.1e19, 2.8e20, 1.1e21, 6.3e21, 2.3e22)
CEREBRAS_LAW = Law(E=0.5066, A=5.984e22**0.0737, B=0.0, alpha=0.0737, beta=0.0)


def cerebras_table() -> str:
    """The family's shapes, tokens and FLOPs as a table to audit."""
    lines = [
        "| model | params | n_layer | n_embd | n_head | n_positions | vocab_size | tokens | compute |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run, flops in zip(published_runs("cerebras-gpt").runs, CEREBRAS_FLOPS, strict=True):
        spec = run.spec
        lines.append(
            f"| {run.member} | {run.params} | {spec.n_layer} | {spec.n_embd} | {spec.n_head} | {spec.n_positions} "
            f"| {spec.vocab_size} | {run.tokens:.4g} | {flops:.2g} |"
        )
    return "\n".join(lines)


def cerebras(folder: Path) -> list[Check]:
    """Cerebras-GPT's law and its column of FLOPs."""
    runs = published_runs("cerebras-gpt").runs
    wrong_rows = wrong(audit_text(cerebras_table()), "compute")
    loss = float(CEREBRAS_LAW.loss(CEREBRAS_FLOPS[-1], 1.0))
    return [
        near("its law at the 13B's FLOPs, nats", loss, runs[-1].loss, 0.005 * runs[-1].loss, ".3f"),
        between("rows of seven whose FLOPs `scaling audit` doubts", len(wrong_rows), 7, 7, ".0f"),
        *(
            between(f"stated FLOPs of {run.member.removeprefix('cerebras-gpt-')} over the exact count of its shape",
                    flops / (run.flops or math.nan), 1.05, 1.45, ".2f", paper=1.0)
            for run, flops in ((runs[0], CEREBRAS_FLOPS[0]), (runs[-1], CEREBRAS_FLOPS[-1]))
        ),
    ]  # fmt: skip


CLARK = {  # a, b, c, d of log10 L = a log N + b log E + c log N log E + d, E_start, E_max; and the printed N_cutoff
    "S-BASE": (-0.082, -0.108, 0.009, 1.104, 1.847, 314.478, 937e9),
    "RL-R": (-0.083, -0.126, 0.012, 1.111, 1.880, 469.982, 85e9),
    "HASH": (-0.087, -0.136, 0.012, 1.157, 4.175, 477.741, 83e9),
}


def clark_gain(size: float, experts: float) -> float:
    """Loss of a routed model against the dense one of its size, less 1, by Clark's S-BASE constants."""
    _, b, c, _, start, most, _ = CLARK["S-BASE"]
    return float((_saturated(experts, start, most) / start) ** (b + c * math.log10(size)) - 1)


def _saturated(experts: float, start: float, most: float) -> float:
    """Clark's transform of the number of experts, from E_start at one to E_max."""
    return 1 / (1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most)


def clark_constants(folder: Path) -> list[Check]:
    """Clark's printed constants against the numbers that the paper derives from them."""
    a, b, c, _, start, most, _ = CLARK["S-BASE"]
    many = _saturated(128, start, most)
    slope = {experts: a + c * math.log10(experts) for experts in (start, many)}
    effective = 10 ** ((slope[many] * math.log10(5e6) + b * math.log10(many / start)) / slope[start])
    return [
        *(
            near(f"{name}: c by which experts stop paying at its {cutoff / 1e9:.0f}B", -b / math.log10(cutoff), c, 0.0005, ".4f")
            for name, (_, b, c, _, _, _, cutoff) in CLARK.items()
        ),
        near("dense size that 5M with 128 experts is worth, in millions", effective / 1e6, 55.0, 5.5, ".1f"),
    ]  # fmt: skip


OLMO_LADDER = (190_354_176, 371_262_464, 758_220_288, 1_279_395_840)  # non-embedding parameters
OLMO_TARGETS = ((6_887_575_552, 3_945_065_873_408), (13_202_396_160, 5_000_088_518_656))  # parameters, tokens
# Accuracy in points, predicted and actual, of the 7B-4T and the 13B-5T, by task; MMLU of the 32B-6T is not printed.
OLMO_TASKS = {
    "MMLU": ((48.4, 49.0), (51.3, 51.6)),
    "HellaSwag": ((82.5, 81.3), (85.3, 83.2)),
    "ARC-Challenge": ((51.5, 61.9), (52.7, 63.8)),
    "ARC-Easy": ((76.6, 84.6), (77.2, 87.2)),
    "PIQA": ((81.2, 82.0), (82.1, 83.0)),
    "CommonsenseQA": ((75.7, 72.6), (77.6, 74.1)),
    "Social IQa": ((58.7, 59.9), (59.9, 61.6)),
    "OpenBookQA": ((44.2, 49.4), (44.9, 48.6)),
}
OLMO_32B = {
    "HellaSwag": (88.0, 85.3),
    "ARC-Challenge": (53.6, 66.8),
    "ARC-Easy": (77.8, 88.8),
    "PIQA": (82.9, 83.6),
    "CommonsenseQA": (79.5, 75.4),
    "Social IQa": (61.1, 62.3),
    "OpenBookQA": (45.4, 53.2),
}
OLMO_C4 = (2.3443873, 2.4378760)  # loss on C4 of the 13B-5T, predicted and actual
# A, alpha, B, beta, E as printed; the authors' 13B-5T prediction.
OLMO_MMLU = (38.07, 0.23, 100.09, 0.24, 0.45, 0.7501562)


def olmo(folder: Path) -> list[Check]:
    """OLMo 2's 7B and 13B from runs of at most 1.3B."""
    spent = sum(6 * size * 20 * size * times for size in OLMO_LADDER for times in (1, 2, 5, 10))
    targets = [6 * size * tokens for size, tokens in OLMO_TARGETS]
    points = np.abs(np.diff(list(OLMO_TASKS.values()), axis=2))[:, :, 0].T  # (models, tasks)
    both = int((points.max(axis=0) <= 2.0 + 1e-9).sum())
    predicted, actual = np.transpose(list(OLMO_32B.values()))
    relative = float((np.abs(predicted - actual) / actual).mean())
    of_predicted = float((np.abs(predicted - actual) / predicted).mean())
    A, alpha, B, beta, E, theirs = OLMO_MMLU
    size, tokens = OLMO_TARGETS[1]
    mmlu = A / size**alpha + B / tokens**beta + E
    rounding = (
        0.005 * math.log(size) * A / size**alpha + 0.005 * math.log(tokens) * B / tokens**beta + 0.005
    ) / theirs
    return [
        near("FLOPs of the 16 ladder runs, 6ND", spent, 5.2e21, 5e19, ".2e"),
        near("their share of the 7B's", spent / targets[0], 0.032, 0.0005, ".1%"),
        near("their share of both targets'", spent / sum(targets), 0.01, 0.001, ".1%"),
        near("mean error of the 7B's eight accuracies, points", float(points[0].mean()), 3.8, 0.05, ".1f"),
        near("of the 13B's", float(points[1].mean()), 4.2, 0.05, ".1f"),
        between("tasks of which both targets are within two points", both, 3, 3, ".0f", paper=4.0),
        between("13B: loss on C4, error", OLMO_C4[0] / OLMO_C4[1] - 1, -0.0385, -0.0375, "+.1%", paper=-0.038),
        between("32B: mean error of seven accuracies, of what came", relative, 0.08, 0.09, ".2%", paper=0.0957),
        between("the same, of what was predicted", of_predicted, 0.09, 0.1, ".2%", paper=0.0957),
        between("13B: MMLU loss by the printed constants over the authors', less 1", mmlu / theirs - 1, -rounding, rounding,
                "+.1%"),
    ]  # fmt: skip


FACTS: tuple[Claim, ...] = (
    Claim(
        name="card",
        title="Kaplan's card",
        source="Kaplan et al. 2020, arXiv:2001.08361, section 6 (frontier L = (3.1e8/C)^0.050, N = 1.3e9·C^0.73); MosaicML "
        "Composer's GPT-2 model card, tables of architecture and of family members",
        says="The card predicts perplexities of 32.54, 27.84 and 24.64 for 52M, 83M and 125M.",
        found="The predictions follow from Kaplan's constants to the last digit. The card itself is inconsistent: parameters, "
        "an attention width and tokens are not those of its own models, and its outcomes fall on a flatter line than the law.",
        checks=card,
    ),
    Claim(
        name="gpt2",
        title="GPT-2's sizes",
        source="Radford et al. 2019, table 2; corrected in OpenAI's repository of GPT-2",
        says="117M, 345M, 762M and 1542M parameters at 12, 24, 36 and 48 layers.",
        found="No row is the count of its own shape; the true ones are 1.0 to 6.4 % larger.",
        checks=gpt2,
    ),
    Claim(
        name="exponents",
        title="Kaplan against Chinchilla, by counting",
        source="Pearce & Song 2024, arXiv:2406.12907, abstract: N* ~ C^0.73 (Kaplan) and C^0.50 (Chinchilla)",
        says="Counting without embeddings, at small sizes, gives Kaplan's exponent on Chinchilla's own surface.",
        found="It does: nothing but counting and range separates 0.73 from 0.50.",
        checks=exponents,
    ),
    Claim(
        name="approaches",
        title="Chinchilla's three approaches",
        source="Hoffmann et al. 2022, arXiv:2203.15556, table 2 (exponents 0.50, 0.49, 0.46) and section 4 (Chinchilla: 70B on "
        "1.4T tokens); Besiroglu et al. 2024, arXiv:2404.10102",
        says="Three approaches agree on about 70B parameters and 20 tokens per parameter for Gopher's budget.",
        found="The third does not: its printed constants give 32B. Refitted they give 72B. The second (parabolas) is biased "
        "without any noise where alpha and beta differ.",
        checks=approaches,
    ),
    Claim(
        name="marin",
        title="marin's 1e23",
        source="marin-community/marin, issues 4447 (1e21), 4697 (1e23: 2.252 predicted, 2.234 came; largest run behind it 3e20, "
        "loss 2.725), 5619 (three-point fit) and 8096 (A = 95.18, floor 1.6)",
        says="A loss of 2.252 at 1e23 FLOPs, 333 times the largest run; 2.234 came. No interval was given.",
        found="The stated constants give the prediction to 0.001 and the three-point fit to its last digit. With the floor "
        "free those three runs give 0.58 nats of floor in place of 1.6: such predictions rest on the floor that was assumed.",
        checks=marin,
    ),
    Claim(
        name="cerebras",
        title="Cerebras-GPT's FLOPs",
        source="Dey et al. 2023, arXiv:2304.03208: training table of the model cards; its law L(f) = (f/5.984e22)^-0.0737 + "
        "0.5066 as quoted by others (the PDF was not at hand)",
        says="Test loss follows one power law of compute, within 0.5 % at 13B.",
        found="It does. Its FLOPs are 1.1 (13B) to 1.4 (111M) times the exact count of the printed shapes and tokens.",
        checks=cerebras,
    ),
    Claim(
        name="clark-constants",
        title="Clark's constants",
        source="Clark et al. 2022, arXiv:2202.01169, table 3 (three ways of routing), the sizes at which routing stops to pay, "
        "and the worth of 5M with 128 experts, as quoted by others: two notes agree on the constants; the PDF was not at hand",
        says="Routing stops to pay at 937B (S-BASE), 85B (RL-R) and 83B (HASH); 5M with 128 experts is worth a dense 55M.",
        found="The constants bear it out within their last printed digit. A digit decides much: c rounded to 0.012 puts RL-R's "
        "85B at 32B and HASH's 83B at 216B.",
        checks=clark_constants,
    ),
    Claim(
        name="olmo",
        title="OLMo's 7B and 13B from at most 1.3B",
        source="Bhagia et al. 2025, arXiv:2412.04403v2, tables 1 and 5, figures 2 and 18, section C.3; loss on C4 of the 13B "
        "from allenai/OLMo-ladder, src/scripts/paper/figures/step1_c4_main.csv",
        says="Sixteen runs of 1 % of the compute predict the accuracy of both targets on four tasks within two points.",
        found="Its sums hold. By its own table HellaSwag's 13B is 2.1 points off, so it is three tasks. "
        "The relative errors of the 32B are of the prediction, not of what came as defined: 8.3 % in the mean. "
        "Loss on C4 is predicted 3.8 % too low. The losses of the 16 runs "
        "are not printed, so they cannot be fitted again here; the printed constants, of two digits, place MMLU's loss to 5 %.",
        checks=olmo,
    ),
)
