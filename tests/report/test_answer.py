"""The answer: which row is best, which ones differ from it, and which is recommended; words and combinations, too."""

import re

import numpy as np
import pytest
from conftest import call
from pages import THREE, evaluate, of_class, recommendation, recommended, tables
from sklearn.metrics import f1_score, log_loss
from synthetic import chances, combined, guesses, pooled, write_baseline, write_offsets, write_run

from whichlayer.report import answer as answers
from whichlayer.report.rows import read_tables

# --- what differs, and what is recommended -------------------------------------------------------------------------


@pytest.fixture
def margin(tmp_path):
    """Layer 4 of 4 is best, layer 2 differs from it in few titles, layer 1 is far behind."""
    best = of_class(THREE, 0.05, 1)
    nearly, right = best.copy(), np.flatnonzero(best == THREE)[:2]
    nearly[right] = (THREE[right] + 1) % 3
    for layer, predictions in ((4, best), (2, nearly), (1, of_class(THREE, 0.3, 2))):
        write_run(tmp_path / "margin", THREE, predictions, layers=(layer,), depth=4)
    loss = f1_score(THREE, best, average="macro") - f1_score(THREE, nearly, average="macro")
    return tmp_path / "margin", loss


def test_the_cheapest_row_within_the_margin_is_recommended(margin):
    folder, loss = margin
    done = call("evaluate", "--results", folder)
    marks = {row["Layers"]: row["Difference"] for row in tables(done.out)[0]}
    assert marks["4"] == "best" and marks["2"] == f"({-loss:+.4f})" and re.fullmatch(r"-0\.\d{4}", marks["1"])
    said = recommendation(done.out)
    assert "**Recommended: layer 2 (report's head)**" in said and "50% of the encoder's work" in said
    assert "non-inferior within 0.01 to the best one, layer 4" in said and f"It loses {loss:.4f}" in said
    assert loss < float(re.search(r"with 95% confidence at most (0\.\d+)", said)[1]) <= 0.01
    assert f"predict.py --run {folder} " in done.err and recommended(folder) == ["enc-d.csv-layers-2-repeats-1"]


def test_not_significantly_different_from_the_best_is_not_good_enough(margin):
    folder, _ = margin
    said = recommendation(evaluate(folder, "--margin", 0.004))
    assert "**Recommended: layer 4 (report's head)**" in said
    assert "no cheaper one is shown to be non-inferior within 0.004" in said
    titles = re.search(r"About ([\d,]+) titles would show whether layer 2 \(report's head\) is\.", said)
    assert int(titles[1].replace(",", "")) > 600


SHUFFLED = [np.random.default_rng(10 + seed).permutation(THREE) for seed in range(12)]
LUCKY = guesses(THREE, 3, 0.357)  # right in 37% of the titles: remarkable for one row, not for the best of twelve
FEW = of_class(THREE[:60], 0.2, 1)  # too few to show that any row is non-inferior
# two repeats are nearly perfect, one collapsed: the mean is high, and its interval reaches chance
UNSTABLE = np.stack([of_class(THREE, 0.02, 1), of_class(THREE, 0.02, 2), np.zeros(600, int)])
SOUND = guesses(THREE, 3, 0.6, 3, repeats=3)


@pytest.mark.parametrize(
    "labels, rows, words, recommended",
    [
        (THREE, {(4,): THREE, (2, 1): THREE, (4, 1): THREE}, None, "layers 2, 1 (report's head)"),  # depth comes first
        (THREE[:60], {(3,): FEW, (2,): FEW, (1,): FEW}, None, "layer 1 (report's head)"),
        (THREE[:60], {(3,): FEW, (2,): FEW, (1,): FEW}, FEW, "TF-IDF"),
        (THREE, {(1,): LUCKY}, None, "layer 1 (report's head)"),
        (THREE, {(layer,): LUCKY if layer == 12 else SHUFFLED[layer] for layer in range(1, 13)}, None, "none."),
        (np.arange(400), {(1,): np.random.default_rng(11).permutation(400)}, None, "none."),  # each a category
        (THREE, {(2,): UNSTABLE, (1,): SOUND}, None, "layer 1 (report's head)"),
    ],
)
def test_which_row_is_recommended(tmp_path, labels, rows, words, recommended):
    for layers, values in rows.items():
        run = write_run(tmp_path, labels, values, layers=layers, depth=12)
    if words is not None:
        write_baseline(run, "tfidf", words)
    done = call("evaluate", "--results", tmp_path)
    said = recommendation(done.out)
    assert said.startswith(f"**Recommended: {recommended}**")
    assert ("Next:" in done.err) == (recommended != "none.")
    left_out = "Not shown to beat chance, and left out: layer 2 (report's head), macro-F1 0.7"
    assert (left_out in said) == any(values is UNSTABLE for values in rows.values())


