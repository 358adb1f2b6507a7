"""Bytes that the compiler's own code moves, read before anything is compiled or run."""

import re
from contextlib import suppress
from functools import partial

import pytest
import torch
from torch._functorch import config as functorch
from torch._inductor import config as inductor
from torch._inductor.graph import GraphLowering
from torch.utils._python_dispatch import TorchDispatchMode

from train.backend import random_examples
from train.loop import gradients, start
from train.model import flash3
from train.settings import TextFacts

from . import flash3_stand_in, tiny

SHAPE = {
    "n_layer": 1, "n_positions": 64, "n_embd": 64, "n_head": 2, "n_inner": 256, "batch_size": 8, "micro_batch": 8,
    "threads": 1,
}  # fmt: skip
TOKENS, WIDTH = 8 * 64, 64


# Calls of generated kernels, of a library's, and of torch's operators.
LAUNCH = re.compile(r"^ +(?:buf\d+ = )?(?:cpp_fused_\w+|extern_kernels\.\w+|torch\.ops\.[\w.]+)\(", re.M)


class _Lowered(Exception):
    """Raised in the place of running a graph."""


def loss_of_a_step(session, examples):
    session.loss(examples)


def bytes_of_a_step(monkeypatch, take=loss_of_a_step, change=lambda model: None, **engine):
    """Bytes that the forward and the backward graph of a compiled step move, by the compiler's count.

    take(session, examples) calls what is compiled; change(model) comes before.
    """
    return [moved for moved, _ in graphs_of_a_step(monkeypatch, take, change, **engine)]


def graphs_of_a_step(monkeypatch, take=loss_of_a_step, change=lambda model: None, **engine):
    """Bytes and launches of each graph."""
    counts = []

    def count(graph):
        code = graph.codegen()[0].value
        counts.append((graph.count_bytes()[0], len(LAUNCH.findall(code))))

        class Stop:
            __file__ = "none"

            @staticmethod
            def call(args):
                raise _Lowered

        return Stop

    monkeypatch.setattr(GraphLowering, "compile_to_module", count)
    facts = TextFacts(vocab_size=300, eos_token_id=299)
    settings = tiny.settings(facts=facts, **{**SHAPE, "compile": True, "attention": "sdpa", **engine})
    torch._dynamo.reset()
    with (
        inductor.patch(fx_graph_cache=False, compile_threads=1),
        functorch.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True),
        suppress(_Lowered),
    ):
        session = start(settings, "cpu")
        change(session.model)
        take(session, random_examples(settings, 8))
        pytest.fail("nothing was compiled")
    torch._dynamo.reset()
    torch.use_deterministic_algorithms(False)
    return counts


HALF = {"dtype": "bf16", "residual": "bf16"}


@pytest.fixture(scope="module")
def half():
    """The bytes of a step with the residual stream in bf16."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        yield bytes_of_a_step(patch, **HALF)
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_residual_stream_in_bf16_moves_fewer_bytes_both_ways(half, monkeypatch, one_thread):
    ours = half
    theirs = bytes_of_a_step(monkeypatch, dtype="bf16")
    assert len(ours) == len(theirs) == 2
    assert all(few < 0.95 * many for few, many in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_weights_cast_once_a_step_are_not_cast_in_the_graphs_of_its_micro_batches(
    half, monkeypatch, one_thread
):
    ours = bytes_of_a_step(monkeypatch, lambda session, examples: gradients(session, examples, 8), **HALF)
    saved = [many - few for few, many in zip(ours, half, strict=True)]
    matrices = 12 * WIDTH**2  # of the one block
    assert all(
        each >= 6 * matrices for each in saved
    )  # read in fp32 and written in bf16; their gradients, back


@pytest.mark.slow
def test_one_buffer_for_the_gradients_of_query_key_and_value_saves_the_copy_that_joins_them(
    monkeypatch, one_thread
):
    flash3_stand_in.install(monkeypatch)
    asked = {**HALF, "attention": "flash3"}
    ours = bytes_of_a_step(monkeypatch, **asked)
    theirs = bytes_of_a_step(monkeypatch, change=partial(flash3.pack, packed=False), **asked)
    flash3.interface.cache_clear()
    assert theirs[1] - ours[1] == 12 * WIDTH * TOKENS  # 3 gradients of 2 bytes, read and written
    assert theirs[0] == ours[0]


class _Operators(TorchDispatchMode):
    """The operators that run, each a launch or more, without views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
def test_a_compiled_evaluation_has_half_the_launches_of_a_plain_one_and_a_step_more_than_thirty(
    monkeypatch, one_thread
):
    def look(session, examples):
        with torch.no_grad():
            session.each(examples)

    ((_, ours),) = graphs_of_a_step(monkeypatch, look, compile="all")
    plain = start(tiny.settings(facts=TextFacts(vocab_size=300, eos_token_id=299), **SHAPE), "cpu")
    with _Operators() as theirs:
        look(plain, random_examples(plain.settings, 8))
    assert 0 < ours <= theirs.count / 2  # 12 and 30
    forward, backward = (launches for _, launches in graphs_of_a_step(monkeypatch))
    assert forward + backward >= 30  # which two launches replace where the graphs are CUDA graphs
