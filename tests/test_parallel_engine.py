"""Several processes run the engine of one: compiled, in bf16 or fp16, sharded at every stage, recomputed, and resumed."""

import json

import pytest

from train.checkpoint import load, step_folder
from train.distributed import ALONE

from . import steps_of_two, tiny
from .steps_of_two import STEPS, cases, looked_at, run_all, settings_of_case

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

# Rounding: sums over two processes' halves come in another order; bf16 and fp16 round each half's gradient first.
WITHIN = {"fp32": 1e-5, "bf16": 1e-5, "fp16": 1e-5}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    (folder / "tokenizer.json").write_bytes(tiny.text_in(folder).tokenizer.read_bytes())
    alone, pair = run_all(folder)
    assert pair is not None
    return folder, alone, pair


@pytest.fixture
def alone(both):
    """A folder with what processes saved, and the steps of one process by engine."""
    return both[:2]


@pytest.fixture
def pair(both):
    """Steps of two processes by case."""
    return both[2]


@pytest.mark.parametrize(("case", "zero", "engine"), list(cases()))
def test_two_processes_take_the_steps_of_one(case, zero, engine, alone, pair):
    for ours, theirs in zip(pair[case], alone[1][json.dumps(steps_of_two.reference(engine))], strict=True):
        assert ours[0] == pytest.approx(theirs[0], rel=WITHIN[engine["dtype"]])
        assert ours[1] == pytest.approx(theirs[1], rel=1e-4 if engine["dtype"] == "fp32" else 1e-3)


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_two_processes_go_on_from_the_checkpoint_of_one(zero, alone, pair):
    engine = next(one for one in steps_of_two.engines() if one.get("residual") == "bf16")
    resumed = pair[f"resumed zero {zero} {json.dumps(engine)}"]
    for ours, theirs in zip(resumed, alone[1][json.dumps(engine)][2:STEPS], strict=True):
        assert ours[0] == pytest.approx(theirs[0], rel=1e-5)


def test_one_process_goes_on_from_the_checkpoint_of_two(alone, pair):
    engine = {"dtype": "bf16", "compile": True}
    settings = settings_of_case(engine)
    session = load(settings, step_folder(alone[0] / "two", STEPS), "cpu")
    expected = alone[1][json.dumps(engine)][-1][0]
    assert looked_at(session, settings, ALONE) == pytest.approx(expected, rel=1e-5)
