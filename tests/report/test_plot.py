"""Pictures: they show the table's figures, whatever the names in it, and the same table gives the same bytes."""

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from conftest import call
from sklearn.metrics import confusion_matrix, f1_score
from synthetic import chances, guesses, write_baseline, write_run

from whichlayer.report import answer as answers
from whichlayer.report import plot
from whichlayer.report import table as tables

THREE = np.random.default_rng(0).integers(0, 3, 300)
# Cyrillic, Hindi, emoji, markup, two that are equal once they are cut
NAMES = [
    "Международные новости и события в мире культуры, часть первая",
    "खाना पकाने की विधि और भारतीय व्यंजनों का इतिहास जो सबको पसंद है",
    "यात्रा",
    "😀🎉 👩‍👩‍👧 videos that everybody loves so much indeed, oh yes",
    "$x^2$ & _this_",
    "a\x1b[31mred",
    "category with the same beginning and (1) the same end",
    "category with the same beginning and (2) the same end",
]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def table(folder):
    """The only table of a results folder, and its answer."""
    (found,) = tables.read_tables(Path(folder))
    return found, answers.compare(found, 0.01) if found.rows else None


def figure(folder, picture=plot.draw_rows):
    """The panels of a picture of a results folder, drawn."""
    library = plot.library()
    drawn = library.figure.Figure(layout="constrained")
    found, answer = table(folder)
    if picture is plot.draw_rows:
        picture(drawn, found, answer)
    else:
        picture(drawn, found)
    drawn.savefig("/dev/null", format="png")
    return drawn


def shown(texts):
    return [text.get_text() for text in texts]


def test_scores_by_layer_with_intervals_far_rows_and_baselines(tmp_path):
    run = write_run(tmp_path, THREE, guesses(THREE, 3, 0.9, 1, 2), layers=(2,))
    write_run(tmp_path, THREE, guesses(THREE, 3, 0.87, 2, 2), layers=(1,))
    write_run(tmp_path, THREE, guesses(THREE, 3, 0.88, 3, 2), layers=(2, 1), head="linear", poolings=("mean",))
    write_run(tmp_path, THREE, np.zeros((2, 300), int), layers=(1,), standardize=True)
    write_baseline(run, "majority", np.zeros((2, 300), int))
    write_baseline(run, "tfidf", guesses(THREE, 3, 0.89, 4, 2))
    drawn = figure(tmp_path)
    left = drawn.axes[0]
    assert shown(left.get_xticklabels()) == ["1", "2", "2, 1"] and left.get_xlabel() == "layers (2 = top)"
    wrong = f1_score(THREE, np.zeros(300), average="macro")
    assert shown(left.texts) == [f"← {wrong:.2f}"]  # below the picture, and so is the majority class
    (legend,) = drawn.legends
    named = shown(legend.get_texts())
    assert {"report's head", "linear probe, mean pooling"} <= set(named)
    assert f"majority class ({wrong:.3f}, below)" in named
    _, answer = table(tmp_path)
    (average,) = answer.averages
    assert f"TF-IDF ({answer.words.value:.3f})" in named
    assert f"layer 2 (report's head + TF-IDF) ({average.value:.3f})" in named
    ends = [collection.get_segments() for collection in left.collections]
    drawn_ends = {tuple(np.round(segment[:, 1], 6)) for segments in ends for segment in segments}
    near = [row for row in table(tmp_path)[0].rows if row.value > 0.5]
    assert drawn_ends == {tuple(np.round(row.interval, 6)) for row in near}


def test_confusion_and_calibration_of_the_recommended_row(tmp_path):
    write_run(tmp_path, THREE, guesses(THREE, 3, 0.5, 1, 2), classes=["a", "b", "c"])
    predictions = guesses(THREE, 3, 0.9, 2, 2)
    probabilities = np.stack([chances(p, 3, sure)[0] for p, sure in zip(predictions, (0.8, 0.8), strict=True)])
    write_run(tmp_path, THREE, probabilities, layers=(2,), classes=["a", "b", "c"])
    _, matrix, calibration = figure(tmp_path).axes
    assert matrix.get_title() == "Recommended: layer 2 (report's head)"
    wanted = np.mean([confusion_matrix(THREE, p) for p in predictions], axis=0)
    assert shown(matrix.texts) == [f"{value:,.0f}" for value in wanted.ravel()]
    assert shown(matrix.get_xticklabels()) == shown(matrix.get_yticklabels()) == ["a", "b", "c"]
    dots = calibration.collections[0].get_offsets()
    right = np.mean(np.all(predictions == THREE, axis=0)) / np.mean(predictions[0] == predictions[1])
    assert dots[-1, 1] == pytest.approx(right, abs=0.02)  # where both repeats agree, the row is surest


