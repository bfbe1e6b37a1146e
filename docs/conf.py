"""How the documentation is built: `sphinx-build -W docs OUT`."""

import re

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
    """Show the arguments that our docstrings list as `name: what it is`, one a line, as a list of fields."""
    app.connect("autodoc-process-docstring", _list_arguments)


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
