"""Label noise and class imbalance: seeded functions on label arrays, run on the host before training.

Every random function takes a `key`: an int seed, a NumPy Generator (which it advances) or a JAX PRNG key. The same
seed gives the same labels on every machine: only the uniform doubles of PCG64 are drawn, never a derived distribution
whose algorithm NumPy may change. Noise and imbalance compose in either order: Dynamic Loss subsamples first, HAR last.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from robustjax._checks import check_choice
from robustjax.data.checks import (
    Key,
    check_counts,
    check_labels,
    check_num_classes,
    check_rate,
    choose,
    generator,
    refuse_empty,
)
from robustjax.data.class_maps import ASYMMETRIC_MAPS, CIFAR100_BLOCKS, HETEROSKEDASTIC_GROUPS
from robustjax.data.noise_file import Noise as Noise
from robustjax.data.noise_file import label_hash as label_hash
from robustjax.data.noise_file import load_noise as load_noise
from robustjax.data.noise_file import realised_transition as realised_transition
from robustjax.data.noise_file import save_noise as save_noise

NOISE_KINDS = ("symmetric", "asymmetric", "pair_flip", "heteroskedastic", "frequency_proportional")
ASYMMETRIC_FORMS = ("independent", "blocks", "sequential_sr", "sequential_elr")
OWN_CLASS_FORMS = ("exclusive", "inclusive")


# Noise.


def _resolve_mapping(
    dataset: str | None, mapping: Mapping[int, int] | None, num_classes: int | None, form: str | None = "independent"
) -> Mapping[int, int]:
    """The class map of asymmetric noise: the one given, or the data set's published one."""
    if mapping is None:
        base = base_name(dataset)
        if base not in ASYMMETRIC_MAPS:
            raise ValueError(
                f"asymmetric noise is not defined for dataset {dataset!r}: pass mapping={{class: its new class, …}}, "
                f"or use a data set that has one: {', '.join(ASYMMETRIC_MAPS)}"
            )
        if form == "blocks" and base != "cifar100":
            raise ValueError(f"form 'blocks' is the code's map for cifar100; dataset is {dataset!r}")
        mapping = CIFAR100_BLOCKS if form == "blocks" else ASYMMETRIC_MAPS[base]
    elif form == "blocks":
        raise ValueError("form 'blocks' names cifar100's own map: leave out mapping")
    for a, b in mapping.items():
        if not all(isinstance(c, int | np.integer) and 0 <= c < (num_classes or math.inf) for c in (a, b)):
            top = "" if num_classes is None else f" to {num_classes - 1}"
            raise ValueError(f"mapping has the entry {a!r} -> {b!r}; accepted are class indices from 0{top}")
    return mapping


def base_name(dataset: str | None) -> str:
    """A data set's name without its version and its config.

    >>> base_name("cifar10/plain:3.0.2")
    'cifar10'
    """
    return (dataset or "").split(":")[0].split("/")[0]


def noisy_groups(dataset: str | None) -> tuple[tuple[int, ...], ...]:
    """The groups of classes that HAR's heteroskedastic noise confuses in `dataset` (ValueError where none is defined).

    Their members are the `rare` classes of HAR's step imbalance on noisy classes; all others, of its benign variant
    (HAR, appendix C.3).

    >>> noisy_groups("cifar10")
    ((1, 9), (3, 5))
    """
    base = base_name(dataset)
    if base not in HETEROSKEDASTIC_GROUPS:
        raise ValueError(
            f"heteroskedastic noise is not defined for dataset {dataset!r}: pass groups=[[class, class, …], …], "
            f"or use a data set that has them: {', '.join(HETEROSKEDASTIC_GROUPS)}"
        )
    return HETEROSKEDASTIC_GROUPS[base]


def _group_matrix(num_classes: int, rate: float, groups: Sequence[Sequence[int]]) -> np.ndarray:
    members = [c for group in groups for c in group]
    wrong_size = any(len(group) < 2 for group in groups)
    if wrong_size or len(set(members)) != len(members) or not all(0 <= c < num_classes for c in members):
        raise ValueError(
            f"groups is {groups!r}; expected disjoint groups of at least two classes from 0 to {num_classes - 1}"
        )
    matrix = np.eye(num_classes)
    for group in groups:
        block = np.ix_(group, group)
        matrix[block] = rate / (len(group) - 1)
        matrix[group, group] = 1 - rate
    return matrix