@pytest.mark.parametrize("wins", ["average", "words"])
def test_words_and_averages_have_their_panels_where_they_are_recommended(tmp_path, wins):
    """Each is unsure of another third of the titles, so that the average is always right; or words alone are."""
    values = []
    for part in range(2):
        unsure = np.arange(300) % 3 == part if wins == "average" or part == 0 else np.zeros(300, bool)
        named = np.where(unsure, (THREE + 1) % 3, THREE)
        sure = np.where(unsure, 0.5, 0.98)[:, None]
        values.append(np.where(np.arange(3) == named[:, None], sure, (1 - sure) / 2)[None].astype(np.float32))
    run = write_run(tmp_path, THREE, values[0], layers=(2,))
    write_baseline(run, "tfidf", values[1])
    _, matrix, calibration = figure(tmp_path).axes
    name = "layer 2 (report's head + TF-IDF)" if wins == "average" else "TF-IDF"
    assert matrix.get_title() == f"Recommended: {name}"
    counts = np.diag(np.bincount(THREE)).ravel()
    assert shown(matrix.texts) == [f"{count:,}" for count in counts]
    assert calibration.collections[0].get_offsets()[:, 1].tolist()[-1] == 1.0


def test_names_that_the_font_cannot_show_or_that_are_long_stay_distinct(tmp_path):
    labels = np.arange(160) % 8
    write_run(tmp_path, labels, labels, classes=NAMES, encoder={"name": "/модель हिन्दी"}, data={"name": "日本 $x$.csv"})
    left, matrix, _ = figure(tmp_path).axes
    names = shown(matrix.get_yticklabels())
    assert len(set(names)) == 8 and max(map(len, names)) <= 18, names
    assert names[0].startswith("Междунар") and names[4] == "$x^2$ & _this_" and names[5] == r"a\x1b[31mred"
    plot.draw(tmp_path / "p.svg", *table(tmp_path))  # with no warning of a glyph that is missing


def test_twelve_layers_with_six_heads_and_more_than_twenty_categories(tmp_path):
    labels = np.arange(100) % 25
    kinds = [{}, {"standardize": True}, {"reduction": "none"}, {"head": "linear"}]
    kinds += [{"head": "linear", "poolings": poolings} for poolings in (("mean",), ("cls", "mean"))]
    for layer in range(1, 13):
        for i, kind in enumerate(kinds):
            write_run(tmp_path, labels, guesses(labels, 25, 0.9, layer + i), layers=(layer,), depth=12, **kind)
    drawn = figure(tmp_path)
    left, matrix, _ = drawn.axes
    assert drawn.get_figwidth() > 15 and len(drawn.legends[0].get_texts()) == 6
    x = np.sort([segment[0, 0] for collection in left.collections for segment in collection.get_segments()])
    assert len(x) == 72 and np.diff(x).min() > 0.1  # no two rows on top of one another
    pairs = shown(matrix.get_yticklabels())
    assert 8 < len(pairs) <= 10 and all(" → " in name for name in pairs)  # nine of ten titles are right
    assert len(matrix.patches) == len(pairs) and "most confused pairs" in matrix.get_xlabel()


def test_points_stand_over_their_ticks_and_the_legend_within_the_picture(tmp_path):
    """One row of a layer set stands over its tick, several are centred on it, whatever other sets hold."""
    kinds = [{}, {"standardize": True}, {"head": "linear"}, {"head": "linear", "poolings": ("mean",)}]
    for kind in kinds:
        write_run(tmp_path, THREE, guesses(THREE, 3, 0.9, 1), layers=(2,), depth=2, **kind)
    write_run(tmp_path, THREE, guesses(THREE, 3, 0.9, 2), layers=(1,), **kinds[2])
    long = {"standardize": True, "reduction": "none", "hidden": 100, "epochs": 50, "batch_size": 9, "lr": 0.02}
    write_run(tmp_path, THREE, guesses(THREE, 3, 0.9, 3), layers=(2, 1), fusion="concat", **long)
    drawn = figure(tmp_path)
    left = drawn.axes[0]
    x = np.array([segment[0, 0] for collection in left.collections for segment in collection.get_segments()])
    one, two, both = left.get_xticks()
    assert np.isclose(x, one).sum() == 1 and np.isclose(x, both).sum() == 1
    four = x[np.abs(x - two) < 0.5]
    assert len(four) == 4 and np.isclose(four.mean(), two)
    box = drawn.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= drawn.bbox.x1 and box.y0 >= 0


