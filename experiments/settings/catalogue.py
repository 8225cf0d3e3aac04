"""What there is to choose from, and what each tells of itself: methods and models, registered or in files of one's own.

A method is known to a run by its registered name, or by `FILE.py:NAME#sha256=…` of a factory (task, *, options) ->
Method, or of an `Entry`, in a file of the user's; a model likewise.
"""

import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from robustjax import methods, models, user_code
from robustjax.methods import base
from robustjax.models import custom as own_models

METHOD_FORM = "a factory (task, *, options) -> Method, or an Entry"
MODEL_FORM = "a Linen module, an NNX module or a Model, or a function (num_classes, **options) that gives one"
_KINDS = (bool, int, float, str)


class Option(NamedTuple):
    """An option of a method.

    Attributes:
      kind: bool, int, float or str.
      default: of the factory.
      help: what its docstring says.
    """

    kind: type
    default: Any
    help: str


# --- Methods --------------------------------------------------------------------------------------------------------


def canonical(method: str) -> str:
    """The name that a run keeps: a registered one for what people type, or a file's, pinned.

    Raises:
      ValueError: for an unknown name; the nearest are offered.
      FileNotFoundError: if there is no such file.
    """
    if ".py" in method:
        return user_code.pin(method, "method", METHOD_FORM)
    return methods.canonical_name(method)


def entry(method: str) -> base.Entry:
    """What is known of a method; of a factory in a file only its name and itself.

    Raises:
      ValueError: for an unknown name, or a file that has no such factory or has changed since it was pinned.
      FileNotFoundError: if there is no such file.
    """
    place = user_code.find(method)
    if place is None:
        return methods.entry(method)
    found = user_code.load(method, "method", METHOD_FORM, _is_factory)
    made = found if isinstance(found, base.Entry) else base.Entry(place.name, found, paper="")
    _check_options(made, str(place))
    return made


def family(method: str) -> str:
    """Whose recipes a method takes, exactly; "" for one in a file whose `Entry` names no family."""
    own = entry(method)
    return own.family or ("" if user_code.find(method) else own.name)


def options(known: base.Entry) -> dict[str, Option]:
    """The options of a method, by name: the keyword-only parameters of its factory."""
    texts = _helps(known)
    parameters = _parameters(known)
    return {
        name: Option(_kind(each), each.default, texts.get(name, ""))
        for name, each in parameters.items()
        if each.kind is each.KEYWORD_ONLY
    }


def owners(option: str) -> list[str]:
    """The registered methods that have an option of this name."""
    return [known.name for known in methods.entries() if option in options(known)]


def make_method(method: str, task: base.Task, chosen: Mapping[str, Any]) -> base.Method:
    """The method with the options `chosen`.

    Raises:
      ValueError: what the factory raises, or, for one in a file, if it gives no `Method`.
    """
    place, make = user_code.find(method), entry(method).make
    made = make(task, **chosen) if place is None else user_code.call(place, "method", make, task, **chosen)
    if not isinstance(made, base.Method):
        raise ValueError(
            f"method={str(place or method)!r} must give a robustjax.methods.Method, as "
            f"robustjax.methods.base.method makes it; called with the task, it gave {type(made).__name__}."
        )
    return made


def _is_factory(thing: Any) -> bool:
    return isinstance(thing, base.Entry) or (callable(thing) and not isinstance(thing, type))


def _check_options(known: base.Entry, place: str) -> None:
    """Refuse parameters of a user's factory that could not be given as flags."""
    for each in list(_parameters(known).values())[1:]:
        if each.kind is not each.KEYWORD_ONLY or each.default is each.empty:
            raise ValueError(
                f"method={place!r}: {each.name!r} must be an option, keyword-only (after a *) and with a default."
            )


def _parameters(known: base.Entry) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(known.make, eval_str=True).parameters
    except NameError:  # an annotation that is there for type checkers only
        return inspect.signature(known.make).parameters


def _kind(parameter: inspect.Parameter) -> type:
    """What a flag's text is read as: int for int and for int | None; without an annotation, as the default is."""
    annotation = parameter.annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        annotation = next(each for each in typing.get_args(annotation) if each is not type(None))
    if annotation in _KINDS:
        return annotation
    return type(parameter.default) if type(parameter.default) in _KINDS else str


def _helps(known: base.Entry) -> dict[str, str]:
    """Help texts of a method's options, from the Args section of its factory's docstring."""
    text = inspect.getdoc(getattr(known.make, "func", known.make)) or ""
    _, _, args = text.partition("Args:\n")
    entries = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", args, re.MULTILINE)
    return {key: re.sub(r"\s+", " ", value) for key, value in entries}


def summary(known: base.Entry) -> str:
    """The first sentence of what a method's docstring says, and with which options an entry is of it."""
    text = inspect.getdoc(getattr(known.make, "func", known.make)) or ""
    own = {
        key: f"{value:.4g}" if isinstance(value, float) else value
        for key, value in getattr(known.make, "keywords", {}).items()
        if isinstance(value, str | float | int)
    }
    with_own = f" Here with {', '.join(f'{key}={value}' for key, value in own.items())}." if own else ""
    return re.sub(r"\s+", " ", text.partition("\n\n")[0]) + with_own


# --- Models ---------------------------------------------------------------------------------------------------------


def canonical_model(model: str) -> str:
    """The name that a run keeps: a registered one as it is, or a file's, pinned.

    Raises:
      ValueError: a file that has no such model.
      FileNotFoundError: if there is no such file.
    """
    if ".py" not in model:
        return model
    pinned = user_code.pin(model, "model", MODEL_FORM)
    _load_model(pinned)
    return pinned


def make_model(model: str, num_classes: int, *, dtype: Any = jnp.float32, **chosen: Any) -> models.Model:
    """The network with the options `chosen`; one in a file computes in whatever type it likes.

    Raises:
      ValueError: for an unknown name or option.
    """
    place = user_code.find(model)
    if place is None:
        return models.get_model(model, num_classes, dtype=dtype, **chosen)
    made = user_code.call(place, "model", own_models.custom_model, _load_model(model), num_classes, **chosen)
    return made._replace(name=place.name)


def _load_model(model: str) -> Any:
    return user_code.load(model, "model", MODEL_FORM, lambda thing: callable(thing) or isinstance(thing, models.Model))


def parse_options(text: str) -> dict[str, Any]:
    """Options from their text, KEY=VALUE,KEY=VALUE: numbers and true and false as such, anything else as text.

    Examples:
      >>> parse_options("hidden=32,rate=0.5,bias=false,kind=wide")
      {'hidden': 32, 'rate': 0.5, 'bias': False, 'kind': 'wide'}

    Raises:
      ValueError: for a part that is no KEY=VALUE.
    """
    found = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier():
            raise ValueError(f"model_options={text!r}: KEY=VALUE, several joined by commas, is accepted.")
        found[key.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
