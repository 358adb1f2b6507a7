"""Beginning from a checkpoint, epochs, and a fraction of the text."""

import json
import socket
import time

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from families import ModelSpec
from families.units import BadInput
from scaling.files import first_problem
from scaling.runs.readers import read_runs
from train.config import TrainConfig
from train.data import TokenizedText, Tokens, remote
from train.evaluate import best, epoch_ends, eval_set, evaluate, mean_train_loss
from train.jobs.launch import train
from train.ladder import Interrupted, RunOptions, train_ladder
from train.lease import Stop
from train.loop import start
from train.model import pretrained
from train.model.config import build
from train.settings import TextFacts, branch_name, settings_of, trunk_schedule, with_recorded_settings

from .tiny import StopAfter, places, settings, write_corpus

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(ladder):
    return ladder[0] / "run" / "rung-4096"


def tuned(text, base, **changes):
    config = TrainConfig.model_validate(
        {"data": "x", "tokens": 2048, "init": str(base), "batch_size": 4, **changes}
    )
    return settings_of(config, TextFacts.of(text.manifest, "gpt2"), "cpu")


def quiet(done, total, what, fresh):
    """No progress."""


# Weights


def test_a_run_begins_with_the_checkpoints_weights(base, text):
    chosen = tuned(text, base)
    model = start(chosen, "cpu").model
    theirs = load_file(base / "model" / "model.safetensors")
    assert all(torch.equal(weight, theirs[name]) for name, weight in model.named_parameters())
    held = eval_set(text.heldout, text.manifest, 10**6)
    reached = json.loads((base / "rung.json").read_text())["observation"]["loss"]
    assert evaluate(model, chosen, held, "cpu").loss == pytest.approx(reached, rel=1e-6)


def test_a_shorter_context_takes_the_first_positions_and_computes_the_same(base, text):
    model, short = (start(tuned(text, base, n_positions=n), "cpu").model.eval() for n in (32, 16))
    assert short.config.n_positions == 16
    ids = torch.from_numpy(text.train.windows(np.arange(2))[:, :16])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, short(ids).logits, atol=1e-6)


def test_what_is_not_given_is_the_recipe_of_fine_tuning(base, text):
    chosen = tuned(text, base, batch_size=None)
    assert (chosen.lr, chosen.batch_size, chosen.warmup, chosen.weight_decay) == (5e-5, 8, 0, 0.0)
    assert (chosen.cooldown, chosen.dropout) == (1.0, 0.0)  # of this checkpoint
    assert "fine-tuning" in chosen.recipe
    assert tuned(text, base, lr=1e-3).lr == 1e-3


def test_the_rate_of_fine_tuning_is_that_of_transformers_trainer(base, text):
    from transformers import get_linear_schedule_with_warmup

    chosen = tuned(text, base, tokens=20 * 4 * 32)
    ours = trunk_schedule(chosen, 20)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=chosen.lr)
    theirs = get_linear_schedule_with_warmup(
        optimizer, 0, 21
    )  # theirs ends a step before the last, ours after it
    for step in range(20):
        optimizer.step()
        theirs.step()
        assert ours.lr(step) == pytest.approx(theirs.get_last_lr()[0])


def with_dropout(base, folder, **rates):
    """A copy of the base model whose config.json has these rates of dropout."""
    import shutil

    shutil.copytree(base / "model", folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **rates}))
    return folder


def test_dropout_is_the_checkpoints_and_several_rates_are_asked_about(base, text, tmp_path):
    rates = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    hub = with_dropout(base, tmp_path / "hub", **rates, summary_first_dropout=0.3)
    assert tuned(text, hub).dropout == 0.1
    assert {start(tuned(text, hub), "cpu").model.config.to_dict()[key] for key in rates} == {0.1}
    assert tuned(text, hub, dropout=0).dropout == 0
    mixed = with_dropout(base, tmp_path / "mixed", **{**rates, "attn_pdrop": 0})
    with pytest.raises(
        BadInput, match=r"attn_pdrop 0, embd_pdrop 0.1, resid_pdrop 0.1\); give one by dropout="
    ):
        tuned(text, mixed)
    assert tuned(text, mixed, dropout=0.2).dropout == 0.2


