"""Arrows point one way: who may import whom, read from the sources."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
# Each may import those before it.
SETTINGS = (
    "ranges", "rates", "recipes", "files", "human_labels", "catalogue", "defaults", "config", "build", "listing",
    "command_line",
)  # fmt: skip


def imported(file):
    """The modules that a file imports, with full names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def test_the_package_knows_nothing_of_experiments():
    """But for the name `robustjax.fit`, which is imported from there when it is asked for."""
    for file in (ROOT / "robustjax").rglob("*.py"):
        allowed = {"experiments.fitting", "experiments.fitting.fit"} if file.parent.name == "robustjax" else set()
        found = {name for name in imported(file) if name.split(".")[0] == "experiments"}
        assert found <= (allowed if file.name == "__init__.py" else set()), file


def test_user_code_is_on_the_ground_floor():
    assert not any(
        name.split(".")[0] in ("robustjax", "flax", "jax") for name in imported(ROOT / "robustjax/user_code.py")
    )


def test_settings_import_those_before_them():
    folder = ROOT / "experiments" / "settings"
    assert {file.stem for file in folder.glob("*.py")} == {*SETTINGS, "__init__"}
    for number, name in enumerate(SETTINGS):
        own = [
            each.split(".")[2] for each in imported(folder / f"{name}.py") if each.startswith("experiments.settings.")
        ]
        assert set(own) <= set(SETTINGS[:number]), name
        above = {
            each for each in imported(folder / f"{name}.py") if each.startswith(("experiments.run", "experiments.pic"))
        }
        assert not above, name
