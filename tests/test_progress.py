"""Work of more than a moment says on a terminal how far it is, and elsewhere nothing but its answer."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling.cli.output import Progress
from scaling.fitting.backtest import backtest
from scaling.runs.readers import read_runs

from .synthetic import write_study


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("progress") / "study")


def on_terminal(*words):
    """(exit status, what a terminal shows of standard error)."""
    master, slave = pty.openpty()
    command = [Path(sys.executable).with_name("scaling"), *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(master)
    return process.wait(), shown.decode()


def test_work_that_is_first_seen_midway_promises_no_time_until_its_speed_is_known(clock, capsys):
    bar = Progress()
    clock[0] = 100.0
    bar.at(10, 100, "outcomes")
    assert "left" not in capsys.readouterr().err
    clock[0] = 120.0
    bar.at(20, 100, "outcomes")
    assert "about 2 min 40 s left" in capsys.readouterr().err


def test_short_work_says_nothing_where_nobody_watches(clock, capsys):
    bar = Progress(elsewhere=False)
    for second in range(60):
        clock[0] = float(second)
        bar.at(second, 60, "drawing")
    bar.end()
    assert capsys.readouterr().err == ""


def asked(verb, study):
    sweep = [study / "ladder.json", "--target", "15M", "--tokens", "30M", "--replicates", "3"]
    return [verb, *(sweep if verb == "simulate" else ["--study", study])]


@pytest.mark.parametrize("verb", ["backtest", "report", "simulate"])
def test_what_takes_seconds_shows_its_progress_on_a_terminal(verb, study):
    status, shown = on_terminal(*asked(verb, study))
    assert status == 0, shown
    lines = [line for line in shown.split("\r") if "%  " in line]
    assert lines[0].startswith("  0%  ")
    half = [line for line in lines if float(line.split("%")[0]) < 50]
    assert not any("0.0 s left" in line for line in half)


@pytest.mark.parametrize("verb", ["backtest", "simulate"])
def test_elsewhere_it_says_nothing_but_its_answer(verb, study, cli):
    assert "%  " not in cli(*asked(verb, study)).stderr


def test_a_backtest_tells_of_all_its_work_in_order(study):
    told = []
    backtest(
        read_runs(study / "runs.jsonl").runs,
        bootstrap=20,
        progress=lambda done, total, what: told.append((done / total, what)),
    )
    assert told == sorted(told, key=lambda one: one[0])
    assert (told[0][0], told[-1][0]) == (0.0, 1.0)
    assert {what.partition(": ")[2] for _, what in told} >= {"the default predictor", "chinchilla", "kaplan"}


def test_an_error_takes_the_place_of_the_progress_line(study):
    status, shown = on_terminal(
        "simulate", study / "ladder.json", "--target", "15M", "--tokens", "1M", "--run-noise=-1"
    )
    assert status == 2
    assert "\r\x1b[Kscaling: noise is" in shown


def test_a_text_that_is_not_there_is_said_before_anything_heavy_is_loaded(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    words = ["validate", str(tmp_path), "--data", str(tmp_path / "nowhere")]
    code = f"import sys; sys.argv = ['scaling', *{words!r}]\nfrom scaling.cli import main\n"
    code += "try: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "2 False"
    assert "nowhere', which does not exist" in done.stderr
