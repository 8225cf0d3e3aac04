"""Plots: what is drawn is what was given; files are real pictures; nothing global is touched."""

import functools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from experiments.pictures import findings, of_runs, plots, style
from experiments.settings import config
from robustjax import data
from robustjax.data.labelling import Labels


def records(seed, epochs=5):
    rng = np.random.default_rng(seed)
    names = ("train_loss", "test_accuracy", "train_accuracy", "correction_accuracy")
    names += ("clean_true", "clean_other", "wrong_true", "wrong_memorized", "wrong_other")
    return [{"epoch": e, **{name: float(rng.random()) for name in names}} for e in range(1, epochs + 1)]


def line(ax, label):
    (found,) = [item for item in ax.lines if item.get_label() == label]
    return found


def values(history, name):
    return [record[name] for record in history]


def bars(ax):
    return [patch.get_height() for patch in ax.patches]


TRAINED = "train accuracy, by the\ngiven labels"


def test_learning_curves_draw_mean_and_band():
    runs = {"ce": [records(0), records(1), records(2)], "elr": [records(3)]}
    figure = plots.draw_learning_curves(runs)
    assert [ax.get_ylabel() for ax in figure.axes] == ["train loss", TRAINED, "test accuracy"]
    for ax, name in zip(figure.axes, ("train_loss", "train_accuracy", "test_accuracy"), strict=True):
        seeds = np.array([values(history, name) for history in runs["ce"]])
        drawn = line(ax, "ce (3 seeds)")
        np.testing.assert_array_equal(drawn.get_xdata(), [1, 2, 3, 4, 5])
        np.testing.assert_allclose(drawn.get_ydata(), seeds.mean(0))
        np.testing.assert_array_equal(line(ax, "elr").get_ydata(), values(runs["elr"][0], name))
        (band,) = ax.collections
        corners = band.get_paths()[0].vertices
        for edge in (seeds.mean(0) - seeds.std(0, ddof=1), seeds.mean(0) + seeds.std(0, ddof=1)):
            assert all(np.isclose(corners[:, 1], y).any() for y in edge)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ce (3 seeds)", "elr"]


def test_learning_curves_leave_out_what_was_not_measured():
    history = [{"epoch": e, "test_accuracy": None if e % 2 == 0 else (e - 1) / 10} for e in range(1, 6)]
    figure = plots.draw_learning_curves({"run": [history]})
    (ax,) = figure.axes
    assert ax.get_ylabel() == "test accuracy" and not figure.legends
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[1, 0], [3, 0.2], [5, 0.4]])
    with pytest.raises(ValueError, match="no train_loss"):
        plots.draw_learning_curves({"run": [[{"epoch": 1}]]})


def test_lines_of_many_runs_differ_in_colour_and_dash():
    figure = plots.draw_learning_curves({str(k): [records(k)] for k in range(6)})
    looks = [(item.get_color(), item.get_linestyle()) for item in figure.axes[0].lines]
    assert len({color for color, _ in looks}) == 6 and len(set(looks[:4])) == len({dash for _, dash in looks[:4]}) == 4


def test_label_accuracy():
    (ax,) = findings.draw_label_accuracy(records(0), "correction", 0.82).axes
    np.testing.assert_array_equal(line(ax, "correction").get_ydata(), values(records(0), "correction_accuracy"))
    assert set(line(ax, "as given").get_ydata()) == {0.82} and line(ax, "as given").get_linestyle() == "--"
    history = [{"epoch": 1, "guess_changed": 0.25}]
    (ax,) = findings.draw_label_accuracy(history, "guess", None).axes
    assert [item.get_ydata().tolist() for item in ax.lines] == [[0.25]] and "differ" in ax.get_ylabel()


@pytest.mark.parametrize("scale", [1, 7, -3])
def test_by_example_shows_shares_of_right_and_of_wrong_labels(scale):
    rng = np.random.default_rng(0)
    numbers, wrong = scale * rng.random(50), rng.random(50) < 0.4
    numbers[:2] = np.nan, np.inf
    (ax,) = findings.draw_by_example(numbers, wrong, "my weight").axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    kept = wrong[2:]
    assert labels == [f"right labels ({(~kept).sum()})", f"wrong labels ({kept.sum()})"]
    for patch, members in zip(ax.patches[::2], (numbers[2:][~kept], numbers[2:][kept]), strict=True):
        share, edges, _ = patch.get_data()
        np.testing.assert_allclose(share, np.histogram(members, edges)[0] / len(members))
        assert share.sum() == pytest.approx(1)
    assert ax.get_xlabel() == "my weight" and (scale != 1 or ax.get_xlim() == (0, 1))


