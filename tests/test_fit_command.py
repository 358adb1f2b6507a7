"""scaling fit and scaling predict, as a person types them."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from families.units import BadInput
from scaling.fitting.fit import fit
from scaling.laws import Law
from scaling.runs import Run

from .core import in_process

SCALING = str(Path(sys.executable).with_name("scaling"))
LAW = Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37)


def scaling(*words, cwd=None):
    return subprocess.run([SCALING, *map(str, words)], capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    cells = itertools.product(np.geomspace(1e7, 1e9, 6), np.geomspace(5, 100, 5))
    rows = [
        f"r{i},{N},{N * r},{LAW.loss(N, N * r) * np.exp(0.003 * rng.normal())}"
        for i, (N, r) in enumerate(cells)
    ]
    path = tmp_path_factory.mktemp("fit") / "runs.csv"
    path.write_text("run,size,D,loss\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def law(table):
    path = table.with_name("law.json")
    done = scaling("fit", table, "--columns", "params=size,tokens=D", "--out", path)
    assert done.returncode == 0, done.stderr
    assert "exponents" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    return path


def test_a_prediction_has_loss_perplexity_and_both_intervals(law):
    done = scaling("predict", law, "family=gpt2-83m", "tokens=5.5B")
    assert done.returncode == 0, done.stderr
    assert "82.1M parameters" in done.stdout
    assert done.stdout.count("95 %") == 2
    answer = json.loads(scaling("predict", law, "params=82056320", "tokens=5.5B", "--json").stdout)
    assert answer["loss"] == pytest.approx(LAW.loss(82056320, 5.5e9), rel=0.01)
    assert answer["perplexity"] == pytest.approx(np.exp(answer["loss"]))
    assert answer["loss_interval_95"][0] < answer["loss_interval_80"][0] < answer["loss"]


def test_leaving_the_domain_is_flagged_with_the_factor(law):
    done = scaling("predict", law, "params=5B", "tokens=300B")
    assert done.returncode == 0
    assert "x the largest fitted" in done.stderr
    refused = scaling("predict", law, "params=500B", "tokens=30T")
    assert refused.returncode == 2
    assert "1,000 times at most" in refused.stderr
    assert scaling("predict", law, "params=500B", "tokens=30T", "--force").returncode == 0


def test_repeated_tokens_predict_a_higher_loss(law):
    def answer(*more):
        return json.loads(scaling("predict", law, "params=1B", "tokens=40B", *more, "--json").stdout)["loss"]

    assert answer("unique_tokens=1B") > answer("unique_tokens=10B") > answer() - 1e-9


def test_a_published_law_predicts_and_the_superseded_one_warns():
    good = scaling("predict", "chinchilla", "params=70B", "tokens=1.4T")
    assert good.returncode == 0
    assert "superseded" not in good.stderr
    old = scaling("predict", "hoffmann", "params=7B", "tokens=140B")
    assert "superseded: use chinchilla" in old.stderr
    assert "non-embedding" in scaling("predict", "kaplan", "family=gpt2-83m", "tokens=5.5B").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("predict", "chinchila", "params=1B", "tokens=1B"), "did you mean chinchilla"),
        (("predict", "nowhere.json", "params=1B", "tokens=1B"), "does not exist"),
        (("predict", "chinchilla", "parms=1B", "tokens=1B"), "did you mean params"),
        (("predict", "chinchilla", "params=1B"), "tokens= is missing"),
        (("predict", "chinchilla", "tokens=1B"), "one of family= and params="),
        (("predict", "chinchilla", "family=gpt3", "tokens=1B"), "known:"),
        (("fit", "nowhere.csv"), "does not exist"),
        (("fit", "nowhere.csv", "--form", "x"), "does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words, message, tmp_path):
    done = scaling(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_doubtful_fit_leaves_with_status_1_and_says_why(tmp_path):
    sizes = np.geomspace(1e7, 1e9, 12)
    rows = [f"r{i},{N},{20 * N},{LAW.loss(N, 20 * N) * (1 + 0.002 * (-1) ** i)}" for i, N in enumerate(sizes)]
    path = tmp_path / "runs.csv"
    path.write_text("run,params,tokens,loss\n" + "\n".join(rows) + "\n")
    done = scaling("fit", path, "--form", "chinchilla", "--out", tmp_path / "law.json")
    assert done.returncode == 1
    assert "ill_conditioned" in done.stderr
    assert (tmp_path / "law.json").exists()
    assert "doubtful" in scaling("predict", tmp_path / "law.json", "params=1B", "tokens=20B").stderr


def test_json_is_one_object_and_a_study_keeps_its_law(table, tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    lines = table.read_text().splitlines()[1:]
    runs = [dict(zip(("run", "params", "tokens", "loss"), line.split(","), strict=True)) for line in lines]
    (study / "runs.jsonl").write_text("\n".join(json.dumps(run) for run in runs) + "\n")
    done = scaling("fit", "--json", "--sensitivity", "--isoflop", "--profile", "--conventions", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["kind"] == "law"
    assert list(value["inputs"]) == ["runs.jsonl"]
    assert {"sensitivity", "isoflop", "profile", "conventions"} <= set(value)
    assert json.loads((study / "law.json").read_text())["convention"] == "total"


def test_pictures_of_the_fit_are_written_on_request(table, tmp_path):
    words = (
        "fit",
        table,
        "--columns",
        "params=size,tokens=D",
        "--bootstrap",
        "20",
        "--plot",
        tmp_path / "figures",
    )
    assert scaling(*words).returncode == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "surface.svg",
        "isoflops.svg",
        "residuals.svg",
        "profile.svg",
    }


def test_fitting_and_predicting_load_no_heavy_library():
    heavy = "('torch', 'scipy', 'matplotlib')"
    code = f"import sys, scaling.fitting.fit, scaling.fitting.lawfile; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rows_that_were_left_out_stand_on_the_card(table, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(table.read_text() + "bad,1e7,,3.0\n")
    done = scaling(
        "fit", path, "--columns", "params=size,tokens=D", "--bad-rows", "0.1", "--out", tmp_path / "l.json"
    )
    assert done.returncode == 0, done.stderr
    assert "1 bad row (line 32)" in done.stdout
    assert "line 32" in json.loads((tmp_path / "l.json").read_text())["card"]["exclusions"]


def test_the_parts_of_an_interval_are_of_the_settings_asked_for(tmp_path):
    from scaling.planning.law import PredictQuery, predict

    rng = np.random.default_rng(0)
    grid = ([1e7, 3e7, 1e8], [1e9, 4e9, 1e10], [2.5e-4, 1e-3, 4e-3], [1, 4, 8])
    N, D, lr, E = (v.ravel() for v in np.meshgrid(*grid, indexing="ij"))
    L = LAW.loss(N * E**0.4, D) * np.exp(0.01 * np.log(lr / 1e-3) ** 2 + 0.004 * rng.standard_normal(len(N)))
    runs = [
        Run(run=str(i), params=n, tokens=d, lr=h, n_experts=e, loss=y)
        for i, (n, d, h, e, y) in enumerate(zip(N, D, lr, E, L, strict=True))
    ]
    found = fit(runs, coordinates=["lr", "n_experts"], bootstrap=30)
    found.save(tmp_path / "law.json")
    path, query = str(tmp_path / "law.json"), PredictQuery(params=2e8, tokens=2e10)
    with pytest.raises(
        BadInput, match=r"lr 5 lies 1\.25e\+03 times beyond the values of the runs, 0.00025 to 0.004"
    ):
        predict(path, query, settings={"lr": "5"})
    assert predict(path, query, settings={"lr": "5"}, force=True).loss > 3
    for settings in ({}, {"lr": "4e-3"}, {"lr": "4e-3", "n_experts": "8"}):
        answer = predict(path, query, settings=settings, explain=True)
        assert answer.uncertainty is not None
        assert answer.loss_interval_80 is not None
        half = np.log(answer.loss_interval_80[1] / answer.loss)
        parts = [value for name, value in answer.uncertainty.items() if name != "all"]
        assert answer.uncertainty["all"] == pytest.approx(half)
        assert np.linalg.norm(parts) == pytest.approx(half)
        assert (answer.uncertainty["tuning"] > 0) == bool(settings)
        split = predict(path, PredictQuery(compute=1e21), settings=settings)
        law = found.at(n_experts=8) if "n_experts" in settings else found
        assert split.params == pytest.approx(law.allocate(1e21).N)


def test_compute_alone_is_split_and_the_interval_is_explained(tmp_path):
    from scaling.planning.law import PredictQuery, predict

    law = Law(E=1.8, A=480, B=2000, alpha=0.35, beta=0.37)
    rng = np.random.default_rng(0)
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    found = fit(N=N, D=D, loss=law.loss(N, D) * np.exp(0.003 * rng.standard_normal(25)))
    path = tmp_path / "law.json"
    found.save(path)
    answer = predict(str(path), PredictQuery(compute=1e21), explain=True)
    best = found.allocate(1e21)
    assert (answer.params, answer.tokens, answer.loss) == pytest.approx((best.N, best.D, best.loss))
    assert answer.params_interval_80 == pytest.approx(best.N_interval_80)
    assert answer.tokens_interval_80 == pytest.approx(best.D_interval_80)
    text = "\n".join(answer.lines())
    assert "N*" in text
    assert "of loss at 80 %: run noise" in text
    with pytest.raises(BadInput, match="compute= is given and so is tokens="):
        predict(str(path), PredictQuery(compute=1e21, tokens=1e9))
    with pytest.raises(BadInput, match="no intervals to explain"):
        predict("chinchilla", PredictQuery(compute=1e21), explain=True)
    assert predict("chinchilla", PredictQuery(compute=1e21)).params_interval_80 is None


@pytest.mark.parametrize("keep", ["--out", "--study"])
def test_checkpoints_of_a_mixture_are_left_out_with_a_study_or_without_and_each_note_stands_once(
    keep, tmp_path
):
    rows = [(N, r, last) for N in (2e7, 6e7, 2e8, 6e8) for r, last in ((10, False), (20, True))]
    path = tmp_path / "runs.csv"
    path.write_text(
        "run,params,tokens,loss,status\n"
        + "".join(f"r{N:g},{N},{N * r},{LAW.loss(N, N * r) * (1 if last else 1.1)},\n" for N, r, last in rows)
    )
    done = in_process(f"fit {path} {keep} {tmp_path / 'kept'} --bootstrap 0 --yes")
    assert "4 rows not annealed" in done.out
    assert "no column annealed" in done.out
    assert "no column annealed" not in done.err
    every = in_process(f"fit {path} {keep} {tmp_path / 'every'} --bootstrap 0 --yes --annealed all")
    assert "8 rows of 4 runs" in every.out
    path.write_text(path.read_text().replace(",status", ",annealed").replace(",\n", ",false\n"))
    middle = in_process(f"fit {path} {keep} {tmp_path / 'middle'} --bootstrap 0 --yes")
    assert "no row is annealed" in middle.out
