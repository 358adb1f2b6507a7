"""Nasty files through every reader and verb: nothing but a refusal in words leaves, within ten seconds."""

import json

import pytest

from families.configs import read_config
from families.units import BadInput
from scaling.files import atomic_write
from scaling.untrusted import LONGEST_MESSAGE, YamlError, one_line, parse_csv, parse_json, parse_yaml, shown

from .nasty import LONGEST, ended, write_bench
from .nasty_inputs import FORMLESS, HUGE, LITERALS, PLACES, device_there, pipe_there, socket_there

SOME = 15  # inputs of a quick door in the suite; `python -m tests.nasty` tries any number


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return write_bench(tmp_path_factory.mktemp("nasty") / "bench")


def quick(bench):
    return [door for door in bench.doors if door.share == 1]


def test_every_door_reads_the_good_files(bench):
    """A door that refuses the good file tests nothing."""
    for door in bench.doors:
        if door.share >= 0.1:
            before = bench.refused
            assert bench.feed(door, bench.whole(door)) is None
            assert bench.refused == before, door.name


def test_spoilt_files_leave_as_refusals(bench):
    leaks = [leak for door in quick(bench) for number in range(SOME) if (leak := bench.attempt(door, number))]
    assert not leaks, "\n".join(map(str, leaks))


def test_files_without_form_leave_as_refusals(bench):
    names = list(FORMLESS)
    leaks = [
        leak
        for start, door in enumerate(quick(bench))  # each door a few, all of them together every one
        for name in names[start % 7 :: 7]
        if (leak := bench.feed(door, FORMLESS[name], done=name))
    ]
    assert not leaks, "\n".join(map(str, leaks))


def test_what_is_no_file_leaves_as_a_refusal(bench):
    leaks = [leak for door in quick(bench) for make in PLACES if (leak := bench.place(door, make))]
    assert not leaks, "\n".join(map(str, leaks))


@pytest.mark.slow
def test_every_file_without_form_and_huge_leaves_as_a_refusal_in_time(bench):
    leaks = [
        leak
        for door in quick(bench)
        for name, data in (FORMLESS | HUGE).items()
        if (leak := bench.feed(door, data, done=name))
    ]
    assert not leaks, "\n".join(map(str, leaks))


@pytest.mark.slow
def test_every_verb_refuses_spoilt_files_in_one_line(bench):
    leaks = [
        leak
        for door in bench.doors
        for number in range(round(60 * door.share) + 2)
        if door.share < 1 and (leak := bench.attempt(door, number))
    ]
    assert not leaks, "\n".join(map(str, leaks))


@pytest.mark.parametrize(
    "name", ["deep lists", "a huge number", "NULs", "one line of bars", "YAML in itself"]
)
def test_a_command_says_one_line_and_leaves(name, bench, tmp_path):
    for suffix in (".csv", ".jsonl", ".md", ".json"):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(FORMLESS[name])
        verb = ("predict", path, "params=1M", "tokens=20M") if suffix == ".json" else ("audit", path)
        status, out, said = ended(*verb)
        assert status == 2
        assert out == ""
        assert len(said.splitlines()) == 1
        assert len(said) <= LONGEST
        assert "Traceback" not in said


def test_the_console_script_shows_escapes_and_keeps_to_its_length(cli, tmp_path):
    hostile = tmp_path / "a\x1b[2Jb\x07\u202e.json"
    done = cli("predict", hostile, "params=1M", "tokens=20M")
    assert done.returncode == 2
    assert (
        done.stderr
        == f"scaling: {one_line(f'{hostile} does not exist; scaling fit runs.csv --out law.json writes one')}\n"
    )
    assert "\x1b" not in done.stderr
    assert r"\x1b[2J" in done.stderr
    long = cli("predict", "x" * 5000, "params=1M", "tokens=20M")
    assert long.returncode == 2
    assert len(long.stderr) <= LONGEST
    assert "Traceback" not in long.stderr


def test_a_message_is_one_line_of_bounded_length():
    said = one_line("a\nb\r\n" + "x\x00" * 10_000)
    assert len(said) <= LONGEST_MESSAGE
    assert said.isprintable()
    assert said.startswith("a b x")
    assert shown("a\tb\nc ü 漢 é") == "a\tb\nc ü 漢 é", "what is text stays"


@pytest.mark.parametrize("literal", [text for text in LITERALS if len(text) > 4300])
def test_json_beyond_the_parsers_limits_is_a_decode_error_or_a_float(literal):
    try:
        value = parse_json(literal)
    except json.JSONDecodeError:  # which every reader expects
        return
    assert not isinstance(value, int)


def test_a_key_that_stands_twice_is_refused_in_any_json(tmp_path):
    with pytest.raises(json.JSONDecodeError, match="'n_layer' stands there twice"):
        parse_json('{"model": {"n_layer": 2, "n_head": 2, "n_layer": 48}}')
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_layer": 2, "n_layer": 48}')
    with pytest.raises(BadInput, match=r"config\.json: a key stands twice"):
        read_config(folder)


def test_brackets_nested_too_deep_are_refused_before_the_parser_of_yaml_looks_at_each():
    """Its time grows with the square of the open brackets."""
    with pytest.raises(YamlError, match="nested too deep"):
        parse_yaml("a: " + "[" * 100_000)
    assert parse_yaml("a: [[b], {c: d}]") == {"a": [["b"], {"c": "d"}]}


@pytest.mark.parametrize("make", [pipe_there, socket_there, device_there])
def test_what_is_no_file_is_neither_read_nor_replaced(make, tmp_path):
    path = tmp_path / "x.csv"
    make(path)
    status, out, said = ended("fit", path)
    assert (status, out) == (2, "")
    assert "and no file: write what it gives to a file" in said
    with pytest.raises(BadInput, match=r"cannot write .*and no file"):
        atomic_write(path, "x")
    assert not path.is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("design", "--depth", "12", "--width", "768", "--multiple", "9" * 400), "multiple is 999"),
        (("predict", "chinchilla", "params=1e-320", "tokens=20B", "--json"), "at least 1e-100"),
        (("audit", "HEADLESS"), "num_attention_heads is null; it must be a number of heads"),
        (
            ("demo", "--quick", "--study", "s", "--data", "RECORDS"),
            "has no field 'text' holding a string",
        ),
    ],
)
def test_what_100_000_inputs_found_is_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    headless, records = tmp_path / "config.json", tmp_path / "records.jsonl"
    headless.write_text('{"model_type": "gemma2", "num_attention_heads": null}')
    records.write_text('{"number": 3}\n')
    places = {"HEADLESS": str(headless), "RECORDS": str(records)}
    status, out, error = ended(*(places.get(word, word) for word in words))
    assert (status, out, len(error.splitlines())) == (2, "", 1)
    assert said in error


def test_spoilt_command_lines_are_refused_and_change_nothing(bench):
    lines = [door for door in bench.doors if door.words is not None]
    assert len(lines) > 40
    leaks = [leak for door in lines if (leak := bench.attempt(door, 1))]
    assert not leaks, "\n".join(map(str, leaks))


def test_integers_to_64_bits_stay_exact():
    assert parse_json("[9007199254740993, -1, 0]") == [9007199254740993, -1, 0]


def test_a_cell_too_long_for_the_csv_module_is_a_bad_row_among_good_ones():
    rows = list(parse_csv("a,b\n1," + "x" * 200_000 + "\n3,4\n", ","))
    assert rows[0] == (1, ["a", "b"])
    assert isinstance(rows[1][1], str)
    assert rows[2][1] == ["3", "4"]