def test_the_table_follows_the_decision(tmp_path):
    """The first category is never named."""
    run = write_run(tmp_path, THREE, guesses(THREE, 3, 0.7), head="linear")
    offsets = np.zeros((1, 5, 3), np.float32)
    offsets[..., 0] = 9
    write_offsets(run, offsets)
    rows = tables(evaluate(tmp_path))
    likeliest = guesses(THREE, 3, 0.7)[0]
    named = np.where(likeliest == 0, 1, likeliest)
    assert rows[0][0]["F1-macro"] == f"{f1_score(THREE, named, average='macro'):.4f}"
    assert next(row for row in rows[1] if row["Category"] == "c0")["F1"] == "0.0000"


# --- words, and both combined -------------------------------------------------------------------------------------

SCORE = "F1-macro, last epoch"


def unsure_of(part):
    """Probabilities that are right, and sure, but for a fifth of the titles, where they are wrong and unsure."""
    unsure = np.arange(600) % 5 == part
    sure = np.where(unsure, 0.55, 0.98).astype(np.float32)
    named = np.where(unsure, (THREE + 1) % 3, THREE)
    return np.where(np.arange(3) == named[:, None], sure[:, None], (1 - sure[:, None]) / 2)[None]


def test_words_that_win_are_recommended_and_cost_nothing(tmp_path):
    run = write_run(tmp_path, THREE, of_class(THREE, 0.3, 1))
    words = write_baseline(run, "tfidf", of_class(THREE, 0.05, 2))
    done = call("evaluate", "--results", tmp_path)
    said = recommendation(done.out)
    assert said.startswith("**Recommended: TF-IDF**, macro-F1 0.9") and "significantly worse" in said
    assert recommended(tmp_path) == [words.name]
    assert {row["Head"] for row in tables(done.out)[0]} == {"report's head", "TF-IDF", "report's head + TF-IDF"}


def test_a_combination_that_is_better_is_recommended_and_of_two_rows_the_cheaper_one_has_one_too(tmp_path):
    """Rows and words are unsure of other titles, of which combinations are sure; layer 2 loses two against layer 4."""
    best = unsure_of(0)
    nearly = best.copy()
    nearly[0, 1:3] = best[0, 1:3, [1, 2, 0]].T
    deep = write_run(tmp_path, THREE, best, layers=(4,), depth=4)
    cheap = write_run(tmp_path, THREE, nearly, layers=(2,), depth=4)
    words = write_baseline(deep, "tfidf", unsure_of(1))
    done = call("evaluate", "--results", tmp_path, "--margin", 0.02)
    both = [row for row in tables(done.out)[0] if row["Head"] == "report's head + TF-IDF"]
    assert {(row["Layers"], row[SCORE]) for row in both} == {("4", "1.0000"), ("2", "0.9965")}
    assert recommended(tmp_path) == [cheap.name, words.name]
    said = recommendation(done.out)
    assert said.startswith("**Recommended: layer 2 (report's head + TF-IDF)**") and "50% of the encoder's work" in said


