"""Pictures: they show the table's figures, whatever the names in it, and the same table gives the same bytes."""

import warnings

import matplotlib
import numpy as np
import pytest
from conftest import call
from pages import label_curve, of_class
from sklearn.metrics import confusion_matrix, f1_score
from synthetic import guesses, write_baseline, write_run

from whichlayer.report import answer as answers
from whichlayer.report import pictures
from whichlayer.report.rows import read_tables

THREE = np.random.default_rng(0).integers(0, 3, 300)
# Cyrillic, Hindi, emoji, markup, an escape
NAMES = [
    "Международные новости и события в мире культуры, часть первая",
    "खाना पकाने की विधि और भारतीय व्यंजनों का इतिहास जो सबको पसंद है",
    "😀🎉 👩‍👩‍👧 videos that everybody loves so much indeed, oh yes",
    "$x^2$ & _this_",
    "a\x1b[31mred",
]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def draw(folder, picture=pictures.draw_rows):
    """The only table of a results folder, its answer, and a picture of it, drawn."""
    (table,) = read_tables(folder)
    answer = answers.compare(table, 0.01)
    drawn = picture(table, answer) if picture is pictures.draw_rows else picture(table)
    drawn.savefig("/dev/null", format="png")
    return table, answer, drawn


def shown(texts):
    return [text.get_text() for text in texts]


def intervals(axes):
    """The x and the ends of all intervals: (n, 3), by x."""
    segments = [segment for lines in axes.collections for segment in lines.get_segments()]
    return np.array(sorted((segment[0, 0], *segment[:, 1]) for segment in segments))


def test_scores_by_layer_with_intervals_far_rows_and_baselines(tmp_path):
    run = write_run(tmp_path, THREE, guesses(THREE, 3, 0.9), layers=(2,))
    write_run(tmp_path, THREE, guesses(THREE, 3, 0.88, 3), layers=(2, 1), head="linear", poolings=("mean",))
    far = of_class(THREE, 0.8, 1)
    write_run(tmp_path, THREE, far, layers=(1,), standardize=True)
    write_baseline(run, "tfidf", guesses(THREE, 3, 0.89, 4))
    table, answer, drawn = draw(tmp_path)
    left = drawn.axes[0]
    assert shown(left.get_xticklabels()) == ["1", "2", "2, 1"]
    assert left.get_ylim()[0] < f1_score(THREE, far, average="macro")  # no row is below the picture
    lines = [f"{row.name} ({row.value:.3f})" for row in answer.compared if row is answer.words or len(row.runs) > 1]
    kinds = ["probe, mean pooling", "report's head", "standardised"]
    assert shown(drawn.legends[0].get_texts()) == kinds + lines
    found = {tuple(ends) for ends in np.round(intervals(left)[:, 1:], 6)}
    assert found == {tuple(np.round(row.interval, 6)) for row in table.rows}


def test_confusions_and_calibration_of_the_recommended_row(tmp_path):
    write_run(tmp_path, THREE, guesses(THREE, 3, 0.5, 1, 2))
    predictions = guesses(THREE, 3, 0.9, 2, 2)
    write_run(tmp_path, THREE, predictions, layers=(2,))
    _, confused, calibration = draw(tmp_path)[2].axes
    assert confused.get_title() == "layer 2 (report's head)"
    counts = np.mean([confusion_matrix(THREE, p) for p in predictions], axis=0)
    bars = dict(zip(shown(confused.get_yticklabels()), [bar.get_width() for bar in confused.patches], strict=True))
    assert bars == {f"c{i} → c{j}": counts[i, j] for i, j in np.ndindex(3, 3) if i != j and counts[i, j]}
    dots = calibration.collections[0].get_offsets()
    right = np.mean(np.all(predictions == THREE, axis=0)) / np.mean(predictions[0] == predictions[1])
    assert dots[-1, 1] == pytest.approx(right, abs=0.02)  # where both repeats agree, the row is surest


def test_names_that_are_long_or_that_the_font_lacks(tmp_path):
    labels = np.arange(100) % 5
    wrong = (labels + 1) % 5
    write_run(tmp_path, labels, wrong, classes=NAMES, encoder={"name": "/модель हिन्दी"}, data={"name": "日本 $x$.csv"})
    table, answer, drawn = draw(tmp_path)
    names = [name.partition(" → ")[0] for name in shown(drawn.axes[1].get_yticklabels())]
    assert len(set(names)) == 5 and max(map(len, names)) <= 18, names
    assert names[0].startswith("Междунар") and names[3:] == ["$x^2$ & _this_", r"a\x1b[31mred"]
    pictures.draw(tmp_path / "p.svg", table, answer)  # with no warning of a glyph that is missing


