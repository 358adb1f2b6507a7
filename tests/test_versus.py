"""Does a change pay, and still when larger: the compute multiplier of two arms, its intervals, and the sealed verdict."""

import json

import numpy as np
import pytest

from families.units import BadInput
from scaling.fitting.versus import decide, versus
from scaling.runs import Run, RunTable
from scaling.scoring.versus import Kept, VersusFile, find_arms, open_verdict, seal_verdict

from .surfaces import BESIROGLU
from .test_fit_command import scaling

LARGEST = 6 * 8e7**2 * 20  # FLOPs of the largest of the four rungs


def arm(name, multiplier=1.0, trend=0.0, seed=0, sizes=(1e7, 2e7, 4e7, 8e7), noise=0.003):
    """Two runs at each size on 20 tokens per parameter, on a surface where compute counts m times."""
    rng = np.random.default_rng([seed, *name.encode()])
    runs = []
    for N in sizes:
        m = multiplier * (6 * N * 20 * N / LARGEST) ** trend
        for twin in range(2):
            loss = BESIROGLU.loss(N * m**0.5, 20 * N * m**0.5) * np.exp(noise * rng.normal())
            runs.append(Run(run=f"{name}-{N:g}-{twin}", group=name, params=N, tokens=20 * N, loss=loss))
    return RunTable(runs)


def test_a_change_that_helps_pays_and_its_multiplier_is_inside_the_interval():
    found = versus(arm("a"), arm("b", 1.3))
    there = found.at(LARGEST)
    assert found.verdict == "pays"
    assert there.interval_80[0] < 1.3 < there.interval_80[1]
    assert found.scaling == "constant"
    assert found.pays_from == pytest.approx(found.C[0])
    assert found.at(100 * LARGEST).interval_80[1] / found.at(100 * LARGEST).interval_80[0] > (
        there.interval_80[1] / there.interval_80[0]
    )


@pytest.mark.parametrize(("trend", "word"), [(0.08, "growing"), (-0.08, "shrinking")])
def test_a_multiplier_that_moves_with_scale_is_said_to(trend, word):
    found = versus(arm("a", noise=0.001), arm("b", 1.1, trend, noise=0.001))
    assert found.scaling == word
    crossing = LARGEST * 1.1 ** (-1 / trend)
    assert found.crossing == pytest.approx(crossing, rel=0.5)


def test_in_simulation_few_changes_without_effect_pay_and_most_of_15_percent_do():
    null = [versus(arm("a", seed=seed), arm("b", seed=seed)) for seed in range(20)]
    real = [versus(arm("a", seed=seed), arm("b", 1.15, seed=seed)) for seed in range(20)]
    assert sum(found.verdict == "pays" for found in null) <= 3
    assert sum(found.verdict == "pays" for found in real) >= 16
    inside = [found.at(LARGEST).interval_80[0] < 1.15 < found.at(LARGEST).interval_80[1] for found in real]
    assert 12 <= sum(inside) <= 20


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (
            arm("b").select([0]),
            "b has 1 run at 1 scale; a comparison needs at least 2 runs at 2 scales of each arm",
        ),
        (arm("b", sizes=(1e9, 2e9)), "a and b share no compute"),
        (RunTable([run.model_copy(update={"eval_set": "other"}) for run in arm("b")]), "2 eval sets"),
    ],
)
def test_arms_that_do_not_compare_are_refused(b, message):
    with pytest.raises(BadInput, match=message):
        versus(arm("a"), b, names=("a", "b"))


def test_runs_that_would_decide_are_named_with_their_cost():
    found = versus(arm("a", noise=0.01), arm("b", 1.06, noise=0.01))
    assert found.at(10 * LARGEST).verdict == "undecided"
    options = decide(found)
    best = options[0]
    assert best.decides
    assert best.flops == pytest.approx(2 * best.pairs * best.C)
    assert best.flops == min(option.flops for option in options if option.decides)
    widths = [option.half_width for option in options if option.C == best.C]
    assert max(widths) > min(widths)


def test_a_sealed_verdict_is_opened_by_larger_runs_alone_and_shows_an_edit():
    arms = arm("a"), arm("b", 1.3)
    sealed = seal_verdict(versus(*arms, names=("a", "b")), arms)
    with pytest.raises(BadInput, match="a has no new run beyond"):
        open_verdict(sealed, arms)
    larger = [RunTable([*small, *arm(name, m, sizes=(2.5e8,))]) for small, (name, m) in
              zip(arms, (("a", 1.0), ("b", 1.3)), strict=True)]  # fmt: skip
    opened = open_verdict(sealed, (larger[0], larger[1]))
    assert opened.verdict is Kept.HELD
    assert opened.new_runs == 4
    assert opened.times == pytest.approx((2.5e8 / 8e7) ** 2)
    with pytest.raises(BadInput, match="changed after sealing"):
        open_verdict(sealed.model_copy(update={"scaling": "growing"}), (larger[0], larger[1]))


def test_arms_are_groups_values_of_a_column_or_files(tmp_path):
    table = tmp_path / "runs.csv"
    rows = [f"{r.run},{r.params},{r.tokens},{r.loss},{r.group}" for name in "ab" for r in arm(name)]
    table.write_text("run,params,tokens,loss,optimizer\n" + "\n".join(rows))
    A, B = find_arms("a", "b", runs=table, by="optimizer")
    assert (len(A), len(B)) == (8, 8)
    with pytest.raises(BadInput, match="arm is 'c'; known: a, b"):
        find_arms("a", "c", runs=table, by="optimizer")
    (tmp_path / "numbers.csv").write_text(table.read_text().replace(",a", ",1").replace(",b", ",2"))
    numbered = find_arms("1", "2", runs=tmp_path / "numbers.csv", by="optimizer")
    assert [len(runs) for runs in numbered] == [8, 8]
    done = scaling("versus", "a", "b", "--runs", table, "--by", "optimizer", "--json", "--seal", tmp_path / "v.json",
                   "--plot", tmp_path / "v.svg")  # fmt: skip
    answer = json.loads(done.stdout)
    assert answer["verdict"] in ("pays", "costs", "undecided")
    assert VersusFile.read(tmp_path / "v.json").names == ("a", "b")
    assert "b over a: " in (tmp_path / "v.svg").read_text()
    spaced, joined = (
        scaling("next", "--versus", *arms, "--runs", table, "--by", "optimizer")
        for arms in (("a", "b"), ("a,b",))
    )
    assert spaced.returncode == 0
    assert spaced.stdout == joined.stdout != ""
