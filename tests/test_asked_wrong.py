"""What is asked wrongly is one clear line before any work: devices, shares, words and times."""

import pytest
import torch

from families import member
from families.units import BadInput
from scaling.cli.app import build
from scaling.planning.experiment_design import budget_of
from scaling.planning.planfile import PlanFile
from scaling.runs.readers import read_runs
from train.config import TrainConfig, shown_name
from train.jobs import launch, machine
from train.jobs.grid import expand
from train.jobs.sweep import entries
from train.ladder import no_op
from train.lease import Stop
from train.loop import pick_device
from train.settings import default_run_name

from .small_plan import planned
from .tiny import write_corpus

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def typed(*words):
    return build()(list(words), standalone_mode=False)


def test_a_device_that_there_is_not_is_named_with_the_nearest():
    with pytest.raises(BadInput, match="device is 'cuad'; did you mean cuda"):
        pick_device("cuad")


@NO_GPU
@pytest.mark.parametrize(
    "words",
    [
        ("validate", "nowhere", "--device", "cuda"),
        ("train", "family=gpt2", "data=nowhere", "tokens=1M", "device=cuda"),
        ("train", "family=gpt2", "data=nowhere", "tokens=1M", "device=cuda", "devices=2"),
        ("train", "family=gpt2", "data=nowhere", "tokens=1M", "device=cuda", "lr=1e-3,2e-3"),
        ("tune", "family=gpt2", "device=cuda"),
    ],
)
def test_a_gpu_is_asked_for_before_any_work_where_there_is_none(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="device is cuda; torch finds no GPU on this machine"):
        typed(*words)
    assert not list(tmp_path.iterdir())


@NO_GPU
def test_a_config_for_elsewhere_needs_no_gpu_here(tmp_path):
    typed(
        "emit",
        "--deepspeed",
        "family=gpt2",
        "tokens=1B",
        "batch_size=8",
        "device=cuda",
        "--out",
        str(tmp_path),
    )
    assert (tmp_path / "ds_config.json").exists()


@pytest.mark.parametrize("share", [-1, -0.5, 5, float("nan")])
def test_bad_rows_are_a_share(share, tmp_path):
    (tmp_path / "runs.csv").write_text("run,params,tokens,loss\na,1,1,bad\n")
    with pytest.raises(BadInput, match=r"bad rows is .* a share from 0 to 1"):
        read_runs(tmp_path / "runs.csv", max_bad_share=share)


def test_a_key_without_its_value_is_told_to_have_one():
    with pytest.raises(BadInput, match=r"'tokens' is not key=value; write tokens=VALUE$"):
        typed("train", "family=gpt2", "data=x", "tokens")
    with pytest.raises(BadInput, match="'tokns' is not key=value; did you mean tokens"):
        typed("train", "family=gpt2", "data=x", "tokns")


@pytest.mark.parametrize("text", ["-5%", "0%", "100%", "5,5%", "nan%", "%"])
def test_a_share_of_the_targets_cost_is_a_percentage(text):
    with pytest.raises(BadInput, match=f"budget is {text}.*(below 100 %, like 5%|must cost less)"):
        budget_of(text, 1e18)


def test_times_of_one_number_of_devices_are_not_given_twice():
    with pytest.raises(BadInput, match="times has 1 devices twice"):
        typed("hardware", "--times", "1=60m,1=50m,2=40m")


def test_a_ladder_of_more_than_a_day_is_refused_before_its_text_is_read(tmp_path, monkeypatch):
    write_corpus(tmp_path / "corpus")
    PlanFile(members=(planned("slow"),)).write(tmp_path / "plan.json")
    monkeypatch.setattr(machine, "PATIENCE", 0.0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="that is more than a day"):
        typed("ladder", "plan.json", "--data", "corpus", "--study", "x1")
    assert not (tmp_path / "x1").exists()


@pytest.mark.parametrize("key", ["data", "validation"])
def test_a_text_that_is_not_there_is_named_before_an_estimate_is_told(key, tmp_path):
    said = []
    words = {"data": str(write_corpus(tmp_path / "corpus")), key: "nowhere"}
    config = TrainConfig(
        family="t", n_layer=1, n_head=1, n_embd=16, n_positions=32, vocab_size=300, tokens=1000, **words
    )
    how = {"yes": False, "stop": Stop(), "log": said.append, "report": no_op}
    with pytest.raises(BadInput, match="'nowhere', which does not exist"):
        launch.train(config, tmp_path / "study", **how)
    assert said == []
    assert not (tmp_path / "study").exists()


def test_a_run_of_another_shape_than_its_familys_is_called_by_its_shape():
    def name(**keys):
        return default_run_name(TrainConfig(family="gpt2", data="x", tokens=10**6, **keys))

    assert name(n_layer=12, n_positions=128) == "gpt2-s0"
    assert name(n_layer=2) == "gpt2-53.6m-l2-d768-s0"
    assert name(n_layer=2, name="mine") == "mine-s0"
    assert shown_name("gpt2", member("gpt2").spec) == "gpt2"
    assert shown_name("tiny", member("gpt2").spec) == "tiny"


def test_a_sweep_over_shapes_tells_the_shape_once():
    points = expand(["n_layer=2,3"])
    config = TrainConfig(family="gpt2", data="x", tokens=10**6, n_layer=2)
    found = entries(
        [
            (point, config.model_copy(update={"n_layer": layers}))
            for point, layers in zip(points, (2, 3), strict=True)
        ]
    )
    assert [default_run_name(entry.config) for entry in found] == ["gpt2-n_layer2-s0", "gpt2-n_layer3-s0"]
