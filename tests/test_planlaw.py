"""Planning with a law fitted on one's own runs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from families import accounting
from families.design import DesignRule, design_family
from families.units import BadInput
from scaling.budget import parse_budget
from scaling.fitting.fit import fit
from scaling.fitting.forms import ResidualGP
from scaling.laws import Law
from scaling.planning.candidates import candidates
from scaling.planning.evaluate import Objective, evaluate_candidates
from scaling.planning.law import find_law
from scaling.planning.plan import make_plan
from scaling.runs import Run
from scaling.runs.store import append_run

TRUTH = Law(E=2.0, A=60.0, B=300.0, alpha=0.35, beta=0.4)
RULE = DesignRule(ratio=32, head_size=16, n_positions=128, vocab_size=1024)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Five members on five token counts each, 0.3 % of run noise, on an A100 at an MFU of 0.21."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    runs = []
    for member in design_family(RULE, (32, 48, 64, 96, 128)).members:
        spec, size = member.spec, accounting.params(member.spec)
        for tokens in (2e5, 5e5, 1e6, 2e6, 4e6):
            compute = accounting.train_flops(spec, tokens)
            runs.append(
                Run(
                    run=member.name,
                    params=size,
                    tokens=tokens,
                    loss=TRUTH.loss(size, tokens) * math.exp(0.003 * rng.standard_normal()),
                    compute=compute,
                    compute_kind="exact",
                    n_layer=spec.n_layer,
                    n_head=spec.n_head,
                    n_embd=spec.n_embd,
                    n_positions=spec.n_positions,
                    vocab_size=spec.vocab_size,
                    wall_s=compute / (312e12 * 0.21),
                    accelerator="NVIDIA A100-SXM4-80GB",
                )
            )
    for run in runs:
        append_run(folder / "runs.jsonl", run)
    fit(runs, seed=0).save(folder / "law.json")
    return folder


def test_a_studys_own_law_is_the_default_and_plans_with_intervals(study):
    law = find_law(None, study)
    assert law.name == "law.json"
    chosen = make_plan(parse_budget("3e13"), law, candidates("all", RULE)).recommended
    assert (
        chosen.interval_95[0]
        < chosen.interval_80[0]
        < chosen.loss
        < chosen.interval_80[1]
        < chosen.interval_95[1]
    )
    assert chosen.interval_95[0] < TRUTH.loss(chosen.params, chosen.tokens) < chosen.interval_95[1]
    assert chosen.params == pytest.approx(TRUTH.allocate(3e13).N, rel=0.5)
    assert chosen.extrapolation > 1


def test_tokens_for_a_loss_invert_the_fitted_law(study):
    law = find_law(None, study)
    sizes = np.array([5e5, 1e6, 1e7, 10.0])
    tokens = law.tokens_for(sizes, 3.0)
    assert law.loss(sizes[:3], tokens[:3]) == pytest.approx(3.0, rel=1e-9)
    assert tokens[3] == math.inf
    assert 1.8 < law.irreducible < 2.2


def test_a_planned_target_is_what_the_law_then_predicts_of_the_member(study):
    law = find_law(None, study)
    assert len(law.local.log_N), "the study's rows leave residuals to correct by"
    plan = make_plan(parse_budget("1e13"), law, candidates("all", RULE), ask=Objective(target=3.0))
    for choice in (plan.recommended, *(member.choice for member in plan.band.members)):
        assert law.predict(choice.N, choice.tokens).loss == choice.loss == pytest.approx(3.0, rel=1e-7)
    smooth = replace(law, local=ResidualGP.nothing()).tokens_for(plan.recommended.N, 3.0)
    assert law.loss(plan.recommended.N, float(smooth)) != pytest.approx(3.0, rel=1e-6)


def test_a_target_with_data_that_runs_out_is_met_too(study):
    law = find_law(None, study)
    asked = Objective(target=3.0, tokens_available=2e6)
    costed = evaluate_candidates(asked, law, candidates("all", RULE))
    best = costed.best()
    assert costed.tokens[best] > 2e6
    assert law.loss(costed.N[best], costed.tokens[best], unique_tokens=2e6) == pytest.approx(3.0, rel=1e-7)


def test_a_target_below_the_fitted_irreducible_loss_shows_its_interval(study):
    with pytest.raises(BadInput, match=r"E = [12]\.\d+ nats/token \(80 % interval"):
        evaluate_candidates(Objective(target=1.5), find_law(None, study), candidates("all", RULE))


def test_a_thousand_times_beyond_the_data_is_refused_unless_forced(study):
    budget, shapes = parse_budget("1e20"), candidates("all", RULE)
    with pytest.raises(BadInput, match="unless forced"):
        make_plan(budget, find_law(None, study), shapes)
    assert make_plan(budget, find_law(None, study), shapes, force=True).recommended


def test_the_command_takes_shapes_law_and_mfu_from_the_study(study, cli, tmp_path):
    out = tmp_path / "plan.json"
    result = cli("plan", "--study", str(study), "--budget", "A100-min", "--out", str(out), "--json")
    value = json.loads(result.stdout)
    chosen = value["recommended"]
    assert (chosen["vocab_size"], chosen["n_positions"]) == (1024, 128)
    assert chosen["n_embd"] // chosen["n_head"] == 16
    assert (value["mfu_source"], value["mfu"]) == ("measured", pytest.approx(0.21, rel=1e-3))
    written = json.loads(out.read_text())
    assert set(written["inputs"]) == {"law.json"}
    assert written["seal"]["law_sha256"] == written["inputs"]["law.json"] == value["law"]["sha256"]


def test_a_fit_that_did_not_converge_is_not_planned_with(study, tmp_path):
    value = json.loads((study / "law.json").read_text())
    value["status"] = "not_converged"
    (tmp_path / "law.json").write_text(json.dumps(value))
    with pytest.raises(BadInput, match="did not converge"):
        find_law(str(tmp_path / "law.json"), None)
