"""The range of a number flag, read off its help text, so that what the help says is what is held.

A text that says "in [0, 1)" (either bracket may be square or round), "at least 1" or "positive" gives a flag that
range; any other text leaves it every finite number. What has no limit in its text has the largest that anything here
can count or square in 32 bits, so nan and infinities are never accepted.
"""

import math
import re
from typing import NamedTuple

_MOST = {int: 2**31 - 1, float: 1e9}
_NUMBER = r"[-−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_INTERVAL = re.compile(rf"\bin ([\[(])({_NUMBER}), ({_NUMBER})([\])])")
_LEAST = re.compile(rf"\bat least ({_NUMBER})")
_POSITIVE = re.compile(r"\bpositive\b")


class Range(NamedTuple):
    """Numbers from `low` to `high`; whether these two are among them."""

    low: float
    high: float
    with_low: bool = True
    with_high: bool = True

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or math.isnan(value):
            return False
        above = value >= self.low if self.with_low else value > self.low
        return above and (value <= self.high if self.with_high else value < self.high)

    def __str__(self) -> str:
        low, high = (f"{limit:.10g}" for limit in (self.low, self.high))
        return f"{'[' if self.with_low else '('}{low}, {high}{']' if self.with_high else ')'}"


def read(text: str, kind: type) -> Range:
    """The range that a help text gives a flag of `kind`, int or float.

    Examples:
      >>> str(read("memory of the targets, in [0, 1).", float)), str(read("epochs, at least 1", int))
      ('[0, 1)', '[1, 2147483647]')
      >>> float("nan") in read("anything", float), 0.0 in read("a rate, positive", float)
      (False, False)
    """
    most = _MOST[kind]
    if found := _INTERVAL.search(text):
        opening, low, high, closing = found.groups()
        return Range(_value(low), _value(high), opening == "[", closing == "]")
    if found := _LEAST.search(text):
        return Range(_value(found[1]), most)
    return Range(0, most, with_low=False) if _POSITIVE.search(text) else Range(-most, most)


def says(text: str) -> bool:
    """Whether a help text gives a range."""
    return any(pattern.search(text) for pattern in (_INTERVAL, _LEAST, _POSITIVE))


def check(name: str, value: object, text: str) -> None:
    """Refuse a number outside the range that its help text gives.

    Args:
      name: of the setting or option.
      value: its value; what is no number is let through.
      text: its help text.

    Raises:
      ValueError: naming the setting, its value and what is accepted.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    kind = int if isinstance(value, int) else float
    accepted = read(text, kind)
    if value not in accepted:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name}={value!r}: {what} in {accepted} is accepted.")


def _value(text: str) -> float:
    number = float(text.replace("−", "-"))
    return int(number) if number.is_integer() else number
