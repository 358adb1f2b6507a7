"""Jinja2 templates, and escaping of text for Markdown and LaTeX. Jinja2 is imported when a text is rendered."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .untrusted import shown

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_LATEX = {
    **{mark: f"\\{mark}" for mark in "&%#_${}"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "…": r"\ldots{}",
}
_LATEX_MARKS = {
    "variable_start_string": "<<", "variable_end_string": ">>",
    "block_start_string": "<%", "block_end_string": "%>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip  # braces are LaTeX's own


def environment(package: str, escape: Callable[[str], str] | None = None, **options: Any) -> "Environment":
    """Return the templates of a package, in its folder `templates`.

    Args:
        package: the package's import name.
        escape: escapes text for the language of the templates; default: HTML.
        options: further options of jinja2.Environment.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        if escape is None or not isinstance(value, str) or hasattr(value, "__html__"):
            return value
        return Markup(escape(value))  # noqa: S704 - escaped

    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )


def markdown_environment(package: str) -> "Environment":
    """Return the Markdown templates of a package; filter `code` formats inline code."""
    markdown = environment(package, escape_markdown)
    markdown.filters["code"] = markdown_code
    return markdown


def latex_environment(package: str) -> "Environment":
    """Return the LaTeX templates of a package, with <<…>>, <%…%> and <#…#> for Jinja2's braces."""
    return environment(package, escape_latex, **_LATEX_MARKS)


def escape_markdown(text: str) -> str:
    """Escape text for Markdown: no mark-up, no HTML, no control characters, one line, one cell of a table."""
    line = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", shown(" ".join(text.split())))
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    line = re.sub(r"^(?=>|[-+=](?:[-=\s]|$))", r"\\", line)  # a quotation, a list, a rule
    return re.sub(r"^(\d+)(?=[.)](?:\s|$))", r"\1\\", line)  # a numbered list


def markdown_code(text: object) -> "Markup":
    """Format any text as inline code, also within a table; control characters are shown."""
    from markupsafe import Markup

    words = shown(" ".join(str(text).split()))
    if "|" in words or not words:  # a fence does not protect a | within a table
        entities = re.sub(r"[!-/:-@\[-`{-~]", lambda mark: f"&#{ord(mark[0])};", words)
        return Markup(f"<code>{entities}</code>")  # noqa: S704 - all marks are entities
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", words)), default=0))
    pad = " " if words.startswith("`") or words.endswith("`") else ""
    return Markup(f"{fence}{pad}{words}{pad}{fence}")  # noqa: S704 - inline code is not read as mark-up


def escape_latex(text: str) -> str:
    """Escape text for LaTeX, on one line, its control characters shown."""
    return "".join(_LATEX.get(mark, mark) for mark in shown(" ".join(text.split())))
