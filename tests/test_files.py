"""Files of ours on a disk that others use too: permissions, symbolic links, long ledgers."""

import ast
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from families import ModelSpec
from families.members import Member
from families.units import BadInput
from scaling.files import append_line, atomic_dir, atomic_write, open_to_append


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_new_files_and_folders_follow_the_users_umask_and_a_replaced_file_keeps_its_permissions(
    umask, tmp_path
):
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "one" / "file", "text")
        append_line(tmp_path / "lines", "{}")
        open_to_append(tmp_path / "log").close()
        with atomic_dir(tmp_path / "folder") as folder:
            (folder / "inside").write_text("text")
        Member(name="m", spec=ModelSpec(n_layer=1, n_head=1, n_embd=16)).to_hf_config(tmp_path / "model")
        expected = 0o666 & ~umask
        for name in ("one/file", "lines", "log", "folder/inside", "model/config.json"):
            assert mode(tmp_path / name) == expected, name
        assert mode(tmp_path / "folder") == 0o777 & ~umask
        (tmp_path / "one" / "file").chmod(0o600)
        atomic_write(tmp_path / "one" / "file", "other")
        assert mode(tmp_path / "one" / "file") == 0o600
    finally:
        os.umask(before)


def test_lines_are_never_appended_through_a_symbolic_link_and_a_replaced_link_leaves_its_target(tmp_path):
    target = tmp_path / "precious"
    target.write_text("mine\n")
    link = tmp_path / "runs.jsonl"
    link.symlink_to(target)
    with pytest.raises(BadInput, match="symbolic link"):
        append_line(link, "{}")
    with pytest.raises(BadInput, match="symbolic link"):
        open_to_append(link)
    atomic_write(link, "ours")
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("mine\n", "ours", False)


@given(
    lines=st.lists(st.text("ab", max_size=5), max_size=6),
    cut=st.text("cd", max_size=9),
    block=st.integers(1, 7),
)
def test_a_line_is_appended_after_the_last_whole_one_whatever_block_is_read(
    lines, cut, block, tmp_path_factory
):
    from scaling import files

    path = tmp_path_factory.mktemp("lines") / "ledger"
    whole = "".join(line + "\n" for line in lines)
    path.write_text(whole + cut)
    with path.open("rb") as file:
        assert files._end_of_lines(file, len(whole + cut), block) == len(whole)
    append_line(path, "new")
    assert path.read_text() == whole + "new\n"


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path):
    name = "n" * 240
    atomic_write(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_nothing_that_is_loaded_may_bring_code_of_its_own():
    loads = ("from_pretrained", "from_config")
    root = Path(__file__).parents[1]
    calls = [
        (path.relative_to(root).as_posix(), node)
        for room in ("scaling", "train", "families", "plots")
        for path in (root / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in loads
    ]
    assert len(calls) >= 4
    for path, call in calls:
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        options = named.get("trust_remote_code", named.get(None))
        refused = isinstance(options, ast.Name) or (
            isinstance(options, ast.Constant) and options.value is False
        )
        assert refused, f"{path}:{call.lineno} does not say trust_remote_code=False"
