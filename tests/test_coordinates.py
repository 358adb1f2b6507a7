"""Coordinates of a law besides N and D: learning rate and batch from all runs, multipliers, terms, and what is refused."""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from families import ModelSpec, params
from families.units import BadInput
from scaling.fitting.columns import FEWEST_PER_ARM, choose, columns_of
from scaling.fitting.coordinates import Scatter, multiplier, setting, shift_of, term
from scaling.fitting.fit import fit
from scaling.fitting.joint import LAW, Rows, model, prior_of
from scaling.fitting.predictor import load_law
from scaling.fitting.reduction import reduce_rows, scatters
from scaling.fitting.valley import best_settings, best_vocabulary
from scaling.planning.law import advise
from scaling.published_laws import published_law
from scaling.recipe import DEFAULT_RULE
from scaling.runs import Run, RunTable
from scaling.runs.readers import read_runs
from scaling.stats import ONE_THREAD, products

from .surfaces import BESIROGLU, grid
from .test_fit_command import scaling

LR = (1.6e-3, -0.6, 0.3)  # at N 1e8, D 2e9, and its slopes
BATCH = (2.6e5, 0.0, 0.55)


def best(constants, N, D):
    at, by_N, by_D = constants
    return at * (N / 1e8) ** by_N * (D / 2e9) ** by_D


def swept(noise=0.002, seed=0, factors=(0.25, 0.6, 1.5, 4.0), coupled=0.4, **fixed):
    """Runs in a valley of learning rate and batch whose bottom moves with N and D."""
    rng = np.random.default_rng(seed)
    runs = []
    for N, ratio in itertools.product((2e7, 6e7, 2e8), (10, 30, 90)):
        D = N * ratio
        for a, b in itertools.product(factors, (0.3, 1.0, 3.0)):
            lr, batch = best(LR, N, D) * a * b**coupled, best(BATCH, N, D) * b
            share = 0.5 * 0.02 * np.log(a) ** 2 + 0.5 * 0.015 * np.log(b) ** 2
            loss = BESIROGLU.loss(N, D) * np.exp(share + noise * rng.normal())
            runs.append(
                Run(
                    run=f"{len(runs)}",
                    params=N,
                    tokens=D,
                    loss=loss,
                    **{"lr": lr, "batch_tokens": batch} | fixed,
                )
            )
    return runs


@pytest.fixture(scope="module")
def fitted():
    return fit(swept(), bootstrap=40)


def test_learning_rate_and_batch_are_found_from_all_runs(fitted):
    assert fitted.coordinates == ("batch_tokens", "lr")
    N, D = 6e8, 6e8 * 30  # three times the largest run
    for name, truth in (("lr", LR), ("batch_tokens", BATCH)):
        found = fitted.best(name, N, D)
        assert found.value == pytest.approx(best(truth, N, D), rel=0.15)
        low, high = found.interval_80
        assert low < found.value < high
    part = fitted.fitted_coordinates.parts[1]
    assert part.constant("N") == pytest.approx(LR[1], abs=0.06)
    assert part.constant("batch_tokens") == pytest.approx(0.4, abs=0.05)
    assert np.exp(part.constant("log_kappa")) == pytest.approx(0.02, rel=0.15)


def test_a_setting_left_out_is_at_its_best(fitted):
    N, D = 3e8, 9e9
    lr, batch = fitted.best("lr", N, D).value, fitted.best("batch_tokens", N, D).value
    alone = fitted.predict(N, D)
    there = fitted.predict(N, D, lr=lr, batch_tokens=batch)
    assert there.loss == pytest.approx(alone.loss, rel=1e-9)
    assert alone.loss == pytest.approx(BESIROGLU.loss(N, D), rel=0.01)
    off = fitted.predict(N, D, lr=8 * lr, batch_tokens=batch)
    assert off.loss / alone.loss == pytest.approx(np.exp(0.01 * np.log(8) ** 2), rel=0.01)
    assert np.ptp(off.interval_80) > np.ptp(there.interval_80)


