"""Good files of other programs for tests.nasty to spoil: exports of trackers, engines' logs, configurations, texts, archives."""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .nasty import Door, command
from .trainer_logs import LITGPT_CSV, LOGS

MEGATRON_LOG = (
    "training ...\n"
    "[default0]: number of parameters on (tensor, pipeline) model parallel rank (0, 0): 124439808\n"
    " iteration        1/     100 | consumed samples:          512 | elapsed time per iteration (ms): 2000.1 "
    "| learning rate: 6.0E-06 | global batch size:   512 | lm loss: 1.082E+01 | loss scale: 1.0 | grad norm: 9.1 |\n"
    " iteration      100/     100 | consumed samples:        51200 | elapsed time per iteration (ms): 1990.4 "
    "| learning rate: 6.0E-04 | global batch size:   512 | lm loss: 3.401E+00 | loss scale: 1.0 | grad norm: 0.4 |\n"
    " validation loss at iteration 100 | lm loss value: 3.412345E+00 | lm loss PPL: 3.033E+01 |\n"
)
NANOGPT_LOG = """tokens per iteration will be: 491,520
number of parameters: 123.59M
num decayed parameter tensors: 50, with 124,354,560 parameters
num non-decayed parameter tensors: 25, with 19,200 parameters
step 0: train loss 10.9886, val loss 10.9898
iter 0: loss 10.9886, time 46423.49ms, mfu -100.00%
step 500: train loss 3.9012, val loss 3.9120
"""
CONFIGS = (
    "llama",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "mixtral",
    "olmo2",
    "gpt_neox",
    "deepseek_v3",
    "bert",
    "phi3",
    "qwen3_moe",
)
WORDS = {"loss": "word_perplexity,none", "tokens": "1B"}


def _mlflow() -> str:
    rows = [f"{n:032x},0,FINISHED,{3.6 - n / 10},{n}e6,{n}e8,r{n}" for n in range(1, 7)]
    return "\n".join(
        [
            "run_id,experiment_id,status,metrics.eval_loss,params.n_params,metrics.tokens,tags.mlflow.runName",
            *rows,
        ]
    )


def _split() -> dict[str, Any]:
    return {
        "columns": ["run", "params", "tokens", "loss"],
        "index": [0, 1, 2],
        "data": [["a", 1e6, 2e7, 3.5], ["b", 2e6, 4e7, 3.3], ["c", 4e6, 8e7, 3.1]],
    }


def _lm_eval() -> dict[str, Any]:
    return {
        "results": {
            "wikitext": {"alias": "wikitext", "word_perplexity,none": 20.1, "bits_per_byte,none": 0.8},
            "lambada_openai": {"acc,none": 0.31, "perplexity,none": 30.2},
        },
        "config": {"model_num_parameters": 124439808},
        "model_name": "a",
    }  # fmt: skip


def foreign_doors(folder: Path) -> Iterator[Door]:
    """Write the files and give the doors."""
    from families.configs import read_config
    from scaling.auditing import audit
    from scaling.fitting.downstream_scores import read_scores
    from scaling.runs.readers import read_runs

    place = folder / "foreign"
    place.mkdir()

    def door(
        name: str, data: bytes | str | Any, kind: str, ask: Callable[[Path], object], share: float = 1.0
    ) -> Door:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = data if isinstance(data, bytes | str) else json.dumps(data, indent=1)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return Door(
            name=f"foreign {name}",
            file=f"foreign/{name}",
            kind=kind,
            ask=lambda f: ask(f / "foreign" / name),
            share=share,
        )

    table = (folder / "runs.csv").read_text()
    yield door("mlflow.csv", _mlflow(), "csv", read_runs)
    yield door("split.json", _split(), "json", read_runs)
    yield door(
        "lm_eval.json", _lm_eval(), "json", lambda path: read_runs(path, column_names=WORDS, max_bad_share=1)
    )
    yield door("table.tsv", table.replace(",", "\t"), "binary", read_runs)
    for name, log in (("megatron.log", MEGATRON_LOG), ("nanogpt.log", NANOGPT_LOG)):
        yield door(name, log, "text", lambda path: read_runs(path, column_names={"n_positions": "1024"}))
    for trainer, (log, given, _) in LOGS.items():
        names = dict(part.split("=") for part in given.split(",") if part)
        yield door(
            f"{trainer}.log", log, "text", lambda path, names=names: read_runs(path, column_names=names), 0.3
        )
    yield door(
        "metrics.csv", LITGPT_CSV, "csv", lambda path: read_runs(path, column_names={"params": "1.1B"}), 0.3
    )
    yield door("scores/results_1.json", _lm_eval(), "json", lambda path: read_scores(path.parent))
    yield door(
        "scores.csv", "run,task,score\n" + "".join(f"r{n},t,0.{n}\n" for n in range(9)), "csv", read_scores
    )
    yield door("audit.json", _split(), "json", audit)
    for kind in CONFIGS:
        yield door(f"{kind}/config.json", _config(kind), "json", read_config)
    if find_spec("openpyxl") and find_spec("pyarrow") and find_spec("pandas"):
        import pandas

        frame, book, parquet = pandas.read_csv(io.StringIO(table)), io.BytesIO(), io.BytesIO()
        frame.to_excel(book, index=False)
        frame.to_parquet(parquet)
        yield door("book.xlsx", book.getvalue(), "binary", read_runs, 0.3)
        yield door("table.parquet", parquet.getvalue(), "binary", read_runs, 0.3)


