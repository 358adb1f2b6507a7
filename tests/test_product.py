"""A finished rung is a product: a folder that others load, that says what it is, and that can be measured again."""

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml as outside_yaml
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from scaling.cli import main
from scaling.cli.run_options import merge
from scaling.paths import StudyPaths
from scaling.planning.planfile import PlanFile, PlannedLoss, PlannedMember
from scaling.planning.seal import seal
from scaling.runs.readers import read_runs
from scaling.untrusted import shown
from train.config import Settings, TrainConfig
from train.data import DataManifest
from train.model_card import Facts, card, front_matter, outcome
from train.rung import RungFile
from train.settings import TextFacts, settings_of

from .synthetic import leave_run
from .tiny import SMALLER, words, write_corpus

SHAPE = words(**SMALLER, batch_size=4)
RUN = ["family=tiny", "tokens=4096", *SHAPE, "rungs=2x2", "lr=3e-3", "warmup=3", "log_every=3", "seed=5"]


@pytest.fixture(scope="module")
def study(tmp_path_factory, cli):
    """A study of one run with two rungs, trained from the command line."""
    place = tmp_path_factory.mktemp("product")
    corpus = write_corpus(place / "a: 'corpus' #1", files=20)
    done = cli("train", *RUN, f"data={corpus}", "--study", str(place / "study"), cwd=place)
    assert done.returncode == 0, done.stderr
    return place / "study"


@pytest.fixture
def here(monkeypatch, capfd):
    """Run a command in this process, which has torch loaded: (status, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["scaling", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return (left.value.code or 0, *capfd.readouterr())

    return run


@pytest.fixture
def copy(study, tmp_path):
    """A study of one's own, to do harm to."""
    shutil.copytree(study, tmp_path / "study")
    return tmp_path / "study"


def branch_of(study, tokens=4096):
    return study / "runs" / "tiny-s5" / f"rung-{tokens}"


def facts_of(study, tokens=4096):
    model = branch_of(study, tokens) / "model"
    return Facts(
        settings=Settings.read(model / "run.json"),
        rung=RungFile.read(model / "rung.json"),
        manifest=DataManifest.read(study / "data" / "data.json"),
    )


def test_the_hub_reads_the_results_from_the_card(study):
    loaded = ModelCard.load(branch_of(study) / "model" / "README.md")
    loaded.validate = None  # asks the network
    rung = facts_of(study).rung
    found = {result.metric_type: result for result in loaded.data.eval_results}
    assert found["loss"].metric_value == rung.observation.loss
    assert found["perplexity"].metric_value == rung.perplexity
    assert found["bits_per_byte"].metric_value == rung.bits_per_byte
    assert found["loss"].dataset_name == "a: 'corpus' #1, held out"
    assert (loaded.data.pipeline_tag, loaded.data.library_name) == ("text-generation", "transformers")


def test_the_card_gives_betas_to_the_optimiser_that_has_them(study):
    facts = facts_of(study)
    other = facts.settings.model_copy(update={"optimizer": "adafactor"})
    assert "| optimiser | adamw, betas 0.9 " in card(facts)
    assert "| optimiser | adafactor, weight decay " in card(replace(facts, settings=other))


