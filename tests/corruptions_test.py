import hashlib

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustjax.data import class_maps, corruptions

RATES = st.floats(0, 1)
SEEDS = st.integers(0, 2**32)
BALANCED = np.repeat(np.arange(10), 200)
CIFAR10 = np.repeat(np.arange(10), 5000)


@st.composite
def label_sets(draw, max_classes=12):
    num_classes = draw(st.integers(2, max_classes))
    counts = draw(st.lists(st.integers(1, 40), min_size=num_classes, max_size=num_classes))
    labels = np.repeat(np.arange(num_classes), counts)
    return np.random.default_rng(draw(SEEDS)).permutation(labels), num_classes


# Every noise function as f(labels, rate, num_classes, key), on labels of ten classes.
NOISES = {
    "symmetric": corruptions.symmetric,
    "symmetric_inclusive": lambda y, r, c, k: corruptions.symmetric(y, r, c, k, include_own=True),
    "symmetric_exact": lambda y, r, c, k: corruptions.symmetric(y, r, c, k, exact=True),
    "symmetric_inclusive_exact": lambda y, r, c, k: corruptions.symmetric(y, r, c, k, include_own=True, exact=True),
    "asymmetric": lambda y, r, c, k: corruptions.asymmetric(y, r, k, dataset="cifar10"),
    "asymmetric_sr": lambda y, r, c, k: corruptions.asymmetric(y, r, k, dataset="cifar10", form="sequential_sr"),
    "asymmetric_elr": lambda y, r, c, k: corruptions.asymmetric(y, r, k, dataset="cifar10", form="sequential_elr"),
    "pair_flip": corruptions.pair_flip,
    "heteroskedastic": lambda y, r, c, k: corruptions.heteroskedastic(y, c, k, rate=r, dataset="cifar10"),
    "frequency_proportional": corruptions.frequency_proportional,
    "rolt": lambda y, r, c, k: corruptions.frequency_proportional(y, r, c, k, include_own=False, exact=True),
}

# The matrix that each of them draws from, where it is the same for every example.
MATRICES = {
    "symmetric": ("symmetric", {}),
    "symmetric_inclusive": ("symmetric", {"form": "inclusive"}),
    "asymmetric": ("asymmetric", {"dataset": "cifar10"}),
    "pair_flip": ("pair_flip", {}),
    "heteroskedastic": ("heteroskedastic", {"dataset": "cifar10"}),
    "frequency_proportional": ("frequency_proportional", {"class_counts": np.bincount(BALANCED)}),
    "rolt": ("frequency_proportional", {"class_counts": np.bincount(BALANCED), "form": "exclusive"}),
}


@pytest.mark.parametrize("name", NOISES)
@given(seed=SEEDS, rate=RATES)
@settings(max_examples=15, deadline=None)
def test_noise_is_a_pure_function_of_labels_rate_and_seed(name, seed, rate):
    before = BALANCED.copy()
    noisy = NOISES[name](BALANCED, rate, 10, seed)
    again = NOISES[name](BALANCED, rate, 10, seed)
    assert noisy.dtype == np.int32 and noisy.shape == BALANCED.shape
    np.testing.assert_array_equal(noisy, again)
    np.testing.assert_array_equal(BALANCED, before)
    assert noisy.min() >= 0 and noisy.max() < 10


@pytest.mark.parametrize("name", NOISES)
@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_rate_zero_is_the_identity(name, seed):
    np.testing.assert_array_equal(NOISES[name](BALANCED, 0, 10, seed), BALANCED)


@pytest.mark.parametrize("name", NOISES)
def test_seeds_differ(name):
    assert (NOISES[name](BALANCED, 0.4, 10, 0) != NOISES[name](BALANCED, 0.4, 10, 1)).any()


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("rate", [0.1, 0.45, 0.9])
def test_realised_rates_are_within_five_standard_deviations(name, rate):
    kind, options = MATRICES[name]
    expected = corruptions.transition_matrix(kind, 10, rate, **options)
    labels = np.repeat(np.arange(10), 20000)
    realised = corruptions.realised_transition(labels, NOISES[name](labels, rate, 10, 3), 10)
    sigma = np.sqrt(expected * (1 - expected) / 20000)
    assert (np.abs(realised - expected) <= 5 * sigma + 1e-12).all()


