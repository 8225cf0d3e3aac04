"""Networks of the user's own: Linen and NNX modules as `Model`s, and what `check_model` says of wrong ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from robustjax import models
from robustjax.models import layers
from robustjax.models.custom import check_model, custom_model, from_module

INPUTS = jax.random.normal(jax.random.key(1), (6, 4))
# Compiling costs more than running here: spend little on it.
quick = {"xla_backend_optimization_level": 0}
jit = functools.partial(jax.jit, compiler_options=quick)


class Keyword(nn.Module):
    """With `*, train`, and both outputs."""

    num_classes: int
    width: int = 8

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(self.width)(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(self.num_classes)(x), x


class Deterministic(nn.Module):
    """With `deterministic`, logits alone, and a random stream of another name."""

    num_classes: int

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.BatchNorm(use_running_average=deterministic)(nn.Dense(8)(x))
        x = nn.Dropout(0.5, deterministic=deterministic, rng_collection="noise")(x)
        return nn.Dense(self.num_classes)(x)


class Bare(nn.Module):
    """Without a flag, and in bfloat16."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes, dtype=jnp.bfloat16)(nn.relu(nn.Dense(8)(x)))


class Nnx(nnx.Module):
    """With a list, statistics and dropout."""

    def __init__(self, num_classes, width=8, *, rngs):
        self.layers = getattr(nnx, "List", list)([nnx.Linear(4, width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)])
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x))
        x = self.dropout(self.norm(x))
        return self.head(x), x


class NnxFlag(nnx.Module):
    """With a flag of its own, logits alone and no statistics."""

    def __init__(self, num_classes, *, rngs):
        self.head, self.rngs = nnx.Linear(4, num_classes, rngs=rngs), rngs

    def __call__(self, x, train):
        return self.head(x + 0.1 * jax.random.normal(self.rngs.noise(), x.shape) if train else x)


NETWORKS = {
    "linen class": Keyword,
    "linen module": Keyword(3),
    "linen deterministic": Deterministic,
    "linen bare": Bare,
    "function": lambda num_classes: Keyword(num_classes, width=5),
    "function of any name": lambda c: Deterministic(c),
    "nnx class": Nnx,
    "nnx flag": NnxFlag,
    "nnx factory": lambda rngs: Nnx(3, rngs=rngs),
    "nnx factory of classes": lambda num_classes, rngs: Nnx(num_classes, rngs=rngs),
    "function that returns a factory": lambda num_classes: lambda rngs: Nnx(num_classes, rngs=rngs),
    "nnx module": Nnx(3, rngs=nnx.Rngs(0)),
    "model": models.get_model("mlp", 3, normalize=True),
    "function that returns a model": lambda num_classes: models.get_model("mlp", num_classes),
}
RUN = ["linen module", "linen deterministic", "linen bare", "nnx factory", "nnx flag", "nnx module"]
each_run = pytest.mark.parametrize("name", RUN)  # the others are these, made in other ways


@functools.cache
def _made(name):
    model = custom_model(NETWORKS[name], 3)
    return model, jit(model.init)(jax.random.key(0), INPUTS)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_a_model(name):
    check_model(custom_model(NETWORKS[name], 3), INPUTS, 3)


@each_run
def test_evaluation_has_nothing_of_the_batch_in_it(name):
    model, (params, stats) = _made(name)
    logits, features, kept = jit(lambda *v: model.outputs(*v, train=False))(params, stats, INPUTS)
    assert logits.shape == (6, 3) and logits.dtype == features.dtype == jnp.float32 and len(features) == 6
    one, unchanged = model.apply(params, stats, INPUTS[:1], train=False)
    assert unchanged is stats
    np.testing.assert_allclose(one, logits[:1], rtol=1e-2, atol=1e-2)
    assert jax.tree.structure(kept) == jax.tree.structure(stats)


@each_run
def test_training_has_finite_gradients_moves_statistics_and_follows_the_key(name):
    model, (params, stats) = _made(name)

    @jit
    def step(key):
        def loss(params):
            logits, changed = model.apply(params, stats, INPUTS, train=True, key=key)
            return jnp.mean(jnp.square(logits - 1)), (logits, changed)

        return jax.grad(loss, has_aux=True)(params)

    gradient, (logits, changed) = step(jax.random.key(2))
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    assert bool(jax.tree.leaves(stats)) == (name not in ("linen bare", "nnx flag"))
    for old, new in zip(jax.tree.leaves(stats), jax.tree.leaves(changed), strict=True):
        assert np.any(old != new)
    np.testing.assert_array_equal(step(jax.random.key(2))[1][0], logits)
    assert np.array_equal(step(jax.random.key(3))[1][0], logits) == (name == "linen bare")


@pytest.mark.parametrize("name", ["linen deterministic", "nnx factory", "nnx module"])
def test_every_seed_begins_elsewhere_and_seeds_run_by_vmap(name):
    model, (params, _) = _made(name)
    keys = jax.random.split(jax.random.key(5), 2)
    several = jit(jax.vmap(lambda key: model.init(key, INPUTS)))(keys)
    logits, _ = jit(jax.vmap(lambda v, key: model.apply(*v, INPUTS, train=True, key=key)))(several, keys)
    assert logits.shape == (2, 6, 3)
    moved = any(
        np.any(a[0] != b) for a, b in zip(jax.tree.leaves(several.params), jax.tree.leaves(params), strict=True)
    )
    assert moved == (name != "nnx module")  # whose own weights are the beginning