@pytest.mark.parametrize("lines", [1, 12])
def test_a_line_for_each_layer_and_head_by_labels(tmp_path, lines):
    for layer in range(1, lines + 1):
        for size, right in ((8, 0.6), (32, 0.8), (None, 0.9)):
            values = guesses(THREE, 3, right, layer)
            run = write_run(tmp_path, THREE, values, layers=(layer,), depth=12, head="linear", labels=size)
    for size in (8, 32, None):
        write_baseline(run, "tfidf", guesses(THREE, 3, 0.7, 99), size)
    drawn = figure(tmp_path, plot.draw_curves)
    (axes,) = drawn.axes
    assert set(shown(axes.get_xticklabels())) == {"8", "32", "all"} and axes.get_xscale() == "log"
    assert len(axes.lines) == len(axes.collections) == lines + 1 and axes.lines[-1].get_linestyle() == "--"
    named = dict(zip(shown(drawn.legends[0].get_texts()), axes.lines, strict=True))
    wanted = [f1_score(THREE, guesses(THREE, 3, right, 1)[0], average="macro") for right in (0.6, 0.8, 0.9)]
    assert np.allclose(named["layer 1 (linear probe, [CLS])"].get_ydata(), wanted)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_table_gives_the_same_bytes_whatever_the_users_settings(tmp_path, kind):
    for size in (8, None):
        write_run(tmp_path / "r", THREE, guesses(THREE, 3, 0.9), labels=size)
    pictures = [tmp_path / f"p.{kind}", tmp_path / f"p-labels.{kind}"]
    seen = []
    for _ in range(2):
        assert call("evaluate", "--results", tmp_path / "r", "--plot", pictures[0]).code == 0
        seen.append([path.read_bytes() for path in pictures])
        matplotlib.rcParams.update({"font.size": 20, "axes.facecolor": "red"})
    assert seen[0] == seen[1] and all(data[:4] == {"png": b"\x89PNG", "svg": b"<?xm"}[kind] for data in seen[0])


def test_runs_of_few_labels_alone_have_the_second_picture_only(tmp_path):
    write_run(tmp_path / "r", THREE, guesses(THREE, 3, 0.9), labels=8)
    done = call("evaluate", "--results", tmp_path / "r", "--plot", tmp_path / "p.png")
    assert done.code == 0 and f"Picture: {tmp_path / 'p-labels.png'}" in done.err
    assert [path.name for path in tmp_path.glob("*.png")] == ["p-labels.png"]


def test_no_row_to_recommend_shows_the_best(tmp_path):
    write_run(tmp_path, THREE, np.zeros(300, int))
    assert figure(tmp_path).axes[1].get_title() == "Best: layer 1 (report's head)"


def assert_legend_within(drawn):
    box = drawn.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= drawn.bbox.x1 and box.y1 <= drawn.bbox.y1, (box, drawn.bbox)
    assert drawn.axes[0].get_window_extent().height > 200


@pytest.mark.parametrize("name", ["W" * 70, "encoder of " + "many words " * 9], ids=["wide", "words"])
@pytest.mark.parametrize("picture", [plot.draw_rows, plot.draw_curves])
def test_the_longest_of_legends_is_never_cut_off(tmp_path, name, picture):
    """Its first rows have short names, those of the last column all have long ones."""
    for number in range(24):
        encoder = {"name": "e" if number < 8 else name, "weights": f"{number < 8}"}
        options = {"encoder": encoder, "hidden": 100 + number, "standardize": True}
        for size in (8, None):
            write_run(tmp_path, THREE, guesses(THREE, 3, 0.9, number), layers=(2,), labels=size, **options)
    assert_legend_within(figure(tmp_path, picture))
