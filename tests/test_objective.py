"""Objectives and optimisers: BERT's masking as published, losses and updates as transformers' own, resume exact."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from families import ModelSpec, params, train_flops_per_token
from scaling.files import first_problem
from scaling.runs.readers import read_runs
from train.checkpoint import load, save
from train.config import TrainConfig
from train.evaluate import eval_set, evaluate
from train.ladder import Interrupted, RunOptions, train_ladder
from train.lease import Stop
from train.loop import start, to_device, train_step
from train.model.config import build
from train.model.objective import UNSCORED, MaskedLM, batch_of, make_optimizer, objective_of

from . import tiny
from .tiny import StopAfter, places

pytestmark = pytest.mark.usefixtures("one_thread")

MASK, EOS, VOCABULARY = 3, 7, 1000
BERT = MaskedLM(mask_token_id=MASK, eos_token_id=EOS, vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny.text_in(tmp_path_factory.mktemp("mlm"), mask=True)


def settings(text, **changes):
    return tiny.settings(text, **{"tokens": 2048, "objective": "mlm", **changes})


def windows(rows=400, length=129, seed=0):
    return np.random.default_rng(seed).integers(8, VOCABULARY, (rows, length))


# Masking


def rates(inputs, labels, tokens):
    chosen = labels != UNSCORED
    masked, same = inputs == MASK, inputs == tokens
    return [chosen.mean(), (masked & chosen).sum() / chosen.sum(), (same & chosen).sum() / chosen.sum()]


def test_masking_has_the_rates_of_transformers_own_collator():
    """DataCollatorForLanguageModeling chooses each token by itself: the rates agree, and its spread is the tolerance."""
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[MASK]": MASK, **{f"w{i}": i for i in range(VOCABULARY) if i not in (0, MASK)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w9")), mask_token="[MASK]", pad_token="[PAD]"
    )  # fmt: skip
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15, seed=1)
    tokens = windows()
    theirs = collator([{"input_ids": row[:-1].tolist()} for row in tokens])
    ours = BERT.examples(tokens, (0, 0))
    expected = rates(theirs["input_ids"].numpy(), theirs["labels"].numpy(), tokens[:, :-1])
    found = rates(ours[:, 0], ours[:, 1], tokens[:, :-1])
    assert found == pytest.approx(expected, abs=0.012)
    assert found == pytest.approx([0.15, 0.8, 0.1], abs=0.01)


def test_every_window_has_the_same_number_of_predicted_tokens_and_labels_are_the_truth():
    tokens = windows()
    inputs, labels = (BERT.examples(tokens, (0, 0))[:, part] for part in (0, 1))
    chosen = labels != UNSCORED
    assert set(chosen.sum(axis=1)) == {round(0.15 * 128)}
    assert np.array_equal(labels[chosen], tokens[:, :-1][chosen])
    assert np.array_equal(inputs[~chosen], tokens[:, :-1][~chosen])


def test_the_end_of_a_text_is_predicted_only_where_nothing_else_is_left():
    tokens = windows()
    tokens[:, ::3] = EOS
    assert EOS not in BERT.examples(tokens, (0, 0))[:, 1]
    tokens[:, :-2] = EOS
    assert (BERT.examples(tokens, (0, 0))[:, 1] != UNSCORED).sum(axis=1).tolist() == [19] * len(tokens)


def test_a_mask_is_a_function_of_seed_and_step(text):
    chosen = settings(text)
    first, again = batch_of(chosen, text.train, 5), batch_of(chosen, text.train, 5)
    assert np.array_equal(first, again)
    tokens = windows(4)
    masks = [BERT.examples(tokens, key)[:, 1] != UNSCORED for key in ((0, 0), (0, 1), (1, 0))]
    assert not any(np.array_equal(masks[a], masks[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


# The loss


def test_the_masked_loss_is_transformers_own(text):
    chosen = settings(text)
    session = start(chosen, "cpu")
    examples = torch.from_numpy(batch_of(chosen, text.train, 0))
    with torch.no_grad():
        theirs = session.model(input_ids=examples[:, 0], labels=examples[:, 1].contiguous()).loss.item()
        ours = objective_of(chosen).losses(session.model, examples).mean().item()
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_micro_batches_of_masked_windows_add_up_to_the_batch(text):
    found = []
    for micro in (8, 2):
        chosen = settings(text, batch_size=8, micro_batch=micro)
        session = start(chosen, "cpu")
        loss, norm = train_step(session, torch.from_numpy(batch_of(chosen, text.train, 0)), 1e-3)
        found.append((loss.item(), norm.item()))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_masked_models_size_and_work_count_its_head(text):
    spec = settings(text).spec()
    model = build(spec, seed=0)
    assert type(model).__name__ == "BertForMaskedLM"
    head = [weight.numel() for name, weight in model.named_parameters() if name.startswith("cls.")]
    assert sum(weight.numel() for weight in model.parameters()) == params(spec)
    assert sum(head) == spec.n_embd**2 + 3 * spec.n_embd + spec.vocab_size
    from torch.utils.flop_counter import FlopCounterMode

    model.set_attn_implementation("eager")
    ids = torch.zeros((1, spec.n_positions), dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(ids, labels=ids).loss.backward()
    assert counter.get_total_flops() == pytest.approx(
        train_flops_per_token(spec) * spec.n_positions, rel=1e-9
    )


def test_no_token_is_padding_so_that_every_row_of_the_table_learns(text):
    chosen = settings(text)
    session = start(chosen, "cpu")
    assert session.model.bert.embeddings.word_embeddings.padding_idx is None


# Ladders of a masked model


@pytest.fixture(scope="module")
def masked(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    rungs = train_ladder(
        settings(text), (1024, 2048), text, places(folder), RunOptions(save_every=1e9, log_every=4), Stop()
    )
    return folder, rungs


def test_a_masked_model_loads_with_transformers_and_fills_its_masks(masked):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = masked[0] / "run" / "rung-2048" / "model"
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "BertForMaskedLM"
    inputs = tokenizer(f"model {tokenizer.mask_token} law", return_tensors="pt")
    place = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    logits = model(input_ids=inputs["input_ids"]).logits
    assert tokenizer.decode([int(logits[0, place].argmax())])


def test_the_evaluation_masks_the_same_tokens_for_every_seed_and_is_named_by_them(masked, text):
    first, other = settings(text), settings(text, seed=1)
    sets = [eval_set(text.heldout, text.manifest, 4096, objective_of(chosen)) for chosen in (first, other)]
    assert np.array_equal(sets[0].examples, sets[1].examples)
    assert sets[0].name == sets[1].name != eval_set(text.heldout, text.manifest, 4096).name
    result = evaluate(start(first, "cpu").model, first, sets[0], "cpu")
    assert result.tokens == (sets[0].examples[:, 1] != UNSCORED).sum()
    assert result.bits_per_byte is None
    assert result.loss_per_word is None


def test_the_cards_command_measures_on_the_same_masked_tokens(masked, text):
    import re

    card = (masked[0] / "run" / "rung-2048" / "model" / "README.md").read_text()
    limit = int(re.search(r"^scaling train .* eval_tokens=(\d+)", card, re.MULTILINE)[1])
    found = eval_set(text.heldout, text.manifest, limit, objective_of(settings(text)))
    assert found.name == masked[1][-1].observation.eval_set


@pytest.mark.parametrize("after", [3, 9])
def test_a_masked_run_resumes_exactly(after, masked, text, tmp_path):
    habits = RunOptions(log_every=4)
    with pytest.raises(Interrupted):
        train_ladder(settings(text), (1024, 2048), text, places(tmp_path), habits, StopAfter(after))
    again = train_ladder(settings(text), (1024, 2048), text, places(tmp_path), habits, Stop())
    assert [rung.observation.loss for rung in again] == [rung.observation.loss for rung in masked[1]]


def test_masked_training_learns(text, tmp_path):
    chosen = settings(text, tokens=16384, lr=1e-2)
    before = evaluate(
        start(chosen, "cpu").model,
        chosen,
        eval_set(text.heldout, text.manifest, 8192, objective_of(chosen)),
        "cpu",
    )
    train_ladder(chosen, (16384,), text, places(tmp_path), RunOptions(save_every=1e9), Stop())
    assert read_runs(tmp_path / "runs.jsonl").runs[-1].loss < before.loss - 1.0


# Optimisers


def one_update(optimizer, weight, gradients):
    """How far each gradient moves the weight."""
    moves = []
    for gradient in gradients:
        before = weight.detach().clone()
        weight.grad = gradient.clone()
        optimizer.step()
        moves.append(weight.detach() - before)
    return moves


def test_adafactor_moves_as_torchs_own_with_the_rate_as_given(text):
    """torch.optim.Adafactor scales the rate by the weights' root mean square; ours, as Trainer's, does not."""
    torch.manual_seed(0)
    begin = torch.randn(16, 8, dtype=torch.float64)
    gradients = [torch.randn(16, 8, dtype=torch.float64) * scale for scale in (1.0, 5.0, 0.2)]
    ours, theirs = torch.nn.Linear(8, 16, bias=False, dtype=torch.float64), torch.nn.Parameter(begin.clone())
    ours.weight.data.copy_(begin)
    chosen = settings(text, optimizer="adafactor", lr=1e-5, weight_decay=0)
    found = one_update(make_optimizer(chosen, ours), ours.weight, gradients)
    expected = one_update(torch.optim.Adafactor([theirs], lr=1e-5), theirs, gradients)
    scale = begin.pow(2).mean().sqrt()
    for move, other in zip(found, expected, strict=True):
        assert torch.allclose(move, other / scale, rtol=1e-4, atol=1e-12)
        assert move.pow(2).mean().sqrt() <= 1e-5 * (1 + 1e-6)


def test_adafactor_keeps_rows_and_columns_and_no_first_moment(text):
    session = start(settings(text, optimizer="adafactor"), "cpu")
    train_step(session, to_device(batch_of(session.settings, text.train, 0), "cpu"), 1e-3)
    kept = sum(value.numel() for state in session.optimizer.state.values() for value in state.values()
               if isinstance(value, torch.Tensor))  # fmt: skip
    assert kept < 0.1 * params(session.settings.spec())


def test_muon_moves_the_blocks_matrices_as_torchs_own_and_adamw_the_rest(text):
    session = start(settings(text, optimizer="muon", weight_decay=0.1), "cpu")
    optimizer = session.optimizer
    muon = {id(w) for group in optimizer.muon.param_groups for w in group["params"]}
    names = {name for name, w in session.model.named_parameters() if id(w) in muon}
    assert names
    assert not any("embed" in name or "wte" in name or "bias" in name for name in names)
    (name, weight), *_ = ((n, w) for n, w in session.model.named_parameters() if n in names)
    twin = torch.nn.Parameter(weight.detach().clone())
    gradient = torch.randn_like(weight)
    alone = torch.optim.Muon([twin], lr=1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    for ours, stepper in ((weight, optimizer), (twin, alone)):
        ours.grad = gradient.clone()
        stepper.step()
    assert torch.equal(weight, twin), name


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_an_optimisers_state_goes_through_a_checkpoint_bit_for_bit(optimizer, text, tmp_path):
    session = start(settings(text, optimizer=optimizer, dropout=0.1), "cpu")

    def step(session):
        windows = to_device(batch_of(session.settings, text.train, session.step), "cpu")
        return train_step(session, windows, 1e-3)[0].item()

    for _ in range(3):
        step(session)
    save(session, tmp_path / "step-00000003", text.folder / "tokenizer.json")
    losses = [step(session) for _ in range(3)]
    resumed = load(session.settings, tmp_path / "step-00000003", "cpu")
    assert [step(resumed) for _ in range(3)] == losses
    for ours, theirs in zip(session.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# What is asked for


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "gpt2-52m", "objective": "mlm"}, "gpt2 is a decoder, which is trained with causal"),
        ({"family": "bert-mini", "objective": "causal"}, "bert is an encoder, which is trained with mlm"),
        ({"family": "gpt2-52m", "optimizer": "adam"}, "'adamw', 'adafactor' or 'muon'"),
        ({"family": "gpt2-52m", "objective": "mlmm"}, "'causal' or 'mlm'"),
    ],
)
def test_a_wrong_objective_is_one_clear_line(change, message):
    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate({"data": "x", "tokens": "100k", **change})
    assert message in first_problem(caught.value)
    assert "\n" not in first_problem(caught.value)


def test_a_shape_of_ones_own_is_an_encoder_where_the_family_or_the_objective_says_so():
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "data": "x", "tokens": 4096}
    own = TrainConfig.model_validate({"family": "mine", "objective": "mlm", **shape}).spec()
    assert own == ModelSpec(
        architecture="bert", n_layer=2, n_head=2, n_embd=32, n_positions=512, vocab_size=30522
    )
    assert TrainConfig.model_validate({"family": "bert-mini", **shape}).spec() == own
    assert TrainConfig.model_validate({"family": "mine", **shape}).spec().architecture == "gpt2"


def test_scoring_long_windows_of_a_large_vocabulary_takes_few_at_a_time(text):
    from train.evaluate import MOST_LOGITS, windows_at_once

    assert windows_at_once(32, 1000) == 32
    assert windows_at_once(1024, 50257) * 1024 * 50257 <= MOST_LOGITS
    assert windows_at_once(131072, 128256) == 1