@pytest.mark.parametrize("kind", corruptions.NOISE_KINDS)
@given(rate=RATES)
@settings(max_examples=20, deadline=None)
def test_rows_of_transition_matrices_are_probabilities(kind, rate):
    for dataset, c in (("cifar10", 10), ("cifar100", 100)):
        counts = corruptions.long_tailed_counts(np.full(c, 500), 50)
        matrix = corruptions.transition_matrix(kind, c, rate, dataset=dataset, class_counts=counts)
        assert matrix.shape == (c, c) and matrix.dtype == np.float64
        assert (matrix >= 0).all()
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)


@given(data=label_sets(), rate=RATES, seed=SEEDS)
@settings(max_examples=50, deadline=None)
def test_exact_forms_change_exactly_that_many(data, rate, seed):
    labels, c = data
    counts = np.bincount(labels, minlength=c)
    flipped = corruptions.symmetric(labels, rate, c, seed, exact=True) != labels
    np.testing.assert_array_equal(np.bincount(labels[flipped], minlength=c), [int(rate * n) for n in counts])
    rolt = corruptions.frequency_proportional(labels, rate, c, seed, include_own=False, exact=True)
    assert (rolt != labels).sum() == int(rate * len(labels))
    own = corruptions.symmetric(labels, rate, c, seed, include_own=True, exact=True)
    assert (own != labels).sum() <= int(rate * len(labels))


@given(data=label_sets(), seed=SEEDS)
@settings(max_examples=50, deadline=None)
def test_full_rates_leave_no_label_where_the_own_class_is_excluded(data, seed):
    labels, c = data
    assert (corruptions.symmetric(labels, 1, c, seed) != labels).all()
    np.testing.assert_array_equal(corruptions.pair_flip(labels, 1, c, seed), (labels + 1) % c)


def test_heteroskedastic_noise_stays_in_its_groups():
    labels = np.repeat(np.arange(100), 50)
    noisy = corruptions.heteroskedastic(labels, 100, 0, dataset="cifar100")
    groups = corruptions.noisy_groups("cifar100")
    in_groups = np.isin(labels, np.concatenate(groups))
    np.testing.assert_array_equal(noisy[~in_groups], labels[~in_groups])
    for group in groups:
        assert set(noisy[np.isin(labels, group)]) == set(group)


def test_imdb_turns_five_and_forty_per_cent():
    matrix = corruptions.transition_matrix("heteroskedastic", 2, 0.4, dataset="imdb_reviews")
    np.testing.assert_allclose(matrix, [[0.95, 0.05], [0.4, 0.6]])


def test_sequential_form_turns_cats_back():
    """At r = 0.4, 24 % of the cats end mislabelled and 40 % of the dogs; other classes move as the map says."""
    draws = [
        corruptions.realised_transition(
            CIFAR10, corruptions.asymmetric(CIFAR10, 0.4, seed, dataset="cifar10", form="sequential_sr"), 10
        )
        for seed in range(8)
    ]
    mean = np.mean(draws, axis=0)
    np.testing.assert_allclose(mean[3, [3, 5]], [0.76, 0.24], atol=0.01)
    np.testing.assert_allclose(mean[5, [3, 5]], [0.4, 0.6], atol=0.01)
    for source, target in ((9, 1), (2, 0), (4, 7)):
        assert all(draw[source, target] == 0.4 for draw in draws)


def test_cifar100_map_stays_in_the_superclass_and_blocks_do_not():
    members = list(class_maps.CIFAR100_SUPERCLASSES.values())
    assert len(members) == 20 and sorted(sum(members, ())) == list(range(100))
    superclass = {c: group for group in members for c in group}
    paper, code = class_maps.ASYMMETRIC_MAPS["cifar100"], class_maps.CIFAR100_BLOCKS
    assert all(superclass[b] == superclass[a] and a != b for a, b in paper.items())
    assert sorted(paper.values()) == sorted(code.values()) == list(range(100))
    assert paper[91] == 1 and paper[1] == 32 and code[4] == 0 and code[0] == 1
    assert sum(superclass[b] != superclass[a] for a, b in code.items()) == 94