def test_linen_and_nnx_networks_agree():
    linen, (params, stats) = _made("linen module")
    network = custom_model(NnxTwin, 3)
    renamed = {"dense": params["Dense_0"], "norm": params["BatchNorm_0"], "head": params["Dense_1"]}
    for train in (True, False):
        expected, before = linen.apply(params, stats, INPUTS, train=train, key=jax.random.key(0))
        actual, after = network.apply(renamed, {"norm": stats["BatchNorm_0"]}, INPUTS, train=train)
        if not train:
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), after, {"norm": before["BatchNorm_0"]})


class NnxTwin(nnx.Module):
    """`Keyword` without dropout."""

    def __init__(self, num_classes, *, rngs):
        self.dense, self.head = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, num_classes, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(self.dense(x)))


def test_taps_of_a_linen_network():
    class Tapped(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(3)(layers.BatchNorm(name="norm")(x, train=train))

    model = from_module("tapped", Tapped())
    variables = model.init(jax.random.key(0), INPUTS)
    assert {name: tap.shape for name, tap in model.tap_shapes(*variables, INPUTS).items()} == {"norm": (6, 4)}
    logits, _ = model.apply(*variables, INPUTS, train=False, taps={"norm": jnp.ones((6, 4))})
    kernel = variables.params["Dense_0"]["kernel"]
    moved = logits - model.apply(*variables, INPUTS, train=False)[0]
    np.testing.assert_allclose(moved, np.tile(kernel.sum(0), (6, 1)), rtol=1e-4, atol=1e-5)
    nnx_model, variables = _made("nnx module")
    assert nnx_model.tap_shapes(*variables, INPUTS) == {}
    with pytest.raises(ValueError, match="Nnx has no layer"):
        nnx_model.apply(*variables, INPUTS, train=False, taps={"norm": jnp.ones((6, 8))})


def test_options_reach_the_network():
    for thing in (Keyword, Nnx):
        model = custom_model(thing, 3, width=5)
        variables = jax.eval_shape(model.init, jax.random.key(0), INPUTS)
        features, _ = jax.eval_shape(model.features, *variables, INPUTS)
        assert features.shape == (6, 5)
    with pytest.raises(ValueError, match="Keyword has no option depth; it has num_classes, width"):
        custom_model(Keyword, 3, depth=1)
    with pytest.raises(ValueError, match="made already and takes no options, got width"):
        custom_model(Keyword(3), 3, width=1)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (3, "3 is no network"),
        (lambda num_classes: "net", "must return a Model"),
        (lambda a, b: Keyword(a), "must take num_classes"),
        (lambda rngs: Keyword(3), "must return an NNX module"),
    ],
)
def test_what_is_no_network_is_refused(thing, message):
    with pytest.raises(ValueError, match=message):
        custom_model(thing, 3)


def test_a_call_with_other_arguments_is_refused():
    class Masked(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            return nn.Dense(3)(x * mask)

    with pytest.raises(ValueError, match="asks for 'mask'"):
        from_module("masked", Masked())


def test_an_nnx_network_that_draws_needs_a_key_to_train():
    model, variables = _made("nnx module")
    with pytest.raises(ValueError, match="needs a key in train mode"):
        model.apply(*variables, INPUTS, train=True)


class Returns(nn.Module):
    """A network whose output is made by a function."""

    change: object

    @nn.compact
    def __call__(self, x, train):
        return self.change(nn.Dense(3)(x))


class Counting(nn.Module):
    """A network with variables of a collection that nothing carries."""

    @nn.compact
    def __call__(self, x):
        self.variable("cache", "count", jnp.zeros, ())
        return nn.Dense(3)(x)


class AlwaysTraining(nn.Module):
    """A network that updates its statistics in evaluation mode."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=False)(x))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Returns(lambda z: z[:, :2]), r"logits must have shape \[B, C\] = \(2, 3\) in train mode, got \(2, 2\)"),
        (Returns(lambda z: z.T), r"got \(3, 2\)"),
        (Returns(lambda z: z.astype(int)), "logits must be at least float32, got int32"),
        (Returns(lambda z: (z, z[0])), r"features must have shape \[2, D\], got \(3,\)"),
        (Returns(lambda z: (z, z, z)), r"must return logits \[B, C\] or \(logits, features\)"),
        (Returns(lambda z: 1 / 0), "init fails for inputs of shape .*ZeroDivisionError"),
        (Counting(), "variables must be params or batch_stats, got cache"),
        (AlwaysTraining(), "in evaluation mode fails"),
        (nn.BatchNorm(use_scale=False, use_bias=False), "no parameters"),
    ],
)
def test_check_model_names_what_is_wrong(module, message):
    with pytest.raises(ValueError, match=message):
        check_model(from_module("mine", module), INPUTS, 3)


def test_check_model_compares_statistics():
    model, _ = _made("linen module")

    def outputs(params, stats, inputs, **kwargs):
        logits, features, changed = model.outputs(params, stats, inputs, **kwargs)
        return logits, features, {"BatchNorm_0": {"mean": changed["BatchNorm_0"]["mean"].astype(jnp.bfloat16)}}

    with pytest.raises(ValueError, match=r"\['mean'\] changes from float32\(8,\) to bfloat16\(8,\)"):
        check_model(model._replace(outputs=outputs), INPUTS, 3)
    integers = model._replace(init=lambda key, x: models.Variables({"w": jnp.zeros(3, int)}, {}))
    with pytest.raises(ValueError, match=r"parameters must be floating, got int32 at \['w'\]"):
        check_model(integers, INPUTS, 3)
