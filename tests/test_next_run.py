"""Which run to do next, given the runs there are."""

import json
import math

import numpy as np
import pytest

from families import accounting
from families.design import DesignRule, design_family
from families.units import BadInput
from scaling.fitting.fit import fit
from scaling.laws import Law
from scaling.planning import next_run
from scaling.planning.candidates import candidates
from scaling.planning.experiment_design import NextRunQuery, advise
from scaling.planning.next_run import advise_study
from scaling.runs import Run
from scaling.runs.store import append_run

from .core import in_process

LAW = Law(E=2.0, A=60.0, B=300.0, alpha=0.35, beta=0.4)
RULE = DesignRule(ratio=32, head_size=16, n_positions=128, vocab_size=1024)
SHAPES = candidates("all", RULE)
TARGET = (5e6, 8e7)


def runs_of(widths):
    found = []
    for member in design_family(RULE, widths).members:
        size = accounting.params(member.spec)
        for tokens in (1e6, 2e6, 4e6):
            loss = LAW.loss(size, tokens)
            spec = member.spec
            shape = {"n_layer": spec.n_layer, "n_embd": spec.n_embd, "n_head": spec.n_head}
            where = {"n_positions": spec.n_positions, "vocab_size": spec.vocab_size}
            found.append(Run(run=member.name, params=size, tokens=tokens, loss=loss, **shape, **where))
    return found


def ask(runs, budget=2e14):
    sizes = SHAPES.params.astype(float)
    return advise(runs, LAW, SHAPES, sizes, target=TARGET, budget=budget, convention="total")


def test_every_offer_narrows_and_the_best_saves_most_per_flop():
    advice = ask(runs_of((32, 48, 64, 96)))
    assert all(offer.half_width_80 < advice.half_width_80 for offer in advice.offers)
    saved = [offer.saved_per_flop for offer in advice.offers]
    assert saved == sorted(saved, reverse=True)
    assert all(offer.ladder.flops <= 2e14 * (1 + 1e-9) for offer in advice.offers)
    assert len({offer.ladder.member.name for offer in advice.offers}) == len(advice.offers) == 5


def test_more_runs_leave_less_to_learn():
    few, many = ask(runs_of((32, 64))), ask(runs_of((32, 48, 64, 96, 128, 160)))
    assert many.half_width_80 < few.half_width_80


def test_mid_schedule_points_tell_nothing():
    runs = runs_of((32, 48, 64, 96))
    unfinished = [run.model_copy(update={"run": f"{run.run}-x", "annealed": False}) for run in runs]
    assert ask(runs + unfinished).half_width_80 == ask(runs).half_width_80


def test_a_budget_for_nothing_is_refused():
    with pytest.raises(BadInput, match="no ladder"):
        ask(runs_of((32, 48)), budget=1e6)


def test_runs_of_another_text_tell_nothing(tmp_path):
    ours = [run.model_copy(update={"group": "ours"}) for run in runs_of((32, 48, 64, 96, 128))]
    fit(ours).save(tmp_path / "law.json")
    request = NextRunQuery(study=tmp_path, target="5M", tokens="80M")
    found = []
    for group in ("ours", "another"):
        for run in ours:
            append_run(tmp_path / "runs.jsonl", run.model_copy(update={"group": group}))
        found.append(advise_study(request))
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def noisy():
    rng = np.random.default_rng(0)
    return [
        run.model_copy(update={"loss": run.loss * math.exp(0.003 * rng.standard_normal())})
        for run in runs_of((32, 48, 64, 96, 128))
    ]


def test_the_promised_interval_is_the_one_that_a_fit_gives_with_those_rows(noisy):
    """The design asks the fit itself, so the two cannot drift apart."""
    law = fit(noisy, bootstrap=next_run.DRAWS)
    advice = next_run.advise_fit(law, noisy, SHAPES, target=TARGET, budget=2e14)

    def half(found):
        told = found.predict(*TARGET, force=True)
        return (told.interval_80[1] - told.interval_80[0]) / 2 / told.loss

    assert advice.half_width_80 == pytest.approx(half(law), rel=1e-12)
    offer = advice.offers[0]
    rows = [
        noisy[0].model_copy(
            update={"run": "next", "params": float(N), "tokens": float(D), "loss": float(law.loss(N, D))}
        )
        for N, D in zip(*offer.ladder.points, strict=True)
    ]
    assert offer.half_width_80 == pytest.approx(
        half(fit([*noisy, *rows], bootstrap=next_run.DRAWS)), rel=1e-3
    )


def test_where_no_run_narrows_the_interval_that_is_said(noisy, tmp_path, monkeypatch):
    for run in noisy:
        append_run(tmp_path / "runs.jsonl", run)
    fit(noisy, bootstrap=40).save(tmp_path / "law.json")
    monkeypatch.setattr(next_run, "LEAST_HELP", 1.0)
    told = in_process(f"next --study {tmp_path} --target 5M --tokens 80M")
    assert told.status == 0
    assert "none of these helps" in told.out


def test_the_command_advises_on_a_study(cli, noisy, tmp_path):
    for run in noisy:
        append_run(tmp_path / "runs.jsonl", run)
    fit(noisy, seed=0).save(tmp_path / "law.json")
    value = json.loads(
        cli("next", "--study", str(tmp_path), "--target", "5M", "--tokens", "80M", "--json").stdout
    )
    assert 1 <= len(value["offers"]) <= next_run.TRIED
    assert all(offer["half_width_80"] < value["half_width_80"] for offer in value["offers"])
    missing = cli("next", "--study", str(tmp_path / "no"), "--target", "5M", "--tokens", "80M")
    assert missing.returncode == 2
    assert "does not exist" in missing.stderr
