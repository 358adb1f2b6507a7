"""Exports of trackers into a study without editing, and the remedies that messages offer: each is run."""

import json
import re
import shlex

import pytest

from families.units import BadInput
from scaling.auditing import audit
from scaling.cli.app import build
from scaling.fitting.fit import fit
from scaling.fitting.predictor import load_law
from scaling.laws import Law
from scaling.runs import Run
from scaling.runs.readers import check_loss_unit, parse_columns, read_runs
from scaling.runs.store import SHARDS, gather_runs, record_run

LAW = Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37)
GRID = [(N, r * N) for N in (2e7, 6e7, 1.6e8, 4e8, 1e9) for r in (5, 12, 30, 70)]


def write(path, header, rows):
    def cell(value):
        text = str(value)
        return '"' + text.replace('"', '""') + '"' if set(text) & set(',"{') else text

    path.write_text("\n".join(",".join(map(cell, row)) for row in [header, *rows]) + "\n")
    return path


def states(i):
    return {3: "crashed", 9: "failed"}.get(i, "finished")


def wandb_table(folder):
    header = [
        "Name",
        "State",
        "Notes",
        "Tags",
        "Created",
        "Runtime",
        "model.n_params",
        "tokens_seen",
        "eval/loss",
        "train/loss",
    ]
    rows = [
        [
            f"r{i}",
            states(i),
            "-",
            "",
            "2026-05-01",
            3600,
            N,
            D,
            LAW.loss(N, D) + (i in (3, 9)),
            LAW.loss(N, D) - 0.1,
        ]
        for i, (N, D) in enumerate(GRID)
    ]
    return write(folder / "wandb.csv", header, rows)


def wandb_api(folder):
    rows = []
    for i, (N, D) in enumerate(GRID):
        summary = {
            "val": {"loss": LAW.loss(N, D) + (i in (3, 9))},
            "train/loss": 1.0,
            "tokens": D,
            "_runtime": 3.5,
        }
        rows.append([i, summary, {"n_params": N, "learning_rate": 6e-4}, f"r{i}", states(i)])
    return write(folder / "project.csv", ["", "summary", "config", "name", "state"], rows)


def wandb_json(folder):
    runs = [
        {
            "name": f"r{i}",
            "state": states(i),
            "config": {"n_params": {"value": N, "desc": None}},
            "summary": {"eval/loss": LAW.loss(N, D) + (i in (3, 9)), "train/num_input_tokens_seen": D},
        }
        for i, (N, D) in enumerate(GRID)
    ]
    path = folder / "runs.json"
    path.write_text(json.dumps(runs))
    return path


def mlflow_search(folder):
    header = [
        "run_id",
        "experiment_id",
        "status",
        "start_time",
        "metrics.eval_loss",
        "metrics.train_loss",
        "metrics.tokens",
    ]
    header += ["params.n_params", "params.lr", "tags.mlflow.runName"]
    rows = [
        [
            f"{i:032x}",
            0,
            {"crashed": "KILLED"}.get(states(i), states(i).upper()),
            "2026-05-01",
            LAW.loss(N, D) + (i in (3, 9)),
            *(1.0, D, N, 6e-4, f"r{i}"),
        ]
        for i, (N, D) in enumerate(GRID)
    ]
    return write(folder / "mlflow.csv", header, rows)


def mlflow_page(folder):
    header = [
        "Start Time",
        "Duration",
        "Run ID",
        "Name",
        "Source Type",
        "User",
        "Status",
        "num_params",
        "eval_loss",
        "total_tokens",
    ]
    rows = [
        [
            "2026-05-01",
            "1h",
            f"{i:032x}",
            f"r{i}",
            "LOCAL",
            "me",
            states(i).upper(),
            N,
            LAW.loss(N, D) + (i in (3, 9)),
            D,
        ]
        for i, (N, D) in enumerate(GRID)
    ]
    return write(folder / "runs.csv", header, rows)


