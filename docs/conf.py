"""The documentation site: `pip install -e '.[docs]' && sphinx-build -W -b html docs site`."""

import importlib.metadata
import itertools
import pathlib
import re
from typing import Any

project = "robustjax"
author = "the robustjax authors"
release = version = importlib.metadata.version("robustjax")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_generated", "site"]

html_theme = "furo"
html_title = "robustjax"
html_show_copyright = False

default_role = "code"  # docstrings write names in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them; docstrings tell shapes
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": False}
napoleon_use_rtype = False
napoleon_use_param = False
napoleon_use_ivar = True


def as_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what reStructuredText would take for its own in a docstring, outside of `code` and *stress*."""
    example = False
    for number, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            parts = re.split(r"(`[^`]*`|(?<![\w*])\*[^\s*][^*`]*\*(?![\w*]))", line)
            lines[number] = "".join(
                part if odd else re.sub(r"(?<!\\)([*|]|(?<=\w)_(?!\w))", r"\\\1", part)
                for part, odd in zip(parts, itertools.cycle((False, True)))
            )


def setup(app: Any) -> None:
    """Write what is rendered from the code itself."""
    from robustjax import methods

    app.connect("autodoc-process-docstring", as_text, priority=400)  # before napoleon, which writes stars of its own
    lines = ["| method | also | paper | needs | networks | an example | a step |", "|---|---|---|---|--:|--:|--:|"]
    for entry in methods.entries():
        cells = (
            f"`{entry.name}`", ", ".join(f"`{alias}`" for alias in entry.aliases), entry.paper, ", ".join(entry.needs),
            str(entry.networks), entry.memory, f"{entry.cost:g}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    made = pathlib.Path(__file__).parent / "_generated"
    made.mkdir(exist_ok=True)
    (made / "methods.md").write_text("\n".join(lines) + "\n")