@pytest.mark.parametrize(
    ("numbers", "wrong", "labels"),
    [
        (np.full(6, 3.0), np.arange(6) < 2, ["right labels (4)", "wrong labels (2)"]),
        (np.linspace(0, 1, 6), np.zeros(6, bool), ["right labels (6)"]),
        (np.linspace(0, 1, 6), None, ["labels (6)"]),
        (np.ones(1), None, ["labels (1)"]),
    ],
)
def test_by_example_of_one_value_no_wrong_labels_and_unknown_truth(numbers, wrong, labels):
    (ax,) = findings.draw_by_example(numbers, wrong, "doubt").axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == labels
    for patch in ax.patches[::2]:
        assert patch.get_data()[0].sum() == pytest.approx(1)


def test_table():
    rng = np.random.default_rng(0)
    numbers, noisy = rng.random((3, 10)), rng.random((3, 10))
    noisy[1, 4:6] = np.nan
    figure = findings.draw_table(numbers, noisy, "weight table", ["cat", "7", "frog"])
    assert [ax.get_title() for ax in figure.axes] == ["cat", "class 7", "frog"]
    for c, ax in enumerate(figure.axes):
        drawn = line(ax, "weight table")
        np.testing.assert_array_equal(drawn.get_xdata(), np.arange(1, 11))
        np.testing.assert_array_equal(drawn.get_ydata(), numbers[c])
        np.testing.assert_array_equal(bars(ax), noisy[c])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["weight table", "wrong labels in the bin"]


def test_table_of_other_numbers_has_an_axis_of_shares_beside():
    numbers = np.array([[-5.0, 20], [0, 3]])
    figure = findings.draw_table(numbers, np.array([[0, 0], [np.nan, 0]]), "logit")
    assert len(figure.axes) == 2 and not figure.legends  # no label is wrong
    left, right, *over = findings.draw_table(numbers, np.array([[0.5, 1], [np.nan, np.nan]]), "logit").axes
    assert left.get_ylim()[1] > 20 and len(over) == 1 and over[0].get_ylim() == pytest.approx((-0.03, 1.03))
    assert bars(over[0]) == [0.5, 1] and not bars(left) and not bars(right)


def test_table_of_unknown_noise_and_many_classes():
    numbers = np.random.default_rng(0).random((100, 10))
    figure = findings.draw_table(numbers, None, "weight")
    titles = [ax.get_title() for ax in figure.axes]
    assert len(titles) == 20 and (titles[0], titles[-1]) == ("class 0", "class 99")
    for ax, title in zip(figure.axes, titles, strict=True):
        assert not ax.patches
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), numbers[int(title.split()[1])])
    assert [len(findings.draw_table(numbers[:count], None, "weight").axes) for count in (1, 7, 10)] == [1, 7, 10]


def test_per_class():
    numbers, counts = np.array([1.0, -0.5, -2]), [500, 50, 5]
    upper, lower = findings.draw_per_class(numbers, counts, "my margin", ["cat", "dog", "frog"]).axes
    np.testing.assert_array_equal(bars(upper), numbers)
    assert bars(lower) == counts and (upper.get_ylabel(), lower.get_ylabel()) == ("my margin", "examples in class")
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["cat", "dog", "frog"]
    many = findings.draw_per_class(np.ones(100), np.ones(100), "q", [str(c) for c in range(100)])
    assert len(many.axes[1].get_xticks()) <= 12


def test_groups_are_sorted_by_one_row():
    rows = {"count": np.array([10, 60, 30]), "error": [0.5, 0.1, 0.2], "strength": [0.1, 0.02, 0.05]}
    figure = findings.draw_per_group(rows, "strength", ["cat", "dog", "frog"])
    expected = ([60, 30, 10], [0.1, 0.2, 0.5], [0.02, 0.05, 0.1])
    for ax, title, row in zip(figure.axes, rows, expected, strict=True):
        np.testing.assert_allclose(bars(ax), row)
        assert ax.get_ylabel() == title
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == ["dog", "frog", "cat"]
    assert all(tick == round(tick) for tick in figure.axes[0].get_yticks())
    many = findings.draw_per_group({"a": np.arange(100.0)[::-1]}, "a", list(map(str, range(100))))
    assert bars(many.axes[0]) == list(range(100)) and len(many.axes[0].get_xticks()) == 0