def test_a_fine_tuning_begun_by_an_older_version_goes_on_as_it_began(base, text, tmp_path):
    hub = with_dropout(base, tmp_path / "hub", resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1)
    path = tmp_path / "run" / "run.json"
    path.parent.mkdir()
    tuned(text, hub, dropout=0, cooldown=0.2).write(path)
    begun = {key: value for key, value in json.loads(path.read_text()).items() if key != "usual_cooldown"}
    path.write_text(json.dumps(begun))  # as 0.1.0 wrote it
    config = TrainConfig.model_validate({"data": "x", "tokens": 2048, "init": str(hub), "batch_size": 4})
    again = with_recorded_settings(tuned(text, hub), path.parent, config)
    assert (again.cooldown, again.dropout, branch_name(again, 16)) == (0.2, 0, "rung-2048")
    assert branch_name(tuned(text, hub), 16) == "rung-2048"
    assert branch_name(tuned(text, hub, cooldown=0.2), 16) == "rung-2048-wsd-0.2-linear"


def test_the_identity_knows_the_weights_and_not_where_they_lie(base, text, tmp_path):
    import shutil

    shutil.copytree(base / "model", tmp_path / "copy")
    one, copy = tuned(text, base, name="a"), tuned(text, tmp_path / "copy", name="a", family="tiny")
    assert one.model_copy(update={"member": "tiny"}).identity() == copy.identity()
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    weights["transformer.ln_f.bias"] += 1
    save_file(weights, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    assert tuned(text, tmp_path / "copy", name="a", family="tiny").identity() != copy.identity()


def test_a_run_goes_on_where_its_first_weights_are_gone(base, text, tmp_path):
    import shutil

    shutil.copytree(base / "model", tmp_path / "copy")
    chosen = tuned(text, tmp_path / "copy")
    with pytest.raises(Interrupted):
        train_ladder(chosen, (2048,), text, places(tmp_path), RunOptions(), StopAfter(5))
    shutil.rmtree(tmp_path / "copy")
    train_ladder(chosen, (2048,), text, places(tmp_path), RunOptions(), Stop())
    assert (tmp_path / "run" / "rung-2048" / "rung.json").exists()


def test_a_model_that_transformers_saved_is_read_and_the_published_bert_without_a_head_is_refused(tmp_path):
    from transformers import BertConfig, BertModel

    spec = ModelSpec(architecture="bert", n_layer=1, n_head=2, n_embd=16, n_positions=16, vocab_size=300)
    build(spec, seed=3).save_pretrained(tmp_path / "whole")
    other = build(spec, seed=4)
    pretrained.load_weights(other, spec, pretrained.checkpoint_folder(str(tmp_path / "whole")))
    theirs = build(spec, seed=3).state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in other.state_dict().items())
    encoder = BertModel(BertConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                   intermediate_size=64, max_position_embeddings=16))  # fmt: skip
    encoder.save_pretrained(tmp_path / "bare")
    with pytest.raises(BadInput, match=r"has no cls\.predictions"):
        pretrained.load_weights(other, spec, pretrained.checkpoint_folder(str(tmp_path / "bare")))


@pytest.fixture
def copied(base, tmp_path):
    """A copy of a model's folder, to be spoilt."""
    import shutil

    shutil.copytree(base / "model", tmp_path / "copy")
    return tmp_path / "copy"


def spoilt(folder, change):
    """Change a folder's weights as people do."""
    path = folder / "model.safetensors"
    whole = load_file(path)
    if change == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
    elif change == "shard":
        path.rename(folder / "model-00001-of-00002.safetensors")
    elif change == "adapter":
        path.rename(folder / "adapter_model.safetensors")
    elif change == "adapter beside":
        (folder / "adapter_config.json").write_text("{}")
    elif change == "compiled":
        save_file(
            {f"_orig_mod.{name}": part for name, part in whole.items()}, path, metadata={"format": "pt"}
        )
    elif change == "head":
        head = torch.randn_like(whole["transformer.wte.weight"])
        save_file({**whole, "lm_head.weight": head}, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("pointer", "model.safetensors is a pointer of Git LFS"),
        ("shard", "holds model-00001-of-00002.safetensors without model.safetensors.index.json"),
        ("adapter", "adapter_model.safetensors, a change to another model's weights: merge it"),
        ("adapter beside", "holds adapter_config.json beside its weights"),
        ("compiled", "weights are missing; it has _orig_mod."),
        ("head", "has a head other than its embedding; its config.json says tie_word_embeddings true"),
    ],
)
def test_weights_that_are_not_whole_or_say_two_things_are_refused_by_name(change, said, copied):
    spec = pretrained.checkpoint_spec(copied)
    spoilt(copied, change)
    with pytest.raises(BadInput, match=said):
        pretrained.load_weights(
            build(spec, seed=0), spec, pretrained.checkpoint_folder.__wrapped__(str(copied))
        )
    with pytest.raises(BadInput, match=said):
        pretrained.read_model(GPT2LMHeadModel, copied)


