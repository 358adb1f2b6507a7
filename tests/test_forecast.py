"""The live forecast: a law of the curve that knows the schedule, what siblings teach, intervals, alarms and verdicts."""

import json
from dataclasses import replace

import numpy as np
import pytest

from families.errors import BadInput
from scaling.schedule import Schedule
from scaling.watch import Outlook, Promise, brief, find_run, judge, study_of, watch
from scaling.watching.alarm import first_alarm
from scaling.watching.curves import read_curve, read_run, read_siblings
from scaling.watching.beside import beside, gap
from scaling.watching.foresee import Z_80, foresee, offset_at, together
from scaling.watching.lessons import at_own_size, universal
from scaling.watching.trajectory import NAMES, Points, Prior, Profile, learn
from scaling.watching.underway import RungAhead

from .simulated_runs import changed, family, going, law, level_of, seen_until, simulated, write

WSD = Schedule(peak=0.01, warmup=20, steps=1000).to(1000, 0.2)
COSINE = Schedule(peak=0.01, warmup=20, steps=1000, kind="cosine")


def promise(loss, half=0.03):
    return Promise(loss=loss, interval_80=(loss - half, loss + half), sealed=True)


# The law


def test_annealing_brings_nothing_before_the_rate_falls_and_at_most_all_of_it():
    profile = Profile.of(WSD)
    step = np.array([100.0, 500.0, 800.0, 850.0, 900.0, 1000.0])
    for fast in profile.annealed(step, np.array([5.0, 50.0, 500.0])):
        assert np.all(fast[:3] < 1e-6)
        assert np.all(np.diff(fast[2:]) > 0)
        assert fast[-1] < 1


def test_a_longer_memory_pays_later():
    quick, slow = Profile.of(WSD).annealed(np.array([850.0, 1000.0]), np.array([5.0, 200.0]))
    assert np.all(quick > slow)


def test_a_constant_rate_carries_a_run_a_step_for_a_step():
    profile = Profile.of(Schedule(peak=0.01, warmup=0, steps=700))
    assert profile.area_at(np.array([350.0, 700.0])) == pytest.approx([350, 700])
    assert profile.annealed(np.array([700.0]), np.array([10.0]))[0] == pytest.approx(0, abs=1e-9)


def test_cosine_carries_a_run_less_far_than_wsd_but_further_than_the_area_under_it():
    cosine, wsd = Profile.of(COSINE).area[-1], Profile.of(WSD).area[-1]
    area = sum(COSINE.lr(step) for step in range(1000)) / COSINE.peak
    assert area < cosine < wsd < 1000


@pytest.mark.parametrize("schedule", [WSD, COSINE])
def test_known_constants_are_recovered_from_a_curve_with_little_noise(schedule):
    profile = Profile.of(schedule)
    reference = profile.area[-1]
    step = np.linspace(60, 1000, 150)
    loss = law(profile, step, reference=reference, level=3.6, slope=0.3, gain=0.25, alpha=0.45, memory=20.0)
    loss = loss + np.random.default_rng(0).normal(0, 0.002, len(step))
    points = Points(
        profile=profile, step=step, loss=loss, noise=np.full(len(step), 0.002), train=np.zeros(len(step))
    )
    vague = Prior(
        mean=np.array([3.5, 0.2, 0.2, 0, 0]),
        sd=np.array([3, 0.3, 0.3, 1, 1.0]),
        alpha=(0.5, 0.5),
        log_memory=(3.0, 2.0),
    )
    mean, sd = learn((points,), vague, reference).constants()
    for name, value, found, error in zip(
        ("level", "slope", "gain"), (3.6, 0.3, 0.25), mean, sd, strict=False
    ):
        assert abs(found - value) < max(4 * error, 0.01), name
    assert mean[5] == pytest.approx(0.45, abs=0.08)
    assert NAMES[:3] == ("level", "slope", "gain")


