"""The famous results hold, each check can fail, and the installation's known traps are named."""

import json
import sys

import pytest

from scaling import doctor
from scaling.doctor import formats, installation, package, release
from scaling.laws import Law
from scaling.published_laws import published_law


@pytest.mark.parametrize(
    "derive", [doctor.nanogpt_riddle, doctor.kaplan_exponent, doctor.parabola_bias, doctor.card_mix_up]
)
def test_a_famous_result_is_derived_again(derive):
    check = derive()
    assert check.passed, check.found


@pytest.mark.parametrize("seed", range(3))
def test_a_loose_fit_returns_hoffmanns_start_as_a_success(seed):
    law, start = published_law("chinchilla").law, published_law("hoffmann").law
    success, stopped, _ = doctor._loose(start, *doctor._chinchilla_like(law, seed))
    assert success
    assert stopped.alpha == pytest.approx(start.alpha, abs=0.01)
    assert abs(stopped.E / start.E - 1) < 0.01


def test_hoffmanns_constants_as_the_only_start_do_not_survive_ours():
    check = doctor.failed_fit()
    assert check.passed, check.found


def test_a_law_in_other_constants_fails_the_checks(monkeypatch):
    wrong = Law(E=1.8, A=480.0, B=2000.0, alpha=0.45, beta=0.25)
    real = doctor.published_law

    class Wrong:
        law = wrong

    monkeypatch.setattr(doctor, "published_law", lambda name: Wrong if name == "chinchilla" else real(name))
    assert not doctor.nanogpt_riddle().passed
    assert not doctor.kaplan_exponent().passed


def test_a_card_that_adds_up_fails_the_check_of_the_mix_up(monkeypatch):
    monkeypatch.setattr(doctor, "CARD", doctor.CARD.replace("53.9M", "51.5M"))
    assert not doctor.card_mix_up().passed


@pytest.mark.parametrize(
    ("version", "trapped"),
    [("5.0.0", True), ("5.14.2", True), ("5.15.0", False), ("5.23.0", False), ("6.0", False)],
)
def test_transformers_that_initialise_gpt2_wrongly_are_named(version, trapped):
    assert ("residual projections" in package("transformers", version).warning) is trapped


def test_old_and_missing_packages_are_named():
    assert "2.6" in package("torch", "2.5.1").warning
    assert package("torch", "2.13.0+cpu").warning == ""
    assert package("scipy", None).state == "missing"
    assert release("2.13.0+cpu") == (2, 13)
    assert release("7") == (7, 0)


def test_slow_bf16_is_a_warning_and_fast_bf16_is_not():
    slow, gpus = formats(1e11, 1e9, False, 2, ())
    assert "100.0 times slower" in slow.warning
    assert formats(1e11, 3e11, True, 2, ("NVIDIA H200",))[0].warning == ""
    assert "none" in gpus.state


def test_the_installation_is_told_without_importing_it():
    parts = {part.name: part.state for part in installation()}
    assert {"python", "numpy", "scipy", "torch", "transformers", "cores", "memory", "disk"} <= set(parts)


def test_the_command_passes_here_in_seconds(cli):
    found = cli("doctor", "--json")
    value = json.loads(found.stdout)
    assert (found.returncode, value["passed"], len(value["checks"])) == (0, True, 5)
    assert all(check["passed"] for check in value["checks"])
    assert {"CPU bf16", "GPUs"} <= {part["name"] for part in value["installation"]}


def test_the_command_leaves_with_1_when_a_check_fails(monkeypatch, capsys):
    from scaling.cli import demo as verb

    failing = doctor.nanogpt_riddle().model_copy(update={"passed": False})
    monkeypatch.setattr(doctor, "checks", lambda: (failing,))
    monkeypatch.setattr(verb, "compute_parts", lambda: ())
    assert verb.doctor(as_json=False) == 1
    assert "FAIL" in capsys.readouterr().out
    assert verb.doctor(as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_a_torch_that_does_not_load_is_a_warning(monkeypatch):
    from scaling.cli.demo import compute_parts

    monkeypatch.setitem(sys.modules, "train.runtime", None)
    (part,) = compute_parts()
    assert (part.name, part.state) == ("torch works", "no")
    assert part.warning
