"""What does not add up in a table is found and explained, and nothing else is accused."""

import json
import math

import numpy as np
import pytest

from families import member, params
from families.units import BadInput
from scaling.auditing import audit, audit_text
from scaling.auditing.findings import Verdict
from scaling.auditing.shapes import EARLIER, explanations
from scaling.auditing.tables import parse_stated

from .surfaces import BESIROGLU

# Figures of MosaicML Composer's GPT-2 model card, typed in: its architecture table, and its table of trained members.
CARD = """# ð\x9f GPT-2

| Name       | $n_{layer}$ | $d_{model}$ | $d_{ff}$ | $d_{attn}$ | $n_{heads}$ |
|------------|-------------|-------------|----------|------------|-------------|
| GPT-2 52M  | 8           | 512         | 2048     | 8          | 8           |
| GPT-2 83M  | 10          | 640         | 2560     | 640        | 10          |
| GPT-2 125M | 12          | 768         | 3072     | 768        | 12          |

| Member | Parameters | Training Hours on 8xA100s | Training Tokens | Final Loss | Predicted Perplexity | Actual Perplexity |
|--------|------|-------|------|------|-------|-------|
| GPT 52M | 53.9M | 02:44 | 4.6B | 3.43 | 32.54 | 30.88 |
| gpt2-83m | 85.8M | 04:52 | 5.5B | 3.28 | 27.84 | 26.57 |
| GPT-2 125M | 114M | 08:25 | 6.7B | 3.18 | 24.64 | 24.04 |
"""
ARCHITECTURE_AND_COUNTS = """
| Model | Layers | Hidden size | Parameters |
|---|--:|:-:|---|
| gpt2 | 12 | 768 | {small} |
| gpt2-medium | 24 | 1024 | {medium} |
"""
RUNS = "run,group,params,tokens,compute,loss\n"


@pytest.fixture(scope="module")
def card():
    return audit_text(CARD.replace("GPT 52M", "GPT-2 52M").replace("gpt2-83m", "GPT-2 83M"))


def of(findings, check, verdict=None):
    return [finding for finding in findings if finding.check == check and verdict in (None, finding.verdict)]