LEVEL = 5.5  # nats per token of diverged runs


def scan(seed, *, diverging=True, count=400):
    """Runs at random learning rates; of those far above a threshold of N^-0.3 most diverge, and end near one loss."""
    rng = np.random.default_rng([seed, 5])
    runs = []
    for index in range(count):
        N = 2e7 * 10 ** rng.uniform(0, 1.5)
        D = N * 10 ** rng.uniform(0.8, 1.8)
        d = rng.uniform(-3, 3.5)
        over = d + 0.3 * np.log(N / 1e8) - 1.5
        loss = BESIROGLU.loss(N, D) * np.exp(0.01 * d**2 + (0.003 + 0.005 * abs(d)) * rng.normal())
        if diverging and rng.uniform() < 1 / (1 + np.exp(-over / 0.25)):
            loss = LEVEL * np.exp(0.05 * rng.normal())
        runs.append(Run(run=f"r{index}", params=N, tokens=D, loss=loss, lr=best(LR, N, D) * np.exp(d)))
    return RunTable(runs)


def test_runs_that_diverged_are_no_part_of_the_valley_and_are_foreseen(tmp_path):
    law, new = fit(scan(0), bootstrap=40), scan(1)
    found = law.fitted_coordinates
    part = found.parts[0]
    assert (part.constant("N"), part.constant("D")) == pytest.approx(LR[1:], abs=0.1)
    assert np.exp(part.constant("log_kappa")) == pytest.approx(0.02, rel=0.2)  # 0.04 with the diverged runs
    assert np.exp(found.divergence.level) == pytest.approx(LEVEL, rel=0.02)
    assert "diverged, to a loss of about 5.5" in law.card["coordinates"]
    law.save(tmp_path / "law.json")
    answer, again = (
        one.predict(new.N, new.D, own={"lr": new.column("lr")})
        for one in (law, load_law(tmp_path / "law.json"))
    )
    assert (answer.loss == again.loss).all()
    low, high = answer.interval_80
    held = (low < new.L) & (high > new.L)
    assert 0.72 <= held.mean() <= 0.88
    N, D = 1e8, 3e9
    at = best(LR, N, D) * np.exp([0.0, 1.5, 3.5])
    sure, unsure, lost = (law.predict(N, D, lr=lr) for lr in at)
    assert sure.loss == pytest.approx(BESIROGLU.loss(N, D), rel=0.01)
    assert lost.loss == pytest.approx(LEVEL, rel=0.03)
    assert unsure.interval_80[0] < 1.1 * sure.loss
    assert unsure.interval_80[1] > 0.9 * LEVEL
    assert law.loss(N, D, own={"lr": at[1]}) == pytest.approx(unsure.loss)
    assert sure.interval_80[1] < 1.1 * sure.loss


def test_a_steep_valley_without_a_plateau_has_no_diverged_runs(fitted):
    assert fitted.fitted_coordinates.divergence is None
    steep = [
        run.model_copy(
            update={"loss": run.loss * np.exp(0.05 * np.log(run.lr / best(LR, run.params, run.tokens)) ** 2)}
        )
        for run in scan(0, diverging=False)
    ]
    assert max(run.loss / BESIROGLU.loss(run.params, run.tokens) for run in steep) > 1.5
    assert fit(RunTable(steep), bootstrap=0).fitted_coordinates.divergence is None


def test_the_card_states_the_best_settings_at_1_10_and_100_times_the_data(fitted):
    assert [at.C / fitted.domain.C[1] for at in best_settings(fitted)] == pytest.approx([1, 10, 100])
    assert "lr*" in fitted.card["best at 100x the data"]
    assert "used: rollout error" in fitted.card["coordinates"]


