"""The documentation site: `pip install -e '.[docs]' && sphinx-build -W -b html docs site`."""

import importlib.metadata
import itertools
import pathlib
import re
from typing import Any

import latex2mathml.converter
from docutils import nodes

project = "robustjax"
author = "the robustjax authors"
release = version = importlib.metadata.version("robustjax")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_generated", "site"]

html_math_renderer = "mathml"  # which browsers draw themselves: no script, no network
html_theme = "furo"
html_title = "robustjax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
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


def write_formula(translator: Any, node: nodes.math | nodes.math_block) -> None:
    """A formula as MathML."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Write what is rendered from the code itself, and draw formulas."""
    from robustjax import methods

    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))

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
