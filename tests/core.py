"""Every verb on real small inputs where torch is not installed: what plans works, what trains says what to install.

python tests/core.py            the console script beside this interpreter, in an environment with the core alone
python tests/core.py --blocked  in this process, with the training packages hidden; tests/test_core.py runs it
"""

import contextlib
import importlib.util
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

STUDIES = Path(__file__).resolve().parents[1] / "docs" / "studies"
HIDDEN = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub")
INSTALL = "needs torch and transformers: pip install 'scaling-planner[train]'"
TARGET = "gpt2-941k-l4-d128"

WORK = (  # in a folder that holds a copy of a small study and its runs
    "--version",
    "families list",
    "families show gpt2-83m",
    "families emit gpt2-83m --out emitted",
    "design --params 85M --ratio 64 --out designed",
    "hardware",
    "hardware --times 1=66m40s,2=40m19s,4=32m44s --at 8",
    "pilot --target 125M --out pilot.json",
    "simulate pilot.json --target 125M --tokens 2.5B --replicates 4",
    "next --study study --target 1M --tokens 20M",
    "plan --budget 8xA100-hours",
    "plan --budget 1e15 --law study/law.json --out plan.json",
    "fit study/runs.jsonl --out law.json --plot fit",
    "predict law.json params=1M tokens=2M",
    "predict kaplan family=gpt2-83m tokens=5.5B",
    "backtest study/runs.jsonl --holdout params>5e5",
    "versus study study/runs.jsonl",
    "audit table.csv",
    "emit family=gpt2-83m tokens=1B --out run",
    "emit family=gpt2-83m tokens=1B --to megatron --nodes 2 --out megatron",
    "ingest chart.csv --contract megatron/contract.json --study study",
    "emit plan.json --to config,torchrun --out launch",
    f"watch {TARGET}-s1 --study study --once",
    "table study",
    "compare --study study",
    "stamp study/plan.json",
    "compare --published composer-gpt2",
    "report --study study",
    "plot surface --study study --out surface.png",
    "doctor",
    "guide",
    "schema fit",
    "mcp --check",
)
REFUSED = (
    ("train family=gpt2-83m data=stdlib tokens=1M", f"train {INSTALL}"),
    ("ladder study/plan.json --data stdlib", f"ladder {INSTALL}"),
    ("tune family=gpt2-83m", f"tune {INSTALL}"),
    ("validate study", f"validate {INSTALL}"),
    ("generate study", f"generate {INSTALL}"),
    ("push study user/name", f"push {INSTALL}"),
    ("demo --quick", f"demo {INSTALL}"),
    (
        "emit --deepspeed family=gpt2-83m tokens=1B --out deepspeed",
        "needs torch: pip install 'scaling-planner[train]'",
    ),
)


class Result(NamedTuple):
    """What a verb left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


class Hide(MetaPathFinder):
    """A finder that makes the training packages look uninstalled."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise for the hidden packages, leave the others to the next finder."""
        if fullname.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def in_process(words: str) -> Result:
    """Run a verb in this process: its imports are paid once for all verbs."""
    from scaling.cli import main

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["scaling", *words.split()]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    finally:
        sys.argv = before
    return Result(status, out.getvalue(), err.getvalue())


def as_installed(words: str) -> Result:
    """Run the installed console script."""
    script = Path(sys.executable).with_name("scaling")
    done = subprocess.run([script, *words.split()], capture_output=True, text=True, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def main() -> int:
    """Run all; returns the number of verbs that did otherwise than promised."""
    blocked = "--blocked" in sys.argv[1:]
    if blocked:
        sys.path.insert(0, str(STUDIES.parents[1]))
        sys.meta_path.insert(0, Hide())
    elif there := [name for name in HIDDEN if importlib.util.find_spec(name)]:
        sys.exit(f"{', '.join(there)} can be imported here: this is not an environment with the core alone")
    run = in_process if blocked else as_installed
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copytree(STUDIES / "stdlib", "study")
        Path("table.csv").write_text("run,params,tokens,loss\na,1e6,2e7,3.2\nb,2e6,4e7,3.0\nc,4e6,8e7,2.9\n")
        Path("chart.csv").write_text("Step,lm loss\n1,10.9\n2,10.7\n")
        for words in WORK:
            began = time.perf_counter()
            status, out, err = run(words)
            good = status == 0 and bool(out)
            wrong += not good
            print(f"{'works' if good else 'FAILS'}  {time.perf_counter() - began:5.1f} s  scaling {words}")
            if not good:
                print(f"status {status}\n{out}{err}")
        before = sorted(Path().rglob("*"))
        for words, line in REFUSED:
            status, out, err = run(words)
            good = (status, out, err) == (2, "", f"scaling: {line}\n") and sorted(Path().rglob("*")) == before
            wrong += not good
            print(f"{'refused' if good else 'NOT REFUSED'}  scaling {words}: {err.strip()}")
        for verb in sorted({words.split()[0] for words in (*WORK[1:], *(words for words, _ in REFUSED))}):
            if run(f"{verb} --help").status:
                wrong += 1
                print(f"FAILS  scaling {verb} --help")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
