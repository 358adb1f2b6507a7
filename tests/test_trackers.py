"""Files of trainers: configurations of any known architecture, several eval sets, tags of several trainers."""

import json

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from families import params, params_non_embedding, spec_of_config, train_flops
from families.units import BadInput
from scaling.runs.readers import parse_columns, read_runs

GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 64, "vocab_size": 1000, "n_positions": 128}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
QWEN3 = {**LLAMA, "model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": False}
QWEN3_MOE = {
    **QWEN3,
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
}
CONFIGS = {"gpt2": GPT2, "llama": LLAMA, "qwen3": QWEN3, "qwen3_moe": QWEN3_MOE}


def trainer(folder, config, log, **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    state = {"global_step": 1000, "max_steps": 1000, "log_history": log, **more}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def finished(loss=3.5, tokens=5e8, **more):
    return [{"step": 1000, "eval_loss": loss, "num_input_tokens_seen": tokens, **more}]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_beside_a_log_gives_exact_counts_and_compute(name, tmp_path):
    (run,) = read_runs(trainer(tmp_path / name, CONFIGS[name], finished()))
    spec = spec_of_config(CONFIGS[name])
    assert (run.params, run.params_non_embedding, run.vocab_size) == (
        params(spec),
        params_non_embedding(spec),
        1000,
    )
    assert (run.compute, run.compute_kind) == (train_flops(spec, 5e8), "exact")


def test_total_flos_give_the_tokens_of_a_mixture_of_experts(tmp_path):
    body = params_non_embedding(spec_of_config(QWEN3_MOE))
    log = [{"step": 1000, "eval_loss": 3.5}]
    (run,) = read_runs(trainer(tmp_path / "moe", QWEN3_MOE, log, total_flos=6 * body * 4e8))
    assert run.tokens == pytest.approx(4e8)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"model_type": "gpt2"', "bad/config.json is not JSON"),
        ([1], "bad/config.json is not a JSON object but list"),
        ({"model_type": "no_such_model"}, "bad/config.json: model_type is 'no_such_model'"),
        ({**LLAMA, "hidden_size": "64"}, "bad/config.json: hidden_size is '64'"),
        ({"n_layer": 2}, "bad/config.json: it has no model_type"),
    ],
)
def test_a_configuration_that_is_not_understood_is_a_bad_row_that_names_its_file(config, said, tmp_path):
    trainer(tmp_path / "bad", config if isinstance(config, str) else json.dumps(config), finished())
    trainer(tmp_path / "good", GPT2, finished())
    found = read_runs(tmp_path, max_bad_share=0.5)
    assert [run.run for run in found] == ["good"]
    (line,) = found.bad
    assert said in line
    with pytest.raises(BadInput, match="config"):
        read_runs(tmp_path)


def test_a_broken_state_among_good_ones_is_a_bad_row(tmp_path):
    trainer(tmp_path / "good", GPT2, finished())
    trainer(tmp_path / "bad", GPT2, []).joinpath("trainer_state.json").write_text('{"log_')
    found = read_runs(tmp_path, max_bad_share=0.5)
    assert [run.run for run in found] == ["good"]
    assert "bad/trainer_state.json is not JSON" in found.bad[0]


def test_several_eval_sets_of_one_log_are_rows_of_several_eval_sets(tmp_path):
    log = [{"step": 1000, f"eval_{name}_loss": loss} for name, loss in (("c4", 3.5), ("pile", 2.9))]
    log += [{"step": 1000, "num_input_tokens_seen": 5e8}]
    folder = trainer(tmp_path / "m", GPT2, log)
    assert {(run.eval_set, run.loss, run.tokens) for run in read_runs(folder)} == {
        ("c4", 3.5, 5e8),
        ("pile", 2.9, 5e8),
    }
    (run,) = read_runs(folder, column_names=parse_columns("loss=eval_pile_loss"))
    assert run.loss == 2.9
    with pytest.raises(BadInput, match="columns says loss=eval_loss; it has eval_c4_loss, eval_pile_loss"):
        read_runs(folder, column_names={"loss": "eval_loss"})