def left(classes, bins, examples=30, clean=True, epochs=2, groups=None):
    """What a run with a random finding of each kind leaves."""
    rng = np.random.default_rng(classes)
    given = rng.integers(0, classes, examples).astype(np.int32)
    true = np.where(rng.random(examples) < 0.3, (given + 1) % classes, given).astype(np.int32)
    names = [f"{part}_coefficient_{kind}" for part in ("ce", "d", "total") for kind in ("clean", "wrong")]
    names = ["a_accuracy", "a_changed", "test_accuracy", *names, *(f"{name}_std" for name in names)]
    lines = [{"epoch": e + 1, **{name: rng.random() for name in names}} for e in range(epochs)]
    for line in lines:
        line["per_class_accuracy"] = rng.random(classes).tolist()
    numbers = {"f": rng.integers(0, 9, groups or classes), "g": rng.random(groups or classes)}
    table = {"h": rng.random((classes, bins)), "h_noisy_share": rng.random((classes, bins))}
    history = [{"e": rng.normal(size=classes), **numbers, **table} for _ in range(epochs)]
    kinds = {"a": "LabelDistribution", "b": "LabelWeight", "c": "NoiseScore", "d": "LogitGradient", "e": "PerClass",
             "f": "PerGroup", "g": "PerGroup", "h": "Table"}  # fmt: skip
    seen = {"a": true, "b": rng.random(examples), "c": rng.random(examples)}
    names, truth = [f"kind {c}" for c in range(classes)], true if clean else None
    return findings.Left(kinds, lines, history, seen, Labels(np.arange(examples), given, truth), names, groups is None)


def drawn(found, path):
    """Saves the pictures of all kinds; their names, and how many panels each has."""
    panels = {}
    for kind in dict.fromkeys(found.kinds.values()):
        for name, draw in findings.figures(found, kind):
            figure = draw()
            style.save(figure, path / f"{name}.png")
            panels[name] = len(figure.axes)
    return panels


@pytest.mark.parametrize(("classes", "bins", "epochs"), [(3, 1, 1), (100, 5, 3), (2, 40, 2)])
def test_pictures_of_random_findings_of_any_size(tmp_path, classes, bins, epochs):
    panels = drawn(left(classes, bins, epochs=epochs), tmp_path)
    shown = min(classes, 20)
    assert panels == {"a_accuracy": 1, "b": 1, "c": 1, "d_coefficients": 3, "e": 2, "groups": 3, "h": shown,
                      "h_over_epochs": 2}  # fmt: skip
    kinds = left(classes, bins, epochs=epochs).kinds
    told = [findings.explain(name, kinds) for name in panels]
    assert "" not in told and len(set(told)) == len(told) and findings.explain("confusion", kinds) == ""
    for name in panels:
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.format == "PNG" and min(picture.size) > 150 and max(picture.size) < 3000


def test_pictures_without_truth_with_other_groups_and_of_what_is_not_known(tmp_path):
    found = left(4, 3, clean=False, groups=6)
    panels = drawn(found, tmp_path)
    assert "a_changed" in panels and "a_accuracy" not in panels and panels["groups"] == 2  # no test error of groups
    nothing = found._replace(history=[{}, {}], examples={}, records=[{"epoch": 1}])
    assert drawn(nothing, tmp_path) == {}
    late = found._replace(history=[{}, {"f": np.ones(6)}], examples={}, records=[{"epoch": 1}])
    assert drawn(late, tmp_path) == {"f": 1}
    assert "each group" in findings.explain("f", late.kinds) and "another class (a)" in findings.explain(
        "a_changed", late.kinds
    )


def test_a_kind_without_a_picture_is_refused():
    found = left(3, 2)._replace(kinds={"x": "Portrait"})
    with pytest.raises(ValueError, match="kind='Portrait' of x has no picture; accepted are LabelDistribution, "):
        findings.figures(found, "Portrait")


def test_memorization():
    history = records(0)
    right, wrong = plots.draw_memorization(history).axes
    for ax, label, name in (
        (right, "correct", "clean_true"),
        (right, "another class", "clean_other"),
        (wrong, "correct", "wrong_true"),
        (wrong, "memorized (given label)", "wrong_memorized"),
        (wrong, "another class", "wrong_other"),
    ):
        np.testing.assert_array_equal(line(ax, label).get_ydata(), values(history, name))
    assert (len(right.lines), len(wrong.lines)) == (2, 3)
    unfounded = [record | dict.fromkeys(("wrong_true", "wrong_memorized", "wrong_other")) for record in history]
    assert [ax.get_title() for ax in plots.draw_memorization(unfounded).axes] == ["rightly labelled examples"]


