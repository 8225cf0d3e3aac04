"""A network of the user's own as a `Model`: Flax Linen or NNX, an instance, a class or a function that makes one."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from robustjax.models.base import Model, Run, Taps, Variables, from_forward, from_linen
from robustjax.models.layers import HIDDEN, at_least_float32

_TRAIN = ("train", "training", "is_training")
_EVALUATE = ("deterministic", "use_running_average")


def custom_model(thing: Any, num_classes: int, **options: Any) -> Model:
    """A `Model` of whatever a user's file defines under a name.

    Args:
      thing: a `Model` as it is; a Linen or NNX module, see `from_module`; or a class or function that makes one of
        these. It is called with `num_classes` (by that name, or as its only required argument) and the options. If it
        has an argument `rngs`, it makes an NNX module and is called anew with every key of `Model.init`.
      num_classes: C.
      **options: for the class or function.

    Returns:
      The `Model`; `check_model` rehearses it.

    Raises:
      ValueError: there are options that nothing takes, or what was made is no network.

    Examples:
      >>> from flax import linen as nn
      >>> custom_model(nn.Dense, num_classes=3).name
      'Dense'
    """
    name = getattr(thing, "__name__", type(thing).__name__)
    if isinstance(thing, Model | nn.Module | nnx.Module):
        if options:
            raise ValueError(f"{name} is made already and takes no options, got {', '.join(sorted(options))}")
        return thing if isinstance(thing, Model) else from_module(name, thing)
    if not callable(thing):
        raise ValueError(f"{thing!r} is no network: it must be a Model, a Linen or NNX module, or make one")
    parameters = _parameters(thing)
    arguments = _arguments(name, parameters, num_classes, options)
    if "rngs" in parameters:
        return from_module(name, lambda rngs: thing(**arguments, rngs=rngs))
    made = thing(**arguments)
    if isinstance(made, Model):
        return made
    if isinstance(made, nn.Module | nnx.Module) or (callable(made) and "rngs" in _parameters(made)):
        return from_module(name, made)
    raise ValueError(f"{name} must return a Model, a Linen or NNX module, or a function of rngs, got {type(made)}")


def from_module(name: str, module: nn.Module | nnx.Module | Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """The `Model` of any Linen or NNX network.

    The network is called with inputs [B, …], and with whether it is trained if its `__call__` has an argument `train`,
    `training` or `is_training`, or, negated, `deterministic` or `use_running_average`. It returns logits [B, C], or
    (logits, features [B, D]); without features, the logits stand for them. Both become at least float32.

    Linen: parameters are the collection "params", statistics "batch_stats". Layers that call `layers.tap`, such as
    `layers.BatchNorm`, can be tapped.

    NNX: parameters are the variables of type `nnx.Param`, statistics all others that are no random state, and both are
    plain dictionaries of arrays. The module is switched by its `train()` and `eval()`. `Model.apply`'s key feeds every
    random stream. No layer can be tapped.

    Args:
      name: of the model.
      module: a Linen module; a function of `nnx.Rngs` that makes an NNX module; or an NNX module, whose own weights are
        where every run begins, whatever the key (a trained one, say).

    Raises:
      ValueError: the network needs arguments beyond the above.

    Examples:
      >>> model = from_module("line", lambda rngs: nnx.Linear(4, 3, rngs=rngs))
      >>> params, stats = model.init(jax.random.key(0), jnp.zeros((1, 4)))
      >>> model.apply(params, stats, jnp.ones((2, 4)), train=False)[0].shape
      (2, 3)
    """
    if isinstance(module, nn.Module):
        flags = _flags(name, type(module).__call__, skip=1)

        def method(network: Any, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
            return _logits_and_features(name, network(x, **flags(train)))

        return _only_batch_stats(from_linen(name, module, method), module, flags(False))
    return _from_nnx(name, module)


def check_model(model: Model, inputs: Any, num_classes: int) -> None:
    """Rehearses a model on shapes, without computing anything.

    Args:
      model: the model.
      inputs: anything with the shape [B, …] and dtype of inputs, such as `jax.ShapeDtypeStruct`; B is ignored.
      num_classes: C.

    Raises:
      ValueError: in one sentence, what is not as `Model` says: initialisation or a forward pass fails, parameters are
        none or not floating, logits or features have another shape or dtype, or statistics change their structure.

    Examples:
      >>> check_model(custom_model(nn.Dense, 3), jnp.zeros((1, 4)), num_classes=3)
      >>> check_model(custom_model(nn.Dense, 3), jnp.zeros((1, 4)), num_classes=10)
      Traceback (most recent call last):
          ...
      ValueError: model Dense: logits must have shape [B, C] = (2, 10) in train mode, got (2, 3)
    """
    batch = 3 if num_classes == 2 else 2  # not C, which would hide transposed logits
    like = jax.ShapeDtypeStruct((batch, *inputs.shape[1:]), inputs.dtype)
    key = jax.random.key(0)

    def rehearse(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return jax.eval_shape(function, *arguments)
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"model {model.name}: {what} fails for inputs of shape {like.shape}, dtype {like.dtype}: "
                f"{type(error).__name__}: {reason}"
            ) from error

    params, stats = rehearse("init", model.init, key, like)
    if not jax.tree.leaves(params):
        raise ValueError(f"model {model.name} has no parameters to train")
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"model {model.name}: parameters must be floating, got {leaf.dtype} at {jax.tree_util.keystr(path)}"
            )
    for train in (True, False):
        mode = "train" if train else "evaluation"

        def forward(params: Any, stats: Any, x: jax.Array, train: bool = train) -> tuple[jax.Array, jax.Array, Any]:
            return model.outputs(params, stats, x, train=train, key=key if train else None)

        logits, features, changed = rehearse(f"a forward pass in {mode} mode", forward, params, stats, like)
        if logits.shape != (batch, num_classes):
            raise ValueError(
                f"model {model.name}: logits must have shape [B, C] = {(batch, num_classes)} in {mode} mode, "
                f"got {logits.shape}"
            )
        if features.ndim != 2 or features.shape[0] != batch:
            raise ValueError(f"model {model.name}: features must have shape [{batch}, D], got {features.shape}")
        for what, array in (("logits", logits), ("features", features)):
            if not jnp.issubdtype(array.dtype, jnp.floating) or jnp.finfo(array.dtype).bits < 32:
                raise ValueError(f"model {model.name}: {what} must be at least float32, got {array.dtype}")
        before, after = _described(stats), _described(changed)
        if moved := sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path)):
            raise ValueError(
                f"model {model.name}: statistics must keep their structure, shapes and dtypes, but in {mode} mode "
                f"{moved[0]} changes from {before.get(moved[0], 'nothing')} to {after.get(moved[0], 'nothing')}"
            )


def _described(tree: Any) -> dict[str, str]:
    """Dtype and shape of every leaf, by path."""
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}" for path, leaf in jax.tree.leaves_with_path(tree)}


def _parameters(thing: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a class or function takes."""
    if isinstance(thing, type) and issubclass(thing, nnx.Module):  # whose metaclass hides it
        return dict(list(inspect.signature(thing.__init__).parameters.items())[1:])
    return inspect.signature(thing).parameters