GOLDEN = {
    "symmetric": "1eb2bc9a00c503c1",
    "symmetric_inclusive": "0374c2d318227f2d",
    "symmetric_exact": "6431b5c8e472b36e",
    "symmetric_inclusive_exact": "ea6873ac1c3c0daa",
    "asymmetric": "d41ac37c63721c26",
    "asymmetric_sr": "c174cb1e827439b1",
    "asymmetric_elr": "7f0721b7d1d4498e",
    "pair_flip": "e6fec2ae05527b8d",
    "heteroskedastic": "053c077b63b3730b",
    "frequency_proportional": "0374c2d318227f2d",
    "rolt": "1059f367a70d3e6b",
}


@pytest.mark.parametrize("name", NOISES)
def test_golden_hashes(name):
    """A seed means the same labels for ever: results of other machines and versions must be reproducible."""
    assert corruptions.label_hash(NOISES[name](CIFAR10, 0.4, 10, 0))[:16] == GOLDEN[name]


def test_golden_subset_and_jax_key():
    counts = corruptions.long_tailed_counts(np.bincount(CIFAR10), 100)
    assert corruptions.label_hash(corruptions.subsample(CIFAR10, counts, 0))[:16] == "6092ebcf4de32ee0"
    assert corruptions.label_hash(corruptions.symmetric(CIFAR10, 0.4, 10, jax.random.key(7)))[:16] == "221fcc761111a4cd"


def test_keys_of_all_kinds():
    typed, raw = jax.random.key(5), jax.random.PRNGKey(5)
    np.testing.assert_array_equal(
        corruptions.symmetric(BALANCED, 0.5, 10, typed), corruptions.symmetric(BALANCED, 0.5, 10, raw)
    )
    first, second = jax.random.split(typed)
    assert (corruptions.symmetric(BALANCED, 0.5, 10, first) != corruptions.symmetric(BALANCED, 0.5, 10, second)).any()
    np.testing.assert_array_equal(
        corruptions.symmetric(BALANCED, 0.5, 10, 5),
        corruptions.symmetric(BALANCED, 0.5, 10, np.random.Generator(np.random.PCG64(5))),
    )
    for bad in (0.5, True, "0", None, jax.random.split(typed)):
        with pytest.raises(TypeError, match="key"):
            corruptions.symmetric(BALANCED, 0.5, 10, bad)


# Imbalance.


@given(num_classes=st.integers(2, 100), size=st.integers(200, 6000), ratio=st.floats(1, 150))
@settings(max_examples=60, deadline=None)
def test_long_tail_of_balanced_data(num_classes, size, ratio):
    counts = corruptions.long_tailed_counts(np.full(num_classes, size), ratio)
    assert counts[0] == size and counts[-1] == int(size * (1 / ratio))
    assert (np.diff(counts) <= 0).all()