def test_the_majority_class_and_words_that_know_nothing_never_compete(tmp_path):
    """They have lines in the table, and that is all."""
    run = write_run(tmp_path, THREE, of_class(THREE, 0.4, 1), layers=(2,))
    write_run(tmp_path, THREE, of_class(THREE, 0.45, 2), layers=(1,))
    write_baseline(run, "majority", np.full(600, np.bincount(THREE).argmax()))
    write_baseline(run, "tfidf", SHUFFLED[0])
    text = evaluate(tmp_path, "--margin", 0.9)
    assert recommendation(text).startswith("**Recommended: layer 1 (report's head)**")
    assert [row["Head"] for row in tables(text)[0]][-2:] == ["TF-IDF", "majority class"]


def test_the_combination_of_the_table_is_that_of_other_folds_by_a_plain_loop(tmp_path):
    """Three repeats; exponents of their own; and one of both decides for macro-F1, with offsets of each fold."""
    random = np.random.default_rng(6)
    values = []
    for right, seed, sure in ((0.8, 1, 0.99), (0.75, 9, 0.5)):
        # as sure as it happens to be
        powers = chances(guesses(THREE, 3, right, seed, repeats=3), 3, sure) ** random.uniform(0.5, 1.5, (3, 600, 1))
        values.append((powers / powers.sum(-1, keepdims=True)).astype(np.float32))
    row = write_run(tmp_path, THREE, values[0], head="linear")
    words = write_baseline(row, "tfidf", values[1])
    offsets = random.normal(size=(3, 5, 3)).astype(np.float32)
    write_offsets(words, offsets)
    (table,) = read_tables(tmp_path)
    (both,) = [row for row in answers.compare(table, 0.01).compared if len(row.runs) > 1]

    folds = np.load(row / "folds.npy")
    each = [pooled(v.astype(float), [1 / 3] * 3) for v in values]
    _, by_title, out_of_fold = combined(THREE, folds[0], each)
    assert (by_title.std(0) > 1e-3).all() and (abs(by_title - 0.5) > 0.1).any()
    for repeat, score in enumerate(both.figures.repeat_macro_f1):
        together = pooled([v[repeat] for v in values], by_title.T[..., None])
        own = offsets[repeat][folds[repeat]] * by_title[:, 1:]
        named = (np.log(together) - own).argmax(1)
        assert (named != together.argmax(1)).sum() > 10
        assert score == pytest.approx(f1_score(THREE, named, average="macro"))
    assert both.figures.log_loss == pytest.approx(log_loss(THREE, out_of_fold), abs=1e-4)
    (line,) = [line for line in tables(evaluate(tmp_path))[0] if line["Head"].endswith("+ TF-IDF")]
    assert line["F1-macro"] == f"{both.figures.macro_f1:.4f}" and line["Layers"] == "1"


def test_what_is_recommended_is_compared_with_the_last_four_layers_and_words(tmp_path):
    """Words alone are recommended where nearly any loss is none, the four layers with words where none is."""
    options = {"depth": 5, "head": "linear", "poolings": ("mean",)}
    four = write_run(tmp_path, THREE, unsure_of(0), layers=(5, 4, 3, 2), **options)
    write_baseline(four, "tfidf", unsure_of(1))
    text = evaluate(tmp_path, "--margin", 0.9)
    values = {row["Head"]: float(row["F1-macro"]) for row in tables(text)[0]}
    said = recommendation(text)
    assert said.startswith("**Recommended: TF-IDF**")
    found = re.search(r"Against layers 5, 4, 3, 2 \(probe, mean pooling \+ TF-IDF\), which .* has (-0\.\d+) \(", said)
    lost = values["probe, mean pooling + TF-IDF"] - values["TF-IDF"]
    assert -float(found[1]) == pytest.approx(lost, abs=2e-4)
    # of itself nothing is said
    said = recommendation(evaluate(tmp_path, "--margin", 0))
    assert said.startswith("**Recommended: layers 5, 4, 3, 2 (probe, mean pooling + TF-IDF)**") and "survey" not in said


def test_words_that_add_nothing_have_no_combination(tmp_path):
    """What they name is the opposite of the truth."""
    labels = np.arange(200) % 2
    write_baseline(write_run(tmp_path, labels, of_class(labels, 0.1, 1)), "tfidf", of_class(labels, 0.9, 1))
    assert [row["Head"] for row in tables(evaluate(tmp_path))[0]] == ["report's head", "TF-IDF"]