def test_table_over_epochs():
    numbers = np.random.default_rng(0).random((6, 4))
    figure = findings.draw_table_over_epochs(numbers, "weight table, class 0")
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(image.get_array(), numbers.T)
    assert image.origin == "lower" and image.get_extent() == [0.5, 6.5, 0.5, 4.5] and image.get_clim() == (0, 1)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("epoch", "bin")
    assert findings.draw_table_over_epochs(9 * numbers, "t").axes[0].images[0].get_clim()[1] > 1


def test_any_quantity_by_epoch():
    history = [{"epoch": e, "sparse_rate": e / 10} for e in (1, 2, 3)]
    figure = plots.draw_by_epoch({"long": [history], "short": [history[:1]]}, {"sparse_rate": "rate", "absent": "no"})
    (ax,) = figure.axes
    assert ax.get_ylabel() == "rate"
    np.testing.assert_allclose(line(ax, "long").get_xydata(), [[1, 0.1], [2, 0.2], [3, 0.3]])
    assert line(ax, "short").get_marker() == "o" and line(ax, "long").get_marker() == ""  # one point shows too
    with pytest.raises(ValueError, match="runs hold no absent"):
        plots.draw_by_epoch({"long": [history]}, {"absent": "no"})


def test_embeddings_show_each_class_where_it_lies():
    labels, points = np.array([2, 0, 2, 1, 0]), np.arange(10.0).reshape(5, 2)
    figure = plots.draw_embeddings({"a": points, "b": -points}, labels, ["cat", "dog", "eel"])
    for ax, expected in zip(figure.axes, (points, -points), strict=True):
        for c, drawn in enumerate(ax.collections):
            np.testing.assert_array_equal(drawn.get_offsets(), expected[labels == c])
        assert len({tuple(drawn.get_facecolor()[0]) for drawn in ax.collections}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cat", "dog", "eel"]
    own = {"a": labels, "b": np.array([1, 0])}
    crossed = {"a": labels == 2, "b": np.zeros(2, bool)}
    figure = plots.draw_embeddings({"a": points, "b": points[:2]}, own, ["cat", "dog", "eel"], crossed)
    a, b = figure.axes
    np.testing.assert_array_equal(a.collections[3].get_offsets(), points[labels == 2])
    assert len(b.collections) == 3
    np.testing.assert_array_equal(b.collections[1].get_offsets(), points[:1])
    many = plots.draw_embeddings({"a": np.zeros((21, 2))}, np.arange(21))
    assert not many.legends and len(many.axes[0].collections) == 21


def test_lines_are_what_was_given_over_one_legend():
    x = np.arange(1.0, 5.0)
    panels = [
        plots.Panel(
            {"a": plots.Line(x, x, "--", style.RED, (x - 1, x + 1)), "points": plots.Line(x, 2 * x, "o")}, "one", "t"
        ),
        plots.Panel({"a": plots.Line(x, -x, "--", style.RED)}, "two", "t", "share", percent=True, y_limits=(-5, 0)),
        plots.Panel({"b": plots.Line(x, x**2)}, "three", "t", x_scale="log", y_scale="log"),
    ]
    figure = plots.draw_lines(panels, columns=2)
    first, second, third = figure.axes
    np.testing.assert_array_equal(line(first, "a").get_ydata(), x)
    assert (line(first, "a").get_linestyle(), line(first, "a").get_color()) == ("--", style.RED)
    assert (line(first, "points").get_linestyle(), line(first, "points").get_marker()) == ("None", "o")
    assert len(first.collections) == 1 and not second.collections
    assert second.get_ylim() == (-5, 0) and second.get_ylabel() == "share"
    assert (third.get_xscale(), third.get_yscale()) == ("log", "log")
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "t", "t"]  # once a column
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "points", "b"]


def test_histograms_are_densities_and_keep_what_lies_beyond():
    groups = {"x": {"low": np.full(10, 0.1), "high": np.full(30, 9.0)}, "y": {"other": np.linspace(0, 1, 5)}}
    figure = plots.draw_histograms(groups, "loss", x_max=2.0)
    assert [ax.get_title() for ax in figure.axes] == ["x", "y"] and figure.axes[-1].get_xlabel() == "loss"
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["low (10)", "high (30)"]
    for patch in (patch for ax in figure.axes for patch in ax.patches):
        values, edges, _ = patch.get_data()
        assert np.sum(values * np.diff(edges)) == pytest.approx(1)
    beyond, _, _ = figure.axes[0].patches[-1].get_data()
    assert np.flatnonzero(beyond).tolist() == [len(beyond) - 1]
    assert plots.draw_histograms(groups, "loss").axes[0].get_xlim() == (0, 9)


