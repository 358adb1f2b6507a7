"""What README shows is what the commands print."""

import pytest

from . import readme

TEXT = (readme.ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return readme.folder(tmp_path_factory.mktemp("readme") / "here")


def test_readmes_commands_print_what_it_shows_to_a_hundredth(place):
    shown = readme.steps(TEXT)
    assert len(shown) >= 5
    for step in shown:
        assert readme.missing(step.shown, readme.said(step.command, place)) is None, step.command


def test_a_line_that_is_no_longer_printed_or_out_of_order_is_found():
    printed = ("a  1.00", "b 2", "c")
    assert readme.missing(("a 1.005", "…", "c"), printed) is None
    assert readme.missing(("a 1.1",), printed) == "a 1.1"
    assert readme.missing(("c", "…", "b 2"), printed) == "b 2"