def test_a_cooldown_ahead_lowers_the_forecast_by_about_what_siblings_gained():
    rng = np.random.default_rng(3)
    siblings, batches = family(rng)
    run = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000), until=330)
    flat = run.underway.model_copy(update={"rungs": (RungAhead(steps=1000, folder="flat"),)})
    constant = foresee(
        type(run)(name="x", underway=flat, trunk=run.trunk, branches={}, finals={}), siblings, steps=1000
    )
    cooled = foresee(run, siblings, steps=1000)
    assert 0.12 < constant.loss - cooled.loss < 0.35


def test_the_forecast_does_not_look_past_the_step_it_is_made_at():
    rng = np.random.default_rng(4)
    siblings, batches = family(rng)
    whole = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000))
    then = foresee(seen_until(whole, 333), siblings, steps=1000)
    now = foresee(whole, siblings, steps=1000, until=333)
    assert then.loss == pytest.approx(now.loss)
    assert then.sd == pytest.approx(now.sd)


# What siblings teach


def test_siblings_of_any_size_leave_a_constant_at_the_runs_own_size_between_them():
    mean, sd = at_own_size(
        np.array([-1.0, 1.0]), np.array([2.0, 4.0]), np.array([0.1, 0.1]),
        before=(0.0, 10.0), trend=(0.0, 2.0), wander=0.1, scatter=0.1,
    )  # fmt: skip
    assert mean == pytest.approx(3.0, abs=0.05)
    assert 0.1 < sd < 0.4


def test_far_siblings_teach_less_than_near_ones():
    def doubt(distance):
        return at_own_size(
            np.array([distance]), np.array([2.0]), np.array([0.1]),
            before=(0.0, 5.0), trend=(0.0, 1.0), wander=0.3, scatter=0.1,
        )[1]  # fmt: skip

    assert doubt(-0.1) < doubt(-1.0) < doubt(-3.0) < 5.2


def test_the_whole_eval_set_is_placed_by_a_line_through_finished_rungs():
    mean, sd = offset_at(3.5, [(4.0, 3.95), (3.8, 3.73), (3.6, 3.51)])
    assert mean == pytest.approx(-0.1, abs=0.01)
    assert sd < 0.03


def test_where_siblings_of_the_same_length_ended_counts_and_other_lengths_and_schedules_do_not():
    rng = np.random.default_rng(11)
    siblings, batches = family(rng)
    run = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000), until=333)
    mean, sd = beside(run, siblings, 1000)
    assert min(one.finals[1000] for one in siblings) > mean > min(one.finals[1000] for one in siblings) - 0.15
    assert sd < 0.15
    shorter = [replace(one, finals={400: one.finals[400]}) for one in siblings]
    assert beside(run, shorter, 1000) is None
    cosine = simulated(going("c", 90_000, schedule="cosine"), rng, batches=batches, level=level_of(90_000))
    assert beside(run, [cosine], 1000) is None


def test_siblings_ends_count_by_their_certainty_and_little_where_the_curve_goes_elsewhere():
    assert together((3.0, 0.05), None) == (3.0, 0.05)
    between, doubt = together((3.0, 0.05), (3.06, 0.05))
    assert between == pytest.approx(3.03)
    assert doubt < 0.05
    far, _ = together((4.0, 0.05), (3.0, 0.05))
    assert far > 3.99


def test_siblings_that_read_the_same_batches_make_the_forecast_surer():
    doubts = {}
    for batches in ("same", "other"):
        rng = np.random.default_rng(5)
        siblings, noise = family(rng)
        run = simulated(
            going("x", 220_000, batches=batches), rng, batches=noise, level=level_of(220_000), until=330
        )
        doubts[batches] = foresee(run, siblings, steps=1000).sd
    assert doubts["same"] < doubts["other"]


def test_without_siblings_the_forecast_is_of_the_runs_own_looks_and_much_wider():
    rng = np.random.default_rng(6)
    siblings, batches = family(rng)
    run = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000), until=330)
    alone, taught = foresee(run, (), steps=1000), foresee(run, siblings, steps=1000)
    assert (alone.target, taught.target) == ("glance", "held-out")
    assert alone.sd > 1.5 * taught.sd


