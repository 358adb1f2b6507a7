"""What agents use: the guide's commands work as written, every --json obeys its schema, and the MCP tools only read."""

import asyncio
import json
import re
import shutil
from pathlib import Path

import jsonschema
import pytest

from families.units import BadInput
from scaling.cli import main
from scaling.cli.agents import guide_text
from scaling.cli.app import VERBS, load
from scaling.cli.schemas import SCHEMAS, schema
from scaling.paths import StudyPaths
from scaling.planning.planfile import PlanFile
from scaling.runs import Run
from scaling.runs.store import append_run

from .synthetic import TRUTH, leave_run

STUDIES = Path(__file__).parents[1] / "docs" / "studies"
TABLE = "run,params,tokens,loss\n" + "".join(
    f"r{size:.0f}-{ratio},{size:.0f},{size * ratio:.0f},{TRUTH.loss(size, size * ratio):.6f}\n"
    for size in (1e8, 3e8, 1e9, 3e9)
    for ratio in (5, 20, 80)
)
GUIDED = re.findall(r"^\$ scaling (.*)$", guide_text(), re.MULTILINE)


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "runs.csv").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def said(monkeypatch, capsys):
    """Run the command line in this process; returns the object that it prints."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["scaling", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        assert ended.value.code in (0, 1, None), out.err
        return json.loads(out.out)

    return run


def test_the_guides_commands_lead_from_a_table_to_a_sealed_plan_and_obey_their_schemas(place, said):
    assert [line.split()[0] for line in GUIDED] == [
        *("fit", "predict", "plan", "plan"),
        *("fit", "plan", "ladder", "compare"),
    ]
    for line in GUIDED:
        words = line.split()
        if words[0] == "ladder":
            assert_ladder_words_are_known(words[1:])
            leave_the_sealed_run(place / "mine")  # as training leaves it
            continue
        found = said(*words)
        jsonschema.validate(found, schema(words[0]))
    sealed = json.loads((place / "plan.json").read_text())
    assert sealed["seal"]["law_sha256"]
    assert sealed["members"][0]["prediction"]["interval_80"]
    (row,) = found["rows"]
    assert row["grade"] == "chain"
    assert {"predicted_loss", "actual_loss", "error", "inside_80"} <= set(row)


def assert_ladder_words_are_known(words):
    given = {
        name for option in load(next(v for v in VERBS if v.name == "ladder")).params for name in option.opts
    }
    assert {word for word in words if word.startswith("--")} <= given


def leave_the_sealed_run(folder):
    """A finished run of the plan's only member, 1 % above its prediction."""
    plan = PlanFile.read(folder / "plan.json")
    (member,) = plan.members
    run = Run(
        run=f"{member.member}-s0",
        params=member.params,
        params_non_embedding=member.params_non_embedding,
        tokens=member.tokens,
        loss=1.01 * member.prediction.loss,
        seed=0,
    )
    to = StudyPaths(folder).run_folder(run.run)
    leave_run(to, member, run, seal=plan.seal.digest)
    append_run(to / "runs.jsonl", run)


@pytest.mark.parametrize(
    "line",
    [
        "design --params 85M --ratio 64", "families list", "families show gpt2-83m", "families show bert-base",
        "families emit gpt2-83m --out emitted", "hardware", "hardware --times 1=66m40s,2=40m19s --at 8",
        "pilot --target 125M --tokens 2.5B", "plan --budget 8xA100-hours --recipes", "fit runs.csv --sensitivity --conventions",
        "backtest runs.csv", "audit runs.csv", "table study", "compare --study study", "compare --under .",
        "compare --published composer-gpt2", "plot surface --study study --out surface.png",
        pytest.param("doctor", marks=pytest.mark.slow),
        "next --study study --target 1M --tokens 20M",
    ],
)  # fmt: skip
def test_what_a_verb_prints_as_json_obeys_its_schema(line, place, said):
    if "study" in line or "--under" in line:
        shutil.copytree(STUDIES / "stdlib", place / "study")
    words = line.split()
    verb = " ".join(words[:2]) if words[0] == "families" else words[0]
    found = schema(verb)
    jsonschema.Draft202012Validator.check_schema(found)
    jsonschema.validate(said(*words, "--json"), found)


def test_every_verb_with_json_has_a_schema_that_is_valid():
    speaks = set()
    for verb in VERBS:
        command = load(verb)
        for name, one in getattr(command, "commands", {"": command}).items():
            if any(option.name == "as_json" for option in one.params):
                speaks.add(f"{verb.name} {name}".strip())
    assert speaks == set(SCHEMAS)
    for verb in speaks:
        jsonschema.Draft202012Validator.check_schema(schema(verb))


def test_a_schema_refuses_what_the_verb_never_prints():
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"members": [], "more": 1}, schema("design"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"members": [{"member": 3}]}, schema("design"))
    with pytest.raises(BadInput, match="did you mean plan"):
        schema("plann")


def test_the_guide_names_only_verbs_that_exist():
    verbs = {verb.name for verb in VERBS}
    named = set(re.findall(r"`(?:scaling )?([a-z]+) (?:-|[A-Z]|[a-z]+\.json)", guide_text()))
    assert named
    assert named <= verbs


# The Model Context Protocol


mcp = pytest.importorskip("mcp", reason="needs the extra [mcp]")


def asked(server, name, **arguments):
    """The structured result of a tool, called as a client does."""

    async def call():
        async with mcp.Client(server) as client:
            return await client.call_tool(name, arguments)

    return asyncio.run(call())


@pytest.fixture(scope="module")
def server():
    from scaling.cli.mcp import build_server

    return build_server()


def test_the_tools_only_read_unless_writing_is_allowed(server):
    from scaling.cli.mcp import build_server

    tools = {tool.name: tool for tool in asyncio.run(server.list_tools())}
    guided = re.search(r"`scaling mcp` .* serves (.*) over", guide_text())[1]
    assert (
        set(tools) == set(re.findall("`([a-z]+)`", guided)) == {"plan", "fit", "predict", "backtest", "audit"}
    )
    assert all(tool.annotations.read_only_hint for tool in tools.values())
    assert not any("out" in tool.input_schema["properties"] for tool in tools.values())
    writing = {tool.name: tool for tool in asyncio.run(build_server(write=True).list_tools())}
    assert set(writing) == set(tools)
    for name in ("plan", "fit"):
        extra = set(writing[name].input_schema["properties"]) - set(tools[name].input_schema["properties"])
        assert extra == {"out"}
        assert not writing[name].annotations.read_only_hint


def test_a_tool_returns_the_verbs_object_and_a_refusal_is_its_one_line(server, place):
    found = asked(server, "predict", law="chinchilla", params="1B", tokens="20B")
    jsonschema.validate(
        {key: value for key, value in found.structured_content.items() if key != "notes_on_stderr"},
        schema("predict"),
    )
    refused = asked(server, "predict", law="chinchilla", params="many", tokens="20B")
    assert refused.is_error
    assert "many" in refused.content[0].text
    assert "Traceback" not in refused.content[0].text


def test_a_path_never_becomes_an_option(server, place):
    assert asked(server, "fit", runs="--out=stolen.json").is_error
    assert sorted(found.name for found in place.iterdir()) == ["runs.csv"]
