"""Code of one's own, by file: `FILE.py:NAME`, pinned by the file's content hash once a run is made of it.

A loss, a method, a model or a grouping in a file of one's own is given to a run as that text. Its pinned form,
`FILE.py:NAME#sha256=…`, is what the run's settings keep, so that a run notices when the file has changed since.
"""

import hashlib
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

_HASH = "#sha256="
_MODULE = "robustjax_user_"


class Place(NamedTuple):
    """What a text names: `name` in the file at `path`, whose pinned hash is `pinned` ("" for none)."""

    path: pathlib.Path
    name: str
    pinned: str

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


def find(text: str) -> Place | None:
    """The place that a text of the form FILE.py:NAME names, pinned or not; None for a text of another form.

    Examples:
      >>> str(find("mine.py:my_loss#sha256=0123"))
      'mine.py:my_loss'
      >>> find("elr_plus") is None
      True
    """
    place, _, pinned = text.partition(_HASH)
    path, colon, name = place.rpartition(":")
    if not (colon and path.endswith(".py") and name.isidentifier()):
        return None
    return Place(pathlib.Path(path), name, pinned)


def named_in(settings: Mapping[str, Any]) -> dict[str, Place]:
    """The settings, by name, whose values name a place: reading a run with these settings runs the code there.

    Examples:
      >>> {name: str(place) for name, place in named_in({"method": "mine.py:f", "model": "mlp", "epochs": 3}).items()}
      {'method': 'mine.py:f'}
    """
    places = {name: find(value) for name, value in settings.items() if isinstance(value, str)}
    return {name: place for name, place in places.items() if place is not None}


def short_name(text: str) -> str:
    """NAME of FILE.py:NAME; any other text as it is: what tables and folders are called by.

    Examples:
      >>> short_name("mine.py:my_loss"), short_name("elr_plus")
      ('my_loss', 'elr_plus')
    """
    place = find(text)
    return text if place is None else place.name


def pin(spec: str, option: str, form: str) -> str:
    """FILE.py:NAME with the content hash that the file has now; a text pinned before gets the present hash too.

    Args:
      spec: the text.
      option: whose value it is, for messages.
      form: what NAME must be, for messages.

    Raises:
      ValueError: if `spec` has another form.
      FileNotFoundError: if there is no such file.
    """
    place = _parse(spec, option, form)
    return f"{place}{_HASH}{_digest(place.path, option)}"


def load(spec: str, option: str, form: str, accept: Callable[[Any], bool] = callable) -> Any:
    """What FILE.py:NAME, pinned or not, names; the file is run as a module of its own, once for each content.

    Args:
      spec: the text.
      option: whose value it is, for messages.
      form: what NAME must be, for messages.
      accept: whether something in the file is of that form; decides what is offered in place of a wrong NAME.

    Raises:
      ValueError: if `spec` has another form, the file cannot be imported, its hash is not the pinned one, or NAME is
        not there or not accepted.
      FileNotFoundError: if there is no such file.
    """
    place = _parse(spec, option, form)
    digest = _digest(place.path, option)
    if place.pinned not in ("", digest):
        raise ValueError(f"{option}={str(place.path)!r} has changed: its hash was {place.pinned} and is {digest}.")
    found = vars(_import(place.path, digest, option))
    if place.name not in found or not accept(found[place.name]):
        there = [name for name, value in found.items() if not name.startswith("_") and accept(value)]
        raise ValueError(
            f"{option}={str(place.path)!r} has no function {place.name!r}; it has {', '.join(there) or 'none'}."
        )
    return found[place.name]


def call(place: Place, option: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """`function(*args, **options)`, of which a user's code at `place` is part.

    Raises:
      ValueError: as the function does; and for any other error, saying which and in what line of the file.
    """
    try:
        return function(*args, **options)
    except (ValueError, FileNotFoundError):
        raise
    except (Exception, SystemExit) as error:
        where = raised_at(error)
        raise ValueError(
            f"{option}={str(place)!r} raised {told(error)}" + (f" in {where}." if where else ".")
        ) from error


def raised_at(error: BaseException) -> str | None:
    """File, line and function of a user's code that an error came through last; None if it came through none."""
    seen: list[str] = []
    chain: BaseException | None = error
    while chain is not None and not seen:
        for frame, line in traceback.walk_tb(chain.__traceback__):
            if str(frame.f_globals.get("__name__", "")).startswith(_MODULE):
                name = frame.f_code.co_name
                inside = "" if name == "<module>" else f", in {name}"
                seen.append(f"{frame.f_code.co_filename}, line {line}{inside}")
        chain = chain.__cause__ or chain.__context__
    return seen[-1] if seen else None


def told(error: BaseException) -> str:
    """Kind and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _parse(spec: str, option: str, form: str) -> Place:
    place = find(spec)
    if place is None:
        raise ValueError(f"{option}={spec!r}: FILE.py:NAME of {form} is accepted.")
    return place


def _digest(path: pathlib.Path, option: str) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{option}={str(path)!r}: there is no such file.")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _import(path: pathlib.Path, digest: str, option: str) -> ModuleType:
    where = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    title = f"{_MODULE}{path.stem}_{where}_{digest}"
    if title in sys.modules:  # as for any import: classes stay the same however often the file is asked for
        return sys.modules[title]
    spec = importlib.util.spec_from_file_location(title, path.resolve())
    if spec is None or spec.loader is None:
        raise ValueError(f"{option}={str(path)!r} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[title] = module  # dataclasses and pickling look their module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[title]
        at = raised_at(error)
        raise ValueError(
            f"{option}={str(path)!r} cannot be imported: {told(error)}" + (f" ({at})" if at else "")
        ) from error
    return module
