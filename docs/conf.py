"""How the documentation is built: `sphinx-build -W docs OUT`."""

import io
import os
import re
from contextlib import redirect_stdout, suppress
from itertools import groupby

from augstream import cli

project = "augstream"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "augstream"
html_show_copyright = False
exclude_patterns = ["_build"]
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True, "show-inheritance": True}
myst_heading_anchors = 2

_ARGUMENTS = re.compile(r"(?:^|(?<=\. ))([a-z_]+(?:, [a-z_]+)*): ")


def setup(app):
    """Show the arguments that our docstrings list as `name: what it is`, as a list; and commands' help."""
    app.connect("autodoc-process-docstring", _list_arguments)
    app.connect("source-read", _show_commands)


def _show_commands(_app, _docname, source):
    """Put the help of every command where a page wants it."""
    os.environ["COLUMNS"] = "100"  # argparse asks the terminal otherwise
    source[0] = source[0].replace("<!-- commands -->", "\n\n".join(map(_help, cli.COMMANDS)))


def _help(command):
    with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
        cli.main([command, "--help"])
    return f"## {command}\n\n```text\n{text.getvalue()}```"


def _list_arguments(_app, _what, _name, _obj, _options, lines):
    shown = []
    for blank, group in groupby(lines, lambda line: not line.strip()):
        paragraph = list(group)
        if not blank and _ARGUMENTS.match(paragraph[0]):
            _, *parts = _ARGUMENTS.split(" ".join(line.strip() for line in paragraph))
            paragraph = [
                f"* **{names}**: {text}" for names, text in zip(parts[::2], parts[1::2], strict=True)
            ]
        shown += paragraph
    lines[:] = shown
