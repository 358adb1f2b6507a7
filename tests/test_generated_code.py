"""Bytes that the compiler's own code moves, read before anything is compiled or run."""

import pytest
import torch
from torch._functorch import config as functorch
from torch._inductor import config as inductor
from torch._inductor.graph import GraphLowering

from train.backend import random_examples
from train.loop import start
from train.settings import TextFacts

from . import tiny


class _Lowered(Exception):
    """Raised in the place of running a graph."""


def bytes_of_a_step(monkeypatch, **engine):
    """Bytes that the forward and the backward graph of a compiled step move, by the compiler's count."""
    counts = []

    def count(graph):
        graph.codegen()
        counts.append(graph.count_bytes()[0])

        class Stop:
            __file__ = "none"

            @staticmethod
            def call(args):
                raise _Lowered

        return Stop

    monkeypatch.setattr(GraphLowering, "compile_to_module", count)
    facts = TextFacts(vocab_size=300, eos_token_id=299)
    settings = tiny.settings(
        facts=facts, n_layer=1, n_positions=64, n_embd=64, n_head=2, n_inner=256, batch_size=8, micro_batch=8, threads=1,
        compile=True, attention="sdpa", **engine,
    )  # fmt: skip
    torch._dynamo.reset()
    with (
        inductor.patch(fx_graph_cache=False, compile_threads=1),
        functorch.patch(enable_autograd_cache=False, force_non_lazy_backward_lowering=True),
        pytest.raises(_Lowered),
    ):
        start(settings, "cpu").loss(random_examples(settings, 8))
    torch._dynamo.reset()
    torch.use_deterministic_algorithms(False)
    return counts


@pytest.mark.slow
def test_a_residual_stream_in_bf16_moves_fewer_bytes_both_ways(monkeypatch, one_thread):
    ours = bytes_of_a_step(monkeypatch, dtype="bf16", residual="bf16")
    theirs = bytes_of_a_step(monkeypatch, dtype="bf16")
    assert len(ours) == len(theirs) == 2
    assert all(few < 0.95 * many for few, many in zip(ours, theirs, strict=True))