@given(counts=st.lists(st.integers(150, 900), min_size=2, max_size=30), ratio=st.floats(1, 100), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_counts_are_available_and_subsample_takes_exactly_them(counts, ratio, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    for wanted in (corruptions.long_tailed_counts(counts, ratio), corruptions.step_counts(counts, ratio)):
        assert (wanted <= counts).all() and (wanted >= 1).all()
        kept = corruptions.subsample(labels, wanted, seed)
        assert kept.dtype == np.int64 and (np.diff(kept) > 0).all()
        np.testing.assert_array_equal(np.bincount(labels[kept], minlength=len(counts)), wanted)
        np.testing.assert_array_equal(kept, corruptions.subsample(labels, wanted, seed))


def test_subsample_is_uniform():
    labels = np.repeat([0, 1], [40, 40])
    kept = np.concatenate([corruptions.subsample(labels, [10, 30], seed) for seed in range(400)])
    share = np.bincount(kept, minlength=80) / 400
    expected = np.where(labels == 0, 0.25, 0.75)
    assert (np.abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / 400)).all()


def test_har_steps_make_noisy_or_clean_classes_rare():
    noisy_classes = [c for group in corruptions.noisy_groups("cifar10") for c in group]
    clean_classes = [c for c in range(10) if c not in noisy_classes]
    counts = corruptions.step_counts(np.full(10, 5000), 10, rare=noisy_classes)
    assert counts.sum() == 32000 and (counts[noisy_classes] == 500).all() and (counts[clean_classes] == 5000).all()
    benign = corruptions.step_counts(np.full(10, 5000), 10, rare=clean_classes)
    np.testing.assert_array_equal(benign, 5500 - counts)
    noisy = corruptions.heteroskedastic(CIFAR10, 10, 0, dataset="cifar10")
    kept = corruptions.subsample(noisy, benign, 0, at_most=True)
    np.testing.assert_array_equal(np.bincount(noisy[kept]), np.minimum(benign, np.bincount(noisy)))
    with pytest.raises(ValueError, match="at_most=True"):
        corruptions.subsample(noisy, benign, 0)


# What was done.


def test_realised_transition_and_absent_class():
    np.testing.assert_array_equal(
        corruptions.realised_transition([0, 0, 0, 0, 1], [0, 0, 0, 1, 2], 3), [[0.75, 0.25, 0], [0, 0, 1], [0, 0, 0]]
    )


def test_label_hash_is_of_little_endian_int32():
    expected = hashlib.sha256(bytes([3, 0, 0, 0, 1, 0, 0, 0])).hexdigest()
    for dtype in (np.int64, np.uint8, ">i2"):
        assert corruptions.label_hash(np.array([3, 1], dtype=dtype)) == expected


def test_noise_file_round_trip(tmp_path):
    kept = corruptions.subsample(BALANCED, np.full(10, 30), 0)
    noisy = corruptions.symmetric(BALANCED[kept], 0.4, 10, 0)
    path = tmp_path / "noise.npz"
    corruptions.save_noise(path, noisy, kept, clean_labels=BALANCED)
    for clean in (None, BALANCED):
        noise = corruptions.load_noise(path, clean_labels=clean)
        np.testing.assert_array_equal(noise.given, noisy)
        np.testing.assert_array_equal(noise.kept, kept)
    assert [entry.name for entry in tmp_path.iterdir()] == ["noise.npz"]
    with pytest.raises(ValueError, match="other training labels"):
        corruptions.load_noise(path, clean_labels=BALANCED[::-1])


def test_damaged_and_foreign_noise_files_are_refused(tmp_path):
    path = tmp_path / "noise.npz"
    corruptions.save_noise(path, BALANCED, np.arange(2000))
    with np.load(path) as file:
        stored = dict(file)
    altered = {**stored, "labels": np.roll(stored["labels"], 1)}
    np.savez(path, **altered)
    with pytest.raises(ValueError, match="do not match their hash"):
        corruptions.load_noise(path)
    np.savez(path, **{**stored, "format": "another"})
    with pytest.raises(ValueError, match="format another"):
        corruptions.load_noise(path)
    np.savez(path, labels=BALANCED)
    with pytest.raises(ValueError, match="not one that save_noise wrote"):
        corruptions.load_noise(path)
    corruptions.save_noise(path, BALANCED, np.arange(2000))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="damaged"):
        corruptions.load_noise(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        corruptions.load_noise(path)
    with pytest.raises(FileNotFoundError, match="missing"):
        corruptions.load_noise(tmp_path / "missing.npz")


# Bad input: the message names the argument, the value and what is accepted.

_C = corruptions
BAD = {
    "rate above": (lambda: _C.symmetric(BALANCED, 1.1, 10, 0), "rate is 1.1"),
    "rate below": (lambda: _C.asymmetric(BALANCED, -0.1, 0, dataset="cifar10"), "rate is -0.1"),
    "rate nan": (lambda: _C.pair_flip(BALANCED, float("nan"), 10, 0), "rate is nan"),
    "labels float": (lambda: _C.symmetric(BALANCED / 1, 0.1, 10, 0), "labels has dtype float64"),
    "labels bool": (lambda: _C.symmetric(BALANCED > 3, 0.1, 2, 0), "labels has dtype bool"),
    "labels 2d": (lambda: _C.symmetric(BALANCED[None], 0.1, 10, 0), r"labels has shape \(1, 2000\)"),
    "labels empty": (lambda: _C.symmetric(BALANCED[:0], 0.1, 10, 0), r"labels has shape \(0,\)"),
    "labels high": (lambda: _C.symmetric([0, 1, 7, 9], 0.1, 5, 0), "2 value.* first 7 at index 2; accepted are 0 to 4"),
    "labels negative": (lambda: _C.pair_flip([0, -1], 0.1, 5, 0), "first -1 at index 1"),
    "labels high for data set": (lambda: _C.asymmetric([0, 10], 0.1, 0, dataset="cifar10"), "accepted are 0 to 9"),
    "classes": (lambda: _C.symmetric([0, 0], 0.1, 1, 0), "num_classes is 1"),
    "kind": (lambda: _C.transition_matrix("sym", 10, 0.1), "kind='sym' is none of symmetric"),
    "form": (lambda: _C.transition_matrix("symmetric", 10, 0.1, form="own"), "accepted for symmetric: exclusive"),
    "form sequential": (
        lambda: _C.transition_matrix("asymmetric", 10, 0.1, dataset="cifar10", form="sequential_sr"),
        "have no matrix",
    ),
    "form asymmetric": (
        lambda: _C.asymmetric(BALANCED, 0.1, 0, dataset="cifar10", form="x"),
        "form='x' is none of independent",
    ),
    "blocks": (lambda: _C.asymmetric(BALANCED, 0.1, 0, dataset="cifar10", form="blocks"), "map for cifar100"),
    "no map": (
        lambda: _C.asymmetric(BALANCED, 0.1, 0, dataset="food101"),
        "not defined for dataset 'food101'",
    ),
    "no map at all": (lambda: _C.asymmetric(BALANCED, 0.1, 0), "mnist, digits, cifar10, cifar100"),
    "map": (lambda: _C.transition_matrix("asymmetric", 3, 0.1, mapping={0: 3}), "entry 0 -> 3"),
    "groups": (lambda: _C.heteroskedastic(BALANCED, 10, 0, groups=[[1, 2], [2, 3]]), "groups is .* disjoint"),
    "no groups": (lambda: _C.heteroskedastic(BALANCED, 10, 0, dataset="food101"), "pass groups"),
    "counts missing": (lambda: _C.transition_matrix("frequency_proportional", 3, 0.1), "class_counts is missing"),
    "counts short": (
        lambda: _C.transition_matrix("frequency_proportional", 3, 0.1, class_counts=[1, 2]),
        "class_counts has 2 entries",
    ),
    "one class": (lambda: _C.frequency_proportional([1, 1], 0.1, 2, 0, include_own=False), "all examples in one class"),
    "matrix": (lambda: _C.apply_transition([0, 1], np.ones((2, 2)), 0), "rows that do not sum to 1"),
    "matrix nan": (lambda: _C.apply_transition([0, 1], np.full((2, 2), np.nan), 0), "rows that do not sum to 1"),
    "matrix shape": (lambda: _C.apply_transition([0, 1], np.ones((2, 3)), 0), r"matrix has shape \(2, 3\)"),
    "ratio": (lambda: _C.long_tailed_counts([50, 50], 0.5), "ratio is 0.5"),
    "ratio nan": (lambda: _C.step_counts([50, 50], float("nan")), "ratio is nan"),
    "ratio inf": (lambda: _C.step_counts([50, 50], float("inf")), "ratio is inf"),
    "empty class": (lambda: _C.long_tailed_counts([50, 50], 100), "leaves class 1 without an example; lower the ratio"),
    "empty class step": (lambda: _C.step_counts([50, 50], 100), "leaves class 1 without an example"),
    "rare": (lambda: _C.step_counts([50, 50], 2, rare=[2]), "rare is"),
    "subsample zero": (lambda: _C.subsample([0, 1], [1, 0], 0), "leaves class 1"),
    "subsample many": (lambda: _C.subsample([0, 1], [1, 2], 0), r"counts\[1\] is 2, but class 1 has 1"),
    "subsample float": (lambda: _C.subsample([0, 1], [1.0, 1.0], 0), "dtype float64"),
    "lengths": (lambda: _C.realised_transition([0, 1], [0], 2), "noisy has 1 labels and clean 2"),
    "kept": (lambda: _C.save_noise("unused", [0, 1], [1, 0]), "strictly increasing"),
    "kept length": (lambda: _C.save_noise("unused", [0, 1], [1]), r"expected integers \[2\]"),
    "seed": (lambda: _C.symmetric(BALANCED, 0.1, 10, -1), "key is -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_types_are_named():
    with pytest.raises(TypeError, match=r"rate is '0\.1'"):
        corruptions.symmetric(BALANCED, "0.1", 10, 0)
    with pytest.raises(TypeError, match="ratio is '10'"):
        corruptions.long_tailed_counts([50, 50], "10")
