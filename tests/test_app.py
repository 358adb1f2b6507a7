"""The command line as a whole: it starts at once, and every verb is there, with help and completion."""

import subprocess
import sys

import pytest

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
        ("scaling plan --budg", {"--budget"}),
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