def refused(**changes):
    given = {"data": "x", "tokens": 2048, **changes}
    given = {key: value for key, value in given.items() if value is not None}
    with pytest.raises((BadInput, ValidationError)) as caught:
        TrainConfig.model_validate(given)
    error = caught.value
    line = first_problem(error) if isinstance(error, ValidationError) else str(error)
    assert "\n" not in line
    return line


def test_a_checkpoint_that_does_not_fit_is_one_clear_line(base, tmp_path):
    name = str(base)
    assert "n_layer 2; this one has n_layer 4" in refused(init=name, n_layer=4)
    assert "n_layer 2; this one has n_layer 12" in refused(init=name, family="gpt2")
    assert "n_positions is 64; init" in refused(init=name, n_positions=64)
    assert "which is trained with causal" in refused(init=name, objective="mlm")
    assert "which does not exist" in refused(init=str(tmp_path / "nothing"))
    assert "without a config.json" in refused(init=str(tmp_path))
    (tmp_path / "config.json").write_text((base / "model" / "config.json").read_text())
    assert "holds no weights" in refused(init=str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin, a pickle" in refused(init=str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "opt"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "model_type 'opt'; known: gpt2" in refused(init=str(tmp_path))


def test_another_activation_is_kept_and_the_logits_are_transformers_own(base, text, tmp_path):
    import shutil

    from transformers import AutoModelForCausalLM

    shutil.copytree(base / "model", tmp_path / "relu")
    config = json.loads((tmp_path / "relu" / "config.json").read_text())
    (tmp_path / "relu" / "config.json").write_text(json.dumps({**config, "activation_function": "relu"}))
    model = start(tuned(text, tmp_path / "relu"), "cpu").model.eval()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "relu").eval()
    ids = torch.arange(32)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, theirs(ids).logits, atol=1e-4)


def test_weights_that_compute_something_else_are_refused_by_the_entry(base, text, tmp_path):
    import shutil

    shutil.copytree(base / "model", tmp_path / "relu")
    config = json.loads((tmp_path / "relu" / "config.json").read_text())
    (tmp_path / "relu" / "config.json").write_text(json.dumps({**config, "activation_function": "relu"}))
    settings = tuned(text, tmp_path / "relu").model_copy(update={"config": {}})
    with pytest.raises(BadInput, match=r"activation_function relu; gpt2 is trained with gelu_new"):
        start(settings, "cpu")


def test_a_hub_name_without_a_network_fails_fast_in_one_line(monkeypatch, tmp_path):
    def nowhere(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    assert "the hub cannot be reached" in refused(init="nobody/never-downloaded-this")
    assert time.monotonic() - began < remote.NETWORK_SECONDS + 10


# Epochs


def test_epochs_end_at_the_whole_step_nearest_to_each_pass(base, text):
    chosen = tuned(text, base).model_copy(update={"epochs": 3})
    ends = epoch_ends(chosen, 110)
    assert ends == (28, 55, 82)  # 27.5, 55, 82.5 steps of 4 windows; a half goes to the even neighbour
    assert epoch_ends(chosen.model_copy(update={"epochs": 0}), 110) == ()


@pytest.fixture(scope="module")
def epochs(base, tmp_path_factory):
    """Three passes over a text small enough to be learned by heart, at a rate that lets it."""
    root = tmp_path_factory.mktemp("epochs")
    corpus = write_corpus(root / "corpus", files=6, lines=12)
    config = TrainConfig.model_validate({
        "data": str(corpus), "init": str(base), "epochs": 3, "batch_size": 2, "lr": 1e-2, "held_out": 0.2, "log_every": 3,
    })  # fmt: skip

    def run(study, stop):
        return train(config, study, yes=True, stop=stop, log=lambda line: None, report=quiet)

    return root, run, run(root / "study", Stop())[0]


def test_each_epoch_is_scored_and_the_best_has_its_model(epochs):
    root, _, rung = epochs
    assert [epoch.epoch for epoch in rung.epochs] == [1, 2, 3]
    assert rung.epochs[-1].loss == rung.observation.loss
    found = best(rung.epochs)
    assert found.loss == min(epoch.loss for epoch in rung.epochs)
    folder = root / "study" / "runs" / "run-ft-s0"
    config = json.loads((folder / rung.best_model / "config.json").read_text())
    assert config["model_type"] == "gpt2"


def test_the_observation_counts_the_passes(epochs):
    root = epochs[0]
    run = read_runs(root / "study" / "runs.jsonl").runs[0]
    assert run.tokens == pytest.approx(3 * run.unique_tokens, rel=0.05)
    assert run.annealed


def test_the_training_loss_of_an_epoch_is_the_mean_of_its_steps(epochs):
    root, _, rung = epochs
    folder = root / "study" / "runs" / "run-ft-s0"
    branch = next(folder.glob("rung-*"))
    rows = [json.loads(line) for line in (branch / "metrics.jsonl").read_text().splitlines()]
    ends = [epoch.step for epoch in rung.epochs]
    weights, total, before = 0, 0.0, 0
    for row in rows:
        if row["step"] > ends[1]:
            total += row["loss"] * (row["step"] - before)
            weights += row["step"] - before
        before = row["step"]
    assert weights == ends[2] - ends[1]
    assert mean_train_loss([(branch, 10**9)], ends[1], ends[2]) == pytest.approx(total / weights)


@pytest.mark.parametrize("after", [4, 9])
def test_a_stopped_fine_tuning_goes_on_to_the_same_epochs(after, epochs, tmp_path):
    _, run, whole = epochs
    with pytest.raises(Interrupted):
        run(tmp_path, StopAfter(after))
    again = run(tmp_path, Stop())[0]
    assert again.epochs == whole.epochs
    assert again.train_loss == whole.train_loss


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 2}, "one of tokens= and epochs= is needed"),
        ({"tokens": None}, "tokens= is missing"),
        ({"tokens": None, "epochs": 2, "rungs": "3x2"}, "rungs and ablate=steps need tokens="),
        ({"tokens": None, "epochs": 0}, "greater than or equal to 1"),
        ({"family": None}, "family= is missing; it is needed, or init="),
        ({"ablate": "data", "fractions": "0.5,1.5"}, "fractions has 1.5; each must be above 0 and at most 1"),
        ({"ablate": "data", "fractions": "half"}, "number"),
        ({"ablate": "layers"}, "'steps' or 'data'"),
        ({"data_fraction": 0}, "greater than 0"),
    ],
)
def test_what_cannot_be_together_is_one_clear_line(change, message):
    assert message in refused(**{"family": "gpt2-52m", "tokens": "100k", **change})