def test_runs_in_folders_of_one_name_stay_apart(tmp_path):
    for size in ("small", "large"):
        trainer(tmp_path / size / "out", GPT2, finished())
    assert {run.run for run in read_runs(tmp_path)} == {"small/out", "large/out"}


def events(folder, scalars, config=GPT2):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    writer = EventFileWriter(str(folder))
    for tag, points in scalars.items():
        for step, value in points.items():
            writer.add_event(
                Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))
            )
    writer.close()
    return folder


LOSSES, TOKENS = {100: 3.75, 200: 3.5}, {100: 2.5e8, 200: 5e8}
TAGS = {
    "transformers": ("eval/loss", "train/num_input_tokens_seen"),
    "Megatron": ("lm-loss-validation/lm loss validation", "consumed-tokens/consumed-tokens"),
    "NeoX": ("validation/lm_loss", "train/tokens"),
    "torchtitan": ("validation_metrics/loss", "n_tokens_seen"),
    "Lightning": ("val_loss", "total_tokens"),
    "OLMo": ("eval/c4/CrossEntropyLoss", "throughput/total_tokens"),
}


@pytest.mark.parametrize("name", TAGS)
def test_tags_of_each_trainer_are_known_and_training_losses_are_not_taken(name, tmp_path):
    loss, tokens = TAGS[name]
    more = {
        f"{loss} vs samples": {1: 9.0},
        "train/loss": {100: 1.0},
        "loss_metrics/global_avg_loss": {200: 1.0},
    }
    found = read_runs(events(tmp_path / "run", {loss: LOSSES, tokens: TOKENS, **more}))
    assert [(run.tokens, run.loss, run.annealed) for run in found] == [(2.5e8, 3.75, False), (5e8, 3.5, True)]


def test_tags_that_are_not_known_are_listed_and_can_be_named(tmp_path):
    folder = events(tmp_path / "run", {"held/out score": LOSSES, "words": TOKENS, "train/loss": LOSSES})
    with pytest.raises(BadInput, match="no held-out loss among held/out score, train/loss, words"):
        read_runs(folder)
    named = parse_columns("loss=held/out score,tokens=words")
    assert [run.loss for run in read_runs(folder, column_names=named)] == [3.75, 3.5]
    with pytest.raises(BadInput, match="it can name loss and tokens"):
        read_runs(folder, column_names={"params": "words"})


def test_losses_between_logged_tokens_count_where_tokens_per_step_are_constant(tmp_path):
    found = read_runs(events(tmp_path / "run", {"val/loss": {150: 3.6}, "tokens": TOKENS}))
    assert [run.tokens for run in found] == [pytest.approx(3.75e8)]
    uneven = events(tmp_path / "uneven", {"val/loss": {150: 3.6}, "tokens": {100: 2.5e8, 200: 6e8}})
    with pytest.raises(BadInput, match="step 150 has a loss and no count of tokens in tokens"):
        read_runs(uneven)


def test_an_export_with_the_models_configuration_needs_no_column_of_sizes(tmp_path):
    """As the Trainer's integration logs it: the whole configuration beside the metrics, in W&B's table of runs."""
    header = ["Name", "State", "Runtime", *QWEN3_MOE, "eval/loss", "train/loss", "train/total_flos"]
    rows = []
    for i, layers in enumerate((2, 4, 6)):
        config = {**QWEN3_MOE, "num_hidden_layers": layers}
        body = params_non_embedding(spec_of_config(config))
        cells = [f"r{i}", "finished", 60, *map(json.dumps, config.values()), 4 - i / 10, 3.0, 6 * body * 1e8]
        rows.append(['"' + str(cell).replace('"', '""') + '"' for cell in cells])
    path = tmp_path / "wandb.csv"
    path.write_text("\n".join(",".join(row) for row in [header, *rows]) + "\n")
    found = read_runs(path)
    spec = spec_of_config({**QWEN3_MOE, "num_hidden_layers": 4})
    assert (found[1].params, found[1].tokens, found[1].loss) == (params(spec), pytest.approx(1e8), 3.9)
    assert found[1].compute == pytest.approx(train_flops(spec, 1e8))
