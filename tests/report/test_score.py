"""A test file: how good predictions for it are, with intervals, by category and by confused pair; what of it is new."""

import csv
import re

import numpy as np
import pytest
from conftest import call, refused
from pages import tables, unwrapped
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_recall_fscore_support
from test_predict import changed, read, with_offsets

import predict
from whichlayer.heads import runs
from whichlayer.scores import comparison

NAMES = ["art", "food", "travel"]


def write_file(path, rows):
    """A file of (title, label) rows."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("title", "label"), *rows])
    return path


@pytest.fixture
def mixed(kept, tmp_path):
    """20 new titles, two of a category that no run knows, and 10 of the training, in other letters: a DataFrame."""
    rows = []
    for i in range(20):
        rows.append((f"how to see rome and egypt {i}", "news" if i > 17 else ("art", " food ", "travel")[i % 3]))
    for title, label in read(kept.titles)[1:11]:
        rows.append((f"{title.upper()}!", label))
    write_file(tmp_path / "test.csv", rows)
    frame = predict.table(predict.load(kept.words), [title for title, _ in rows])
    return frame.assign(label=[label.strip() for _, label in rows])


def ask(run, path, *options):
    """What predict.py says of a test file."""
    done = call("predict", "--run", run, "--csv", path, "--label-column", "label", *options)
    assert done.code == 0, done.err
    return done.out


def calibration_error(sure, right):
    """The expected calibration error in 15 bins."""
    bins = np.ceil(sure * 15)
    return sum(abs((sure - right)[bins == each].sum()) for each in np.unique(bins)) / len(sure)


# --- figures ------------------------------------------------------------------------------------------------------


def test_accuracy_and_macro_f1_have_intervals_for_all_titles_and_for_the_new_ones(kept, mixed, tmp_path):
    text = ask(kept.words, tmp_path / "test.csv")
    assert text.startswith("Of the 30 titles, 10 were in training, as they are or as copies;")
    rows = text.split("\n\n")[1].splitlines()[2:]
    for line, part in zip(rows, (mixed, mixed[:20]), strict=True):
        name, count, accuracy, of_accuracy, macro, of_macro, loss, error = [
            c.strip() for c in line.strip("|").split("|")
        ]
        assert (name, count) == ("all" if len(part) == 30 else "not in training", str(len(part)))
        assert accuracy == f"{accuracy_score(part.label, part.prediction):.4f}"
        assert macro == f"{f1_score(part.label, part.prediction, average='macro', zero_division=0):.4f}"
        known = part[part.label.isin(NAMES)]
        chances = known.filter(like="probability of ").to_numpy()
        assert loss == f"{log_loss(known.label, chances, labels=NAMES):.4f}"
        assert error == f"{calibration_error(part.probability.to_numpy(), part.label == part.prediction):.4f}"
        for value, interval in ((accuracy, of_accuracy), (macro, of_macro)):
            low, high = map(float, interval.split("–"))
            assert 0 <= low < float(value) < high <= 1 and high - low > 0.2
    assert "not in the log loss: news." in unwrapped(text)
    assert max(len(line) for line in text.splitlines()) <= 120


def test_categories_are_those_of_the_new_titles(kept, mixed, tmp_path):
    new = mixed[:20]
    text = ask(kept.words, tmp_path / "test.csv")
    categories = tables(text)[1]
    names = [*NAMES, "news"]
    scores = precision_recall_fscore_support(new.label, new.prediction, labels=names, zero_division=0)
    assert "What follows is about the titles that were not in training" in text
    assert [float(row["F1"]) for row in categories] == sorted(float(row["F1"]) for row in categories)
    for row in categories:
        number = names.index(row["Category"])
        wanted = [f"{values[number]:.4f}" for values in scores[:3]]
        assert [row["Precision"], row["Recall"], row["F1"]] == wanted
        assert row["Titles"] == str(scores[3][number])


def test_predictions_are_written_beside_the_score(kept, mixed, tmp_path):
    text = ask(kept.words, tmp_path / "test.csv")
    assert ask(kept.words, tmp_path / "test.csv", "--out", tmp_path / "o.csv") == text
    assert [row[2] for row in read(tmp_path / "o.csv")[1:]] == mixed.prediction.tolist()


def test_several_runs_are_scored_like_one(kept, mixed, tmp_path):
    own = [kept.linear, kept.words]
    done = call("predict", "--run", *own, "--csv", tmp_path / "test.csv", "--label-column", "label")
    assert done.code == 0, done.err
    frame = predict.table(predict.load(own), mixed.title.tolist())
    assert tables(done.out)[0][0]["Accuracy"] == f"{accuracy_score(mixed.label, frame.prediction):.4f}"


def test_categories_that_the_file_does_not_hold_are_named_as_they_count_where_predicted(kept, mixed, tmp_path):
    assert "The file has no titles of" not in unwrapped(ask(kept.words, tmp_path / "test.csv"))
    rows = mixed[mixed.label.isin(["art", "food"])]
    text = ask(kept.words, write_file(tmp_path / "t.csv", zip(rows.title, rows.label, strict=True)))
    assert "The file has no titles of travel; where it is predicted, a category without titles" in unwrapped(text)
    assert set(rows.prediction) == set(NAMES)
    wanted = f1_score(rows.label, rows.prediction, labels=NAMES, average="macro", zero_division=0)
    assert tables(text)[0][0]["Macro-F1"] == f"{wanted:.4f}"


def test_what_the_run_decides_for_is_scored(kept, mixed, tmp_path):
    """Offsets of the decision name one category only."""
    offsets = np.zeros((2, 5, 3), np.float32)
    offsets[..., 1] = -99
    folder = with_offsets(kept.linear, tmp_path / "decided", offsets)
    row = tables(ask(folder, tmp_path / "test.csv"))[0][0]
    assert row["Accuracy"] == f"{(mixed.label == 'food').mean():.4f}"


# --- what was in training -----------------------------------------------------------------------------------------


def test_where_most_was_in_training_that_comes_first_with_the_figure_out_of_fold(kept, tmp_path):
    trained = [(title, label) for title, label in read(kept.titles)[1:]]
    value = runs.open_run(kept.words).figures.macro_f1
    said = f"Out of fold, {kept.words.name} has a macro-F1 of {value:.4f}."
    text = ask(kept.words, write_file(tmp_path / "all.csv", trained))
    assert text.startswith("Of the 90 titles, 90 were in training, as they are or as copies;")
    assert said in unwrapped(text.split("|")[0]) and "not in training" not in text
    new = [(f"how to see rome {i}", "art") for i in range(30)]
    text = unwrapped(ask(kept.words, write_file(tmp_path / "most.csv", trained + new)))
    assert text.startswith("Of the 120 titles, 90 were in training,") and said in text.split("|")[0]
    assert "not in training" in text


def test_where_the_features_are_gone_it_is_said_that_nothing_is_known_of_training(kept, mixed, tmp_path):
    run = changed(kept.linear, tmp_path / "run", made__features=str(tmp_path / "gone"))
    asked = ["predict", "--run", run, "--csv", tmp_path / "test.csv", "--label-column", "label"]
    alone = call(*asked)
    assert alone.code == 0 and "in training" not in alone.out and len(tables(alone.out)[0]) == 1
    (line,) = [line for line in alone.err.splitlines() if "in training cannot be checked" in line]
    assert "--features" in line
    assert "10 were in training" in call(*asked, "--features", kept.features).out
    refused(call(*asked, "--features", tmp_path), str(tmp_path))


# --- labels -------------------------------------------------------------------------------------------------------


def test_labels_that_the_run_does_not_know_are_refused_before_an_encoder_is_loaded(kept, tmp_path, loaded):
    write_file(tmp_path / "t.csv", [(f"how to see rome {i}", f"id{i}") for i in range(40)])
    done = call("predict", "--run", kept.linear, "--csv", tmp_path / "t.csv", "--label-column", "label")
    refused(done, "t.csv", "'label'", "none of its labels is known to the run", "'id0'", "'art', 'food', 'travel'")
    assert not loaded and done.out == ""


@pytest.mark.parametrize("labels", [("FOOD", "Travel"), ("fo\u200bod", "new"), ("art.", "f o o d")])
def test_labels_that_are_only_written_otherwise_are_said_to_be(kept, tmp_path, labels):
    write_file(tmp_path / "t.csv", [(f"how to see rome {i}", labels[i % 2]) for i in range(40)])
    done = call("predict", "--run", kept.linear, "--csv", tmp_path / "t.csv", "--label-column", "label")
    words = ["write them as there", "'art', 'food', 'travel'", *map(repr, sorted(labels))]
    refused(done, *words)


@pytest.mark.parametrize("rows, words", [("", "0 rows"), ("a,b\n ,b\n", "row 2"), ("a\n", "row 1")])
def test_a_test_file_that_lacks_something_is_refused(kept, tmp_path, rows, words):
    (tmp_path / "test.csv").write_text("title,label\n" + rows)
    asked = ["predict", "--run", kept.linear, "--csv", tmp_path / "test.csv", "--label-column"]
    refused(call(*asked, "label"), "test.csv", words)
    refused(call(*asked, "kind"), "'kind'")
    refused(call(*asked, "title"), "--label-column")


# --- only what is likely enough -----------------------------------------------------------------------------------


def test_at_least_scores_what_is_answered(kept, mixed, tmp_path):
    new = mixed[:20]
    for least in (0.5, float(new.probability.median())):
        answered = new[new.probability >= least]
        right = answered.label == answered.prediction
        said = re.search(
            r"With a probability of at least (\S+), (\S+)% of the titles are answered, "
            r"and (\S+)% of those answers are right \(95% interval (\S+)% to (\S+)%\)",
            unwrapped(ask(kept.words, tmp_path / "test.csv", "--at-least", least)),
        )
        assert said[1] == f"{least:g}"
        assert said[2] == f"{100 * len(answered) / 20:.1f}" and said[3] == f"{100 * right.mean():.1f}"
        assert float(said[4]) < float(said[3]) < float(said[5])
    text = ask(kept.words, tmp_path / "test.csv", "--at-least", 1)
    assert "No title has a category with a probability of at least 1." in text


# --- the interval of a share --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "right, titles, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_share_is_the_one_that_newcombe_has_computed(right, titles, low, high):
    """Newcombe (1998), Statistics in Medicine 17, table I: Wilson's score interval."""
    found = comparison.share_interval(np.arange(titles) < right, np.arange(titles))
    assert found == pytest.approx((low, high), abs=5e-5)
    # copies that are always right or wrong together are one title
    twice = comparison.share_interval(np.repeat(np.arange(titles) < right, 2), np.repeat(np.arange(titles), 2))
    assert twice == pytest.approx(found)


@pytest.mark.parametrize("copies", [1, 5])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_the_interval_of_a_share_covers_it(share, copies):
    """Of 200 titles, with a fifth of them copied so often; all copies of a title are right or wrong together."""
    random = np.random.default_rng(4)
    covered = []
    for _ in range(2000):
        group = np.repeat(np.arange(200), np.where(np.arange(200) < 40, copies, 1))
        right = (random.random(200) < share)[group]
        low, high = comparison.share_interval(right, group)
        covered.append(low <= share <= high)
    assert 0.93 <= np.mean(covered) <= 0.975
