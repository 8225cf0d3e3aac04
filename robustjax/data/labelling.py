"""From a data set's labels to what a run trains on: which examples are kept, and the labels they are given."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robustjax._checks import check_choice
from robustjax.data import corruptions
from robustjax.data.checks import check_labels, choose

NOISES = ("none", *corruptions.NOISE_KINDS, "symmetric_exclusive")
IMBALANCES = ("none", "long_tailed", "step", "step_rare_noisy", "step_rare_clean")


class Labels(NamedTuple):
    """A training set as it is trained on.

    Attributes:
      kept: int64 [N], positions in the original.
      given: int32 [N], the labels that it has, perhaps wrong.
      clean: int32 [N], what the examples truly are; None where nobody knows. They only judge.
    """

    kept: np.ndarray
    given: np.ndarray
    clean: np.ndarray | None


def corrupt(
    labels: np.ndarray,
    num_classes: int,
    seed: int,
    *,
    noise: str = "none",
    rate: float = 0.0,
    form: str = "independent",
    imbalance: str = "none",
    ratio: float = 1.0,
    dataset: str | None = None,
    limit: int | None = None,
    given: np.ndarray | None = None,
    without: np.ndarray | None = None,
) -> Labels:
    """Make labels wrong and classes unequal, as the papers do.

    Imbalance comes first (Dynamic Loss, ROLT, SR): its class sizes are those of the clean labels. HAR's two step forms
    are cut by the *noisy* labels, after the noise. Symmetric noise includes the own class, as in Dynamic Loss and ELR
    (realised noise r(C−1)/C); "symmetric_exclusive" never gives the own class (SR; realised noise r).

    Args:
      labels: labels int [M], before noise. They become `clean`; the caller replaces it where they are not known to be
        true.
      num_classes: C.
      seed: of everything random here.
      noise: one of `NOISES`.
      rate: noise rate in [0, 1].
      form: of asymmetric noise, one of `corruptions.ASYMMETRIC_FORMS`; the others are those of SR's and ELR's code.
      imbalance: one of `IMBALANCES`; "step_rare_noisy" makes HAR's noisy classes rare, "step_rare_clean" all others.
      ratio: largest over smallest class.
      dataset: name of the data set, for noise that is defined by data set.
      limit: start from a random subset with limit // C examples a class; None for all.
      given: labels int [M] that somebody has given, in place of `noise`: real label noise.
      without: positions int [K] that are left out before anything else (see `draw_trusted`): class sizes, imbalance and
        noise are then those of the rest. None leaves none out.

    Raises:
      ValueError: for an unknown kind, a rate or ratio out of range, noise that is not defined for the data set, given
        labels beside noise or of another size, positions that are not there once, or a class left empty.

    Examples:
      >>> labels = np.repeat(np.arange(3), 40)
      >>> found = corrupt(labels, 3, 0, noise="symmetric", rate=0.5, imbalance="long_tailed", ratio=10)
      >>> np.bincount(found.clean).tolist()
      [40, 12, 4]
      >>> bool((found.clean == labels[found.kept]).all()), round(float(np.mean(found.given != found.clean)), 2)
      (True, 0.25)
    """
    check_choice("noise", noise, NOISES)
    check_choice("imbalance", imbalance, IMBALANCES)
    check_choice("form", form, corruptions.ASYMMETRIC_FORMS)
    if given is not None:
        given = check_labels(given, num_classes, "given labels")
        if noise != "none" or len(given) != len(labels):
            raise ValueError(
                f"{len(given)} given labels and noise={noise!r} for {len(labels)} examples: one for each, in the order "
                "of the data set's training split, and noise='none' are accepted."
            )
    subset_seed, noise_seed = np.random.SeedSequence(seed).generate_state(2)
    kept = np.arange(len(labels)) if without is None else _rest(len(labels), without)
    if limit is not None:
        if not num_classes <= limit <= len(kept):
            raise ValueError(f"limit={limit} must be at least the {num_classes} classes and at most {len(kept)}.")
        sizes = [limit // num_classes] * num_classes
        there = np.bincount(labels[kept], minlength=num_classes)
        if there.min() < sizes[0]:
            raise ValueError(
                f"limit={limit} takes {sizes[0]} of each class, and class {there.argmin()} has {there.min()}: "
                f"{there.min() * num_classes} is accepted."
            )
        kept = kept[corruptions.subsample(labels[kept], sizes, np.random.default_rng(seed))]
    if imbalance in ("long_tailed", "step"):
        profile = corruptions.long_tailed_counts if imbalance == "long_tailed" else corruptions.step_counts
        counts = profile(np.bincount(labels[kept], minlength=num_classes), ratio)
        kept = kept[corruptions.subsample(labels[kept], counts, int(subset_seed))]
    clean = np.asarray(labels)[kept].astype(np.int32)
    given = _relabel(clean, num_classes, int(noise_seed), noise, rate, form, dataset) if given is None else given[kept]
    if imbalance in ("step_rare_noisy", "step_rare_clean"):
        noisy = {c for group in corruptions.noisy_groups(dataset) for c in group}
        rare = noisy if imbalance == "step_rare_noisy" else set(range(num_classes)) - noisy
        counts = corruptions.step_counts(np.bincount(clean, minlength=num_classes), ratio, rare=sorted(rare))
        chosen = corruptions.subsample(given, counts, int(subset_seed), at_most=True)
        kept, clean, given = kept[chosen], clean[chosen], given[chosen]
    missing = np.flatnonzero(np.bincount(given, minlength=num_classes) == 0)
    if len(missing):
        raise ValueError(
            f"noise={noise!r} at rate {rate} and imbalance={imbalance!r} at ratio {ratio} leave no example labelled "
            f"{missing.tolist()}; lower the rate or the ratio, or use another seed than {seed}."
        )
    return Labels(kept, given, clean)


def hold_out(labels: Labels, share: float, num_classes: int, seed: int) -> tuple[Labels, Labels]:
    """Split a training set into a part to train on and a validation part, whose labels are just as wrong.

    The validation part has round(share · N) examples, spread over the classes as the *given* labels are: nothing here
    looks at the true ones. Every class keeps at least one example to train on.

    Args:
      labels: the training set, after corruption.
      share: of the validation part, in (0, 1).
      num_classes: C.
      seed: of the random choice.

    Returns:
      The part to train on, and the validation part.

    Raises:
      ValueError: a share out of range, or one that holds out nothing.

    Examples:
      >>> whole = corrupt(np.repeat(np.arange(3), 40), 3, 0)
      >>> train, validation = hold_out(whole, 0.1, 3, seed=0)
      >>> np.bincount(train.given).tolist(), np.bincount(validation.given).tolist()
      ([36, 36, 36], [4, 4, 4])
    """
    if not 0 < share < 1:
        raise ValueError(f"validation_split={share} must be in (0, 1).")
    counts = np.bincount(labels.given, minlength=num_classes)
    wanted = counts * share
    sizes = wanted.astype(int)
    spare = np.where(counts - sizes > 1, wanted - sizes, -1)  # by largest remainder, so that the total is exact
    first = np.argsort(-spare, kind="stable")[: max(round(share * len(labels.given)) - sizes.sum(), 0)]
    sizes[first[spare[first] >= 0]] += 1
    if not sizes.any():
        raise ValueError(f"validation_split={share} of {len(labels.given)} examples holds out nothing.")
    rng = np.random.default_rng([seed, 1])
    chosen = [choose(rng, np.flatnonzero(labels.given == c), n) for c, n in enumerate(sizes)]
    held = np.zeros(len(labels.given), bool)
    held[np.concatenate(chosen)] = True
    return select(labels, ~held), select(labels, held)


def select(labels: Labels, chosen: np.ndarray) -> Labels:
    """The part of a training set that `chosen` names, bool [N] or positions in it."""
    return Labels(labels.kept[chosen], labels.given[chosen], None if labels.clean is None else labels.clean[chosen])


def draw_trusted(labels: npt.ArrayLike, num_classes: int, count: int, seed: int) -> np.ndarray:
    """Positions of trusted examples, int64 [K], increasing: `count` of them, as many of every class as of any other.

    Every class gives count // C examples and the first count % C classes one more. The classes are the true ones: a
    trusted set is small and clean by definition. Pass the positions to `corrupt(…, without=…)`, which trains on the
    rest.

    Args:
      labels: clean labels int [M].
      num_classes: C.
      count: K, at least C.
      seed: of the random choice.

    Raises:
      ValueError: naming the flag `trusted_examples`, for a count below C or one that takes all examples of a class.

    Examples:
      >>> labels = np.repeat(np.arange(3), 40)
      >>> positions = draw_trusted(labels, 3, 7, seed=0)
      >>> labels[positions].tolist()
      [0, 0, 0, 1, 1, 2, 2]
      >>> len(corrupt(labels, 3, 0, without=positions).kept)
      113
    """
    clean = check_labels(labels, num_classes)
    if count < num_classes:
        raise ValueError(f"trusted_examples={count} must be at least the {num_classes} classes: one example of each.")
    sizes = np.full(num_classes, count // num_classes)
    sizes[: count % num_classes] += 1
    available = np.bincount(clean, minlength=num_classes)
    if (sizes >= available).any():
        c = int(np.argmax(sizes >= available))
        raise ValueError(
            f"trusted_examples={count} takes {sizes[c]} examples of class {c}, which has {available[c]}: "
            "none would be left to train on."
        )
    return corruptions.subsample(clean, sizes, np.random.default_rng([seed, 2]))


def _rest(total: int, without: np.ndarray) -> np.ndarray:
    """All positions below `total` but those in `without`, or a ValueError where these are no distinct positions."""
    positions = np.asarray(without)
    integers = positions.ndim == 1 and np.issubdtype(positions.dtype, np.integer)
    if not integers or ((positions < 0) | (positions >= total)).any() or len(np.unique(positions)) != len(positions):
        raise ValueError(f"without is {without!r}; expected distinct positions [K] from 0 to {total - 1}")
    left = np.ones(total, bool)
    left[positions] = False
    return np.flatnonzero(left)


def _relabel(
    clean: np.ndarray, num_classes: int, seed: int, noise: str, rate: float, form: str, dataset: str | None
) -> np.ndarray:
    match noise:
        case "none":
            return clean
        case "symmetric":
            return corruptions.symmetric(clean, rate, num_classes, seed, include_own=True)
        case "symmetric_exclusive":
            return corruptions.symmetric(clean, rate, num_classes, seed, include_own=False)
        case "asymmetric":
            return corruptions.asymmetric(clean, rate, seed, dataset=dataset, form=form)
        case "pair_flip":
            return corruptions.pair_flip(clean, rate, num_classes, seed)
        case "heteroskedastic":
            return corruptions.heteroskedastic(clean, num_classes, seed, rate=rate, dataset=dataset)
        case _:
            return corruptions.frequency_proportional(clean, rate, num_classes, seed)
