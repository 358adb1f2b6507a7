"""What is printed fits 100 columns, whatever it is about."""

import shlex
from pathlib import Path

import pytest

from scaling.cli.app import build
from scaling.cli.output import WIDTH, fitting_table

STUDY = Path(__file__).parents[1] / "docs" / "studies" / "wikitext-2"
ASKED = (
    "families list",
    "families show gpt2-83m",
    "families show bert-large",
    "design --params 85M,70B --ratio 64",
    "hardware",
    "plan --target-loss 2.2 --on 8xH100 --law kaplan",
    "plan --target-loss 2.0 --on 256xH100 --law kaplan --force",
    "plan --budget 1e18,1e21,1e22 --on 8xA100 --recipes --within 0.05",
    "plan --budget 5000h@512xH100 --family grid --within 10% --inference-tokens 100T --tokens-available 1T",
    "predict chinchilla family=gpt2-83m tokens=5.5B",
    "predict kaplan family=gpt2-83m tokens=5.5B",
    "predict {study}/law.json params=1M tokens=1M",
    "fit {study}/runs.jsonl --isoflop --conventions --profile",
    "backtest {study}/runs.jsonl --holdout top-20%",
    "compare --under {study}/..",
    "compare --published composer-gpt2",
)


@pytest.mark.parametrize("asked", ASKED)
def test_no_line_is_wider_than_100_columns(asked, capsys):
    build()(shlex.split(asked.format(study=STUDY)), standalone_mode=False)
    said = capsys.readouterr().out.splitlines()
    assert said
    assert [line for line in said if len(line) > WIDTH] == []


def test_a_table_leaves_out_what_can_be_spared_only_where_it_is_too_wide():
    header, row = ["member", "ppl", "loss", "wanted by"], ["x" * 80, "9.03", "2.2", "chinchilla"]
    assert "ppl" in fitting_table(header, [["x", *row[1:]]], ("ppl", "wanted by"))
    narrow = fitting_table(header, [row], ("ppl", "wanted by"))
    assert "ppl" not in narrow
    assert "wanted by" in narrow
    assert "loss" in fitting_table(header, [["x" * 95, *row[1:]]], ("ppl", "wanted by"))