def mlflow_flops(folder):
    header = [
        "run_id",
        "experiment_id",
        "status",
        "metrics.val_loss",
        "metrics.total_flops",
        "params.model_size",
    ]
    rows = [
        [f"r{i}", 0, states(i).upper(), LAW.loss(N, D) + (i in (3, 9)), 6 * N * D, N]
        for i, (N, D) in enumerate(GRID)
    ]
    return write(folder / "search.csv", header, rows)


EXPORTS = [wandb_table, wandb_api, wandb_json, mlflow_search, mlflow_page, mlflow_flops]


@pytest.mark.parametrize("export", EXPORTS, ids=lambda export: export.__name__)
def test_an_export_gives_its_finished_runs_without_editing_and_names_the_others(export, tmp_path):
    found = read_runs(export(tmp_path))
    finished = [i for i in range(len(GRID)) if i not in (3, 9)]
    assert [run.run for run in found] == [f"r{i}" for i in finished]
    assert [(run.params, run.tokens) for run in found] == [pytest.approx(GRID[i]) for i in finished]
    assert [run.loss for run in found] == [pytest.approx(LAW.loss(*GRID[i])) for i in finished]
    assert any(
        line.startswith("left out by their state, 2 rows") and "(r3, r9)" in line for line in found.warnings
    )


@pytest.mark.parametrize("export", [wandb_table, mlflow_search], ids=lambda export: export.__name__)
def test_an_audit_reads_an_export_by_the_same_columns(export, tmp_path):
    found = audit(export(tmp_path))
    assert found.of("residuals"), "sizes, tokens and losses were all found"
    assert any(note.startswith("params is read from") for note in found.notes)


def scaling(capsys, *words):
    status = build()([str(word) for word in words], standalone_mode=False)
    return status, *capsys.readouterr()


def test_a_table_is_imported_into_a_study_and_plan_and_next_follow(tmp_path, capsys):
    study = tmp_path / "s"
    status, out, err = scaling(capsys, "fit", wandb_table(tmp_path), "--study", study, "--bootstrap", 20)
    assert status in (0, None)
    assert "imported 18 rows of wandb.csv" in err
    law = load_law(study / "law.json")
    assert law.rows == 18
    assert pytest.approx(LAW.allocate(1e21).N, rel=0.03) == law.allocate(1e21).N
    _, out, _ = scaling(capsys, "plan", "--budget", "1e20", "--study", study)
    assert "law.json: fitted on 18 observations of 18 runs" in out
    _, out, _ = scaling(capsys, "next", "--study", study, "--target", "1B", "--tokens", "20B")
    assert "interval of the target's loss" in out
    before = (study / "runs.jsonl").read_bytes()
    scaling(capsys, "fit", tmp_path / "wandb.csv", "--study", study, "--bootstrap", 20)
    assert (study / "runs.jsonl").read_bytes() == before, "an import of the same file changes nothing"


@pytest.mark.slow
def test_the_report_of_an_imported_table_follows(tmp_path, capsys):
    study = tmp_path / "s"
    scaling(capsys, "fit", wandb_table(tmp_path), "--study", study, "--bootstrap", 20)
    scaling(capsys, "report", "--study", study)
    assert (study / "report.html").stat().st_size > 10_000


def test_an_import_keeps_what_the_study_holds_and_a_later_one_replaces_its_own_rows(tmp_path, capsys):
    study = tmp_path / "s"
    run = Run(run="ours", params=1e6, tokens=2e7, loss=LAW.loss(1e6, 2e7))
    record_run(study / SHARDS / "ours" / "runs.jsonl", run)
    rows = [(f"r{i}", N, D, LAW.loss(N, D)) for i, (N, D) in enumerate(GRID)]
    path = write(tmp_path / "table.csv", ("run", "params", "tokens", "loss"), rows)
    scaling(capsys, "fit", path, "--study", study, "--form", "chinchilla", "--bootstrap", 0)
    assert len(read_runs(study / "runs.jsonl")) == 21
    write(path, ("run", "params", "tokens", "loss"), rows[:-2])
    scaling(capsys, "fit", path, "--study", study, "--form", "chinchilla", "--bootstrap", 0)
    gather_runs(study / "runs.jsonl")
    found = read_runs(study / "runs.jsonl")
    assert [run.run for run in found] == [*(row[0] for row in rows[:-2]), "ours"]


