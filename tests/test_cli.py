"""The command line: bad input is one line and status 2 and writes nothing; ours runs whatever lies in the folder."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from families.units import BadInput
from scaling.files import append_line, atomic_write

from .tiny import SMALLER, files_under, words, write_corpus

SCALING = Path(sys.executable).with_name("scaling")
SHAPE = words(**SMALLER, batch_size=4, lr=3e-3)
HOSTILE = 'raise SystemExit("a file of the current folder was run")\n'


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("cli") / "corpus", files=20)


TRAIN = ["train", "family=tiny", "tokens=1k", *SHAPE]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["families", "show", "gpt2-83"], "did you mean gpt2-83m"),
        (["train", "family=gpt2-84m", "data=x", "tokens=1k"], "did you mean gpt2-83m"),
        (["train", "famly=gpt2-83m", "data=x", "tokens=1k"], "did you mean family"),
        (["train", "family=gpt2-83m", "data=x"], "tokens= is missing"),
        (["train", "family=gpt2-83m", "data=x", "tokens=lots"], "tokens is 'lots'"),
        (["train", "family=gpt2-83m", "data=x", "tokens=1k", "lr=-1"], "lr is '-1'"),
        (["train", "family=gpt2-83m", "data=x", "tokens=1k", "seed=x"], "seed is 'x'"),
        (["train", "family=gpt2-83m", "data", "tokens=1k"], "not key=value"),
        (
            ["train", "family=t", "data=x", "tokens=1k", "n_layer=1", "n_head=3", "n_embd=16"],
            "multiple of n_head",
        ),
        ([*TRAIN, "data=nowhere"], "does not exist"),
        ([*TRAIN, "data=empty.txt"], "empty"),
        ([*TRAIN, "data=small.txt"], "too small"),
        ([*TRAIN, "data=short.txt", "held_out=0.4"], "one batch needs"),
        (["fit", "broken.jsonl"], "line 3"),
        (["fit", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["compare", "--study", "newer"], "newer program"),
        (["plan", "--budget", "1e18", "--study", "newer"], "newer program"),
        (["ladder", "broken.jsonl", "--data", "stdlib"], "not JSON"),
        (["predict", "kaplam", "family=gpt2-83m", "tokens=1B"], "kaplan"),
        (["frobnicate"], "No such command"),
        (["plan"], "budget"),
    ],
)
def test_bad_input_is_one_line_status_2_and_nothing_written(words, message, tmp_path, cli):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "small.txt").write_text("a")
    (tmp_path / "short.txt").write_text("".join(f"a line of text {i * i}\n" for i in range(30)))
    row = {"run": "a", "params": 1e6, "tokens": 1e7, "loss": 3.0}
    (tmp_path / "broken.jsonl").write_text(
        f'{{"kind":"runs","version":1}}\n{json.dumps(row)}\n{{"run": "b", par\n'
    )
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "study.json").write_text('{"kind": "study", "version": 99, "tool": "scaling 9.0"}')
    before = files_under(tmp_path)
    done = cli(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [
        line for line in done.stderr.splitlines() if "left" not in line and not line.endswith("tokeniser")
    ]
    assert message in lines[-1]
    assert lines[-1].startswith("scaling: ")
    assert "Traceback" not in done.stderr
    assert files_under(tmp_path) == before


def test_a_run_too_big_for_the_machine_says_so_before_it_starts(corpus, tmp_path, cli):
    done = cli("train", "family=gpt2-83m", f"data={corpus}", "tokens=5.5B", cwd=tmp_path)
    assert done.returncode == 2
    assert "more than a day" in done.stderr or "more memory" in done.stderr
    assert "--yes" in done.stderr
    assert not (tmp_path / "study").exists()


def test_training_works_from_a_folder_of_hostile_names(corpus, tmp_path, console):
    for name in ("train", "plots", "scaling", "families", "torch", "numpy"):
        (tmp_path / f"{name}.py").write_text(HOSTILE)
    done = console(*TRAIN, f"data={corpus}", "out=run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (rung,) = json.loads(done.stdout)["rungs"]
    assert rung["annealed"]
    assert rung["tokens"] == 1024
    assert (tmp_path / "run" / "runs.jsonl").exists()


@pytest.mark.parametrize(
    "words",
    [["--help"], ["families", "list"], ["plan", "--budget", "1e18"], ["predict", "kaplan", "family=gpt2", "tokens=1B"],
     ["train", "--help"], ["fit", "--help"], ["demo", "--help"]],
)  # fmt: skip
def test_every_verb_starts_in_a_folder_of_hostile_names(words, tmp_path, console):
    for name in ("train", "plots", "scaling", "families"):
        (tmp_path / f"{name}.py").write_text(HOSTILE)
    done = console(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "current folder" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "forbidden"),
    [
        (["--help"], {"torch", "transformers", "matplotlib", "scipy"}),
        (["families", "list"], {"torch", "transformers", "matplotlib", "scipy"}),
        (["plan", "--budget", "1e18"], {"torch", "transformers", "matplotlib", "scipy"}),
        (
            ["predict", "chinchilla", "family=gpt2", "tokens=1B"],
            {"torch", "transformers", "matplotlib", "scipy"},
        ),
        (["families", "emit", "gpt2-83m", "--out", "OUT"], {"torch", "transformers", "matplotlib", "scipy"}),
        (["design", "--params", "85M", "--out", "OUT"], {"torch", "transformers", "matplotlib", "scipy"}),
        (
            ["emit", "family=gpt2-83m", "tokens=1B", "--out", "OUT"],
            {"torch", "transformers", "matplotlib", "scipy"},
        ),
    ],
)
def test_light_verbs_load_no_heavy_library(words, forbidden, tmp_path):
    words = [str(tmp_path) if word == "OUT" else word for word in words]
    code = f"import sys; sys.argv = ['scaling', *{words!r}]\nfrom scaling.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += f"print(sorted(set({sorted(forbidden)!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "law.json"
    atomic_write(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match=r"cannot write .*law.json: No space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert files_under(tmp_path) == ["law.json"]


def test_an_unwritable_folder_is_one_line(corpus, cli, tmp_path):
    (tmp_path / "file").write_text("")
    done = cli(*TRAIN, f"data={corpus}", "--study", "file/study", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot write" in done.stderr.splitlines()[-1]


def test_a_torn_last_line_is_cut_off_before_the_next_is_appended(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"whole": 1}\n{"torn": ')
    append_line(path, '{"next": 2}')
    assert path.read_text() == '{"whole": 1}\n{"next": 2}\n'


KILLED = ["train", "family=tiny", "tokens=120k", *SHAPE, "save_every=0.5", "--json", "rungs=30k,60k"]


@pytest.fixture(scope="module")
def undisturbed(corpus, begin, tmp_path_factory):
    """The losses of the rungs of a run that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    whole = begin(*KILLED, f"data={corpus}", "out=whole", cwd=folder, OMP_NUM_THREADS="1")
    return [rung["loss"] for rung in json.loads(whole.communicate(timeout=300)[0])["rungs"]]


