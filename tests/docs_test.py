"""The documentation: no public module is missing from its reference, and its examples run."""

import doctest
import pathlib
import pkgutil
import re

import pytest

import robustjax

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGES = sorted(page for page in DOCS.glob("**/*.md") if ">>> " in page.read_text())


def test_the_reference_has_every_public_module():
    found = {
        module.name
        for module in pkgutil.walk_packages(robustjax.__path__, "robustjax.")
        if not any(part.startswith("_") for part in module.name.split("."))
    }
    # Packages that only pass on what their modules hold.
    found -= {"robustjax.data", "robustjax.training"}
    text = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    told = set(re.findall(r"\.\. automodule:: (\S+)", text))
    assert found - told == set()
    assert told - found == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples(page):
    found = doctest.testfile(str(page), module_relative=False, verbose=False)
    assert found.attempted > 0
    assert found.failed == 0
