"""A text and this machine choose a model: nothing is too large for the text, more time gives more, a wrong key costs nothing."""

import subprocess
import sys

import pytest

from families import ModelSpec, params
from families.units import BadInput
from scaling.cli.run_options import merge
from train import sizing
from train.config import TrainConfig
from train.keys import KEYS, chooses_model
from train.sizing import bytes_per_token, choose, most_tokens, vocabulary

SOME = ["family=chosen", "n_layer=1", "n_head=1", "n_embd=32", "vocab_size=512", "tokens=1M"]


def test_the_keys_are_those_of_a_configuration_and_the_time():
    assert set(KEYS) == {*TrainConfig.model_fields, "time"}
    assert not chooses_model(["data", "time", "vocab_size"])
    assert chooses_model(["data", "init"])


def test_a_wrong_key_is_refused_before_anything_is_imported():
    code = (
        "import sys; sys.argv = ['scaling', 'train', 'data=x', 'famly=gpt2']\n"
        "from scaling.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, *({'torch', 'numpy', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "2\n"
    assert "unknown key 'famly'; did you mean family?" in done.stderr


def asked(data, *words):
    return merge(TrainConfig, [*SOME, f"data={data}", *words]).model_copy(update={"vocab_size": None})


@pytest.fixture
def machine(monkeypatch):
    """A machine of 10 GFLOP/s, on every shape."""
    monkeypatch.setattr(sizing, "speed_of", lambda device, dtype: 2e10)
    monkeypatch.setattr(sizing, "measured_speed", lambda settings, device: 1e10)


def text_of(size, path):
    line = "the loss of a model falls as a power of what it has read\n"
    path.write_text((line * (size // len(line) + 1))[:size])
    return path


@pytest.mark.parametrize("size", [10_000, 100_000, 1_000_000, 10_000_000])
def test_what_is_chosen_fits_the_text_and_the_time(size, machine, tmp_path):
    data = text_of(size, tmp_path / "my.txt")
    before = 0
    for limit in ("10s", None, "1h"):
        choice = choose(asked(data), {"data": str(data)}, limit, tmp_path / "study")
        words = {key: int(value) for key, value in choice.words.items() if value.isdecimal()}
        unique = size / bytes_per_token(words["vocab_size"])
        spec = ModelSpec(
            **{key: words[key] for key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")}
        )
        assert words["vocab_size"] <= max(512, 1.5 * size**0.5)
        assert words["tokens"] <= sizing.MOST_PASSES * unique
        assert params(spec) <= max(2 * unique, 50_000)
        assert choice.seconds <= {"10s": 10, None: 600, "1h": 3600}[limit]
        assert 4 * words["n_positions"] <= 0.05 * unique or words["n_positions"] == 32
        assert words["batch_size"] * words["n_positions"] <= unique
        assert params(spec) >= before
        before = params(spec)
        assert "expected" in choice.lines[1]


def test_what_is_given_is_kept(machine, tmp_path):
    data = text_of(200_000, tmp_path / "my.txt")
    given = {"data": str(data), "vocab_size": "600", "n_positions": "48", "batch_size": "3", "name": "own"}
    full = merge(TrainConfig, [*SOME[:4], "tokens=1M", *(f"{key}={value}" for key, value in given.items())])
    words = choose(full, given, None, tmp_path / "study").words
    assert {key: words[key] for key in ("vocab_size", "n_positions", "batch_size", "name")} == {
        key: given[key] for key in ("vocab_size", "n_positions", "batch_size", "name")
    }


def test_too_little_text_is_a_sentence_and_a_way_on(machine, tmp_path):
    data = text_of(3000, tmp_path / "my.txt")
    with pytest.raises(BadInput, match=r"3 kB of text; .* needs 10 kB at least.*init="):
        choose(asked(data), {"data": str(data)}, None, tmp_path / "study")


@pytest.mark.parametrize("limit", ["soon", "0s", "-1h", "nan"])
def test_a_time_that_is_none_is_refused(limit, tmp_path):
    with pytest.raises(BadInput, match=r"time is .*; it must be"):
        sizing.seconds_of(limit)


def test_a_larger_text_has_a_larger_vocabulary_and_never_more_entries_than_it_can_fill():
    sizes = [vocabulary(10**power) for power in range(3, 13)]
    assert sizes == sorted(sizes)
    assert vocabulary(10**6) == 1024


@pytest.mark.slow
def test_a_laptop_and_text_end_in_a_model_and_the_same_command_goes_on(cli, tmp_path):
    data = text_of(30_000, tmp_path / "my.txt")
    done = cli("train", f"data={data}", "time=4s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "expected" in done.stderr
    assert "took" in done.stderr
    assert "scaling generate study/runs/my-s0" in done.stderr
    again = cli("train", f"data={data}", "time=4s", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "goes on as it was begun" in again.stderr
    data.write_text(data.read_text() + "and more of it\n" * 900)
    other = cli("train", f"data={data}", "time=4s", cwd=tmp_path)
    assert other.returncode == 2
    assert "was another text of 30 kB; it has 43.5 kB now" in other.stderr
    further = cli("train", f"data={data}", "init=study/runs/my-s0", cwd=tmp_path)
    assert further.returncode == 0, further.stderr
    assert "is trained further on other text than the study's" in further.stderr
    assert (tmp_path / "study" / "runs" / "my-s0-ft-s0" / "data" / "data.json").exists()


def test_a_model_trained_further_reads_a_short_text_sixteen_times_at_most(tmp_path):
    text = tmp_path / "more.txt"
    text.write_text("A short text to go on with.\n" * 800)
    config = TrainConfig(data=str(text), family="gpt2", tokens=10**6, held_out=0.1)
    once = 0.9 * len(text.read_bytes()) / bytes_per_token(512)
    assert most_tokens(config, 512, tmp_path) == pytest.approx(16 * once, rel=1e-3)