def read_pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), float)


def test_beside_a_picture_lies_a_dark_one_of_the_same_lines_and_no_black_ink(tmp_path):
    figure = plots.draw_learning_curves({"ce": [records(0), records(1)]})
    style.entitle(figure, "some data, " * 20)
    before = [item.get_xydata().tolist() for ax in figure.axes for item in ax.lines]
    light = read_pixels(style.save(figure, tmp_path / "a.png"))
    assert [item.get_xydata().tolist() for ax in figure.axes for item in ax.lines] == before
    assert "\n" in figure.get_suptitle()
    dark = read_pixels(tmp_path / "a-dark.png")
    assert dark.shape == light.shape and np.median(light) > 250
    assert np.median(dark) < 30 and np.mean(dark > 128) > 0.01 and dark.min() > 10


def test_dark_lines_may_have_any_colour(tmp_path):
    """A colour a class is an array; the darkest shade would not be seen."""
    line = functools.partial(plots.Line, [1, 2], [3, 4], "-")
    figure = plots.draw_lines([plots.Panel({"a": line(style.class_colors(3)[0]), "b": line(style.SHADES[0])})], 1)
    style.save(figure, tmp_path / "a.png")
    first, second = (to_hex(item.get_color()) for item in figure.axes[0].lines)
    assert first == to_hex(style.class_colors(3)[0]) and second != style.SHADES[0]


def test_the_numbers_on_a_dark_matrix_are_those_of_the_light_one(tmp_path):
    """They stand on its cells, whose colours do not change."""
    figure = plots.draw_confusion(np.diag([50, 3]) + 1, ["a", "b"], "test label", "predicted")
    before = [text.get_color() for text in figure.axes[0].texts]
    style.save(figure, tmp_path / "a.png")
    assert [text.get_color() for text in figure.axes[0].texts] == before and len(before) == 4
    assert figure.axes[0].xaxis.label.get_color() != "black"


def test_a_title_claims_no_truth_that_is_not_known():
    clean, given = np.arange(10), np.array([1, *range(1, 10)])
    dataset = data.from_arrays(np.zeros((10, 2, 2, 1), np.uint8), clean, np.zeros((10, 2, 2, 1), np.uint8), clean)
    noisy = config.Config(method="elr", noise="pair_flip")
    for truth, settings, true_labels, told in (
        (clean, noisy, clean, "10 % wrong labels (pair-flip)"),
        (clean, noisy, None, "10 % of the labels made wrong (pair-flip)"),
        (clean, config.Config(method="elr"), clean, "10 % wrong labels"),
        (given, config.Config(method="elr"), clean, "labels as given"),
        (None, config.Config(method="elr"), None, "labels as given"),
    ):
        own = dataset._replace(name="mine", true_labels=true_labels)
        assert of_runs.title(settings, own, Labels(np.arange(10), given, truth)) == f"mine, elr, {told}"


SAVED = {
    "lines": ([plots.Panel({"a": plots.Line(np.arange(4), np.arange(4))}, "one", "x", "y")], 1),
    "histograms": ({"x": {"a": np.arange(9.0)}}, "loss"),
    "learning_curves": ({"ce": [records(0), records(1)]},),
    "by_epoch": ({"ce": [records(0)]}, {"test_accuracy": "test accuracy"}),
    "memorization": (records(0),),
}