def _arguments(
    name: str, parameters: Mapping[str, inspect.Parameter], num_classes: int, options: dict[str, Any]
) -> dict[str, Any]:
    """What a class or function is called with: the options, and the number of classes if it asks for that."""
    fixed = {"rngs", "parent", "name"}  # the adapter's and Linen's own
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    accepted = {
        key
        for key, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and key not in fixed
    }
    unknown = sorted(options.keys() - accepted) if not takes_any else []
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(sorted(accepted)) or 'none'}")
    if "num_classes" in accepted or takes_any:
        return {"num_classes": num_classes, **options}
    required = [key for key in accepted - options.keys() if parameters[key].default is inspect.Parameter.empty]
    if len(required) > 1:
        raise ValueError(f"{name} must take num_classes, and the rest by default; it asks for {', '.join(required)}")
    return {**dict.fromkeys(required, num_classes), **options}


def _flags(name: str, call: Callable[..., Any], skip: int = 0) -> Callable[[bool], dict[str, bool]]:
    """How a network with this `__call__` is told whether it is trained; its first `skip` arguments are bound."""
    parameters = list(inspect.signature(call).parameters.values())[skip:]
    for parameter in parameters[1:]:
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if needed and parameter.name not in _TRAIN + _EVALUATE:
            raise ValueError(
                f"model {name}: its __call__ asks for {parameter.name!r}; beside the inputs it may ask for one of "
                f"{', '.join(_TRAIN + _EVALUATE)}"
            )
    names = {parameter.name for parameter in parameters[1:]}

    def flags(train: bool) -> dict[str, bool]:
        return {key: train for key in _TRAIN if key in names} | {key: not train for key in _EVALUATE if key in names}

    return flags


def _logits_and_features(name: str, output: Any) -> tuple[jax.Array, jax.Array]:
    pair = output if isinstance(output, tuple | list) else (output, output)
    if len(pair) != 2 or not all(isinstance(array, jax.Array) for array in pair):
        raise ValueError(f"model {name}: it must return logits [B, C] or (logits, features), got {type(output)}")
    logits, features = (
        array.astype(at_least_float32(array.dtype)) if jnp.issubdtype(array.dtype, jnp.floating) else array
        for array in pair
    )
    return logits, features


