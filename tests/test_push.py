"""A model goes to the hub as card, weights, config and tokenizer, and nothing else; without a token nothing is sent."""

import json

import pytest

from .hub_stand_in import TOKEN, hub_stand_in

SENT = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture(scope="module")
def hub():
    with hub_stand_in() as found:
        yield found


@pytest.fixture
def run(tmp_path):
    """A run's folder with a model, and what is beside it: nothing of it is read but for the card."""
    model = tmp_path / "home" / "me" / "study" / "runs" / "tiny-s0" / "rung-64" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "gpt2"}')
    (model / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      " + b"\1" * 4096)
    (model / "tokenizer.json").write_text("{}")
    data = tmp_path / "home" / "me" / "secret.txt"
    (model / "README.md").write_text(f"---\ntags:\n- scaling\n---\n\nscaling train data={data}\n")
    for other in ("run.json.bak", "rung.json", "notes.txt", ".env", "state.safetensors", "model.py"):
        (model / other).write_text("stays")
    manifest = {
        "kind": "data", "version": 1, "inputs": {"data": str(data)}, "source": str(data), "tokenizer": "BPE",
        "vocab_size": 300, "eos_token_id": 299, "dtype": "uint16", "held_out": 0.05, "train": [],
        "heldout": {"name": "heldout.bin", "tokens": 0}, "heldout_bytes": 0, "heldout_words": 0, "heldout_sha256": "",
        "files": [],
    }  # fmt: skip
    study = tmp_path / "home" / "me" / "study"
    (study / "data").mkdir()
    (study / "data" / "data.json").write_text(json.dumps(manifest))
    return model


def pushed(cli, run, *options, url="http://127.0.0.1:9", token=TOKEN, repo="user/tiny", home=None):
    environment = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HOME": str(run / "cache")}
    return cli("push", str(run), repo, *options, **environment)


def test_card_weights_config_and_tokenizer_are_sent_and_nothing_else(cli, run, hub):
    found, url = hub
    done = pushed(cli, run, url=url)
    assert done.returncode == 0, done.stderr
    assert set(found.files) == SENT
    assert found.files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert found.files["README.md"].decode().endswith("scaling train data=secret.txt\n")
    assert "private" in {found.repos["user/tiny"].get("visibility"), *found.repos["user/tiny"]}
    assert f"{url}/user/tiny/commit/1" in done.stdout
    assert TOKEN not in done.stdout + done.stderr


def test_a_hub_that_refuses_is_one_line_without_the_token(cli, run, hub):
    found, url = hub
    found.refuses = True
    done = pushed(cli, run, url=url)
    found.refuses = False
    assert done.returncode == 1
    assert done.stderr.count("\n") == 2
    assert f"{url} refused user/tiny" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_without_a_token_or_a_network_nothing_is_sent_and_the_way_on_is_said(cli, run, hub):
    found, url = hub
    before = len(found.asked)
    done = pushed(cli, run, "--json", url=url, token="")
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert (said["done"], set(said["files"])) == (False, SENT)
    assert "HF_TOKEN" in said["reason"]
    assert len(found.asked) == before
    away = pushed(cli, run)
    assert away.returncode == 1
    assert "cannot be reached; nothing was sent; try the same command later" in away.stderr


def test_what_is_no_name_or_no_model_is_refused(cli, run, tmp_path):
    assert "must be user/name" in pushed(cli, run, "--dry-run", repo="../x").stderr
    (run / "model.safetensors").unlink()
    done = pushed(cli, run, "--dry-run")
    assert done.returncode == 2
    assert "has no model.safetensors" in done.stderr