def _config(kind: str) -> dict[str, Any]:
    from families.architectures import REGISTRY, config_json
    from families.spec import ModelSpec

    found = REGISTRY[kind]
    spec = ModelSpec(
        architecture=found.model_type, n_layer=2, n_head=2, n_embd=32, n_positions=32, vocab_size=300
    )
    try:
        return dict(config_json(spec, None))
    except Exception:  # a shape that this architecture adds to
        import transformers

        return dict(transformers.AutoConfig.for_model(kind).to_dict())


def text_doors(folder: Path) -> Iterator[Door]:
    """Texts in each format, read in pieces, and the files of other engines."""
    from train.data.readers import SourceText, read_chunks
    from train.engines.contract import Contract
    from train.engines.ingest import read_log, read_score

    place = folder / "texts"
    place.mkdir()
    lines = [{"text": f"document {n} of some words"} for n in range(60)]
    jsonl = "".join(json.dumps(line) + "\n" for line in lines).encode()
    files = {
        "a.json": json.dumps(lines).encode(),
        "a.csv": b"text,label\n" + b"".join(b'"a, b %d",0\n' % n for n in range(60)),
        "a.jsonl.gz": gzip.compress(jsonl),
        "a.txt.xz": __import__("lzma").compress(b"a line\n" * 60),
        "a.txt.bz2": __import__("bz2").compress(b"a line\n" * 60),
    }
    if find_spec("pyarrow"):
        import pyarrow
        import pyarrow.parquet

        made = pyarrow.table({"text": [line["text"] for line in lines]})
        sink = io.BytesIO()
        with pyarrow.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made)
        parquet = io.BytesIO()
        pyarrow.parquet.write_table(made, parquet)
        files |= {
            "a.arrow": sink.getvalue(),
            "a.parquet": parquet.getvalue(),
            "a.jsonl.zst": pyarrow.compress(jsonl, codec="zstd", asbytes=True),
        }
    for name, data in files.items():
        (place / name).write_bytes(data)
        kind = {"json": "json", "csv": "csv"}.get(name.rpartition(".")[2], "binary")
        yield Door(
            name=f"text {name}", file=f"texts/{name}", kind=kind, share=0.5,
            ask=lambda f, name=name: [len(piece) for piece in read_chunks(SourceText(name, f / "texts" / name))],
        )  # fmt: skip
    engine = folder / "engine"
    command("emit", "family=gpt2-83m", "tokens=1B", "--to", "megatron", "--nodes", "2", "--out", engine)
    (engine / "run.log").write_text(MEGATRON_LOG)
    (engine / "training.jsonl").write_text(
        "".join(
            json.dumps({"step": n, "loss": 4 - n / 10, "lr": 1e-3, "num_label_tokens": 524288}) + "\n"
            for n in range(8)
        )
    )
    (engine / "chart.csv").write_text("Step,lm loss\n1,10.9\n2,10.7\n")
    (engine / "score.json").write_text(
        json.dumps({"parameters": 1, "loss": 3.1, "loss_se": 0.1, "eval_set": "x"})
    )
    contract = Contract.read(engine / "contract.json")
    yield Door(
        name="engine contract.json",
        file="engine/contract.json",
        kind="json",
        ask=lambda f: Contract.read(f / "engine/contract.json"),
    )
    for name, kind in (("run.log", "text"), ("training.jsonl", "jsonl"), ("chart.csv", "csv")):
        yield Door(
            name=f"engine {name}",
            file=f"engine/{name}",
            kind=kind,
            ask=lambda f, name=name: read_log(f / "engine" / name, contract),
        )
    yield Door(
        name="engine score.json",
        file="engine/score.json",
        kind="json",
        ask=lambda f: read_score(f / "engine/score.json"),
    )
