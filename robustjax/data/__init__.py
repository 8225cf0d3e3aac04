"""Data sets as arrays, and what makes them hard: label noise and class imbalance."""

from robustjax.data import corruptions, text
from robustjax.data.encoding import encode_labels
from robustjax.data.sources import Dataset, from_arrays, load, names

__all__ = ["Dataset", "corruptions", "encode_labels", "from_arrays", "load", "names", "text"]
