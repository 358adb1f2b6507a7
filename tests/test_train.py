"""Training: schedules, real Hugging Face models, ladders whose branches are exact, resume that loses nothing."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from families import ModelSpec, member, params
from families.errors import BadInput
from scaling.ledger import read_ledger
from scaling.runs import read_runs
from scaling.schedule import Schedule
from scaling.study import Study
from train.branches import planned_steps
from train.checkpoint import checkpoints, load, save
from train.config import TrainConfig
from train.data import Text, batch
from train.evaluate import eval_set, evaluate
from train.ladder import Habits, Interrupted, Places, climb
from train.launch import places_of
from train.loop import Diverged, gradients, start, train_step
from train.model import build, hugging_face_config
from train.objective import Causal
from train.pack import Job, climb_all
from train.prepare import prepare
from train.resolve import TextFacts, settings_of
from train.stop import Stop

from .test_data import write_corpus

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32, "vocab_size": 300}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    corpus = write_corpus(tmp_path_factory.mktemp("train") / "corpus")
    folder = tmp_path_factory.mktemp("tokens")
    return Text.open(folder, prepare(str(corpus), folder, vocab_size=300), 32)


def settings(text, **changes):
    config = {
        "family": "tiny",
        "data": "x",
        "tokens": 4096,
        "batch_size": 4,
        "lr": 3e-3,
        "warmup": 4,
        **SHAPE,
        **changes,
    }
    return settings_of(TrainConfig.model_validate(config), TextFacts.of(text.manifest, "gpt2"), "cpu")


def places(folder):
    return Places(folder=folder / "run", runs=folder / "runs.jsonl", ledger=folder / "ledger.jsonl")


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


# Schedules


def test_a_wsd_schedule_warms_up_stays_and_cools_down_to_nothing():
    schedule = Schedule(peak=1.0, warmup=10, steps=0).to(100, 0.2)
    rates = [schedule.lr(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert set(rates[9:80]) == {1.0}
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[79:]))
    assert rates[-1] == pytest.approx(1 / 21)


def test_rungs_share_their_trunk():
    trunk = Schedule(peak=1.0, warmup=10, steps=0)
    short, long = trunk.to(100, 0.2), trunk.to(400, 0.2)
    assert [short.lr(step) for step in range(80)] == [long.lr(step) for step in range(80)]


def test_cosine_ends_at_nothing_like_torchs_own():
    schedule = Schedule(peak=0.5, warmup=0, steps=50, kind="cosine")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(50):
        optimizer.step()
        theirs.step()
        assert schedule.lr(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)


# Models


def test_residual_projections_start_narrower_by_the_root_of_twice_the_depth():
    model = build(ModelSpec(n_layer=8, n_head=4, n_embd=128, vocab_size=500, n_positions=64), seed=0)
    for name, weight in model.named_parameters():
        if name.endswith("c_proj.weight"):
            assert weight.std().item() == pytest.approx(0.02 / math.sqrt(2 * 8), rel=0.05), name
        elif name.endswith(("c_attn.weight", "c_fc.weight", "wte.weight")):
            assert weight.std().item() == pytest.approx(0.02, rel=0.05), name


@pytest.mark.parametrize("std", [0.02, 0.08])
def test_a_run_starts_with_the_weights_and_the_dropout_that_its_settings_say(std, text):
    model = start(settings(text, init_std=std, dropout=0.25), "cpu").model
    assert model.transformer.wte.weight.std().item() == pytest.approx(std, rel=0.05)
    assert model.transformer.h[0].mlp.c_proj.weight.std().item() == pytest.approx(std / 2, rel=0.05)
    assert {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)} == {0.25}
    assert model.config.initializer_range == std


def test_the_same_seed_draws_the_same_weights():
    spec = ModelSpec(**SHAPE)
    first, again, other = build(spec, seed=1), build(spec, seed=1), build(spec, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_every_preset_has_the_config_that_transformers_counts_alike():
    from transformers import AutoModelForCausalLM

    for name in ("gpt2-52m", "gpt2-83m", "gpt2-125m"):
        spec = member(name).spec
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(hugging_face_config(spec))
        assert sum(weight.numel() for weight in model.parameters()) == params(spec)


def test_micro_batches_add_up_to_the_batch(text):
    whole, pieces = settings(text, batch_size=8), settings(text, batch_size=8, micro_batch=2)
    windows = torch.from_numpy(text.train.windows(np.arange(8)))
    results = []
    for chosen in (whole, pieces):
        session = start(chosen, "cpu")
        loss, norm = train_step(session, windows, 1e-3)
        results.append((loss.item(), norm.item(), next(session.model.parameters()).detach().clone()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)
    assert torch.allclose(results[0][2], results[1][2], atol=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 5])
def test_a_share_that_the_micro_batch_does_not_divide_has_the_same_gradient(micro_batch, text):
    windows = torch.from_numpy(text.train.windows(np.arange(6)))
    session = start(settings(text), "cpu")
    found = []
    for size in (6, micro_batch):
        loss = gradients(session, windows, size)
        found.append((loss, [weight.grad.clone() for weight in session.model.parameters()]))
    (loss, ours), (other, theirs) = found
    assert torch.isclose(loss, other, rtol=1e-6)
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_the_loss_is_transformers_own(text):
    session = start(settings(text), "cpu")
    windows = torch.from_numpy(text.train.windows(np.arange(4)))[:, :-1]
    with torch.no_grad():
        theirs = session.model(windows, labels=windows).loss.item()
        assert Causal().losses(session.model, windows).mean().item() == pytest.approx(theirs, rel=1e-6)


# Ladders


@pytest.fixture(scope="module")
def ladder(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ladder")
    rungs = climb(
        settings(text), (1024, 2048, 4096), text, places(folder), Habits(save_every=1e9, log_every=4), Stop()
    )
    return folder, rungs


def test_each_rung_is_an_annealed_observation_of_one_run(ladder):
    folder, rungs = ladder
    runs = read_runs(folder / "runs.jsonl").runs
    assert [run.tokens for run in runs] == [1024, 2048, 4096]
    assert {run.run for run in runs} == {"tiny-s0"}
    assert all(run.annealed and run.loss_se and run.loss_se > 0 for run in runs)
    assert [rung.observation for rung in rungs] == list(runs)


def test_a_branch_equals_an_uninterrupted_run_of_its_schedule_bit_for_bit(ladder, text, tmp_path):
    folder, _ = ladder
    alone = climb(settings(text), (2048,), text, places(tmp_path), Habits(save_every=1e9), Stop())[0]
    ours = weights(folder / "run" / "rung-2048")
    theirs = weights(tmp_path / "run" / "rung-2048")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert alone.observation.loss == read_runs(folder / "runs.jsonl").runs[1].loss


def test_a_branch_equals_a_plain_loop_written_out(ladder, text):
    chosen = settings(text)
    session = start(chosen, "cpu")
    schedule = Schedule(peak=chosen.lr, warmup=chosen.warmup, steps=0).to(16, chosen.cooldown)
    for step in range(16):
        windows = torch.from_numpy(batch(text.train, chosen.batch_size, chosen.seed, step))
        train_step(session, windows, schedule.lr(step))
    ours = weights(ladder[0] / "run" / "rung-2048")
    assert all(torch.equal(value, ours[name]) for name, value in session.model.named_parameters())


def test_what_is_done_is_not_done_again_and_a_rung_can_be_added(ladder, text):
    folder, _ = ladder
    before = read_ledger(folder / "ledger.jsonl")
    climb(settings(text), (1024, 2048, 4096), text, places(folder), Habits(), Stop())
    assert read_ledger(folder / "ledger.jsonl") == before
    climb(settings(text), (3072,), text, places(folder), Habits(save_every=1e9), Stop())
    added = read_ledger(folder / "ledger.jsonl")[len(before) :]
    assert sum(work.tokens for work in added) < 3072
    assert len(read_runs(folder / "runs.jsonl").runs) == 4


def test_the_ledger_books_what_the_formula_says(text, tmp_path):
    chosen = settings(text)
    climb(chosen, (1280, 2560), text, places(tmp_path), Habits(save_every=1e9), Stop())
    booked = sum(work.tokens for work in read_ledger(tmp_path / "ledger.jsonl"))
    assert booked == planned_steps(chosen, (1280, 2560)) * chosen.batch_tokens == 2560 + 0.2 * 1280


def test_a_finished_rung_loads_and_generates_with_transformers(ladder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(ladder[0] / "run" / "rung-4096" / "model")
    tokenizer = AutoTokenizer.from_pretrained(ladder[0] / "run" / "rung-4096" / "model")
    inputs = tokenizer("model scale", return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    assert tokenizer.decode(out[0]).startswith("model scale")


def test_evaluation_is_the_mean_over_tokens_with_its_standard_error(ladder, text):
    from transformers import AutoModelForCausalLM

    chosen = settings(text)
    held = eval_set(text.heldout, text.manifest, 10**6)
    model = AutoModelForCausalLM.from_pretrained(ladder[0] / "run" / "rung-4096" / "model")
    found = evaluate(model, chosen, held, "cpu")
    losses = []
    for window in torch.from_numpy(held.examples):
        logits = model(window[None, :-1]).logits
        losses.append(torch.nn.functional.cross_entropy(logits[0], window[1:]).item())
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert found.se == pytest.approx(torch.tensor(losses).std().item() / math.sqrt(len(losses)), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(
        found.loss / math.log(2) * text.manifest.heldout.tokens / text.manifest.heldout_bytes
    )


def test_ladders_side_by_side_give_what_they_give_in_turn(text, tmp_path):
    folders = {}
    for side_by_side in (1, 2):
        root = tmp_path / str(side_by_side)
        jobs = [
            Job(
                settings=chosen,
                rungs=(1024, 2048),
                places=places_of(Study(root), chosen.run),
                data=text.folder,
                work_per_step=1.0,
                steps=planned_steps(chosen, (1024, 2048)),
            )
            for chosen in (settings(text), settings(text, family="other", seed=1))
        ]
        heard = []
        rungs = climb_all(
            jobs, Habits(), Stop(), lambda *said, heard=heard: heard.append(said), side_by_side=side_by_side
        )
        folders[side_by_side] = [
            (rung.observation.run, rung.observation.tokens, rung.observation.loss) for rung in rungs
        ]
        assert {run.run for run in read_runs(root / "runs.jsonl").runs} == {"tiny-s0", "other-s1"}
        assert heard[-1][0] == heard[-1][1]
    assert folders[1] == folders[2]


def test_rungs_that_round_to_one_step_are_one_rung(text, tmp_path):
    rungs = climb(settings(text), (1024, 1030), text, places(tmp_path), Habits(), Stop())
    assert [rung.observation.tokens for rung in rungs] == [1024]


# Resume


class StopAfter:
    """Asks the loop to stop after some steps, as a signal would."""

    signal_name = "SIGTERM"

    def __init__(self, steps):
        self.left = steps

    @property
    def asked(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("after", [1, 7, 11, 13])
def test_stopping_anywhere_and_going_on_changes_nothing(after, ladder, text, tmp_path):
    rungs = (1024, 2048, 4096)
    with pytest.raises(Interrupted, match="goes on from there"):
        climb(settings(text), rungs, text, places(tmp_path), Habits(log_every=4), StopAfter(after))
    again = climb(settings(text), rungs, text, places(tmp_path), Habits(log_every=4), Stop())
    for mine, whole in zip(again, ladder[1], strict=True):
        assert mine.observation.loss == whole.observation.loss
    booked = sum(work.tokens for work in read_ledger(tmp_path / "ledger.jsonl"))
    assert booked == planned_steps(settings(text), rungs) * settings(text).batch_tokens


def test_a_run_stopped_at_a_third_books_a_third(text, tmp_path):
    with pytest.raises(Interrupted):
        climb(settings(text), (4096,), text, places(tmp_path), Habits(), StopAfter(11))
    assert sum(work.tokens for work in read_ledger(tmp_path / "ledger.jsonl")) == 12 * 128


def test_a_checkpoint_gives_back_weights_moments_and_random_state(text, tmp_path):
    session = start(settings(text, dropout=0.1), "cpu")
    windows = torch.from_numpy(text.train.windows(np.arange(4)))
    for _ in range(3):
        train_step(session, windows, 1e-3)
    save(session, tmp_path / "step-00000003", text.folder / "tokenizer.json")
    losses = [train_step(session, windows, 1e-3)[0].item() for _ in range(3)]
    resumed = load(session.settings, tmp_path / "step-00000003", "cpu")
    assert [train_step(resumed, windows, 1e-3)[0].item() for _ in range(3)] == losses


def flip(name, place=-1):
    def damage(folder):
        payload = bytearray((folder / name).read_bytes())
        payload[place] ^= 1
        (folder / name).write_bytes(payload)

    return damage


def alter_wall_time(folder):
    path = folder / "checkpoint.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "wall_s": facts["wall_s"] + 1}))


@pytest.mark.parametrize(
    "damage",
    [
        flip("model.safetensors"),
        flip("state.safetensors"),
        flip("state.safetensors", 3),
        flip("checkpoint.json", 0),
        alter_wall_time,
        lambda folder: (folder / "state.safetensors").unlink(),
        lambda folder: (folder / "checkpoint.json").unlink(),
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
    ],
    ids=["weights", "moments", "header", "no JSON", "another number", "no state", "no file", "empty"],
)
def test_a_damaged_checkpoint_is_passed_over_and_said_so(damage, text, tmp_path):
    with pytest.raises(Interrupted):
        climb(settings(text), (4096,), text, places(tmp_path), Habits(save_every=0.0), StopAfter(4))
    trunk = tmp_path / "run" / "trunk"
    (before, _), (last, newest) = checkpoints(trunk)
    damage(newest)
    heard = []
    climb(settings(text), (4096,), text, places(tmp_path), Habits(tell=heard.append), Stop())
    assert len(heard) == 1
    assert f"checkpoint {newest} is damaged: " in heard[0]
    assert "and the run goes back to the one before it" in heard[0]
    first_booked_again = [work.from_step for work in read_ledger(tmp_path / "ledger.jsonl")][last]
    assert (before, first_booked_again) == (last - 1, before)
    assert not list(trunk.glob(".*"))
    assert (trunk / f"damaged-{newest.name}").is_dir()  # where no rule counts it as one to go back to
    climb(settings(text), (4096,), text, places(tmp_path / "whole"), Habits(), Stop())
    ours, theirs = (weights(root / "run" / "rung-4096") for root in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_newer_programs_checkpoint_is_refused_and_left_alone(text, tmp_path):
    with pytest.raises(Interrupted):
        climb(settings(text), (4096,), text, places(tmp_path), Habits(), StopAfter(4))
    ((_, newest),) = checkpoints(tmp_path / "run" / "trunk")
    path = newest / "checkpoint.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(BadInput, match="newer program"):
        climb(settings(text), (4096,), text, places(tmp_path), Habits(), Stop())
    assert newest.is_dir()


def test_a_folder_of_another_run_is_refused_and_the_difference_named(ladder, text):
    with pytest.raises(BadInput, match=r"lr 0\.003; this one has 0\.001"):
        climb(settings(text, lr=1e-3), (1024,), text, places(ladder[0]), Habits(), Stop())


def test_a_loss_that_is_no_number_raises_with_the_step_and_saves_nothing(text, tmp_path, monkeypatch):
    honest = Causal.losses
    monkeypatch.setattr(Causal, "losses", lambda *inputs: honest(*inputs) * math.nan)
    with pytest.raises(Diverged, match=r"nan at step 1 .*no checkpoint had been written"):
        climb(settings(text), (4096,), text, places(tmp_path), Habits(log_every=4), Stop())
    assert not (tmp_path / "runs.jsonl").exists()
    assert checkpoints(tmp_path / "run" / "trunk") == []


def test_metrics_of_a_resumed_run_are_those_of_the_whole_run_byte_for_byte(text, tmp_path):
    habits = Habits(log_every=4, save_every=1e9)
    with pytest.raises(Interrupted):
        climb(settings(text), (4096,), text, places(tmp_path / "cut"), habits, StopAfter(9))
    for folder in ("cut", "whole"):
        climb(settings(text), (4096,), text, places(tmp_path / folder), habits, Stop())
    for part in ("trunk", "rung-4096"):
        cut, whole = (tmp_path / folder / "run" / part / "metrics.jsonl" for folder in ("cut", "whole"))
        assert cut.read_bytes() == whole.read_bytes()


# Configuration


def test_a_batch_that_the_text_cannot_fill_is_refused(text, tmp_path):
    with pytest.raises(BadInput, match="one batch needs"):
        climb(
            settings(text, batch_size=100_000, micro_batch=1),
            (4096,),
            text,
            places(tmp_path),
            Habits(),
            Stop(),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": "many"}, "tokens is 'many'"),
        ({"n_embd": 33, "n_head": 2}, "multiple of n_head"),
        ({"family": "gpt2-83"}, "did you mean gpt2-83m"),
        ({"batch_size": 6, "micro_batch": 4}, "must divide"),
        ({"rungs": "1M"}, "none may exceed"),
    ],
)
def test_a_wrong_key_is_one_clear_line(change, message):
    from pydantic import ValidationError

    from scaling.files import first_problem

    with pytest.raises(ValidationError) as caught:
        TrainConfig.model_validate({"family": "gpt2-52m", "data": "x", "tokens": "100k", **change})
    assert message in first_problem(caught.value)
    assert "\n" not in first_problem(caught.value)
