"""The table of fine-tuning: one row a run, at its best epoch, in four forms."""

import csv
import io
import json

import pytest

from families.units import BadInput
from scaling.runs import Run
from train.config import Settings
from train.model_card import COLUMNS, as_csv, markdown, rows
from train.rung import Epoch, RungFile

ADJUSTED = 1.1224  # tokens per word


def write_run(study, name, losses=(3.2, 3.0, 3.1), context=256, rungs=(1000,), epochs=True):
    """A run as training leaves it, without any weights."""
    folder = study / "runs" / name
    settings = Settings(
        run=name, member="gpt2", group="g", architecture="gpt2", n_layer=12, n_head=12, n_embd=768, n_inner=3072,
        n_positions=context, vocab_size=300, eos_token_id=0, seed=0, batch_size=8, micro_batch=8, lr=5e-5, warmup=0,
        schedule="wsd", cooldown=0.2, weight_decay=0.0, beta1=0.9, beta2=0.999, grad_clip=1.0, dropout=0.0, init_std=0.02,
        dtype="fp32", data_sha256="", dataset="wikitext-2", epochs=len(losses) if epochs else 0,
    )  # fmt: skip
    settings.write(folder / "run.json")
    noted = tuple(
        Epoch(
            epoch=number,
            step=number * 10,
            train_loss=loss + 0.4,
            loss=loss,
            loss_se=0.01,
            loss_per_word=loss * ADJUSTED,
        )
        for number, loss in enumerate(losses, start=1)
    )
    for tokens in rungs:
        RungFile(
            observation=Run(run=name, params=1e6, tokens=tokens, loss=losses[-1]), perplexity=20.0, bits_per_byte=1.0,
            loss_per_word=losses[-1] * ADJUSTED, eval_tokens=100, train_loss=losses[-1] + 0.5, epochs=noted if epochs else (),
        ).write(folder / f"rung-{tokens}" / "rung.json")  # fmt: skip
    return folder


def test_a_row_is_the_run_at_its_best_epoch_and_adjusts_by_tokens_over_words(tmp_path):
    (row,) = rows([write_run(tmp_path, "winter-snow-s0")])
    assert (row.dataset, row.context, row.model, row.batch_size) == ("wikitext-2", 256, "gpt2", 8)
    assert (row.best_epoch, row.validation_loss, row.train_loss) == (2, 3.0, 3.4)
    assert row.adjusted_loss == pytest.approx(3.0 * ADJUSTED)
    assert row.run == "winter-snow-s0"


def test_without_epochs_the_row_is_the_run_at_its_end(tmp_path):
    (row,) = rows([write_run(tmp_path, "plain-s0", epochs=False)])
    assert (row.best_epoch, row.validation_loss, row.train_loss) == (None, 3.1, 3.6)
    assert row.cells()[-2] == "-"


def test_a_study_a_run_and_a_rung_all_lead_to_their_rows_once(tmp_path):
    first, second = (
        write_run(tmp_path, "a-s0", rungs=(1000, 4000, 16000)),
        write_run(tmp_path, "b-s0", context=512),
    )
    assert [row.run for row in rows([tmp_path])] == ["a-s0", "b-s0"]
    assert [row.run for row in rows([second, tmp_path])] == ["b-s0", "a-s0"]
    assert len(rows([first], every=True)) == 3
    assert len(rows([first / "rung-1000"])) == 1


@pytest.mark.parametrize("where", ["empty", "nowhere"])
def test_a_folder_without_a_finished_run_is_named(where, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=f"{where} holds no finished run"):
        rows([tmp_path / where])


def test_markdown_and_csv_hold_every_row(tmp_path):
    write_run(tmp_path, "a-s0")
    found = rows([tmp_path])
    lines = markdown(found).splitlines()
    assert lines[0] == "| " + " | ".join(COLUMNS) + " |"
    assert lines[2] == "| wikitext-2 | 256 | gpt2 | 8 | 3.40 | 3.00 | 3.37 | 2 | a-s0 |"
    (row,) = csv.DictReader(io.StringIO(as_csv(found)))
    assert float(row["adjusted_loss"]) == pytest.approx(3.0 * ADJUSTED)


def test_the_command_prints_writes_and_fits_a_terminal(cli, tmp_path):
    write_run(tmp_path / "study", "gpt2-n_positions512-lr3e-3-s0")
    plain = cli("table", "study", cwd=tmp_path)
    assert plain.returncode == 0
    assert all(len(line) <= 100 for line in plain.stdout.splitlines())
    found = cli("table", "study", "--format", "md", "--out", "table.md", "--json", cwd=tmp_path)
    assert json.loads(found.stdout)["rows"][0]["best_epoch"] == 2
    assert (tmp_path / "table.md").read_text().startswith("| dataset |")
    wrong = cli("table", "nothing", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
