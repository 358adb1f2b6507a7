"""The command line as a whole: it starts at once, and every verb is there, with help and completion."""

import re
import subprocess
import sys

import pytest

from families.units import BadInput
from scaling.cli.app import VERBS, build, load


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_loads_and_says_what_it_does_and_how(verb):
    command = load(verb)
    assert command.name == verb.name
    assert command.help
    if verb.where.endswith(":app"):
        assert all(
            sub.epilog.startswith(f"Example: scaling {verb.name} ") for sub in command.commands.values()
        )
    else:
        assert command.epilog.startswith(f"Example: scaling {verb.name}")


def test_help_lists_every_verb_on_a_line_of_its_own_uncut(cli):
    text = cli("--help", COLUMNS="80", TERMINAL_WIDTH="80").stdout
    listed = dict(line.strip().split(maxsplit=1) for line in text.split("Commands:")[1].strip().splitlines())
    assert listed == {verb.name: verb.summary for verb in VERBS}


def test_help_imports_no_verb_and_no_library():
    code = "import sys; sys.argv = ['scaling', '--help']\nfrom scaling.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += (
        "print(sorted({'numpy', 'pydantic', 'scaling.cli.plan', 'scaling.planning.plan'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("scaling pl", {"plan", "plot"}),
        ("scaling plan --budg", {"--budget", "--budget-includes-serving"}),
        ("scaling families ", {"list", "show", "emit"}),
        ("scaling families list --js", {"--json"}),
    ],
)
def test_completion_offers_verbs_and_the_options_of_each(words, offered, cli):
    done = cli(_SCALING_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1))
    assert set(done.stdout.split()) == offered


def test_a_bare_call_prints_the_help_as_it_is(cli):
    done = cli()
    assert done.returncode == 2
    assert done.stderr.strip() == cli("--help").stdout.strip()


def test_a_mistyped_verb_or_option_names_its_neighbour(cli):
    assert "Did you mean 'plan'" in cli("pln").stderr
    assert "scaling plan --help" in cli("plan", "--budgt", "1").stderr


def test_names_are_given_once():
    assert len({verb.name for verb in VERBS}) == len(VERBS) == len(build().commands)


def typed(*words):
    return build()(list(words), standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ladder", "p.json", "launchr=slurm"), "unknown key 'launchr'; did you mean launcher"),
        (("ladder", "p.json", "detach=maybe"), "detach is 'maybe'; it must be true or false"),
        (("ladder", "p.json", "seed=1", "seed=2"), "seed is given twice"),
        (("ladder", "p.json", "seed=1", "--study=s"), "p.json does not exist"),
        (("ladder", "--data", "launchr=slurm", "p.json"), "p.json does not exist"),
        (("tune", "family=gpt2", "batch_sise=4"), "unknown key 'batch_sise'; did you mean batch_size"),
        (("tune", "family=gpt2", "devices=1,x"), "devices is '1,x'"),
        (("tune", "family=gpt2", "--devices", "1,x"), "devices is '1,x'"),
    ],
)
def test_keys_of_ladder_and_tune_are_given_as_train_takes_them(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=re.escape(message)):
        typed(*words)
    assert not list(tmp_path.iterdir())


def test_the_help_of_ladder_shows_its_keys(cli):
    text = cli("ladder", "--help").stdout
    keys = set(re.findall(r"^  (\w+)=", text, re.M))
    assert {"data", "launcher", "jobs", "dry_run", "detach", "member", "seed"} <= keys
    assert "--launcher" not in text
    assert "--study" in text
