"""The examples in the docstrings of robustjax are true."""

import doctest
import importlib
import pkgutil

import pytest

import robustjax

MODULES = sorted(module.name for module in pkgutil.walk_packages(robustjax.__path__, "robustjax."))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples of {name}: see above"


@pytest.mark.parametrize("name", ["robustjax.schedules", "robustjax.data.corruptions", "robustjax.training.evaluation"])
def test_every_public_function_shows_an_example(name):
    module = importlib.import_module(name)
    own = [f for f in vars(module).values() if callable(f) and getattr(f, "__module__", "") == name]
    public = [f for f in own if not f.__name__.startswith("_")]
    assert public and [f.__name__ for f in public if ">>>" not in (f.__doc__ or "")] == []