def test_a_law_file_predicts_as_the_fit_does(fitted, tmp_path):
    fitted.save(tmp_path / "law.json")
    again = load_law(tmp_path / "law.json")
    for settings in ({}, {"lr": 3e-3}, {"lr": 1e-3, "batch_tokens": 2e5}):
        ours, theirs = (law.predict(1e8, 5e9, **settings) for law in (fitted, again))
        assert (ours.loss, ours.interval_80) == (theirs.loss, theirs.interval_80)
    assert again.best("lr", 1e8, 5e9) == fitted.best("lr", 1e8, 5e9)


def test_a_law_file_of_one_misfit_for_both_sides_still_predicts(fitted, tmp_path):
    fitted.save(tmp_path / "law.json")
    stored = json.loads((tmp_path / "law.json").read_text())
    for side in ("below", "above"):
        del stored["coordinates"][side]
    stored["coordinates"]["misfit"] = 0.5
    (tmp_path / "law.json").write_text(json.dumps(stored))
    found = load_law(tmp_path / "law.json").fitted_coordinates
    assert found.below == found.above == Scatter(size=0.5)


def test_each_side_of_a_valley_has_its_own_scatter_and_a_few_wild_rows_do_not_make_it():
    rng = np.random.default_rng(5)
    share = np.geomspace(0.03, 0.6, 200)
    high = np.arange(200) % 2 == 0
    residual = rng.normal(size=200) * np.where(high, 0.5, 0.1) * share
    residual[:6] = 0.9
    below, above = scatters(residual, share, np.where(high, share, 0.0), 0.002)
    at = np.array([0.2])
    assert below.at(at) == pytest.approx(0.02, rel=0.35)
    assert above.at(at) == pytest.approx(0.1, rel=0.35)
    few = scatters(residual[:20], share[:20], np.zeros(20), 0.002)
    assert few[0] == few[1], "a side without rows has the scatter of both"


@pytest.mark.parametrize(("power", "size"), [(1.0, 0.4), (0.5, 0.05)])
def test_intervals_at_given_settings_hold_four_in_five_new_runs_near_and_far(power, size):
    """Runs scatter the more, the farther they are from the bottom: in proportion, or as its root."""
    inside = np.array([held_at_settings(power, size, seed) for seed in range(2)])
    near, far, every = inside.mean(axis=0)
    assert 0.72 <= every <= 0.88
    assert min(near, far) >= 0.65
    assert max(near, far) < 1


def held_at_settings(power, size, seed):
    """Share of new runs in 80 % intervals: up to 5 % up their valley, above it, and all from 2 % on."""
    rng = np.random.default_rng([seed, 16])
    smooth = swept(0.0, factors=(0.1, 0.25, 0.6, 1.0, 1.5, 4.0))
    share = np.array([np.log(run.loss / BESIROGLU.loss(run.params, run.tokens)) for run in smooth])

    def scattered():
        factor = np.exp(rng.normal(size=len(share)) * np.hypot(0.003, size * share**power))
        pairs = zip(smooth, factor, strict=True)
        return RunTable([run.model_copy(update={"loss": run.loss * by}) for run, by in pairs])

    law, new = fit(scattered(), bootstrap=40), scattered()
    low, high = law.predict(new.N, new.D, own=columns_of(law.fitted_coordinates, new)).interval_80
    held, far = (low < new.L) & (high > new.L), share >= 0.05
    off = share > 0.02
    return held[off & ~far].mean(), held[far].mean(), held[off].mean()


