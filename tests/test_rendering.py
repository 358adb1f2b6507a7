"""Text in templates: markdown-it, a CommonMark parser with GitHub's tables, reads back what was put in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from scaling.rendering import escape_latex, escape_markdown, markdown_code
from scaling.untrusted import shown

TEXTS = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs"), include_characters=" ")
    | st.sampled_from("|`\\*_[]()<>&#~$!-+=.123 "),
    min_size=1,
).filter(str.strip)
HOSTILE = (
    "# a", "- a", "+ a", "1. a", "2) a", "> a", "---", "===", "~~a~~", "a|b", "`a`", "`|\\|`", "[a](b)", "<b>",
    "&lt;", "\\|",
)  # fmt: skip


def read(markdown):
    """(the kinds of block, the text) of a document; inline code and the marks of text alone are text."""
    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    spans = [child for block in blocks for child in block.children or ()]
    assert {span.type for span in spans} <= {"text", "text_special", "code_inline", "html_inline"}
    assert {span.content for span in spans if span.type == "html_inline"} <= {"<code>", "</code>"}
    text = "".join(span.content for span in spans if span.type != "html_inline")
    return [block.type for block in blocks if block.nesting == 1], text


@pytest.mark.parametrize("escape", [escape_markdown, markdown_code])
@given(text=TEXTS)
def test_any_text_is_a_paragraph_and_a_cell_of_itself(escape, text):
    _check(escape, text)


@pytest.mark.parametrize("escape", [escape_markdown, markdown_code])
@pytest.mark.parametrize("text", HOSTILE)
def test_marks_stay_text(escape, text):
    _check(escape, text)


@pytest.mark.parametrize("escape", [escape_markdown, markdown_code, escape_latex])
@pytest.mark.parametrize("letter", ["\033", "\x9b", "\x07", "\u202e", "\x00"])
def test_what_a_terminal_obeys_is_shown(escape, letter):
    for text in (f"a{letter}[31m", f"a|{letter}b"):
        found = escape(text)
        assert shown(found) == found
        assert letter not in found


def _check(escape, text):
    words = shown(" ".join(text.split()))
    assert read(escape(text)) == (["paragraph_open"], words)
    blocks, found = read(f"| x | y |\n|---|---|\n| {escape(text)} | z |")
    assert (blocks.count("td_open"), found) == (2, "xy" + words + "z")
