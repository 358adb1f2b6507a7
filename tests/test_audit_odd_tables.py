"""Tables that are odd and yet right: audited to the end, and accused of nothing that they do not say."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from families import member, params_kaplan
from scaling.auditing import audit, audit_text
from scaling.laws import KaplanFrontier

FAMILY = ("gpt2-52m", "gpt2-83m", "gpt2-125m")


def of(findings, check):
    return [finding for finding in findings if finding.check == check]


def predicted_table(rows):
    """A table of (member, actual loss), each predicted by Kaplan's frontier."""
    lines = ["| name | layers | d_model | heads | predicted loss | loss |", "|-|-|-|-|-|-|"]
    for number, (name, loss) in enumerate(rows):
        spec = member(name).spec
        by_law = KaplanFrontier().loss(params_kaplan(spec))
        lines.append(
            f"| run {number} | {spec.n_layer} | {spec.n_embd} | {spec.n_head} | {by_law:.4f} | {loss:.4f} |"
        )
    return "\n".join(lines)


def test_three_seeds_of_one_shape_have_no_exponent():
    result = audit_text(predicted_table([("gpt2-125m", 3.1), ("gpt2-125m", 3.11), ("gpt2-125m", 3.12)]))
    assert len(of(result, "law")) == 3
    assert of(result, "exponent") == []


@pytest.mark.parametrize("losses", [(3.2, 3.2, 3.2), (3.2, 3.2, 3.199), (3.2001, 3.2, 3.1999)])
def test_losses_that_hardly_fall_have_an_exponent_of_nearly_nothing(losses):
    (result,) = of(audit_text(predicted_table(zip(FAMILY, losses, strict=True))), "exponent")
    assert float(result.recomputed) == pytest.approx(0, abs=1e-3)


def test_a_column_without_embeddings_beside_one_with_them_is_judged_by_itself():
    result = audit_text(
        "| model | layers | d_model | params |\n|-|-|-|-|\n"
        "| gpt2 | 12 | 768 | 124M |\n| gpt2-medium | 24 | 1024 | 355M |\n\n"
        "| model | layers | d_model | non-embedding params |\n|-|-|-|-|\n"
        "| gpt2 a | 12 | 768 | 71.2M |\n| gpt2 b | 24 | 1024 | 290M |\n"
    )
    assert [finding.verdict for finding in of(result, "parameters")] == ["mismatch", "mismatch", "ok", "ok"]
    assert of(result, "parameters column") == []


@pytest.mark.parametrize(
    ("header", "hours"),
    [
        ("Training Hours on 8xA100s", 2),
        ("hours", 2),
        ("wall-clock hours", 2),
        ("GPU hours", 16),
        ("gpu_hours", 16),
        ("GPU-hours (total)", 16),
        ("A100-hours", 16),
        ("device hours", 16),
    ],
)
def test_hours_of_devices_are_not_multiplied_by_their_number_again(header, hours):
    result = audit_text(
        f"| model | tokens | {header} | hardware |\n|-|-|-|-|\n| gpt2 | 10B | {hours}.0 | 8xA100 |\n"
    )
    (finding,) = of(result, "MFU")
    assert finding.recomputed == "47.5%"
    assert "1,388,889 tokens/s" in finding.explanation


HEADERS = [
    "model",
    "family",
    "layers",
    "d_model",
    "heads",
    "d_ff",
    "params",
    "tokens",
    "steps",
    "batch",
    "context",
    "vocab",
    "loss",
    "ppl",
    "FLOPs",
    "hardware",
    "hours",
    "gpu_hours",
]
CELLS = [
    "0",
    "1",
    "12",
    "768",
    "1e9",
    "1e60",
    "1e-60",
    "3.20",
    "49.9",
    "124M",
    "0.5B",
    "02:44",
    "00:00",
    "nan",
    "-1",
    "8xA100",
    "gpt2",
    "bert-tiny",
    "~7B",
    "½",
    "1,2",
    "-",
]


@settings(max_examples=40)
@given(data=st.data())
def test_no_cell_of_a_table_stops_an_audit(data):
    header = data.draw(st.lists(st.sampled_from(HEADERS), min_size=2, max_size=8, unique=True))
    cells = st.lists(st.sampled_from(CELLS), min_size=len(header), max_size=len(header))
    rows = [header, ["-"] * len(header), *data.draw(st.lists(cells, min_size=1, max_size=4))]
    audit_text("\n".join(f"| {' | '.join(row)} |" for row in rows))


def test_a_time_of_nothing_is_no_number():
    table = "| model | tokens | loss | ppl | hours on 8xA100 |\n|-|-|-|-|-|\n| gpt2 | 10B | 3.2 | 00:00 | 00:00 |\n"
    assert of(audit_text(table), "MFU") == of(audit_text(table), "perplexity") == []


LLAMA3 = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "rope_theta": 500000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "verdicts"),
    [
        ("Meta-Llama-3-8B", {"parameters": "ok", "FLOPs": "ok", "name": "ok", "weights": "ok"}),
        ("Llama-3-70B", {"parameters": "ok", "FLOPs": "ok", "name": "mismatch", "weights": "ok"}),
    ],
)
def test_a_configuration_is_set_against_its_name_and_the_bytes_of_its_weights(folder, verdicts, tmp_path):
    """8,030,261,248 parameters (transformers' own count) of two bytes each."""
    place = tmp_path / folder
    place.mkdir()
    (place / "config.json").write_text(json.dumps(LLAMA3))
    index = {"metadata": {"total_size": 16060522496}, "weight_map": {}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (place, place / "config.json"):
        found = {finding.check: finding for finding in audit(path).findings}
        assert {check: finding.verdict for check, finding in found.items()} == verdicts
        assert found["parameters"].recomputed == "8,030,261,248"
