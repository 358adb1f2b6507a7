"""Templates, and text as Markdown and LaTeX: whatever a template prints is escaped for the language it is written in.

Jinja2 is imported where a text is rendered, not by the planner.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
    """The templates of a package, in its folder `templates`.

    Args:
        package: the package's import name.
        escape: what makes a text safe in a template's language; HTML's escaping where it is left out.
        options: further options of jinja2.Environment.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        if escape is None or not isinstance(value, str) or hasattr(value, "__html__"):
            return value
        return Markup(escape(value))  # noqa: S704 - it is escaped

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
    """The Markdown templates of a package; filter `code` sets a text as inline code."""
    made = environment(package, escape_markdown)
    made.filters["code"] = markdown_code
    return made


def latex_environment(package: str) -> "Environment":
    """The LaTeX templates of a package, with <<…>>, <%…%> and <#…#> for Jinja2's braces."""
    return environment(package, escape_latex, **_LATEX_MARKS)


def escape_markdown(text: str) -> str:
    """Text that stays text in Markdown: no mark-up, no HTML, one line, one cell of a table."""
    line = re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", " ".join(text.split()))
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    line = re.sub(r"^(?=>|[-+=](?:[-=\s]|$))", r"\\", line)  # a quotation, a list, a rule
    return re.sub(r"^(\d+)(?=[.)](?:\s|$))", r"\1\\", line)  # a numbered list


def markdown_code(text: object) -> "Markup":
    """Text as inline code, whatever it holds, in a table too."""
    from markupsafe import Markup

    words = " ".join(str(text).split())
    if "|" in words or not words:  # no fence keeps a table from ending its cell there
        entities = re.sub(r"[!-/:-@\[-`{-~]", lambda mark: f"&#{ord(mark[0])};", words)
        return Markup(f"<code>{entities}</code>")  # noqa: S704 - every mark is an entity
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", words)), default=0))
    pad = " " if words.startswith("`") or words.endswith("`") else ""
    return Markup(f"{fence}{pad}{words}{pad}{fence}")  # noqa: S704 - inline code is not read as mark-up


def escape_latex(text: str) -> str:
    """Text that stays text in LaTeX, on one line."""
    return "".join(_LATEX.get(mark, mark) for mark in " ".join(text.split()))