def test_the_intervals_cover_simulated_runs_at_least_as_often_as_they_say():
    inside, errors = [], []
    for seed in range(40):
        rng = np.random.default_rng([7, seed])
        of_study = {
            "alpha": rng.uniform(0.3, 0.7),
            "slope": rng.uniform(0.22, 0.36),
            "gain": rng.uniform(0.18, 0.32),
        }
        siblings, batches = family(rng, **of_study)
        own = {key: value * rng.normal(1, 0.04) for key, value in of_study.items()}
        level = level_of(220_000) + rng.normal(0, 0.03)
        run = simulated(going("x", 220_000), rng, batches=batches, level=level, **own)
        seen = foresee(run, siblings, steps=1000, until=333)
        truth = run.finals[1000]
        errors.append(abs(seen.loss / truth - 1))
        inside.append(abs(seen.loss - truth) < Z_80 * seen.sd)
    assert np.mean(inside) >= 0.8
    assert np.mean(errors) < 0.01


def test_a_longer_look_makes_the_forecast_surer():
    rng = np.random.default_rng(8)
    siblings, batches = family(rng)
    run = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000))
    doubts = [foresee(run, siblings, steps=1000, until=step).sd for step in (200, 400, 780, 960)]
    assert doubts == sorted(doubts, reverse=True)


def test_too_little_is_said_to_be_too_little():
    run = simulated(going(), np.random.default_rng(9), level=3.6, until=30)
    with pytest.raises(BadInput, match="has logged 3 lines; a forecast needs 4"):
        foresee(run, (), steps=1000)


def test_the_universal_prior_scales_with_the_loss():
    assert universal(4.0).mean == pytest.approx(2 * universal(2.0).mean)


# Alarms


@pytest.fixture(scope="module")
def study():
    rng = np.random.default_rng(10)
    siblings, batches = family(rng)
    healthy = simulated(going("x", 220_000), rng, batches=batches, level=level_of(220_000))
    return siblings, healthy


def test_healthy_runs_raise_no_alarm_with_or_without_siblings(study):
    siblings, healthy = study
    for run in (healthy, *siblings):
        for steps in run.finals:
            assert first_alarm(run, siblings[:1] if run is not healthy else siblings, steps) is None
            assert first_alarm(run, (), steps) is None


@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize(
    ("how", "fault"),
    [
        (lambda step, loss: loss + 0.8, "diverging"),
        (lambda step, loss: loss + 0.008 * (step - 400), "diverging"),
        (lambda step, loss: loss - 0.012 * (step - 400), "repeating data"),
    ],
)
def test_a_fault_is_seen_within_a_tenth_of_the_budget(study, taught, how, fault):
    siblings, healthy = study
    found = first_alarm(changed(healthy, 400, how), siblings if taught else (), 1000, since=400)
    assert found is not None
    assert found.fault == fault
    assert found.step - 400 <= 100


def test_a_run_that_stays_where_it_began_is_not_learning(study):
    _, healthy = study
    stuck = changed(healthy, 30, lambda step, loss: 6.4 + 0.1 * np.sin(step))
    found = first_alarm(stuck, (), 1000)
    assert found is not None
    assert found.fault == "not learning"
    assert found.step <= 100


def test_a_run_asleep_beside_siblings_that_are_not_awake_either_is_not_learning_where_its_gradient_is_half_theirs(
    study,
):
    siblings, healthy = study

    def slow(run, extra, norm):
        trunk = run.trunk
        loss = np.where(trunk.step <= 200, 6.3 + 0.004 * (100 - trunk.step) / 10 + extra, trunk.loss)
        return replace(run, trunk=replace(trunk, loss=loss, norm=np.full(len(trunk.step), norm)))

    siblings = [slow(one, 0.0, 0.6) for one in siblings]
    ill = replace(slow(healthy, 0.05, 0.28), branches={}, finals={})
    found = first_alarm(ill, siblings, 1000)
    assert found is not None
    assert (found.fault, found.step <= 100) == ("not learning", True)
    well = replace(slow(healthy, -0.02, 0.6), branches={}, finals={})
    early = first_alarm(replace(well, trunk=well.trunk.until(120)), siblings, 1000)
    assert early is None