def test_a_model_folder_holds_tokenizer_generation_config_and_what_made_it(study):
    names = {path.name for path in (branch_of(study) / "model").iterdir()}
    assert names >= {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "run.json", "rung.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_the_cards_command_gives_the_very_settings(study):
    facts = facts_of(study)
    text = card(facts)
    (command,) = [line for line in text.splitlines() if line.startswith("scaling train ")]
    words = shlex.split(command)[2:]
    again = settings_of(merge(TrainConfig, words), TextFacts.of(facts.manifest, "gpt2"), "cpu")
    assert again.identity() == facts.settings.identity()
    assert (again.cooldown, again.cooldown_shape) == (facts.settings.cooldown, facts.settings.cooldown_shape)
    assert f"data={facts.manifest.source}" in words


@given(name=st.text(min_size=1))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_survives_the_front_matter(study, name):
    _check_front_matter(study, name)


@pytest.mark.parametrize(
    "name", ["---", "yes", "a: b", '"', "'", "x\n---\ny", "\u2028", "1e3", "null", "😀", "#", "`|"]
)
def test_hostile_names_stay_names(study, name):
    _check_front_matter(study, name)


def _check_front_matter(study, name):
    facts = facts_of(study)
    settings = facts.settings.model_copy(update={"run": name})
    hostile = replace(facts, settings=settings, manifest=facts.manifest.model_copy(update={"source": name}))
    head, body = card(hostile).removeprefix("---\n").split("\n---\n", 1)
    loaded = outside_yaml.safe_load(head)
    assert loaded == front_matter(hostile).to_dict()
    (model,) = loaded["model-index"]
    assert model["name"].startswith(name)
    assert model["results"][0]["metrics"][0]["value"] == facts.rung.observation.loss
    assert body.count("\n## ") == 6, "no name opens a section"


def test_control_characters_of_a_name_reach_no_terminal_and_bash_reads_them_again(study):
    name = "a\xa0\033[31m\u202eb\n'c\\d"
    facts = facts_of(study)
    text = card(replace(facts, manifest=facts.manifest.model_copy(update={"source": name})))
    assert not any(ord(letter) < 32 and letter != "\n" for letter in text)
    body = text.split("\n---\n", 1)[1]
    assert shown(body) == body
    (command,) = [line for line in text.splitlines() if line.startswith("scaling train ")]
    words = command.replace("scaling train", "printf '%s\\0'")
    read = subprocess.run(
        ["bash", "-c", words], capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    assert f"data={name}" in read.stdout.decode().split("\0")


def test_hostile_names_are_text_in_the_cards_body(study):
    name = "<img src=x onerror=alert(1)> | **a** [b](c) `d|e`"
    facts = facts_of(study)
    settings = facts.settings.model_copy(
        update={"run": name, "recipe": name, "init": name, "init_sha256": "0"}
    )
    rung = facts.rung.model_copy(
        update={
            "observation": facts.rung.observation.model_copy(update={"eval_set": name, "accelerator": name})
        }
    )
    manifest = facts.manifest.model_copy(update={"source": name, "tokenizer": name})
    text = card(Facts(settings=settings, rung=rung, manifest=manifest))
    blocks = MarkdownIt("commonmark").enable("table").parse(text.split("\n---\n", 1)[1])
    spans = [child for block in blocks for child in block.children or ()]
    assert {span.type for span in spans} <= {"text", "text_special", "code_inline", "html_inline"}
    assert {span.content for span in spans if span.type == "html_inline"} <= {"<code>", "</code>"}
    cells = [
        "".join(c.content for c in block.children if c.type != "html_inline")
        for block in blocks
        if block.children
    ]
    shown = " ".join(name.split())
    assert sum(shown in cell for cell in cells) >= 7
    rows = [block for block in blocks if block.type == "tr_open"]
    assert [block.type for block in blocks].count("td_open") + [b.type for b in blocks].count(
        "th_open"
    ) == 2 * len(rows)


def sealed(study, low, high, member="tiny", tokens=4096):
    """Seal a plan that foretells the run's longest rung."""
    facts = facts_of(study)
    from scaling.recipe import recipe

    spec = facts.settings.spec()
    middle = (low + high) / 2
    loss = PlannedLoss(
        loss=middle, interval_80=(low, high), interval_95=(low - 0.1, high + 0.1), ppl=math.exp(middle)
    )
    planned = PlannedMember.of(member, spec, tokens=tokens, recipe=recipe(spec, tokens), prediction=loss)
    plan = seal(PlanFile(members=(planned,)))
    (study / "plan.json").write_text(plan.dump())
    return plan


def test_39_a_card_does_not_call_a_run_predicted_that_was_trained_before_the_seal(copy, here):
    readme = branch_of(copy) / "model" / "README.md"
    actual = facts_of(copy).rung.observation.loss
    sealed(copy, actual - 0.05, actual + 0.15)
    status, _, said = here("compare", "--study", str(copy))
    assert status == 0, said
    text = readme.read_text()
    for said in ("is not a prediction", "it began without this seal", "It counts nowhere"):
        assert said in text
    assert "| predicted |" not in text


def test_compare_completes_the_card_with_what_was_predicted(copy, here):
    readme = branch_of(copy) / "model" / "README.md"
    assert "No prediction of this rung was sealed" in readme.read_text()
    run = facts_of(copy).rung.observation
    actual = run.loss
    plan = sealed(copy, actual - 0.05, actual + 0.15)
    folder = branch_of(copy).parent
    (folder / "ledger.jsonl").unlink()
    leave_run(folder, plan.members[0], run, seal=plan.seal.digest)  # as if it had been started from the seal
    status, _, said = here("compare", "--study", str(copy))
    assert status == 0, said
    assert "model cards completed" in said
    text = readme.read_text()
    assert f"| predicted | {plan.members[0].prediction.loss:.4f} |" in text
    assert f"| actual | {actual:.4f} |" in text
    assert plan.seal.sealed_at in text
    assert "held before by hash chain on this machine, attested by nobody but this machine" in text
    assert "inside its 80 % interval" in text
    other = (branch_of(copy, 2048) / "model" / "README.md").read_text()
    assert "No prediction of this rung was sealed" in other


def test_an_edited_plan_promises_nothing(copy):
    rung = facts_of(copy).rung
    sealed(copy, 3.0, 4.0)
    assert outcome(StudyPaths(copy), rung) is not None
    path = copy / "plan.json"
    path.write_text(path.read_text().replace('"tokens": 4096', '"tokens": 4097'))
    assert outcome(StudyPaths(copy), rung) is None


def test_transformers_reads_the_trainer_state(study):
    from transformers import TrainerState

    state = TrainerState.load_from_json(str(branch_of(study) / "trainer_state.json"))
    assert (state.global_step, state.max_steps, state.num_input_tokens_seen) == (32, 32, 4096)
    trained = [entry for entry in state.log_history if "loss" in entry]
    steps = [entry["step"] for entry in trained]
    assert steps == sorted(set(steps))
    assert steps[-1] == 32
    assert {"loss", "learning_rate", "grad_norm", "epoch", "step"} <= set(trained[0])
    lines = (branch_of(study).parent / "trunk" / "metrics.jsonl").read_text().splitlines()
    assert trained[0]["loss"] == json.loads(lines[0])["loss"]
    final = [entry for entry in state.log_history if "eval_loss" in entry]
    assert [entry["eval_loss"] for entry in final] == [facts_of(study).rung.observation.loss]


def test_fit_reads_the_trainer_states_of_a_study_as_its_runs(study):
    found = {run.tokens: run for run in read_runs(study / "runs").runs}
    for tokens in (2048, 4096):
        own = facts_of(study, tokens).rung.observation
        assert found[tokens].loss == own.loss
        assert found[tokens].params == own.params
        assert found[tokens].run == own.run
        assert found[tokens].annealed


def test_validate_measures_the_recorded_loss_again_and_generates(study, cli):
    done = cli("validate", str(study / "runs" / "tiny-s5"), "--prompt", "loss token", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["equal"] is True
    assert abs(found["difference"]) < 1e-5
    assert found["eval_set"] == found["recorded_eval_set"] == facts_of(study).rung.observation.eval_set
    assert found["generated"].startswith("loss token")
    assert len(found["generated"]) > len("loss token")


def test_validate_fails_when_the_weights_are_not_those_that_were_measured(copy, here):
    from safetensors.torch import load_file, save_file

    path = branch_of(copy) / "model" / "model.safetensors"
    weights = load_file(path)
    weights["transformer.wte.weight"] *= 1.01
    save_file(weights, path, metadata={"format": "pt"})
    status, out, _ = here("validate", str(branch_of(copy)))
    assert status == 1
    assert "NOT equal" in out
    assert here("validate", str(branch_of(copy)), "--tolerance", "1")[0] == 0


def test_validate_of_a_moved_folder_takes_the_data_by_name_or_another_text(study, tmp_path, here):
    shutil.copytree(branch_of(study) / "model", tmp_path / "model")
    status, _, said = here("validate", str(tmp_path / "model"))
    assert status == 2
    assert "--data" in said
    status, out, _ = here("validate", str(tmp_path / "model"), "--data", str(study))
    assert status == 0
    assert ": equal within 0.0001" in out
    other = tmp_path / "other.txt"
    other.write_text("the law of the budget\n" * 200)
    status, out, _ = here("validate", str(tmp_path / "model"), "--data", str(other), "--json")
    found = json.loads(out)
    assert (status, found["equal"]) == (0, None)
    assert found["eval_set"] != found["recorded_eval_set"]


def test_validate_of_a_folder_that_is_not_ours_measures_the_text_given(study, tmp_path, here):
    model = tmp_path / "theirs"
    shutil.copytree(branch_of(study) / "model", model)
    for name in ("run.json", "rung.json", "README.md"):
        (model / name).unlink()
    other = tmp_path / "other.txt"
    other.write_text("the law of the budget\n" * 200)
    status, out, _ = here("validate", str(model), "--data", str(other))
    assert status == 0
    assert "no recorded loss to compare with" in out


def test_validate_refuses_data_that_is_not_what_was_measured(copy, here):
    heldout = copy / "data" / "heldout.bin"
    tokens = bytearray(heldout.read_bytes())
    tokens[40] ^= 1
    heldout.write_bytes(tokens)
    status, _, said = here("validate", str(branch_of(copy)))
    assert status == 2
    assert "the recorded loss is of heldout-" in said


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "holds no config.json"),
        ("{}", "cannot be loaded"),
        ("{nonsense", "cannot be loaded"),
        ('{"model_type": "gpt2"}', "cannot be loaded"),
    ],
)
def test_validate_of_what_is_no_model_is_one_line(config, message, tmp_path, here):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    status, _, said = here("validate", str(tmp_path))
    assert status == 2
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_a_prompt_as_long_as_the_context_is_refused(study, here):
    status, _, said = here("validate", str(branch_of(study)), "--prompt", "budget " * 50)
    assert status == 2
    assert "the model's context is 32" in said