def test_a_table_without_such_columns_gives_the_law_of_n_and_d_alone():
    runs = grid(BESIROGLU, count=4, noise=0.005)
    with_all = [run.model_copy(update={"lr": 1e-3, "batch_tokens": 2.0**18}) for run in runs]
    plain = fit(runs, bootstrap=8).document().model_dump(mode="json")
    none = fit(runs, bootstrap=8, coordinates=()).document().model_dump(mode="json")
    constant = fit(with_all, bootstrap=8).document().model_dump(mode="json")
    for document in (plain, none, constant):
        del document["created_at"]
    assert "coordinates" not in plain
    assert json.dumps(plain) == json.dumps(none)
    assert "lr left out: it is 0.001 in every row" in constant["card"].pop("coordinates")
    assert json.dumps(plain) == json.dumps(constant)


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        (swept(lr=1e-3), "lr: it is 0.001 in every row"),
        ([run.model_copy(update={"lr": run.params**-0.4}) for run in swept()], "lr: the runs have nearly one value"),
        ([run.model_copy(update={"lr": run.params**-0.4 * run.tokens**0.3}) for run in swept()],
         "lr: N and D nearly determine it"),
        (swept(factors=(0.03, 0.06, 0.12), coupled=0.0), "lr: the best is at least .* that is a bound"),
        ([run.model_copy(update={"batch_tokens": 0.001 * run.params**0.5 * (1 + i % 4)})
          for i, run in enumerate(swept())], "batch_tokens: the median run would have .* steps: is it in sequences"),
        ([run.model_copy(update={"lr": None} if i % 2 else {}) for i, run in enumerate(swept())],
         "lr: 54 of 108 rows have no lr"),
    ],
    ids=["constant", "one value per size", "a rule of N and D", "never reaches its best", "sequences", "missing in some rows"],
)  # fmt: skip
def test_what_the_runs_cannot_carry_is_left_out_with_the_reason_or_refused_when_asked_for(runs, reason):
    name, _, text = reason.partition(": ")
    table = RunTable.of(runs)
    reduced, reasons = reduce_rows(table, choose(table, None, {}, 0), bootstrap=0, seed=0)
    assert re.match(f"left out: {text}", reasons[name])
    assert reduced is None or name not in reduced.coordinates.names
    with pytest.raises(BadInput, match=f"coordinate {name}: {text}"):
        fit(runs, bootstrap=0, coordinates=[name])


def test_columns_of_the_users_own_multiply_the_compute_or_add_a_setting():
    rng = np.random.default_rng(1)
    runs = [
        run.model_copy(
            update={
                "extra": {"optimizer": arm},
                "loss": BESIROGLU.loss(run.params * gain**0.5, run.tokens * gain**0.5)
                * np.exp(0.001 * rng.normal()),
            }
        )
        for run in grid(BESIROGLU, count=4)
        for arm, gain in (("adamw", 1.0), ("muon", 1.3))
    ]
    found = fit(runs, bootstrap=0, own={"optimizer": "multiplier"})
    assert np.exp(found.fitted_coordinates.parts[0].constant("power")) == pytest.approx(1.3, rel=0.04)
    ours, theirs = (found.predict(1e8, 2e9, own={"optimizer": arm}).loss for arm in ("muon", "adamw"))
    assert ours < theirs == pytest.approx(found.predict(1e8, 2e9).loss)
    lone = [*runs[::2], runs[1]]
    with pytest.raises(BadInput, match=f"'muon' has 1 run; an arm needs at least {FEWEST_PER_ARM}"):
        fit(lone, bootstrap=0, own={"optimizer": None})


def test_a_coordinate_that_a_law_does_not_have_is_refused(fitted):
    for law, message in ((published_law("chinchilla"), "N and D alone"), (fitted, "no coordinate 'dropout'")):
        with pytest.raises(BadInput, match=message):
            law.predict(1e9, 2e10, own={"dropout": 0.1})
    with pytest.raises(BadInput, match="no best 'weight_decay'"):
        fitted.best("weight_decay", 1e9, 2e10)
    with pytest.raises(BadInput, match="coordinates has 'lrr'; did you mean lr"):
        fit(swept(), coordinates=["lrr"])


PARTS = {
    "setting": [setting("b"), setting("lr", ("b",))],
    "multiplier": [multiplier("x", "C"), multiplier("e", saturating=True)],
    "logarithm": [multiplier("x", "C").shaped("log", 0.5)],
    "shares": [multiplier(name, "D").shaped("sum", 0.4) for name in ("r1", "r2")],
    "exponential": [multiplier(name, "D").shaped("exponential", 0.4) for name in ("r1", "r2")],
    "term": [term("v", reference=2.0)],
}


