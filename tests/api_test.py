"""The names at the top of the package: all there, lazy, and the same for those who read code without running it."""

import ast
import importlib
import inspect
import pathlib
import subprocess
import sys
import tomllib

import pytest

import robustjax
from experiments import launch


def declared():
    """What the block for type checkers imports: name -> (module, name there)."""
    tree = ast.parse(inspect.getsource(robustjax))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("name", robustjax.__all__)
def test_every_name_resolves(name):
    assert getattr(robustjax, name) is not None
    assert name in dir(robustjax)


def test_type_checkers_see_the_same_objects():
    names = declared()
    assert {*names, "__version__"} == set(robustjax.__all__)
    for name, (module, there) in names.items():
        try:
            expected = getattr(importlib.import_module(module), there)
        except AttributeError:
            expected = importlib.import_module(f"{module}.{there}")
        assert getattr(robustjax, name) is expected, name


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = robustjax.nothing
    with pytest.raises(ImportError, match="nothing"):
        from robustjax import nothing  # noqa: F401


def test_importing_the_package_imports_no_jax_and_what_is_asked_for_is_there():
    code = (
        "import sys, robustjax; assert not {'jax', 'numpy', 'flax'} & set(sys.modules); "
        "import robustjax as rj; rj.losses.cross_entropy; assert 'jax' in sys.modules; "
        "assert 'flax' not in sys.modules; from robustjax import get_model, evaluation; assert callable(get_model)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_a_command_starts_without_what_only_its_end_needs():
    code = "import sys, experiments.run; print({'sklearn', 'pandas', 'tensorflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_star_import():
    names = {}
    exec("from robustjax import *", names)
    assert set(robustjax.__all__) <= set(names)
    assert robustjax.__version__[0].isdigit()


def test_the_console_command_is_the_module(capsys, monkeypatch):
    monkeypatch.setattr(launch, "begin_anew", lambda: pytest.fail("called with arguments it leaves the process alone"))
    project = tomllib.loads((pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["robustjax"].partition(":")
    command = getattr(importlib.import_module(module), name)
    assert command is launch.main
    assert command(["--method=nothing"]) == 2  # a status, which is what a console script needs
    assert "nothing" in capsys.readouterr().err