# A fraction of the text


def test_a_fraction_of_the_windows_is_among_a_larger_one(text):
    def opened(fraction):
        return Tokens.open(text.folder, text.manifest.train, text.manifest.dtype, 32, fraction)

    whole, half, tenth = (opened(fraction) for fraction in (1.0, 0.5, 0.1))
    assert len(half) == round(0.5 * len(whole))
    rows = [
        {row.tobytes() for row in tokens.windows(np.arange(len(tokens)))} for tokens in (whole, half, tenth)
    ]
    assert rows[2] <= rows[1] <= rows[0]


def test_the_same_steps_on_a_fraction_repeat_it_and_book_it(text, tmp_path):
    chosen = settings(text, tokens=8192, data_fraction=0.1)
    assert chosen.run == "tiny-data0.1-s0"
    part = TokenizedText.open(text.folder, text.manifest, 32, 0.1)
    rung = train_ladder(chosen, (8192,), part, places(tmp_path), RunOptions(save_every=1e9), Stop())[0]
    assert rung.observation.tokens == 8192
    assert rung.observation.unique_tokens == len(part.train) * 32 < 0.2 * 8192 * 10


def test_the_cards_command_asks_for_the_same_fine_tuning(epochs):
    import re
    import shlex

    from scaling.cli.run_options import merge
    from train.config import Settings
    from train.data import DataManifest

    root = epochs[0] / "study"
    folder = next((root / "runs" / "run-ft-s0").glob("rung-*"))
    card = (folder / "model" / "README.md").read_text()
    words = shlex.split(re.search(r"^scaling train (.*)$", card, re.MULTILINE)[1])
    config = merge(TrainConfig, words)
    begun = Settings.read(folder.parent / "run.json")
    assert (config.epochs, config.init) == (3, begun.init)
    facts = TextFacts.of(DataManifest.read(root / "data" / "data.json"), "gpt2")
    again = settings_of(config.model_copy(update={"tokens": 1000}), facts, "cpu")
    assert (
        again.model_copy(update={"run": begun.run, "compile": begun.compile}).identity() == begun.identity()
    )


def test_the_card_of_a_fine_tuning_does_not_say_that_it_was_taught_by_one_text_alone(epochs, base):
    card = next((epochs[0] / "study" / "runs" / "run-ft-s0").glob("rung-*/model/README.md")).read_text()
    assert "trained further on the text below" in card
    assert "on nothing else" not in card
    assert "on the text below and on nothing else" in (base / "model" / "README.md").read_text()
