"""Right numbers on a CPU: what XLA's kernels compute, and that every program of ours takes the safe ones."""

import ast
import pathlib

import chex
import jax
import jax.export
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from robustjax import backend, models

ROOT = pathlib.Path(__file__).parents[1]
# Where programs are compiled: by `backend.jit`, by the engine with the options of a run, by a bench with any; an export
# lowers one that others compile.
COMPILERS = {
    "robustjax/backend.py", "robustjax/training/parallel.py", "experiments/bench/steps.py", "experiments/export.py"
}  # fmt: skip


def row_sums(e, c):
    """Of a product of matrices, times one of them."""
    return jnp.sum((e @ jnp.full_like(e, c)) * e, -1)


def squared_norms(m, x):
    """Of matrix times vector, for many vectors."""
    return jax.vmap(lambda row: jnp.sum(jnp.square(m @ row)))(x)


def problem(program):
    """Arguments, and the right result."""
    rng = np.random.default_rng(0)
    if program is row_sums:
        e = rng.normal(size=(5, 60, 60)).astype(np.float32)
        return (e, 1.5), (np.float64(e) @ np.full(e.shape, 1.5) * e).sum(-1)
    m, x = rng.normal(size=(3, 3)).astype(np.float32), rng.normal(size=(32769, 3)).astype(np.float32)
    return (m, x), np.square(np.float64(x) @ np.float64(m).T).sum(-1)


def error(found, right):
    """The largest, in multiples of the largest number; inf for NaN."""
    off = np.max(np.abs(np.asarray(found, np.float64) - right)) / np.max(np.abs(right))
    return off if np.isfinite(off) else np.inf


PROGRAMS = pytest.mark.parametrize("program", [row_sums, squared_norms])


@PROGRAMS
def test_safe_kernels_are_right(program):
    arguments, right = problem(program)
    assert error(backend.jit(program)(*arguments), right) < 1e-5
    options = backend.compiler_options(once=True)
    assert error(jax.jit(program, compiler_options=options)(*arguments), right) < 1e-5


@PROGRAMS
def test_whether_xlas_own_kernels_are_still_wrong(program):
    """Where these pass on each jaxlib that pyproject.toml allows, the option is no longer needed for right numbers."""
    arguments, right = problem(program)
    if (off := error(jax.jit(program)(*arguments), right)) > 1e-5:
        pytest.xfail(f"jaxlib {jaxlib.__version__}: {program.__name__} is off by {off:.2g} with XLA's own kernels")


@pytest.mark.exhaustive
@PROGRAMS
def test_an_exported_program_needs_the_option_where_it_is_compiled(program):
    """The options of the `jax.jit` that was exported do not travel with it."""
    arguments, right = problem(program)
    lowered = jax.jit(program, compiler_options=backend.SAFE_CPU_OPTIONS)
    exported = jax.export.export(lowered)(*arguments)
    assert error(jax.jit(exported.call, compiler_options=backend.SAFE_CPU_OPTIONS)(*arguments), right) < 1e-5
    if (off := error(exported.call(*arguments), right)) > 1e-5:
        pytest.xfail(f"jaxlib {jaxlib.__version__}: {program.__name__} is off by {off:.2g} without the option")


def test_options_are_those_that_xla_knows():
    assert jax.jit(lambda x: x + 1, compiler_options=backend.compiler_options(once=True))(1.0) == 2.0
    assert backend.compiler_options().items() < backend.compiler_options(once=True).items()
    assert not backend._is_known("xla_no_such_option", "")


def test_jit_is_a_part_of_what_is_traced():
    """By itself it is compiled with options, which XLA takes of a whole program only."""
    double = backend.jit(lambda x: 2 * x)
    assert double(2.0) == 4.0
    assert jax.jit(lambda x: double(x))(2.0) == 4.0
    assert jax.jit(lambda: double(2.0))() == 4.0
    assert jax.grad(double)(1.0) == 2.0
    np.testing.assert_array_equal(jax.jit(jax.vmap(double))(np.ones(3)), 2 * np.ones(3))
    assert jax.lax.scan(lambda c, _: (double(c), None), 1.0, length=3)[0] == 8.0


def test_nothing_else_compiles():
    """`jax.jit` without the options would take XLA's own kernels."""
    found = set()
    for file in [*ROOT.glob("robustjax/**/*.py"), *ROOT.glob("experiments/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("jit", "pmap"):
                if not (isinstance(node.value, ast.Name) and node.value.id == "backend"):
                    found.add(file.relative_to(ROOT).as_posix())
            elif isinstance(node, ast.ImportFrom):
                assert not {"jit", "pmap"} & {alias.name for alias in node.names}, file
    assert found == COMPILERS


def test_what_is_materialized_keeps_its_values_and_derivatives():
    def value(x):
        return jnp.sum(backend.materialized(jnp.sin(x)) ** 2)

    x = jnp.arange(4.0)
    np.testing.assert_allclose(jax.vmap(value)(x[:, None]), jnp.sin(x) ** 2, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(value)(x), jnp.sin(2 * x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jvp(jax.grad(value), (x,), (x,))[1], 2 * jnp.cos(2 * x) * x, rtol=1e-5, atol=1e-6)
    for dtype in (jnp.bfloat16, jnp.int32):
        chex.assert_trees_all_equal(backend.materialized(x.astype(dtype)), x.astype(dtype))


def test_weight_gradients_do_not_compute_the_blocks_before_anew():
    """Else XLA:CPU does so for each of them, in a transposed copy; the mask of the last ReLU alone is made that way."""
    model = models.get_model("resnet20", 2, blocks=(3, 1), widths=(4, 4), strides=(1, 2), stem_width=4)
    x = jnp.ones((8, 8, 8, 3))
    params, stats = model.init(jax.random.key(0), x)

    def objective(params):
        return jnp.sum(jnp.square(model.apply(params, stats, x, train=True)[0]))

    gradient = jax.jit(jax.grad(objective), compiler_options=backend.compiler_options(once=True))
    functions = gradient.lower(params).compile().as_text().split("\n\n")
    copies = [function for function in functions if " transpose(" in function and not function.startswith("ENTRY")]
    assert sum(function.count(" maximum(") > 1 for function in copies) <= 1 < len(copies)