def test_training_loss_far_below_held_out_loss_is_data_read_again(study):
    siblings, healthy = study
    looks = np.where(healthy.trunk.eval_step > 400, 5.5, healthy.trunk.eval_loss)
    stale = replace(healthy, trunk=replace(healthy.trunk, eval_loss=looks), branches={}, finals={})
    found = first_alarm(stale, siblings, 1000, since=400)
    assert found is not None
    assert (found.fault, found.step) == ("repeating data", 450)
    assert "5.50 on held-out text" in found.evidence


def test_a_run_that_begins_from_trained_weights_need_not_fall_at_first(study):
    _, healthy = study
    flat = changed(healthy, 0, lambda step, loss: 3.3 + 0.02 * np.sin(step))
    flat = replace(flat, trunk=replace(flat.trunk, eval_loss=np.full(len(flat.trunk.eval_step), 3.4)))
    assert first_alarm(flat, (), 1000) is not None
    tuned = replace(flat, underway=flat.underway.model_copy(update={"fresh": False}))
    assert first_alarm(seen_until(tuned, 190), (), 1000) is None


# Verdicts


def test_verdicts_follow_the_forecast_and_the_promise(study):
    siblings, healthy = study
    run = seen_until(healthy, 500)
    truth = healthy.finals[1000]
    assert judge(run, siblings, 1000, promise(truth)).state == "on plan"
    above = judge(run, siblings, 1000, promise(truth - 0.3))
    assert above.state == "above plan"
    assert "likely +0." in above.sentence
    assert above.difference == pytest.approx(0.3, abs=0.05)
    assert judge(run, siblings, 1000, promise(truth + 0.3)).state == "below plan"
    assert judge(run, siblings, 1000, None).state == "no plan"
    assert "does not compare" in judge(seen_until(healthy, 350), (), 1000, promise(truth)).sentence


def test_a_verdict_names_the_fault_before_the_plan(study):
    siblings, healthy = study
    ill = changed(seen_until(healthy, 500), 400, lambda step, loss: loss + 1)
    found = judge(ill, siblings, 1000, promise(healthy.finals[1000]))
    assert found.state == "diverging"
    assert found.alarm is not None
    assert brief(found) == ", DIVERGING"


def test_a_finished_rung_is_held_against_its_promise(study):
    siblings, healthy = study
    final = healthy.finals[1000]
    assert "inside its 80 % interval" in judge(healthy, siblings, 1000, promise(final + 0.02)).sentence
    assert "outside" in judge(healthy, siblings, 1000, promise(final + 0.2)).sentence


# Files


def test_a_torn_last_line_and_lines_without_a_loss_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 10, "loss": 5.0, "eval_loss": 5.2}\n{"step": 20, "loss": null}\n[1]\n{"step": 30, "lo'
    )
    curve = read_curve(path)
    assert curve.step.tolist() == [10]
    assert curve.eval_loss.tolist() == [5.2]
    assert not len(read_curve(tmp_path / "none.jsonl").step)


def test_what_was_written_is_read_back(tmp_path, study):
    _, healthy = study
    found = read_run(write(healthy, tmp_path / "x"))
    assert found.finals == healthy.finals
    assert found.ahead is None
    assert found.rung(1000).loss == pytest.approx(healthy.rung(1000).loss)


def test_only_runs_of_the_same_batch_are_siblings(tmp_path, study):
    siblings, healthy = study
    folder = write(healthy, tmp_path / "runs" / "x")
    for one in siblings:
        write(one, tmp_path / "runs" / one.name)
    larger = siblings[0].underway.model_copy(update={"run": "larger", "batch_tokens": 2048})
    write(replace(siblings[0], name="larger", underway=larger), tmp_path / "runs" / "larger")
    found = read_siblings(tmp_path / "runs", read_run(folder))
    assert {one.name for one in found} == {one.name for one in siblings}