def test_a_refused_import_writes_nothing(tmp_path, capsys):
    study = tmp_path / "s"
    rows = [(f"r{i}", N, D, LAW.loss(N, D), i % 2) for i, (N, D) in enumerate(GRID)]
    path = write(tmp_path / "two.csv", ("run", "params", "tokens", "loss", "eval_set"), rows)
    with pytest.raises(BadInput, match="2 eval sets"):
        scaling(capsys, "fit", path, "--study", study)
    assert not study.exists()


# Remedies


def remedied(message, path, capsys):
    """The fit that the options in a message give."""
    options = re.search(r"(--(?:columns|loss-unit|form|eval-set).*)", message)[1]
    words = shlex.split(re.split(r" adds | fits | says |; |, or ", options)[0])
    out = path.with_name("law.json")
    scaling(capsys, "fit", path, *words, "--out", out, "--bootstrap", 0)
    return load_law(out)


def test_the_remedy_for_losses_below_zero_gives_the_exponents(tmp_path, capsys):
    rows = [(f"r{i}", N, D, LAW.loss(N, D) - 7) for i, (N, D) in enumerate(GRID)]
    path = write(tmp_path / "runs.csv", ("run", "params", "tokens", "loss"), rows)
    with pytest.raises(BadInput) as refused:
        read_runs(path)
    law = remedied(str(refused.value), path, capsys).main_form.law
    assert (law.alpha, law.beta) == (pytest.approx(0.35, abs=0.005), pytest.approx(0.37, abs=0.005))


@pytest.mark.parametrize(
    ("cells", "form"),
    [
        ([(1e8, D) for _, D in GRID], "L(D)"),
        ([(N, 2e9) for N in (2e7, 5e7, 1e8, 2e8, 5e8, 1e9)], "L(N)"),
        ([(N, 20 * N) for N in (2e7, 5e7, 1e8, 2e8, 5e8, 1e9)], "L(C)"),
    ],
)
def test_the_remedy_for_rows_that_vary_one_way_fits_them(cells, form, tmp_path, capsys):
    rows = [(f"r{i}", N, D, LAW.loss(N, D)) for i, (N, D) in enumerate(cells)]
    path = write(tmp_path / "runs.csv", ("run", "params", "tokens", "loss"), rows)
    warnings = fit(read_runs(path), form="chinchilla", bootstrap=0).card["warnings"]
    assert f"--form '{form}'" in warnings
    law = remedied(warnings, path, capsys)
    assert law.status.value == "ok"
    assert law.main_form.name == form


def test_equal_losses_are_refused_with_the_columns_that_were_not_read(tmp_path):
    rows = [(f"r{i}", N, D, 3.0, LAW.loss(N, D)) for i, (N, D) in enumerate(GRID)]
    path = write(tmp_path / "runs.csv", ("run", "params", "tokens", "loss", "score"), rows)
    with pytest.raises(BadInput, match=r"all 20 losses are 3; .*--columns loss=NAME \(not read: score\)"):
        fit(read_runs(path), bootstrap=0)
    assert fit(read_runs(path, column_names=parse_columns("loss=score")), bootstrap=0).status.value == "ok"


def test_an_offset_is_a_unit_and_nonsense_is_none():
    assert check_loss_unit("nats+8.5") == "nats+8.5"
    for text in ("nats+", "bits+2", "nats-3"):
        with pytest.raises(BadInput, match=r"or nats\+8\.5 to add"):
            check_loss_unit(text)
