"""Time on more devices, from times on fewer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from families.units import BadInput
from scaling.planning.throughput import fit_times

# A public GPT on WikiText-2, `time` of 3 epochs: 1, 2, 4 and 8 GPUs took these minutes and seconds.
MEASURED = {1: 66 * 60 + 40.167, 2: 40 * 60 + 18.809, 4: 32 * 60 + 44.447}
EIGHT = 29 * 60 + 18.776


def test_eight_devices_are_predicted_within_five_percent_from_one_two_and_four():
    model = fit_times(MEASURED)
    assert model.seconds(8) == pytest.approx(EIGHT, rel=0.05)
    assert model.error < 1e-6
    assert model.pays_until() == 4


@given(
    floor=st.floats(0, 1e4),
    parallel=st.floats(1, 1e5),
    exponent=st.floats(0.35, 2.9),
)
def test_a_known_law_is_recovered(floor, parallel, exponent):
    points = {n: floor + parallel * n**-exponent for n in (1, 2, 4, 8)}
    model = fit_times(points)
    assert model.seconds(16) == pytest.approx(floor + parallel * 16**-exponent, rel=2e-3)


def test_two_points_are_amdahls_law():
    model = fit_times({1: 100.0, 2: 60.0})
    assert (model.floor, model.parallel, model.exponent) == (pytest.approx(20), pytest.approx(80), 1.0)
    assert model.efficiency(2) == pytest.approx(100 / 120)


def test_perfect_scaling_always_pays_and_none_never_does():
    assert fit_times({1: 100.0, 2: 50.0, 4: 25.0}).pays_until() > 1000
    assert fit_times({1: 100.0, 2: 110.0, 4: 130.0}).pays_until() == 1


@pytest.mark.parametrize(
    "points", [{}, {1: 10.0}, {1: 10.0, 2: -1.0}, {0: 10.0, 2: 5.0}, {1: 10.0, 2: float("nan")}]
)
def test_unusable_times_are_refused(points):
    with pytest.raises(BadInput):
        fit_times(points)


def test_the_command_predicts(cli):
    result = cli("hardware", "--times", "1=66m40.167s,2=40m18.809s,4=32m44.447s", "--at", "8", "--json")
    value = json.loads(result.stdout)
    assert value["seconds"] == pytest.approx(EIGHT, rel=0.05)
    assert value["pays_until"] == 4


@pytest.mark.parametrize("times", ["1=66m", "one=66m,2=40m", "1=fast,2=40m", "1,2"])
def test_the_command_refuses_bad_times_in_one_line(cli, times):
    result = cli("hardware", "--times", times)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_plan_on_eight_devices_pays_for_sharing_the_work(cli):
    times = "1=66m40.167s,2=40m18.809s,4=32m44.447s"
    alone = json.loads(cli("plan", "--budget", "1e19", "--on", "8xA100", "--json").stdout)
    shared = json.loads(cli("plan", "--budget", "1e19", "--on", "8xA100", "--times", times, "--json").stdout)
    efficiency = fit_times(MEASURED).efficiency(8)
    assert shared["recommended"]["hours"] == pytest.approx(alone["recommended"]["hours"] / efficiency)
    bought = json.loads(cli("plan", "--budget", "8xA100-hours", "--times", times, "--json").stdout)
    assert bought["budget_flops"] == pytest.approx(8 * 3600 * 312e12 * 0.4 * efficiency)
    assert bought["recommended"]["hours"] == pytest.approx(1.0)
    assert cli("plan", "--budget", "1e19", "--times", times).returncode == 2
