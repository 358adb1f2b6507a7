"""Published training runs as their documents state them, each set with its source, text and kind of loss."""

from dataclasses import dataclass
from typing import Literal

from families import ModelSpec, member, params, train_flops
from families.units import look_up

LossOf = Literal["validation", "test", "final"]  # "final": the document says no more


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRun:
    """One trained model. Losses in nats per token of its set's text.

    Args:
        spec: the shape; `params` counts it exactly.
        tokens: trained on, as exactly as a source states; None where none does.
        steps, batch: optimiser steps, and sequences of `spec.n_positions` tokens in each, where the source states them.
        stated_params, stated_tokens: what the document's own table says, where it differs from those.
        stated_attention: the width of attention (d_attn) as the document prints it.
        predicted_ppl, actual_ppl: as the document prints them.
        hours: of wall clock on `devices` accelerators of that name.
    """

    member: str
    spec: ModelSpec
    tokens: float | None
    loss: float
    steps: int | None = None
    batch: int | None = None
    stated_params: float | None = None
    stated_tokens: float | None = None
    stated_attention: int | None = None
    predicted_ppl: float | None = None
    actual_ppl: float | None = None
    hours: float | None = None
    devices: int | None = None
    accelerator: str | None = None

    @property
    def params(self) -> int:
        """All parameters of the shape, by exact count."""
        return params(self.spec)

    @property
    def flops(self) -> float | None:
        """Exact training FLOPs of the shape on its tokens."""
        return None if self.tokens is None else float(train_flops(self.spec, self.tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRuns:
    """A document's runs. Losses are comparable within one set only: text and tokenizer differ between sets.

    Args:
        law: the published law by which the document predicted, "" where it did not.
        loss_of: the split that the printed loss is of.
        digits: decimals of the printed losses; their rounding error is half a unit of the last.
        caveat: limits of comparisons with this set.
        tokens_source: where steps and batch are stated.
    """

    name: str
    title: str
    source: str
    text: str
    tokenizer: str
    loss_of: LossOf
    digits: int
    caveat: str
    runs: tuple[PublishedRun, ...]
    law: str = ""
    tokens_source: str = ""

    def run(self, name: str) -> PublishedRun:
        """The run of that member.

        Raises:
            BadInput: with the nearest match.
        """
        return look_up({run.member: run for run in self.runs}, name, "member")


COMPOSER_BATCH = 512  # sequences of 1024 tokens in a step, by MosaicML Composer's GPT-2 training files


def _card(
    name: str,
    stated: float,
    hours: str,
    stated_tokens: float,
    steps: int,
    loss: float,
    predicted_ppl: float,
    actual_ppl: float,
    attention: int,
) -> PublishedRun:
    """A row of the Composer card, with the tokens of the family's own training files."""
    full_hours, minutes = hours.split(":")
    return PublishedRun(
        member=name,
        spec=member(name).spec,
        tokens=steps * COMPOSER_BATCH * 1024,
        loss=loss,
        steps=steps,
        batch=COMPOSER_BATCH,
        stated_params=stated,
        stated_tokens=stated_tokens,
        stated_attention=attention,
        predicted_ppl=predicted_ppl,
        actual_ppl=actual_ppl,
        hours=int(full_hours) + int(minutes) / 60,
        devices=8,
        accelerator="A100",
    )


def _openai(name: str, loss: float) -> PublishedRun:
    return PublishedRun(member=name, spec=member(name).spec, tokens=None, loss=loss)


def _cerebras(name: str, n_layer: int, n_embd: int, n_head: int, tokens: float, loss: float) -> PublishedRun:
    spec = ModelSpec(n_layer=n_layer, n_embd=n_embd, n_head=n_head, n_positions=2048)
    return PublishedRun(member=f"cerebras-gpt-{name}", spec=spec, tokens=tokens, loss=loss)


PUBLISHED_RUNS: dict[str, PublishedRuns] = {
    published.name: published
    for published in (
        PublishedRuns(
            name="composer-gpt2",
            title="MosaicML Composer's GPT-2 family",
            source="MosaicML Composer's GPT-2 model card, tables of architecture and of family members; tokens "
            "from the family's own training files (9,000, 11,000 and 14,000 steps of 512 × 1024)",
            text="OpenWebText",
            tokenizer="GPT-2, 50257",
            loss_of="final",
            digits=2,
            caveat="the card's parameter column (53.9M, 85.8M, 114M) is not of its own shapes, and its tokens are "
            "below those of the training files; it does not say on which split its loss is",
            law="kaplan",
            tokens_source="the family's own training files",
            runs=(
                _card("gpt2-52m", 53.9e6, "02:44", 4.6e9, 9_000, 3.43, 32.54, 30.88, 8),
                _card("gpt2-83m", 85.8e6, "04:52", 5.5e9, 11_000, 3.28, 27.84, 26.57, 640),
                _card("gpt2-125m", 114e6, "08:25", 6.7e9, 14_000, 3.18, 24.64, 24.04, 768),
            ),
        ),
        PublishedRuns(
            name="gpt2",
            title="OpenAI's GPT-2 on OpenWebText",
            source="karpathy/nanoGPT README, section baselines: OpenAI's checkpoints, measured",
            text="OpenWebText",
            tokenizer="GPT-2, 50257",
            loss_of="validation",
            digits=2,
            caveat="trained on WebText, measured on OpenWebText: the gap between the texts is about 0.26 nats for "
            "the smallest (3.11 before and 2.85 after fine-tuning, same source); tokens were never published",
            runs=(
                _openai("gpt2", 3.12),
                _openai("gpt2-medium", 2.84),
                _openai("gpt2-large", 2.67),
                _openai("gpt2-xl", 2.54),
            ),
        ),
        PublishedRuns(
            name="cerebras-gpt",
            title="Cerebras-GPT",
            source="Dey et al. 2023, arXiv:2304.03208, as on the model cards: training table, Pile test xent",
            text="The Pile",
            tokenizer="GPT-2, 50257",
            loss_of="test",
            digits=3,
            caveat="the Pile holds code and lists, whose tokens are cheaper than prose",
            runs=(
                _cerebras("111m", 10, 768, 12, 2.22e9, 2.566),
                _cerebras("256m", 14, 1088, 17, 5.12e9, 2.299),
                _cerebras("590m", 18, 1536, 12, 1.18e10, 2.184),
                _cerebras("1.3b", 24, 2048, 16, 2.63e10, 1.996),
                _cerebras("2.7b", 32, 2560, 32, 5.30e10, 1.834),
                _cerebras("6.7b", 32, 4096, 32, 1.33e11, 1.704),
                _cerebras("13b", 40, 5120, 40, 2.57e11, 1.575),
            ),
        ),
    )
}


def published_runs(name: str) -> PublishedRuns:
    """The published set of that name.

    Raises:
        BadInput: with the nearest match.
    """
    return look_up(PUBLISHED_RUNS, name, "published set")