def checkpoints(folder):
    return set(folder.rglob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_goes_on_to_the_same_result(sign, corpus, begin, undisturbed, tmp_path):
    def start():
        return begin(*KILLED, f"data={corpus}", "out=cut", cwd=tmp_path, OMP_NUM_THREADS="1")

    for kill in range(3):
        before = checkpoints(tmp_path / "cut")
        attempt = start()
        while not checkpoints(tmp_path / "cut") - before:  # begun, and further than the attempt before
            assert attempt.poll() is None, attempt.communicate()[1]
            time.sleep(0.02)
        time.sleep(0.2 * kill)
        attempt.send_signal(sign)
        _, err = attempt.communicate(timeout=60)
        assert attempt.returncode in ((130, 143, -15) if sign != signal.SIGKILL else (-9,)), err
    out, err = start().communicate(timeout=300)
    assert [rung["loss"] for rung in json.loads(out)["rungs"]] == undisturbed, err


def test_an_interrupt_that_comes_after_the_answer_changes_nothing():
    code = (
        "import atexit, os, signal, sys\n"
        "from scaling.cli import main\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['scaling', '--version']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("asked", "count"), [({}, "3000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "")])
def test_threads_spin_for_a_while_unless_a_person_says_how_they_wait(asked, count):
    code = (
        "import atexit, os, sys\n"
        "from scaling.cli import main\n"
        "atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT', '')))\n"
        "sys.argv = ['scaling', '--version']\n"
        "main()"
    )
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {key: value for key, value in os.environ.items() if key not in ours} | asked
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[1:] == [count]


@pytest.mark.parametrize(
    ("verb", "asked", "threads"),
    [("plan", {}, "1"), ("plan", {"OPENBLAS_NUM_THREADS": "3"}, "3"), ("train", {}, "")],
)
def test_small_products_are_made_by_one_thread_unless_a_person_says_otherwise(verb, asked, threads):
    code = (
        "import atexit, os, sys\n"
        "from scaling.cli import main\n"
        "atexit.register(lambda: print(os.environ.get('OPENBLAS_NUM_THREADS', '')))\n"
        f"sys.argv = ['scaling', '{verb}', '--help']\n"
        "main()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"} | asked
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == threads


def test_the_version_is_the_packages(console):
    from importlib.metadata import version

    assert console("--version").stdout.strip() == f"scaling {version('scaling-planner')}"


def test_the_help_names_every_verb_with_an_example(cli):
    for verb in ("plan", "design", "fit", "predict", "backtest", "train", "ladder", "compare", "demo"):
        done = cli(verb, "--help")
        assert done.returncode == 0
        assert f"Example: scaling {verb}" in " ".join(done.stdout.split())


def test_progress_says_what_is_left(capsys, monkeypatch):
    from scaling.cli.output import Progress

    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    bar = Progress()
    for second in range(31):
        clock[0] = float(second)
        bar.at(second, 60.0, "step")
    assert "50%  step  about 30 s left" in capsys.readouterr().err


def test_a_line_said_meanwhile_stands_alone_and_the_progress_line_goes_on_below(monkeypatch):
    import io

    from scaling.cli.output import Progress, log

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    bar = Progress()
    bar._shown = -1e9
    bar.at(1.0, 2.0, "tokenising")
    log("MFU is relative to a matmul")
    shown = [line.rpartition("\x1b[K")[2].rpartition("\r")[2] for line in screen.getvalue().split("\n")]
    assert shown[0] == "MFU is relative to a matmul"
    assert "tokenising" not in shown[1]
