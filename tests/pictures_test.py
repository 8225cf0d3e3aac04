"""Plots: what is drawn is what was given; files are real pictures; nothing global is touched."""

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from experiments.pictures import plots


def records(seed, epochs=5):
    rng = np.random.default_rng(seed)
    names = ("train_loss", "test_accuracy", "learning_rate", "correction_accuracy")
    names += ("clean_true", "clean_other", "wrong_true", "wrong_memorized", "wrong_other")
    return [{"epoch": e, **{name: float(rng.random()) for name in names}} for e in range(1, epochs + 1)]


def line(ax, label):
    (found,) = [item for item in ax.lines if item.get_label() == label]
    return found


def values(history, name):
    return [record[name] for record in history]


def bars(ax):
    return [patch.get_height() for patch in ax.patches]


def test_learning_curves_draw_mean_and_band():
    runs = {"ce": [records(0), records(1), records(2)], "elr": [records(3)]}
    figure = plots.draw_learning_curves(runs)
    assert [ax.get_ylabel() for ax in figure.axes] == ["train loss", "test accuracy", "learning rate"]
    for ax, name in zip(figure.axes, ("train_loss", "test_accuracy", "learning_rate"), strict=True):
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


def test_label_weights():
    rng = np.random.default_rng(0)
    weights, noisy = rng.random((3, 10)), rng.random((3, 10))
    noisy[1, 4:6] = np.nan
    figure = plots.draw_label_weights(weights, noisy, ["cat", "dog", "frog"])
    assert [ax.get_title() for ax in figure.axes] == ["cat", "dog", "frog"]
    for c, ax in enumerate(figure.axes):
        drawn = line(ax, "learned weight g(r | y)")
        np.testing.assert_array_equal(drawn.get_xdata(), np.arange(1, 11))
        np.testing.assert_array_equal(drawn.get_ydata(), weights[c])
        np.testing.assert_array_equal(bars(ax), noisy[c])
        np.testing.assert_allclose(line(ax, "right labels in the class").get_xdata(), 10 * (1 - np.nanmean(noisy[c])))


def test_label_weights_of_unknown_noise_and_many_classes():
    weights = np.random.default_rng(0).random((100, 10))
    figure = plots.draw_label_weights(weights)
    titles = [ax.get_title() for ax in figure.axes]
    assert len(titles) == 20 and (titles[0], titles[-1]) == ("class 0", "class 99")
    for ax, title in zip(figure.axes, titles, strict=True):
        assert not ax.patches
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), weights[int(title.split()[1])])
    assert [len(plots.draw_label_weights(weights[:count]).axes) for count in (1, 7, 10)] == [1, 7, 10]


def test_margins():
    margin, counts = np.array([1.0, -0.5, -2]), [500, 50, 5]
    figure = plots.draw_margins(margin, counts, ["cat", "dog", "frog"])
    upper, lower = figure.axes
    np.testing.assert_array_equal(bars(upper), margin)
    assert bars(lower) == counts
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["cat", "dog", "frog"]
    many = plots.draw_margins(np.ones(100), np.ones(100), [str(c) for c in range(100)])
    assert len(many.axes[1].get_xticks()) <= 12


def test_strengths_are_sorted():
    strength, count, error = np.array([0.1, 0.02, 0.05]), np.array([10, 60, 30]), np.array([0.5, 0.1, 0.2])
    figure = plots.draw_strengths(strength, count, error, [0.4, 0.3, 0.2], ["cat", "dog", "frog"])
    for ax, expected in zip(
        figure.axes, ([0.6, 0.3, 0.1], [0.1, 0.2, 0.5], [0.02, 0.05, 0.1], [0.3, 0.2, 0.4]), strict=True
    ):
        np.testing.assert_allclose(bars(ax), expected)
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == ["dog", "frog", "cat"]
    assert len(plots.draw_strengths(strength, count, error).axes) == 3


def test_correction_accuracy():
    runs = {"noise 0.2": records(0), "noise 0.4": records(1)}
    (ax,) = plots.draw_correction_accuracy(runs, {"noise 0.2": 0.82}).axes
    for label, history in runs.items():
        np.testing.assert_array_equal(line(ax, label).get_ydata(), values(history, "correction_accuracy"))
    (dashed,) = [item for item in ax.lines if item.get_linestyle() == "--"]
    assert set(dashed.get_ydata()) == {0.82} and dashed.get_color() == line(ax, "noise 0.2").get_color()


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