@pytest.mark.parametrize("name", SAVED)
def test_saved_pictures(tmp_path, name):
    settings = dict(mpl.rcParams)
    path = tmp_path / "plots" / f"{name}.png"
    assert getattr(plots, name)(*SAVED[name], path) == path
    with Image.open(path) as picture:
        assert picture.format == "PNG" and min(picture.size) > 200
        assert len(picture.convert("RGB").getcolors(2**24)) > 20
    assert dict(mpl.rcParams) == settings
    drawn = getattr(plots, f"draw_{name}")(*SAVED[name])
    assert drawn.axes[0].get_ylabel() and drawn.axes[-1].get_xlabel() + drawn.axes[-1].get_ylabel()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: findings.draw_table(np.ones(5), None, "t"), r"values must have two axes, got shape \(5,\)"),
        (lambda: findings.draw_table(np.ones((2, 5)), np.ones((2, 4)), "t"), r"noisy_share must have .* \(2, 5\)"),
        (lambda: findings.draw_table(np.ones((2, 5)), None, "t", ["cat"]), "class_names must name 2 classes, got 1"),
        (lambda: findings.draw_per_class(np.ones(3), np.ones(2), "q"), r"must both be \[C\]"),
        (lambda: findings.draw_per_class(np.ones(3), np.ones(3), "q", ["cat"]), "must name 3 classes, got 1"),
        (lambda: findings.draw_per_group({"a": np.ones(2)}, "a", ["x"]), r"\[G\] with G = 1 names, got a \(2,\)"),
        (lambda: findings.draw_by_example(np.ones(3), np.ones(2, bool), "w"), r"must both be \[N\]"),
        (lambda: findings.draw_table_over_epochs(np.ones(5), "t"), "two axes"),
        (lambda: plots.draw_embeddings({"a": np.ones((3, 2))}, np.arange(4)), r"points must have .* \(4, 2\)"),
    ],
)
def test_wrong_shapes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", [None, "my_pull"])
def test_gradient_coefficients(name):
    terms = ("ce",) if name is None else ("ce", name, "total")
    names = [f"{term}_coefficient_{kind}{end}" for term in terms for kind in ("clean", "wrong") for end in ("", "_std")]
    rng = np.random.default_rng(0)
    history = [{"epoch": e, **{name: float(rng.random()) for name in names}} for e in (1, 2, 3)]
    axes = plots.draw_gradient_coefficients(history, name).axes
    titles = ["p − y"] if name is None else ["p − y + my pull", "right labels", "wrong labels"]
    assert [ax.get_title() for ax in axes] == titles
    whole = terms[-1]
    for label, kind in (("right labels", "clean"), ("wrong labels", "wrong")):
        np.testing.assert_array_equal(line(axes[0], label).get_ydata(), values(history, f"{whole}_coefficient_{kind}"))
    for ax, kind in zip(axes[1:], ("clean", "wrong"), strict=False):
        for label, term in (("p − y", "ce"), ("my pull", "my_pull")):
            np.testing.assert_array_equal(line(ax, label).get_ydata(), values(history, f"{term}_coefficient_{kind}"))
    unfounded = [{**record, **{key: None for key in record if "wrong" in key}} for record in history]
    assert len(plots.draw_gradient_coefficients(unfounded, name).axes[0].lines) == 2  # no wrong labels, no line
    assert len(plots.draw_gradient_coefficients(unfounded, name).axes) == (1 if name is None else 2)
    with pytest.raises(ValueError, match=f"no {whole}_coefficient_clean"):
        plots.draw_gradient_coefficients([{"epoch": 1}], name)


def test_confusion_writes_the_numbers_of_few_classes_and_names_them():
    counts = np.array([[8, 2, 0], [0, 5, 0], [1, 0, 3]])
    figure = plots.draw_confusion(counts, ["a", "$b", "2"], "labelled", "proposed")
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts] == ["8", "2", "5", "1", "3"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", r"\$b", "class 2"]
    np.testing.assert_allclose(ax.images[0].get_array()[0], [0.8, 0.2, 0.0])
    many = plots.draw_confusion(np.eye(100), [str(c) for c in range(100)], "labelled", "proposed")
    assert not many.axes[0].texts and len(many.axes[0].get_yticks()) < 20


def test_reliability_is_the_mean_over_seeds_weighted_by_their_examples():
    seeds = [np.array([[0.0, 0, 0], [1.0, 0.8, 0.5]]), np.array([[0.5, 0.4, 0.2], [0.5, 0.6, 1.0]])]
    ax, below = plots.draw_reliability(seeds).axes
    np.testing.assert_allclose(line(ax, "predictions").get_xdata(), [0.4, (0.8 + 0.3) / 1.5])
    np.testing.assert_allclose(line(ax, "predictions").get_ydata(), [0.2, (0.5 + 0.5) / 1.5])
    np.testing.assert_allclose(below.patches[0].get_data().values, [0.25, 0.75])


def test_class_counts_of_many_classes_are_sorted():
    (ax,) = plots.draw_class_counts([1, 5, 3], [2, 4, 3], ["a", "b", "c"]).axes
    assert bars(ax) == [1, 5, 3, 2, 4, 3]
    size = np.arange(30)
    (ax,) = plots.draw_class_counts(size, size, [str(c) for c in size]).axes
    assert bars(ax)[:3] == [29, 28, 27]
