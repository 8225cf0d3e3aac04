"""Data sets as arrays, and what makes them hard: label noise and class imbalance."""

from robustjax.data import corruptions, text
from robustjax.data.encoding import encode_labels
from robustjax.data.inspection import first_alike, inspect
from robustjax.data.sources import Dataset, from_arrays, is_own, load, names

__all__ = [
    "Dataset",
    "corruptions",
    "encode_labels",
    "first_alike",
    "from_arrays",
    "inspect",
    "is_own",
    "load",
    "names",
    "text",
]