def test_many_layers_heads_and_categories(tmp_path):
    """Rows of one set of layers are centred over its tick, no two on top of one another."""
    labels = np.arange(100) % 25
    kinds = [{"standardize": True}, {"head": "linear"}, {"head": "linear", "poolings": ("mean",)}]
    for layer in range(1, 21):
        for kind in kinds:
            write_run(tmp_path, labels, guesses(labels, 25, 0.9, layer), layers=(layer,), depth=20, **kind)
    left, confused, _ = draw(tmp_path)[2].axes
    assert left.figure.get_figwidth() == 15
    x = intervals(left)[:, 0]
    assert len(x) == 60 and np.diff(x).min() > 0.1
    np.testing.assert_allclose(x.reshape(20, 3).mean(1), left.get_xticks())
    assert 8 < len(confused.patches) <= 10  # nine of ten titles are right


def test_a_line_for_each_layer_and_head_by_labels(tmp_path):
    for layer in range(1, 13):
        shares = {8: 0.4, 32: 0.2, None: 0.1} if layer > 1 else {8: 0.5, None: 0.3}
        label_curve(tmp_path, shares, layers=(layer,), depth=12)
    table, _, drawn = draw(tmp_path, pictures.draw_curves)
    (axes,) = drawn.axes
    assert shown(axes.get_xticklabels()) == ["8", "32", "all"]
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == len(axes.collections) == 12
    assert len(set(intervals(axes)[:, 0])) == 35  # no two on top of one another
    assert shown(drawn.legends[0].get_texts())[-1] == "layer 1 (probe, [CLS])"
    points = [(0, table.learning_curve[-1].value), (2, table.rows[-1].value)]
    np.testing.assert_allclose(axes.lines[-1].get_xydata(), points, atol=0.1)


def test_lines_differ_in_colour_and_words_are_gray(tmp_path):
    """Curves of several layers, of which the second encoder has one only."""
    for name, layers in (("small", (1, 2)), ("large", (2,))):
        for layer in layers:
            label_curve(tmp_path, {8: 0.3, None: 0.1}, layers=(layer,), encoder={"name": name, "weights": name})
    labels = read_tables(tmp_path)[0].labels
    write_baseline(next(tmp_path.glob("small*")), "tfidf", guesses(labels, 3, 0.6), 8)
    by_labels = {line.get_label(): line.get_color() for line in draw(tmp_path, pictures.draw_curves)[2].axes[0].lines}
    assert len(by_labels) == len(set(by_labels.values())) == 4
    assert by_labels["TF-IDF"] == pictures.GRAY
    # layers of one encoder are points of one colour
    points = [line for line in draw(tmp_path)[2].axes[0].lines if line.get_marker() != "None"]
    assert len({line.get_color() for line in points}) == 2


def test_confusions_that_differ_by_repeat_are_shown_with_a_decimal(tmp_path):
    labels = np.arange(40) % 2
    predictions = np.stack([labels] * 3)
    predictions[0, [0, 2, 1]] = [1, 1, 0]
    predictions[1, [0, 2]] = 1
    write_run(tmp_path, labels, predictions)
    confused = draw(tmp_path)[2].axes[1]
    assert [float(text) for text in shown(confused.texts)] == [1.3, 0.3]
    assert "mean titles a repeat" in confused.get_xlabel()


@pytest.mark.parametrize("kind, start, sizes", [("png", b"\x89PNG", [8]), ("svg", b"<?xm", [8, None])])
def test_the_same_table_gives_the_same_bytes_whatever_the_users_settings(tmp_path, kind, start, sizes):
    """Runs of few labels alone have the second picture only."""
    for size in sizes:
        write_run(tmp_path / "r", THREE, guesses(THREE, 3, 0.9), labels=size)
    seen = []
    for _ in range(2):
        done = call("evaluate", "--results", tmp_path / "r", "--plot", tmp_path / f"p.{kind}")
        assert done.code == 0 and f"Picture: {tmp_path / 'p-labels'}.{kind}" in done.err
        seen.append([path.read_bytes() for path in sorted(tmp_path.glob(f"*.{kind}"))])
        matplotlib.rcParams.update({"font.size": 20, "axes.facecolor": "red"})
    assert seen[0] == seen[1] and [data[:4] for data in seen[0]] == [start] * len(sizes)