def test_a_run_that_grows_while_it_is_read_gets_a_verdict_at_every_length(tmp_path, study):
    siblings, healthy = study
    for one in siblings:
        write(one, tmp_path / "runs" / one.name)
    folder = write(seen_until(healthy, 780), tmp_path / "runs" / "x", finished=False)
    path = folder / "trunk" / "metrics.jsonl"
    whole = path.read_bytes()
    states = []
    for end in range(0, len(whole), len(whole) // 9):
        path.write_bytes(whole[:end])
        states.append(watch(folder, steps=1000).state)
    assert states[0] == "waiting"
    assert set(states[3:]) == {"no plan"}


def test_a_run_is_found_by_folder_or_by_name_and_the_nearest_name_is_offered(tmp_path, study):
    _, healthy = study
    folder = write(healthy, tmp_path / "runs" / "L2d64")
    assert find_run("L2d64", tmp_path) == folder
    assert find_run(str(folder), tmp_path / "elsewhere") == folder
    with pytest.raises(BadInput, match="did you mean L2d64"):
        find_run("L2d46", tmp_path)
    with pytest.raises(BadInput, match="has no runs"):
        find_run("x", tmp_path / "elsewhere")


def test_a_run_belongs_to_the_study_two_above_or_is_one_of_its_own(tmp_path, study):
    _, healthy = study
    inside, alone = write(healthy, tmp_path / "s" / "runs" / "x"), write(healthy, tmp_path / "alone")
    (inside / "runs.jsonl").touch()  # a run's own observations
    assert study_of(inside).folder == (tmp_path / "s").resolve()
    assert study_of(alone).folder == alone.resolve()


def test_a_progress_line_says_nothing_rather_than_fail(tmp_path):
    outlook = Outlook(tmp_path / "none", 1000, _next=0.0)
    assert outlook.words() == ""


def test_a_progress_line_says_where_the_run_ends(tmp_path, study):
    siblings, healthy = study
    for one in siblings:
        write(one, tmp_path / "runs" / one.name)
    folder = write(seen_until(healthy, 400), tmp_path / "runs" / "x", finished=False)
    words = Outlook(folder, 1000, _next=0.0).words()
    assert words.startswith(", ends at 3.")
    assert Outlook(folder, 1000).words() == ""  # not before some seconds


# The command


def call(*words):
    import subprocess
    import sys

    code = "import sys; from scaling.cli import main; sys.argv[0] = 'scaling'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "watch", *map(str, words)], capture_output=True, text=True, timeout=60
    )


def test_watch_prints_one_json_object_or_one_line_of_error(tmp_path, study):
    siblings, healthy = study
    for one in siblings:
        write(one, tmp_path / "runs" / one.name)
    write(seen_until(healthy, 500), tmp_path / "runs" / "x", finished=False)
    found = json.loads(call("x", "--study", tmp_path, "--tokens", 1000 * 1024, "--json").stdout)
    assert found["state"] == "no plan"
    assert found["interval_80"][0] < found["forecast"] < found["interval_80"][1]
    assert found["target"] == "held-out"
    page = call("x", "--study", tmp_path, "--once").stdout
    assert "forecast" in page
    assert "learnt from its curve and 3 finished siblings" in page
    assert all(len(line) <= 100 for line in page.splitlines())
    done = call(siblings[0].name, "--study", tmp_path)
    assert done.returncode == 0
    assert "finished at" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none"], "neither a run's folder nor a run of"),
        (["x", "--tokens", "5"], "no rung of"),
        (["x", "--tokens", "much"], "tokens is 'much'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, study, words, said):
    _, healthy = study
    write(healthy, tmp_path / "runs" / "x")
    found = call(*words, "--study", tmp_path)
    assert found.returncode == 2
    assert said in found.stderr
    assert len(found.stderr.splitlines()) == 1