def file(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_cards_counts_are_not_those_of_its_own_shapes(card):
    result = of(card, "parameters", Verdict.MISMATCH)
    assert [finding.stated for finding in result] == ["53.9M", "85.8M", "114M"]
    own = [f"{params(member(name).spec):,}" for name in ("gpt2-52m", "gpt2-83m", "gpt2-125m")]
    assert [finding.recomputed for finding in result] == own


def test_the_cards_parameter_column_is_explained_by_the_earlier_shapes(card):
    (result,) = of(card, "parameters column")
    assert result.verdict is Verdict.MISMATCH
    for count in ("53,969,904", "85,842,800", "114,677,880"):
        assert count in result.explanation


@pytest.mark.parametrize(("text", "earlier"), list(zip(("53.9M", "85.8M", "114M"), EARLIER, strict=True)))
def test_the_search_alone_finds_the_earlier_shape_among_those_that_print_so(text, earlier, monkeypatch):
    monkeypatch.setattr("scaling.auditing.shapes.EARLIER", ())
    monkeypatch.setattr("scaling.auditing.shapes._SHOWN", 10_000)
    layers, width, *_ = earlier
    shapes, fitting = explanations(parse_stated(text), member("gpt2-52m").spec)
    assert fitting > 10  # a rounded count names no single shape
    assert all(parse_stated(text).agrees(shape.count) for shape in shapes)
    assert any((finding.spec.n_layer, finding.spec.n_embd) == (layers, width) for finding in shapes)


def test_the_cards_names_carry_the_count_of_its_shapes(card):
    assert [finding.verdict for finding in of(card, "name")] == [Verdict.OK] * 3


def test_one_attention_width_of_the_card_is_a_slip(card):
    (slip,) = of(card, "attention width", Verdict.MISMATCH)
    assert (slip.where, slip.stated, slip.recomputed) == ("GPT-2 52M", "8", "512")
    assert len(of(card, "attention width", Verdict.OK)) == 2


def test_the_cards_tokens_are_not_its_steps_times_its_batch(card):
    result = of(card, "tokens", Verdict.MISMATCH)
    assert [finding.recomputed for finding in result] == ["4,718,592,000", "5,767,168,000", "7,340,032,000"]


def test_the_cards_hours_imply_a_utilisation_of_7_to_8_per_cent(card):
    result = of(card, "MFU", Verdict.SUSPICIOUS)
    assert [finding.recomputed for finding in result] == ["6.8%", "7.5%", "8.3%"]
    assert "off 5.9x" in result[0].explanation


def test_the_cards_perplexities_are_its_losses(card):
    assert [finding.verdict for finding in of(card, "perplexity")] == [Verdict.OK] * 3


def test_the_cards_predictions_err_on_one_side_by_less_the_larger_the_model(card):
    assert [finding.recomputed for finding in of(card, "prediction")] == ["+5.4%", "+4.8%", "+2.5%"]
    (sided,) = of(card, "one-sided errors")
    assert "by less the larger" in sided.explanation


def test_the_cards_losses_have_another_exponent_than_the_law_it_quotes(card):
    assert [finding.verdict for finding in of(card, "law")] == [Verdict.OK] * 3
    (result,) = of(card, "exponent")
    assert result.recomputed == "0.0456"
    assert "7.5x the budget of GPT-2 125M" in result.explanation


def test_members_join_across_tables_though_their_names_are_spelled_otherwise():
    assert len(of(audit_text(CARD), "parameters", Verdict.MISMATCH)) == 3


def test_what_does_not_add_up_comes_first(card):
    rank = [list(Verdict).index(finding.verdict) for finding in card]
    assert rank == sorted(rank)


def test_true_counts_are_accused_of_nothing():
    small, medium = (params(member(name).spec) for name in ("gpt2", "gpt2-medium"))
    for digits in ((f"{small:,}", f"{medium:,}"), ("124M", "355M"), ("124 million", "354.8M")):
        text = ARCHITECTURE_AND_COUNTS.format(small=digits[0], medium=digits[1])
        result = audit_text(text)
        assert [finding.verdict for finding in result] == [Verdict.OK] * 2


def test_radfords_own_miscount_of_gpt2_is_found():
    result = audit_text(ARCHITECTURE_AND_COUNTS.format(small="117M", medium="345M"))
    assert len(of(result, "parameters", Verdict.MISMATCH)) == 2


def test_a_count_without_embeddings_is_named_as_one():
    result = audit_text(ARCHITECTURE_AND_COUNTS.format(small="85.1M", medium="302.3M"))
    assert all(
        "non-embedding" in finding.explanation for finding in of(result, "parameters", Verdict.SUSPICIOUS)
    )
    assert len(of(result, "parameters", Verdict.SUSPICIOUS)) == 2


def test_shapes_in_lists_are_read_with_their_heading():
    result = audit_text(
        "**GPT-2:**\n\n- `small` (also called `117M` or `124M`): 12 layers (blocks), 768 hidden size, 12 attention heads\n"
        "\n**BERT:**\n\n- `tiny`: 2 layers, 128 hidden size, 4 attention heads.\n"
        "- `base`: 12 layers, 768 hidden size, 12 attention heads, 109,482,240 parameters.\n"
    )
    assert [(finding.stated, finding.verdict) for finding in of(result, "name")] == [
        ("117M", Verdict.SUSPICIOUS),
        ("124M", Verdict.OK),
    ]
    (heads,) = of(result, "published shape")
    assert (heads.where, heads.stated, heads.recomputed) == ("tiny, line 7", "4", "2")
    assert of(result, "parameters")[0].recomputed == "109,482,240"  # transformers' BertModel


def test_shapes_in_bullets_and_in_commands_are_read():
    bullets = audit_text(
        "# [gpt2-medium](x)\n- 24-layer\n- 1024 hidden dimension\n- 16 attention heads\n- 345M parameters.\n"
    )
    assert [finding.recomputed for finding in of(bullets, "parameters", Verdict.MISMATCH)] == ["354,823,168"]
    command = "- shallow:\n\nNHIDDEN=2048; NLAYERS=24; SEQ_LEN=2048; VOCAB_SIZE=50257; python\nModel size: {}B, ratio=85\n"
    assert [finding.verdict for finding in audit_text(command.format("1.32"))] == [Verdict.OK]
    assert [finding.verdict for finding in audit_text(command.format("1.23"))] == [Verdict.SUSPICIOUS]


def test_a_known_name_stands_for_its_shape():
    result = audit_text("- gpt2 - 124M parameters\n- gpt2-xl - 1.3B parameters\n")
    assert [finding.verdict for finding in of(result, "parameters")] == [Verdict.MISMATCH, Verdict.OK]


def test_a_perplexity_beyond_rounding_is_a_mismatch(tmp_path):
    result = audit(file(tmp_path, "model,loss,perplexity\na,3.00,20.09\nb,3.00,20.18\nc,3.00,20.30\n"))
    assert [finding.where for finding in result.of("perplexity") if finding.verdict is Verdict.MISMATCH] == [
        "c"
    ]


def test_stated_numbers_know_what_they_are_rounded_to():
    for text, value, unit in (
        ("53.9M", 53.9e6, 1e5),
        ("117 million", 117e6, 1e6),
        ("02:44", 2 + 44 / 60, 1 / 60),
        ("1,234,567", 1234567, 1),
        ("111000000", 111e6, 1e6),
        ("2.6e+18", 2.6e18, 1e17),
        ("3.38 (loss going up)", 3.38, 0.01),
    ):
        result = parse_stated(text)
        assert (result.value, result.unit) == pytest.approx((value, unit))
    assert parse_stated("12-13h") is None
    assert parse_stated("n/a") is None
    assert parse_stated("1e999") is None


def surface(noise=0.002, seed=0, sizes=6, per_size=6):
    """Rows of an annealed grid on Besiroglu's surface: N from 50M to 5B, D/N from 5 to 160."""
    rng = np.random.default_rng(seed)
    rows = []
    for size in range(sizes):
        for ratio in np.geomspace(5, 160, per_size):
            N = 5e7 * 10 ** (size * 2 / (sizes - 1))
            rows.append([N, N * ratio, BESIROGLU.loss(N, N * ratio) * math.exp(noise * rng.normal())])
    return rows


def runs_text(rows):
    lines = (f"r{at},g,{N:.9g},{D:.9g},{6 * N * D:.9g},{loss:.7g}" for at, (N, D, loss) in enumerate(rows))
    return RUNS + "\n".join(lines) + "\n"


def test_a_clean_table_of_runs_adds_up(tmp_path):
    for seed in range(5):
        result = audit(file(tmp_path, runs_text(surface(seed=seed))))
        assert {finding.verdict for finding in result.findings} == {Verdict.OK}
        assert result.of("residuals")


def test_two_per_cent_on_the_smallest_rung_are_flagged(tmp_path):
    rows = [[N, D, loss * (1.02 if at < 6 else 1)] for at, (N, D, loss) in enumerate(surface())]
    (result,) = audit(file(tmp_path, runs_text(rows))).of("smallest rung")
    assert result.verdict is Verdict.SUSPICIOUS
    assert float(result.recomputed.strip("%")) == pytest.approx(2, abs=0.7)


def test_a_single_run_off_the_surface_is_named(tmp_path):
    rows = surface()
    rows[20][2] *= 1.05
    (result,) = audit(file(tmp_path, runs_text(rows))).of("outlier")
    assert result.where == "g: r20"


def test_compute_is_told_by_its_convention_and_a_wrong_unit_is_flagged(tmp_path):
    text = "run,params,tokens,compute,loss\na,100M,2.0B,1.20e18,3.1\nb,100M,2.0B,1.20e9,3.2\n"
    result = audit(file(tmp_path, text)).of("compute")
    assert [(finding.where, finding.verdict) for finding in result] == [
        ("b", Verdict.SUSPICIOUS),
        ("a", Verdict.OK),
    ]
    assert "another unit" in result[0].explanation


def test_tokens_are_held_against_steps_times_batch(tmp_path):
    text = "run,params,tokens,steps,batch_tokens,loss\na,100M,524288000,1000,524288,3.1\nb,100M,600M,1000,524288,3.2\n"
    result = audit(file(tmp_path, text)).of("tokens")
    assert [(finding.where, finding.verdict) for finding in result] == [
        ("b", Verdict.MISMATCH),
        ("a", Verdict.OK),
    ]


def test_columns_of_other_names_are_read_when_told(tmp_path):
    path = file(tmp_path, "run,N,D,C,loss\na,100M,2.0B,1.20e18,3.1\n")
    assert not audit(path).of("compute")
    names = {"params": "N", "tokens": "D", "compute": "C"}
    assert [finding.verdict for finding in audit(path, column_names=names).of("compute")] == [Verdict.OK]


def test_more_than_the_hardware_can_do_is_a_mismatch():
    result = audit_text(
        "| model | tokens | hours on 8xA100 |\n|-|-|-|\n| gpt2-xl | 1T | 01:00 |\n| gpt2 | 10B | 02:00 |\n"
    )
    assert [finding.verdict for finding in of(result, "MFU")] == [Verdict.MISMATCH, Verdict.OK]


def test_what_thousands_of_rows_show_fits_a_screen(tmp_path):
    lines = (f"gpt2-{at},{100_000_001 + at},12,768,1e9,{3 + at / 1e4:.4f}" for at in range(4000))
    path = file(tmp_path, "run,params,n_layer,n_embd,tokens,loss\n" + "\n".join(lines) + "\n")
    result = audit(path)
    assert len(result.findings) < 20
    assert len(result.dump()) < 10_000


def test_rows_given_twice_and_measurements_given_twice_are_found(tmp_path):
    text = "| model | train loss | val loss |\n|-|-|-|\n| a | 2.71 | 2.51 |\n| a | 2.71 | 2.51 |\n| b | 2.71 | 2.51 |\n"
    result = audit(file(tmp_path, text, "card.md"))
    assert [finding.where for finding in result.of("duplicated row")] == ["line 4"]
    assert [finding.where for finding in result.of("duplicated measurement")] == ["line 5"]


def test_a_row_that_lacks_a_cell_is_found(tmp_path):
    text = "| model | val loss | best epoch | run |\n|-|-|-|-|\n| a | 2.71 | 1 | x |\n| b | 2.72 | y |\n"
    (result,) = audit(file(tmp_path, text, "card.md")).of("cells")
    assert (result.where, result.verdict) == ("line 4", Verdict.MISMATCH)


def test_a_loss_in_bits_per_byte_is_not_taken_for_nats_per_token(tmp_path):
    result = audit(file(tmp_path, "run,params,tokens,loss\na,91M,730M,1.03\n")).of("loss unit")
    assert "bits per byte" in result[0].explanation


def test_the_programs_own_runs_add_up(tmp_path):
    spec = member("gpt2-52m").spec
    own = {
        "run": "r",
        "params": float(params(spec)),
        "tokens": 1e9,
        "loss": 3.9,
        "n_layer": 8,
        "n_embd": 512,
        "n_head": 8,
    }
    text = '{"kind": "runs", "version": 1, "created_at": "", "inputs": {}}\n' + json.dumps(own) + "\n"
    result = audit(file(tmp_path, text, "runs.jsonl"))
    assert {finding.verdict for finding in result.findings} == {Verdict.OK}
    assert result.of("parameters")[0].recomputed == "51,475,968"


def test_an_audit_is_a_document_that_reads_back(tmp_path):
    result = audit(file(tmp_path, CARD, "card.md"))
    result.write(tmp_path / "audit.json")
    assert type(result).read(tmp_path / "audit.json") == result
    assert set(result.inputs) == {"card.md"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("card.md", "no table here\n"),
        ("card.md", "| a | b |\n|---|---|\n| x | y |\n"),
        ("table.csv", ""),
        ("table.csv", "run,loss\n"),
        ("table.txt", "a"),
        ("runs.jsonl", "{nonsense\n"),
        ("runs.jsonl", "[1]\n"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, name, text):
    with pytest.raises(BadInput) as error:
        audit(file(tmp_path, text, name))
    assert "\n" not in str(error.value)


def test_the_command_leaves_with_0_when_it_ran_and_2_on_bad_input(cli, tmp_path):
    path = file(tmp_path, CARD, "card.md")
    text, as_json = cli("audit", str(path)), cli("audit", str(path), "--json")
    assert text.returncode == as_json.returncode == 0
    assert (
        text.stdout.index("Inconsistent (")
        < text.stdout.index("Suspicious (")
        < text.stdout.index("Consistent (")
    )
    assert max(map(len, text.stdout.splitlines())) <= 100
    value = json.loads(as_json.stdout)
    assert {"check", "where", "column", "stated", "recomputed", "verdict", "explanation"} <= set(
        value["findings"][0]
    )
    bad = cli("audit", str(tmp_path / "nowhere.md"))
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (2, "", 1)