def _only_batch_stats(model: Model, module: nn.Module, flags: dict[str, Any]) -> Model:
    """The model, whose `init` refuses variables that no `Model` function would carry along."""
    carried = {"params", "batch_stats", HIDDEN, "intermediates", "perturbations"}

    def init(key: jax.Array, inputs: jax.Array) -> Variables:
        collections = jax.eval_shape(lambda k, x: module.init(k, x, **flags), key, inputs)
        if others := sorted(collections.keys() - carried):
            raise ValueError(f"model {model.name}: variables must be params or batch_stats, got {', '.join(others)}")
        return model.init(key, inputs)

    return model._replace(init=init)


def _from_nnx(name: str, module: nnx.Module | Callable[[nnx.Rngs], nnx.Module]) -> Model:
    def build(key: jax.Array) -> Any:
        made = module if isinstance(module, nnx.Module) else module(nnx.Rngs(key))
        if not isinstance(made, nnx.Module):
            raise ValueError(f"model {name}: a function of rngs must return an NNX module, got {type(made)}")
        return made

    def split(network: Any) -> Any:
        return nnx.split(network, nnx.Param, nnx.RngState, ...)

    like = module if isinstance(module, nnx.Module) else nnx.eval_shape(lambda: build(jax.random.key(0)))
    flags = _flags(name, like.__call__)
    graph, like_params, like_random, like_stats = split(like)

    def init(key: jax.Array, inputs: jax.Array) -> Variables:
        network = build(key)
        _, params, _, stats = split(network)
        return Variables(_as_made(_to_dict(params), network), _to_dict(stats))

    def forward(
        params: Any,
        stats: Any,
        inputs: jax.Array,
        *,
        train: bool,
        key: jax.Array | None,
        taps: Taps | None,
        report: bool,
    ) -> Run:
        if train and key is None and jax.tree.leaves(like_random):
            raise ValueError(f"model {name}: it draws random numbers and needs a key in train mode")
        random = _random_state(like_random, jax.random.key(0) if key is None else key)
        network = nnx.merge(graph, _from_dict(like_params, params), random, _from_dict(like_stats, stats))
        (network.train if train else network.eval)()
        logits, features = _logits_and_features(name, network(inputs, **flags(train)))
        if train:
            changed = flatten_dict(
                _to_dict(nnx.state(network))
            )  # with more than statistics in it, such as intermediates
            stats = unflatten_dict({path: changed[path] for path in flatten_dict(stats)})
        return Run(logits, features, stats, {})

    return from_forward(name, init, forward)


def _path(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(map(str, path))  # lists number their members


def _to_dict(state: Any) -> dict[str, Any]:
    """An NNX state as nested dictionaries of arrays."""
    return unflatten_dict(
        {
            _path(path): leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
            for path, leaf in nnx.to_flat_state(state)
        }
    )


def _as_made(tree: dict[str, Any], node: Any) -> dict[str, Any]:
    """The dictionaries of `tree` in the order in which the parts of the module `node` were made; NNX sorts by name."""
    if isinstance(node, Mapping):
        parts = {str(name): part for name, part in node.items()}
    elif isinstance(node, list | tuple):
        parts = {str(i): part for i, part in enumerate(node)}
    else:
        parts = dict(vars(node))
    ordered = {
        name: _as_made(tree[name], part) if isinstance(tree[name], dict) else tree[name]
        for name, part in parts.items()
        if name in tree
    }
    return ordered | tree  # whose members that are no part by name come last


def _from_dict(like: Any, values: Any) -> Any:
    """The inverse of `_to_dict`, for a state like `like`."""
    flat = flatten_dict(values)
    return nnx.from_flat_state([(path, _with_value(leaf, flat[_path(path)])) for path, leaf in nnx.to_flat_state(like)])


def _with_value(leaf: Any, value: Any) -> Any:
    return leaf.replace(value) if isinstance(leaf, nnx.Variable) else value


def _random_state(like: Any, key: jax.Array) -> Any:
    """Streams like `like`, begun anew: each with a key of its own drawn from `key`, and counts of 0."""
    leaves = []
    for i, (path, leaf) in enumerate(nnx.to_flat_state(like)):
        shape, dtype = leaf.get_value().shape, leaf.get_value().dtype
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            value = jax.random.fold_in(key, i)
            value = jax.random.split(value, shape) if shape else value
        else:
            value = jnp.zeros(shape, dtype)
        leaves.append((path, leaf.replace(value)))
    return nnx.from_flat_state(leaves)
