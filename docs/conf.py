"""How the documentation is built: `sphinx-build -W docs OUT`."""

import io
import os
import re
from contextlib import redirect_stdout, suppress

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

_ARGUMENT = re.compile(r"(?P<names>[a-z_]+(, [a-z_]+)*): (?P<text>.*)")


def setup(app):
    """Show the arguments that our docstrings list as `name: what it is`, one a line, as fields; and commands' help."""
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
    shown, in_list = [], False
    for line in lines:
        argument = _ARGUMENT.match(line)
        if argument and (in_list or not shown or not shown[-1].strip()):
            in_list = True
            shown.append(f":{argument['names']}: {argument['text']}")
        elif not line.strip():
            in_list = False
            shown.append("")
        else:
            shown.append("    " + line.strip() if in_list else line)
    lines[:] = shown