def test_label_weights_over_epochs():
    weights = np.random.default_rng(0).random((6, 4))
    figure = plots.draw_label_weights_over_epochs(weights)
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(image.get_array(), weights.T)
    assert image.origin == "lower" and image.get_extent() == [0.5, 6.5, 0.5, 4.5]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("epoch", "loss-rank bin r")


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
    many = plots.draw_embeddings({"a": np.zeros((21, 2))}, np.arange(21))
    assert not many.legends and len(many.axes[0].collections) == 21


def test_lines_are_what_was_given_over_one_legend():
    x = np.arange(1.0, 5.0)
    panels = [
        plots.Panel(
            {"a": plots.Line(x, x, "--", plots.RED, (x - 1, x + 1)), "points": plots.Line(x, 2 * x, "o")}, "one", "t"
        ),
        plots.Panel({"a": plots.Line(x, -x, "--", plots.RED)}, "two", "t", "share", percent=True, y_limits=(-5, 0)),
        plots.Panel({"b": plots.Line(x, x**2)}, "three", "t", x_scale="log", y_scale="log"),
    ]
    figure = plots.draw_lines(panels, columns=2)
    first, second, third = figure.axes
    np.testing.assert_array_equal(line(first, "a").get_ydata(), x)
    assert (line(first, "a").get_linestyle(), line(first, "a").get_color()) == ("--", plots.RED)
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


SAVED = {
    "lines": ([plots.Panel({"a": plots.Line(np.arange(4), np.arange(4))}, "one", "x", "y")], 1),
    "histograms": ({"x": {"a": np.arange(9.0)}}, "loss"),
    "learning_curves": ({"ce": [records(0), records(1)]},),
    "by_epoch": ({"ce": [records(0)]}, {"test_accuracy": "test accuracy"}),
    "label_weights": (np.full((2, 5), 0.5), np.full((2, 5), 0.1), ["cat", "dog"]),
    "margins": (np.ones(4), np.arange(4), None),
    "correction_accuracy": ({"run": records(0)}, {}),
    "memorization": (records(0),),
    "label_weights_over_epochs": (np.full((3, 5), 0.5),),
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
        (lambda: plots.draw_label_weights(np.ones(5)), r"weights must have two axes, got shape \(5,\)"),
        (lambda: plots.draw_label_weights(np.ones((2, 5)), np.ones((2, 4))), r"noisy_share must have .* \(2, 5\)"),
        (lambda: plots.draw_label_weights(np.ones((2, 5)), None, ["cat"]), "class_names must name 2 classes, got 1"),
        (lambda: plots.draw_strengths(np.ones(3), np.ones(2), np.ones(3)), r"must all be \[G\]"),
        (lambda: plots.draw_margins(np.ones(3), np.ones(2)), r"must both be \[C\]"),
        (lambda: plots.draw_embeddings({"a": np.ones((3, 2))}, np.arange(4)), r"points must have .* \(4, 2\)"),
    ],
)
def test_wrong_shapes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("terms", [("ce",), ("ce", "elr", "total")])
def test_gradient_coefficients(terms):
    names = [f"{term}_coefficient_{kind}{end}" for term in terms for kind in ("clean", "wrong") for end in ("", "_std")]
    rng = np.random.default_rng(0)
    history = [{"epoch": e, **{name: float(rng.random()) for name in names}} for e in (1, 2, 3)]
    axes = plots.draw_gradient_coefficients(history).axes
    titles = ["p − y"] if len(terms) == 1 else ["p − y + λg", "right labels", "wrong labels"]
    assert [ax.get_title() for ax in axes] == titles
    whole = terms[-1]
    for label, kind in (("right labels", "clean"), ("wrong labels", "wrong")):
        np.testing.assert_array_equal(line(axes[0], label).get_ydata(), values(history, f"{whole}_coefficient_{kind}"))
    for ax, kind in zip(axes[1:], ("clean", "wrong"), strict=False):
        for label, term in (("p − y", "ce"), ("λg", "elr")):
            np.testing.assert_array_equal(line(ax, label).get_ydata(), values(history, f"{term}_coefficient_{kind}"))
    with pytest.raises(ValueError, match="no ce_coefficient_clean"):
        plots.draw_gradient_coefficients([{"epoch": 1}])