def transition_matrix(
    kind: str,
    num_classes: int,
    rate: float,
    *,
    form: str | None = None,
    dataset: str | None = None,
    mapping: Mapping[int, int] | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    class_counts: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """The probabilities of the noisy label given the clean one, float64 [C, C], rows clean, each summing to 1.

    | `kind` | row i | takes |
    | --- | --- | --- |
    | `symmetric` | 1 - r stays, r spread evenly over the other classes | `form="inclusive"`: over all classes |
    | `asymmetric` | r moves to the class that the map names | `dataset` or `mapping`; `form="blocks"` for cifar100 |
    | `pair_flip` | r moves to class i + 1 mod C | |
    | `heteroskedastic` | in a group, r spread evenly over its other members; clean elsewhere | `dataset` or `groups` |
    | `frequency_proportional` | r spread by class frequency | `class_counts`; `form="exclusive"`: own left out |

    Heteroskedastic noise on `dataset="imdb_reviews"` (classes negative, positive) turns r of the positives and r/8 of
    the negatives, HAR's 40 % and 5 % at r = 0.4. Raises ValueError for an unknown kind or form, a rate outside [0, 1],
    or a missing or impossible map, group or count.

    Sources: SR and ELR, experiments (symmetric, asymmetric); Co-teaching (pair flip); HAR, section 4 and its code;
    Dynamic Loss, experiments and code (frequency-proportional, inclusive), ROLT (exclusive).

    >>> transition_matrix("pair_flip", 3, 0.25).tolist()
    [[0.75, 0.25, 0.0], [0.0, 0.75, 0.25], [0.25, 0.0, 0.75]]
    """
    check_choice("kind", kind, NOISE_KINDS)
    c, r = check_num_classes(num_classes), check_rate(rate)
    accepted = {
        "symmetric": OWN_CLASS_FORMS,
        "asymmetric": ASYMMETRIC_FORMS[:2],
        "frequency_proportional": OWN_CLASS_FORMS[::-1],
    }.get(kind, ())
    if form is not None and form not in accepted:
        note = "; the sequential forms depend on the labels and have no matrix" if kind == "asymmetric" else ""
        raise ValueError(f"form is {form!r}; accepted for {kind}: {', '.join(accepted) or 'none'}{note}")
    form = form or (accepted[0] if accepted else None)

    if kind == "symmetric":
        if form == "inclusive":
            return (1 - r) * np.eye(c) + r / c
        return _group_matrix(c, r, [range(c)])
    if kind == "heteroskedastic":
        if groups is None and base_name(dataset) == "imdb_reviews":
            if c != 2:
                raise ValueError(f"num_classes is {c}; imdb_reviews has 2 classes")
            return np.array([[1 - r / 8, r / 8], [r, 1 - r]])
        return _group_matrix(c, r, noisy_groups(dataset) if groups is None else groups)
    if kind == "frequency_proportional":
        return _frequency_matrix(c, r, class_counts, include_own=form == "inclusive")
    pairs = {i: (i + 1) % c for i in range(c)} if kind == "pair_flip" else _resolve_mapping(dataset, mapping, c, form)
    matrix = np.eye(c)
    for a, b in pairs.items():
        matrix[a, a] -= r
        matrix[a, b] += r
    return matrix


def _frequency_matrix(
    num_classes: int, rate: float, class_counts: npt.ArrayLike | None, *, include_own: bool
) -> np.ndarray:
    if class_counts is None:
        raise ValueError("class_counts is missing: frequency_proportional noise needs the clean class counts [C]")
    n = check_counts(class_counts, "class_counts", num_classes).astype(np.float64)
    eye, total = np.eye(num_classes), n.sum()
    if include_own:
        if total == 0:
            raise ValueError("class_counts are all 0; expected at least one example")
        return (1 - rate) * eye + rate * n / total
    if (total - n <= 0).any():
        raise ValueError(
            f"class_counts {n.astype(int).tolist()} put all examples in one class: there is no other class"
        )
    return (1 - rate) * eye + rate * (1 - eye) * n / (total - n)[:, None]


def apply_transition(labels: npt.ArrayLike, matrix: npt.ArrayLike, key: Key) -> np.ndarray:
    """Noisy labels, int32 [N]: each drawn independently from the row of `matrix` [C, C] that its label names.

    Raises ValueError unless the rows of `matrix` are probabilities that sum to 1 within 1e-6.

    >>> apply_transition([0, 1, 1, 0], [[1.0, 0.0], [1.0, 0.0]], key=0).tolist()
    [0, 0, 0, 0]
    """
    p = np.asarray(matrix, dtype=np.float64)
    if p.ndim != 2 or p.shape[0] != p.shape[1]:
        raise ValueError(f"matrix has shape {p.shape}; expected [C, C]")
    if not ((p >= 0).all() and np.allclose(p.sum(1), 1, rtol=0, atol=1e-6)):
        raise ValueError(
            "matrix has negative or non-finite entries or rows that do not sum to 1; expected probabilities"
        )
    clean = check_labels(labels, len(p))
    u = generator(key).random(len(clean))
    cdf = np.cumsum(p, axis=1)
    cdf /= cdf[:, -1:]  # exactly 1 from the last possible class on, so that rounding never picks an impossible one
    noisy = np.empty_like(clean)
    for c in np.unique(clean):
        rows = np.flatnonzero(clean == c)
        noisy[rows] = np.searchsorted(cdf[c], u[rows], side="right")
    return noisy


def _relabel(labels: np.ndarray, rows: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The labels with those at `rows` redrawn from `matrix`."""
    noisy = labels.copy()
    if len(rows):
        noisy[rows] = apply_transition(labels[rows], matrix, rng)
    return noisy


def symmetric(
    labels: npt.ArrayLike,
    rate: float,
    num_classes: int,
    key: Key,
    *,
    include_own: bool = False,
    exact: bool = False,
) -> np.ndarray:
    """Labels replaced with probability `rate` by a uniformly random class, int32 [N].

    include_own: the new label may be the old one, so the realised noise is r(C-1)/C (ELR, DivideMix, Dynamic Loss);
    otherwise it is another class and the realised noise is r (SR). exact: exactly int(r n_c) examples of every class
    (own class excluded: SR's code for CIFAR) or exactly int(r N) of all (included: DivideMix, and ELR, which rounds
    up), at random, rather than a binomial number. Raises ValueError for a rate outside [0, 1] or labels out of range.

    >>> clean = np.repeat(np.arange(4), 25)
    >>> noisy = symmetric(clean, 0.4, num_classes=4, key=0, exact=True)
    >>> int((noisy != clean).sum())
    40
    """
    r, c = check_rate(rate), check_num_classes(num_classes)
    clean = check_labels(labels, c)
    form = "inclusive" if include_own else "exclusive"
    if not exact:
        return apply_transition(clean, transition_matrix("symmetric", c, r, form=form), key)
    rng = generator(key)
    if include_own:
        rows = choose(rng, np.arange(len(clean)), int(r * len(clean)))
    else:
        members = [np.flatnonzero(clean == k) for k in range(c)]
        rows = np.concatenate([choose(rng, m, int(r * len(m))) for m in members])
    return _relabel(clean, rows, transition_matrix("symmetric", c, 1.0, form=form), rng)


def asymmetric(
    labels: npt.ArrayLike,
    rate: float,
    key: Key,
    *,
    dataset: str | None = None,
    mapping: Mapping[int, int] | None = None,
    form: str = "independent",
) -> np.ndarray:
    """Labels moved with probability `rate` to the class that they are mistaken for, int32 [N].

    The map is `mapping` or that of `dataset` (mnist, digits, cifar10, cifar100). Forms:

    - `independent`: every example on its own, by its clean label: the papers' definition; for cifar100 the next class
      of the superclass.
    - `blocks`: the same with the cifar100 map of SR's and ELR's code, blocks of five consecutive labels.
    - `sequential_sr`: as SR's CIFAR-10 code: the classes in the map's order, each time int(r n) of the n examples that
      carry the label by then, so cats turned into dogs may turn back (24 % of the cats end wrong at r = 0.4).
    - `sequential_elr`: as ELR's code: the classes in index order, ceil(r n) of them.

    Raises ValueError for a data set without a map, a rate outside [0, 1], an unknown form or labels out of range.

    >>> asymmetric([0, 1, 2], 1.0, key=0, mapping={0: 1, 2: 0}).tolist()
    [1, 1, 0]
    """
    r = check_rate(rate)
    check_choice("form", form, ASYMMETRIC_FORMS)
    known = mapping is None and base_name(dataset) in ASYMMETRIC_MAPS
    c = (100 if base_name(dataset) == "cifar100" else 10) if known else None
    clean = check_labels(labels, c)
    flips = _resolve_mapping(dataset, mapping, c, form)
    if not form.startswith("sequential"):
        c = c or max(2, int(clean.max()) + 1, *(max(pair) + 1 for pair in flips.items()))
        return apply_transition(clean, transition_matrix("asymmetric", c, r, mapping=flips), key)
    rng, noisy = generator(key), clean.copy()
    for source in flips if form == "sequential_sr" else sorted(flips):
        holders = np.flatnonzero(noisy == source)
        count = int(r * len(holders)) if form == "sequential_sr" else math.ceil(r * len(holders))
        noisy[choose(rng, holders, count)] = flips[source]
    return noisy


def pair_flip(labels: npt.ArrayLike, rate: float, num_classes: int, key: Key) -> np.ndarray:
    """Labels moved with probability `rate` to the next class, the last to the first, int32 [N] (Co-teaching).

    >>> pair_flip([0, 1, 2], 1.0, num_classes=3, key=0).tolist()
    [1, 2, 0]
    """
    return apply_transition(labels, transition_matrix("pair_flip", num_classes, rate), key)


def heteroskedastic(
    labels: npt.ArrayLike,
    num_classes: int,
    key: Key,
    *,
    rate: float = 0.4,
    dataset: str | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """Labels mixed up within groups of classes and clean elsewhere, int32 [N] (HAR, section 4).

    Every label of a group is replaced with probability `rate`, 0.4 in HAR, by another member of the group, uniformly.
    Groups: `groups`, or those of `dataset` (HAR's for cifar10 and cifar100; ours, pairs of look-alikes, for digits and
    mnist); see `transition_matrix` for imdb_reviews. Raises ValueError where there are none.

    >>> heteroskedastic([0, 1, 2, 3], 4, key=0, rate=1.0, groups=[[1, 3]]).tolist()
    [0, 3, 2, 1]
    """
    matrix = transition_matrix("heteroskedastic", num_classes, rate, dataset=dataset, groups=groups)
    return apply_transition(labels, matrix, key)


def frequency_proportional(
    labels: npt.ArrayLike,
    rate: float,
    num_classes: int,
    key: Key,
    *,
    include_own: bool = True,
    exact: bool = False,
) -> np.ndarray:
    """Labels replaced with probability `rate` by one drawn as often as the classes occur in `labels`, int32 [N].

    include_own (Dynamic Loss): the new label may be the old one; the expected class counts stay those of `labels`.
    Otherwise a different class is drawn. exact: exactly int(r N) random examples are redrawn (ROLT, with
    include_own=False). Apply it after the imbalance. Raises ValueError for a rate outside [0, 1] or bad labels.

    >>> clean = np.repeat([0, 1], [90, 10])
    >>> noisy = frequency_proportional(clean, 0.2, num_classes=2, key=0, include_own=False, exact=True)
    >>> int((noisy != clean).sum())
    20
    """
    r, c = check_rate(rate), check_num_classes(num_classes)
    clean = check_labels(labels, c)
    matrix = _frequency_matrix(c, 1.0 if exact else r, np.bincount(clean, minlength=c), include_own=include_own)
    if not exact:
        return apply_transition(clean, matrix, key)
    rng = generator(key)
    return _relabel(clean, choose(rng, np.arange(len(clean)), int(r * len(clean))), matrix, rng)


# Imbalance.


def _head_size(counts: np.ndarray, shares: Sequence[float]) -> float:
    """The size of the largest class: N / C, or less where some class has too few examples for its share of it."""
    return min([counts.sum() / len(counts), *(n / share for n, share in zip(counts, shares, strict=True))])


def _check_ratio(ratio: float) -> float:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float | np.integer | np.floating):
        raise TypeError(f"ratio is {ratio!r} ({type(ratio).__name__}); expected a number of at least 1")
    if not (ratio >= 1 and math.isfinite(ratio)):
        raise ValueError(f"ratio is {ratio!r}; expected largest class / smallest class, a number of at least 1")
    return float(ratio)


def long_tailed_counts(counts: npt.ArrayLike, ratio: float) -> np.ndarray:
    """Class sizes that fall exponentially with the class index, int64 [C]: int(n f^(c/(C-1))), f = 1/ratio.

    counts [C]: the examples at hand. n is their mean N/C, or less where a class has too few, so that the profile keeps
    its shape. ratio: largest over smallest class, 10 to 200 in the papers. Raises ValueError for a ratio below 1 or a
    class left empty. Source: LDAM-DRW's code, used by SR and Dynamic Loss.

    >>> long_tailed_counts([1000, 1000, 1000], ratio=100).tolist()
    [1000, 100, 10]
    """
    available, f = check_counts(counts, "counts"), 1 / _check_ratio(ratio)
    shares = [
        f ** (c / (len(available) - 1.0)) for c in range(len(available))
    ]  # Python floats, truncated as in the code
    head = _head_size(available, shares)
    sizes = np.array([int(head * share) for share in shares], dtype=np.int64)
    return refuse_empty(sizes, "counts", f"lower the ratio ({ratio}) or use more data")


def step_counts(counts: npt.ArrayLike, ratio: float, *, rare: Sequence[int] | None = None) -> np.ndarray:
    """Class sizes of two kinds, int64 [C]: int(n) for the frequent classes, int(n / ratio) for the rare ones.

    counts, n, ratio: as in `long_tailed_counts`. rare: the rare classes; by default the last C // 2 (LDAM-DRW's code).
    HAR makes the noisy classes rare, `rare=[c for g in noisy_groups(dataset) for c in g]`, or, in its benign variant,
    all others; its noise comes first and `counts` are the clean ones, so cut with `subsample(…, at_most=True)`.
    Raises ValueError for a ratio below 1, a class left empty, or classes in `rare` that are not all there once.

    >>> step_counts([100, 100, 100, 100], ratio=10).tolist(), step_counts([100, 100, 100], 10, rare=[0]).tolist()
    ([100, 100, 10, 10], [10, 100, 100])
    """
    available, f = check_counts(counts, "counts"), 1 / _check_ratio(ratio)
    num_classes = len(available)
    rare = range(num_classes - num_classes // 2, num_classes) if rare is None else list(rare)
    if len(set(rare)) != len(rare) or not all(0 <= c < num_classes for c in rare):
        raise ValueError(f"rare is {rare!r}; expected distinct classes from 0 to {num_classes - 1}")
    shares = [f if c in rare else 1.0 for c in range(num_classes)]
    head = _head_size(available, shares)
    sizes = np.array([int(head * share) for share in shares], dtype=np.int64)
    return refuse_empty(sizes, "counts", f"lower the ratio ({ratio}) or use more data")


def subsample(labels: npt.ArrayLike, counts: npt.ArrayLike, key: Key, *, at_most: bool = False) -> np.ndarray:
    """Indices of a random subset with counts[c] examples of every class c, int64, in increasing order.

    at_most: a class with fewer than counts[c] examples keeps all of them (HAR cuts by noisy labels, whose numbers
    vary); otherwise that is a ValueError. So is a class left empty.

    >>> labels = np.array([0, 1, 0, 1, 0, 1])
    >>> np.bincount(labels[subsample(labels, [3, 1], key=0)]).tolist()
    [3, 1]
    """
    wanted = refuse_empty(check_counts(counts, "counts"), "counts", "every class needs at least 1")
    given = check_labels(labels, len(wanted))
    available = np.bincount(given, minlength=len(wanted))
    if at_most:
        wanted = refuse_empty(np.minimum(wanted, available), "labels", "every class needs at least 1")
    if (wanted > available).any():
        c = int(np.argmax(wanted > available))
        raise ValueError(
            f"counts[{c}] is {wanted[c]}, but class {c} has {available[c]} examples; "
            "lower it, or at_most=True keeps what there is"
        )
    rng = generator(key)
    return np.sort(np.concatenate([choose(rng, np.flatnonzero(given == c), n) for c, n in enumerate(wanted)]))