@pytest.mark.parametrize("kind", PARTS)
def test_derivatives_are_those_of_central_differences(kind):
    rng = np.random.default_rng(2)
    parts = PARTS[kind]
    columns = {part.key: rng.uniform(0.5, 3, 9) for part in parts}
    rows = Rows.of(
        np.geomspace(1e7, 1e9, 9), np.geomspace(1e10, 1e9, 9), np.full(9, 3.0), columns, np.arange(9)
    )
    q = prior_of(parts, rows)[0] + rng.normal(0, 0.2, LAW + sum(len(part.names) for part in parts))
    _, by, _ = model(parts, q, rows)
    for index, step in enumerate(1e-5 * np.eye(len(q))):
        up, down = (model(parts, q + sign * step, rows)[0] for sign in (1, -1))
        assert by[index] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-8)


def test_a_point_without_any_value_is_where_the_law_of_n_and_d_is():
    parts = [part for some in PARTS.values() for part in some]
    count = sum(len(part.names) for part in parts)
    shift = shift_of(parts, np.ones(count), np.zeros(3), np.zeros(3), {})
    assert not any(values.any() for values in (shift.dx, shift.dz, shift.share, shift.add))


def test_the_command_line_takes_coordinates_and_columns_of_the_users_own(tmp_path):
    lines = ["run,params,tokens,loss,lr,batch_tokens,warm"]
    for index, run in enumerate(swept()):
        lines.append(
            f"{run.run},{run.params},{run.tokens},{run.loss},{run.lr},{run.batch_tokens},{1 + index % 3}"
        )
    (tmp_path / "runs.csv").write_text("\n".join(lines))
    done = scaling("fit", "runs.csv", "--bootstrap", "8", "--out", "law.json", cwd=tmp_path)
    assert done.returncode == 0
    assert "best at 10x the data" in done.stdout
    said = scaling("predict", "law.json", "params=1e8", "tokens=2e9", "lr=1e-2", "--json", cwd=tmp_path)
    answer = json.loads(said.stdout)
    assert answer["settings"] == {"lr": "1e-2"}
    assert answer["best_settings"]["lr"] == pytest.approx(LR[0], rel=0.1)
    wrong = scaling("fit", "runs.csv", "--with", "warmm", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "did you mean warm" in wrong.stderr
    assert read_runs(tmp_path / "runs.csv", own_columns=["warm"])[1].column("warm") == 2


def test_a_plan_takes_learning_rate_and_batch_from_the_studys_own_law(fitted):
    spec = ModelSpec(n_layer=8, n_head=8, n_embd=512, n_positions=1024, vocab_size=8192)
    N, D = float(params(spec)), 2e9
    found, plain = advise(fitted, spec, D), advise(published_law("chinchilla"), spec, D)
    assert (found.rule, plain.rule) == ("law", DEFAULT_RULE)
    assert found.batch_tokens == pytest.approx(fitted.best("batch_tokens", N, D).value, rel=0.02)
    assert found.lr == pytest.approx(fitted.best("lr", N, D, batch_tokens=found.batch_tokens).value, rel=0.01)
    assert advise(fitted, spec, D, rule="porian").rule == "porian"


def test_training_without_a_plan_takes_them_from_the_studys_law_and_says_so(fitted, tmp_path):
    from scaling.paths import StudyPaths
    from train.config import TrainConfig
    from train.jobs.launch import tuned_law
    from train.settings import TextFacts, settings_of

    words = {
        "family": "own",
        "data": "text",
        "tokens": 2_000_000_000,
        "n_layer": 8,
        "n_head": 8,
        "n_embd": 512,
    }
    config = TrainConfig.model_validate({**words, "vocab_size": 8192, "n_positions": 1024})
    study, said = StudyPaths(tmp_path), []
    assert tuned_law(config, study, said.append) is None
    fitted.save(study.law)
    law = tuned_law(config, study, said.append)
    N, D = float(params(config.spec())), 2e9
    found, plain = (settings_of(config, TextFacts(), "cpu", at) for at in (law, None))
    assert found.batch_tokens == pytest.approx(fitted.best("batch_tokens", N, D).value, rel=0.02)
    assert found.lr == pytest.approx(fitted.best("lr", N, D, batch_tokens=found.batch_tokens).value, rel=0.01)
    assert found.lr != plain.lr
    assert found.recipe.startswith("the law's own best settings")
    own = settings_of(config.model_copy(update={"batch_size": 64}), TextFacts(), "cpu", law)
    assert own.lr == pytest.approx(fitted.best("lr", N, D, batch_tokens=65536).value, rel=0.01)
    for update in ({"optimizer": "muon"}, {"init": "model"}, {"lr": 1e-3, "batch_size": 8}):
        assert tuned_law(config.model_copy(update=update), study, said.append) is None
    assert not said
    study.law.write_text("{}")
    assert tuned_law(config, study, said.append) is None
    assert "by the recipe's rule" in said[0]


def test_experts_multiply_the_parameters_and_the_best_vocabulary_grows_with_the_budget():
    rng = np.random.default_rng(3)
    experts = [
        Run(run=f"{N:g}-{E}-{D:g}", params=N, tokens=D, n_experts=E,
            loss=BESIROGLU.loss(N * E**0.4, D) * np.exp(0.001 * rng.normal()))
        for N in np.geomspace(1e7, 3e8, 4) for D in (2e9, 2e10) for E in (1, 4, 16, 64)
    ]  # fmt: skip
    found = fit(experts, bootstrap=0)
    assert found.coordinates == ("n_experts",)
    two = fit([run for run in experts if run.n_experts in (1, 16)], bootstrap=0, coordinates=["n_experts"])
    assert two.fitted_coordinates.parts[0].constant("power") == pytest.approx(0.4, abs=0.02)
    ours, truth = found.predict(1e9, 2e10, n_experts=16).loss, BESIROGLU.loss(1e9 * 16**0.4, 2e10)
    assert ours == pytest.approx(truth, rel=0.01)
    words = [
        Run(run=f"{N:g}-{V}-{D:g}", params_non_embedding=N, tokens=D, vocab_size=V,
            loss=BESIROGLU.loss(N, D) + 30 * V**-0.5 * np.exp(0.001 * rng.normal()))
        for N in np.geomspace(1e7, 3e8, 4) for D in (2e9, 2e10) for V in (2048, 8192, 32768)
    ]  # fmt: skip
    law = fit(words, bootstrap=0, coordinates=["vocab_size"])
    assert law.fitted_coordinates.parts[0].constant("exponent") == pytest.approx(0.5, abs=0.1)
    sizes = [best_vocabulary(law, C).vocab_size for C in (1e19, 1e20, 1e21)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 1.5 * sizes[0]
    with pytest.raises(BadInput, match="no term of vocab_size"):
        best_vocabulary(found, 1e20)


def test_loss_by_parallel_streams_is_predicted_for_streams_that_were_not_tried(tmp_path):
    """Chen et al. 2025: L = E + (A/(N·(k·ln P + 1)))^alpha, tables without tokens."""

    def loss(N, P):
        return 1.29 + (1.9e8 / (N * (0.334 * np.log(P) + 1))) ** 0.196

    sizes, rng = (5e8, 7e8, 1.1e9, 1.6e9, 2.6e9, 4.4e9), np.random.default_rng(0)
    rows = [f"{N:.0f},{P},{loss(N, P) * np.exp(0.0005 * rng.normal())}" for N in sizes for P in (1, 2, 4)]
    (tmp_path / "runs.csv").write_text("num_params,parallel_size,loss\n" + "\n".join(rows))
    done = scaling("fit", "runs.csv", "--columns", "params=num_params", "--with", "parallel_size:multiplier",
                   "--bootstrap", "8", "--out", "law.json", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0
    law = load_law(tmp_path / "law.json")
    (part,) = law.fitted_coordinates.parts
    assert (law.variable, part.shape) == ("N", "log")
    found = np.array([law.predict(N, 1.0, own={"parallel_size": 8}).loss for N in sizes])
    assert found == pytest.approx([loss(N, 8) for N in sizes], rel=0.004)
    said = scaling("predict", "law.json", "params=4.4B", "parallel_size=8", cwd=tmp_path)
    assert "4.4B parameters" in said.stdout
    assert "parallel_size 8 lies outside the values of the runs, 1 to 4" in said.stderr


@pytest.mark.parametrize("shape", ["exponential", "sum"])
def test_the_loss_of_mixtures_of_domains_is_predicted_from_the_shares_of_others(shape):
    """Ye et al. 2024: L = c + k·exp(Σ t·r); or tokens of a domain that count by a weight."""
    rng = np.random.default_rng(2)
    t, w = np.array([-2.5, 0.2, -0.8]), np.array([1.0, 0.05, 0.3])

    def loss(N, r):
        effect = 0.9 * np.exp(r @ t) if shape == "exponential" else 0.5 * (r @ w + 0.02) ** -0.3
        return 1.7 + 0.4 * (N / 1e8) ** -0.3 + effect

    def runs(count):
        return [
            Run(run=f"{N}-{i}", params=N, tokens=3e10, loss=loss(N, r) * np.exp(0.002 * rng.normal()),
                extra={f"share_{j}": float(r[j]) for j in range(3)})
            for N in (7e7, 2e8, 1e9) for i, r in enumerate(rng.dirichlet(np.ones(3), count))
        ]  # fmt: skip

    law = fit(runs(14), bootstrap=0, own={f"share_{j}": "share" for j in range(3)})
    assert {part.shape for part in law.fitted_coordinates.parts} == {shape}
    held = RunTable(runs(10))
    own = {f"share_{j}": held.column(f"share_{j}") for j in range(3)}
    found = law.predict(held.N, held.D, own=own).loss
    assert 1 - ((found - held.L) ** 2).sum() / ((held.L - held.L.mean()) ** 2).sum() > 0.97
    again = load_law_text(law)
    assert again.predict(
        1e9, 3e10, own={"share_0": 0.0, "share_1": 0.5, "share_2": 0.5}
    ).loss == pytest.approx(
        law.predict(1e9, 3e10, own={"share_0": 0.0, "share_1": 0.5, "share_2": 0.5}).loss, rel=1e-9
    )
    with pytest.raises(BadInput, match="share_0 is 30; a share must be between 0 and 1"):
        law.predict(1e9, 3e10, own={"share_0": 30.0})
    with pytest.raises(BadInput, match="share_0 is '30%'; it must be a number"):
        law.predict(1e9, 3e10, own={"share_0": "30%"})
    with pytest.raises(
        BadInput, match=r"the shares sum to 1.*, with share_1, share_2 at the mean of the runs"
    ):
        law.predict(1e9, 3e10, own={"share_0": 0.9})


def load_law_text(law):
    from scaling.fitting.lawfile import CoordinatesRecord

    record = CoordinatesRecord.model_validate_json(
        CoordinatesRecord.of(law.fitted_coordinates).model_dump_json()
    )
    return replace(law, fitted_coordinates=record.fitted())


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((60.0, 40.0), "share_0: it is 60 in some rows; a share must be between 0 and 1"),
        ((0.7, 0.7), "the shares sum to 1.4"),
        ((0.5, 0.5), "share_0: it is 0.5 in every row"),
    ],
    ids=["percent", "more than all", "constant"],
)
def test_shares_that_are_none_are_refused(shares, message):
    runs = [
        Run(run=f"{i}", params=1e7 * (1 + i % 4), tokens=1e9 * (1 + i // 4), loss=3 - i / 40,
            extra={f"share_{j}": share * (1 if shares[0] == 0.5 or i % 3 else 0.9) for j, share in enumerate(shares)})
        for i in range(24)
    ]  # fmt: skip
    with pytest.raises(BadInput, match=message):
        fit(runs, bootstrap=0, own={"share_0": "share", "share_1": "share"})


def test_a_learning_rate_of_runs_that_share_a_batch_is_moved_to_the_batch_that_is_advised():
    spec = ModelSpec(n_layer=8, n_head=8, n_embd=512, n_positions=1024, vocab_size=8192)
    N, D = float(params(spec)), 2e9
    law = fit(swept(batch_tokens=2**16), bootstrap=0, coordinates=["lr"])
    assert law.fitted_coordinates.batch_tokens == (2**16, 2**16)
    at_runs = law.best("lr", N, D).value
    for batch in (2**15, 2**16, 2**19):
        found = advise(law, spec, D, batch_tokens=batch)
        assert found.lr == pytest.approx(at_runs * (batch / 2**16) ** 0.3, rel=0.01)
        assert ("moved from the runs' batch of 65.5k tokens" in found.source) == (batch != 2**16)
    varied = fit(swept(), bootstrap=0, coordinates=["lr"])
    assert "for the runs' own batches of" in advise(varied, spec, D).source


def test_a_batch_in_sequences_is_one_in_tokens_once_their_length_is_given(tmp_path):
    rows = "\n".join(f"{1e7 * 3 ** (i % 3)},{1e9},{3 - i / 10},1e-3,{64 * 2 ** (i % 2)}" for i in range(9))
    (tmp_path / "runs.csv").write_text(f"params,tokens,loss,lr,bsz\n{rows}")
    assert read_runs(tmp_path / "runs.csv").column("batch_tokens") is None
    found = read_runs(tmp_path / "runs.csv", column_names={"n_positions": "2048"})
    assert set(found.column("batch_tokens")) == {2**17, 2**18}
    (tmp_path / "own.csv").write_text(
        f"params,tokens,loss,peak_lr,bsz,seq_len\n{rows.replace(chr(10), ',512' + chr(10))},512"
    )
    own = read_runs(tmp_path / "own.csv")
    assert set(own.column("lr")) == {1e-3}
    assert any("batches are not read from 'bsz'" in w and "n_positions=seq_len" in w for w in own.warnings)
    own = read_runs(tmp_path / "own.csv", column_names={"n_positions": "seq_len"})
    assert set(own.column("batch_tokens")) == {2**15, 2**16}
    assert not any("batches" in warning for warning in own.warnings)
    (tmp_path / "log.csv").write_text(f"params,tokens,loss,log10_lr,bsz\n{rows.replace('1e-3', '-3')}")
    assert any("'log10_lr' is not read" in warning for warning in read_runs(tmp_path / "log.csv").warnings)
    with pytest.raises(BadInput, match="a batch in sequences needs their length: --columns n_positions=2048"):
        fit(read_runs(tmp_path / "runs.csv"), coordinates=["batch_tokens"])


@pytest.mark.parametrize("columns", [1, 700, 1024, 2702, 5000])
def test_products_a_block_at_a_time_are_those_of_the_whole(columns, monkeypatch):
    rng = np.random.default_rng(columns)
    a, b = rng.standard_normal((16, columns)), rng.standard_normal((17, columns))
    assert products(a, b) == pytest.approx(a @ b.T, rel=1e-9, abs=1e-9)
    sizes = []

    class Watched(np.ndarray):
        def __matmul__(self, other):
            sizes.append(self.shape[-2] * self.shape[-1] * other.shape[-1])
            return np.asarray(self) @ np.asarray(other)

    assert products(a.view(Watched), b) == pytest.approx(a @ b.T, rel=1e-9, abs=1e-9)
    assert max(sizes) <= ONE_THREAD
