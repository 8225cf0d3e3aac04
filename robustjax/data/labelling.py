"""From a data set's clean labels to what a run trains on: which examples are kept, and the labels they are given."""

from typing import NamedTuple

import numpy as np

from robustjax.data import corruptions
from robustjax.data.checks import check_labels, choose

NOISES = ("none", *corruptions.NOISE_KINDS, "symmetric_exclusive")
IMBALANCES = ("none", "long_tailed", "step", "step_rare_noisy", "step_rare_clean")


class Labels(NamedTuple):
    """A corrupted training set: `kept` int64 [N] positions in the original, `given` and `clean` labels int32 [N]."""

    kept: np.ndarray
    given: np.ndarray
    clean: np.ndarray


def corrupt(
    labels: np.ndarray,
    num_classes: int,
    seed: int,
    *,
    noise: str = "none",
    rate: float = 0.0,
    imbalance: str = "none",
    ratio: float = 1.0,
    dataset: str | None = None,
    limit: int | None = None,
    given: np.ndarray | None = None,
) -> Labels:
    """Make labels wrong and classes unequal, as the papers do.

    Imbalance comes first (Dynamic Loss, ROLT, SR): its class sizes are those of the clean labels. HAR's two step forms
    are cut by the *noisy* labels, after the noise. Symmetric noise includes the own class, as in Dynamic Loss and ELR
    (realised noise r(C−1)/C); "symmetric_exclusive" never gives the own class (SR; realised noise r).

    Args:
      labels: clean labels int [M].
      num_classes: C.
      seed: of everything random here.
      noise: one of `NOISES`.
      rate: noise rate in [0, 1].
      imbalance: one of `IMBALANCES`; "step_rare_noisy" makes HAR's noisy classes rare, "step_rare_clean" all others.
      ratio: largest over smallest class.
      dataset: name of the data set, for noise that is defined by data set.
      limit: start from a random subset with limit // C examples a class; None for all.
      given: labels int [M] that somebody has given, in place of `noise`: real label noise.

    Raises:
      ValueError: for an unknown kind, a rate or ratio out of range, noise that is not defined for the data set, given
        labels beside noise or of another size, or a class left empty.
    """
    if noise not in NOISES:
        raise ValueError(f"noise={noise!r} is none of {', '.join(NOISES)}.")
    if imbalance not in IMBALANCES:
        raise ValueError(f"imbalance={imbalance!r} is none of {', '.join(IMBALANCES)}.")
    if given is not None:
        given = check_labels(given, num_classes, "given labels")
        if noise != "none" or len(given) != len(labels):
            raise ValueError(
                f"{len(given)} given labels and noise={noise!r} for {len(labels)} examples: one for each, in the order "
                "of the data set's training split, and noise='none' are accepted."
            )
    subset_seed, noise_seed = np.random.SeedSequence(seed).generate_state(2)
    kept = np.arange(len(labels))
    if limit is not None:
        if not num_classes <= limit <= len(labels):
            raise ValueError(f"limit={limit} must be at least the {num_classes} classes and at most {len(labels)}.")
        kept = corruptions.subsample(labels, [limit // num_classes] * num_classes, np.random.default_rng(seed))
    if imbalance in ("long_tailed", "step"):
        sizes = corruptions.long_tailed_counts if imbalance == "long_tailed" else corruptions.step_counts
        counts = sizes(np.bincount(labels[kept], minlength=num_classes), ratio)
        kept = kept[corruptions.subsample(labels[kept], counts, int(subset_seed))]
    clean = np.asarray(labels)[kept].astype(np.int32)
    given = _relabel(clean, num_classes, int(noise_seed), noise, rate, dataset) if given is None else given[kept]
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
    return Labels(*(each[~held] for each in labels)), Labels(*(each[held] for each in labels))


def _relabel(clean: np.ndarray, num_classes: int, seed: int, noise: str, rate: float, dataset: str | None):
    match noise:
        case "none":
            return clean
        case "symmetric":
            return corruptions.symmetric(clean, rate, num_classes, seed, include_own=True)
        case "symmetric_exclusive":
            return corruptions.symmetric(clean, rate, num_classes, seed, include_own=False)
        case "asymmetric":
            return corruptions.asymmetric(clean, rate, seed, dataset=dataset)
        case "pair_flip":
            return corruptions.pair_flip(clean, rate, num_classes, seed)
        case "heteroskedastic":
            return corruptions.heteroskedastic(clean, num_classes, seed, rate=rate, dataset=dataset)
        case _:
            return corruptions.frequency_proportional(clean, rate, num_classes, seed)
