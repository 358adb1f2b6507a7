"""Several processes run the engine of one: compiled, in bf16 or fp16, sharded at every stage, recomputed, and resumed."""

import json

import pytest

from . import steps_of_two, tiny
from .steps_of_two import HALF, cases, run_all

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

# Rounding: sums over two processes' halves come in another order; bf16 and fp16 round each half's gradient first.
WITHIN = {"fp32": 1e-5, "bf16": 1e-5, "fp16": 1e-5}


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """Steps and a look of one process by engine, of two by case, and steps of one from what two left by case."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "tokenizer.json").write_bytes(tiny.text_in(folder).tokenizer.read_bytes())
    found = run_all(folder)
    assert None not in found
    return found


def of_one(taken, engine):
    return taken[0][json.dumps(steps_of_two.reference(engine))]


def assert_same(ours, theirs, engine):
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine[0] == pytest.approx(reference[0], rel=WITHIN[engine["dtype"]])
        assert mine[1] == pytest.approx(reference[1], rel=1e-4 if engine["dtype"] == "fp32" else 1e-3)


@pytest.mark.parametrize(("case", "zero", "engine"), list(cases()))
def test_two_processes_take_the_steps_of_one(case, zero, engine, taken):
    assert_same(taken[1][case], of_one(taken, engine)[: HALF + 1], engine)


@pytest.mark.parametrize(("case", "zero", "engine"), list(cases()))
def test_two_processes_go_on_from_the_checkpoint_of_one(case, zero, engine, taken):
    assert_same(taken[1][f"resumed {case}"], of_one(taken, engine)[HALF + 1 :], engine)


@pytest.mark.parametrize(("case", "zero", "engine"), list(cases()))
def test_one_process_goes_on_from_the_checkpoint_of_two(case, zero, engine, taken):
    assert_same(taken[2][case], of_one(taken, engine)[HALF + 1 :], engine)
