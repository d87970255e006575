"""Splits: copies, folds, repeats with folds of their own, draws of a few labels, parts of the training titles."""

import string
import unicodedata

import numpy as np
import pytest
from generated import many
from hypothesis import given
from hypothesis import strategies as st

from whichlayer.common import cli
from whichlayer.heads import splits
from whichlayer.heads.options import Options


def titles(classes=(80, 60, 40), copies=3, seed=0):
    """(labels, groups) of so many titles of each class; each group holds up to `copies` titles of its class."""
    labels = np.repeat(np.arange(len(classes)), classes)
    groups = splits.numbered((label, i // copies) for label, count in enumerate(classes) for i in range(count))
    order = np.random.default_rng(seed).permutation(len(labels))
    return labels[order], groups[order]


def drawn(labels, groups, size, seed=0, **options):
    """The folds of all repeats, and the Draw of each head when `size` labels of each category are drawn."""
    folds = splits.repeat_folds(labels, groups, Options(seed=seed, **options))
    return folds, splits.draw_titles(labels, groups, folds, seed, size)


# --- copies --------------------------------------------------------------------------------------------------------


ALIKE = """Pasta! PASTA|Straße STRASSE|café cafe\u0301|ﬁne fine|a_b-c abc|ΟΔΟΣ οδος|❤️ ❤|It´s It's
|क्\u200dष क्ष|ｶﾞ ガ|a\u034fb ab|1️⃣ 1"""
DIFFERENT = """??? !!!|🎸 🔥|... 🎸|cafe café|10 100|नमस्ते hello|你好 再见|दिन दान|दिन दीन|दान दीन|มา มี|கல் கால்
|שָׁלוֹם שלום"""


def test_copies_have_one_key_and_different_titles_have_others():
    spaced = [
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("Pasta 🎸", "pasta"),
        (" 🎸", "🎸 "),
        ("family 👩‍👩‍👧", "Family"),
    ]
    for one, other in [pair.split() for pair in ALIKE.split("|")] + spaced:
        assert splits.group_key(one) == splits.group_key(other), one
    for one, other in [pair.split() for pair in DIFFERENT.split("|")]:
        assert splits.group_key(one) != splits.group_key(other), one


@many
@given(st.text())
def test_a_key_is_its_own_key(title):
    key = splits.group_key(title)
    assert splits.group_key(key) == key
    assert splits.group_key(f" {title} ") == key
    if set(title) & set(string.ascii_letters + string.digits):
        assert key
        assert all(c.isalnum() or unicodedata.category(c) in ("Mn", "Mc") for c in key)


# --- folds ---------------------------------------------------------------------------------------------------------


@many
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=120),
    st.integers(2, 5),
    st.integers(0, 10**9),
)
def test_copies_share_a_fold_and_every_fold_has_every_class(pairs, k, seed):
    """Or one line names a class; it may not where each class has k titles and no title stands in two classes."""
    labels, groups = np.array(pairs).T
    labels = splits.numbered(labels.tolist())
    classes = range(labels.max() + 1)
    distinct = [len(np.unique(groups[labels == label])) for label in classes]
    try:
        folds = splits.make_folds(labels, groups, k, seed)
    except cli.Problem as problem:
        assert min(distinct) < k or len(set(pairs)) > len(np.unique(groups))
        assert f"--folds {k}" in str(problem)
        assert "category " in str(problem)
        return
    assert folds.shape == labels.shape
    assert folds.dtype == np.int64
    for group in groups:
        assert len(np.unique(folds[groups == group])) == 1
    for label in classes:
        assert set(folds[labels == label].tolist()) == set(range(k))  # so every training part has the class, too
    np.testing.assert_array_equal(folds, splits.make_folds(labels, groups, k, seed))


def test_folds_stay_those_of_earlier_versions():
    """Runs on the disk can be compared only while a seed gives the folds that it always gave."""
    labels, groups = titles(classes=(9, 6, 6), copies=2)
    assert "".join(map(str, splits.make_folds(labels, groups, 3, seed=0))) == "212021102110101000202"


# --- repeats -------------------------------------------------------------------------------------------------------


def test_repeats_have_different_folds_and_the_first_are_those_of_the_seed():
    labels, groups = titles()
    folds = splits.repeat_folds(labels, groups, Options(repeats=4, seed=7))
    np.testing.assert_array_equal(folds[0], splits.make_folds(labels, groups, 5, 7))
    np.testing.assert_array_equal(folds[:2], splits.repeat_folds(labels, groups, Options(repeats=2, seed=7)))
    other = splits.repeat_folds(labels, groups, Options(repeats=1, seed=8))
    every = np.concatenate([folds, other])
    together = every[:, :, None] == every[:, None]  # are two titles in one fold? whatever the folds are called
    assert len({pairs.tobytes() for pairs in together}) == 5


@pytest.mark.parametrize("split", ["grouped", "random"])
def test_grouped_keeps_copies_together_in_every_repeat_and_random_does_not(split):
    labels, groups = titles()
    for held in splits.repeat_folds(labels, groups, Options(split=split, repeats=3)):
        torn = [group for group in np.unique(groups) if len(np.unique(held[groups == group])) > 1]
        if split == "grouped":
            assert not torn
        else:
            assert len(torn) > 20
        for label in range(3):  # stratified: even within a group
            assert np.ptp(np.bincount(held[labels == label], minlength=5)) <= 3


# --- draws ---------------------------------------------------------------------------------------------------------


def test_no_head_learns_from_its_held_out_fold_and_without_a_size_it_learns_from_all_others():
    labels, groups = titles()
    folds, every = drawn(labels, groups, None)
    heads = [(held, fold) for held in folds for fold in range(5)]
    _, few = drawn(labels, groups, 5)
    for (held, fold), draw, own in zip(heads, every, few, strict=True):
        np.testing.assert_array_equal(draw.rows, np.flatnonzero(held != fold))
        assert draw.parts.shape == draw.rows.shape
        assert (held[own.rows] != fold).all()


def test_few_labels_are_nested_count_copies_once_and_are_no_more_than_asked_for():
    labels, groups = titles(classes=(300, 150, 24))
    draws = {size: drawn(labels, groups, size)[1] for size in (8, 16, 32)}
    _, every = drawn(labels, groups, None)
    for head, draw in enumerate(every):
        there = splits.distinct_titles(labels[draw.rows], groups[draw.rows])
        for size in draws:
            own = draws[size][head].rows
            assert len(np.unique(groups[own])) == len(own)
            np.testing.assert_array_equal(np.bincount(labels[own]), np.minimum(there, size))
        assert set(draws[8][head].rows) < set(draws[16][head].rows) < set(draws[32][head].rows)
    assert len({draw.rows.tobytes() for draw in draws[8]}) == 15  # each head draws titles of its own


@pytest.mark.parametrize("size, parts", [(None, 4), (32, 4), (8, 4), (4, 4), (3, 2), (2, 2), (1, 1)])
def test_parts_are_stratified_and_keep_copies_together(size, parts):
    labels, groups = titles()
    for draw in drawn(labels, groups, size)[1]:
        assert sorted(set(draw.parts)) == list(range(parts))
        group = groups[draw.rows]
        for own in np.unique(group):
            assert len(set(draw.parts[group == own])) == 1
        _, first = np.unique(group, return_index=True)  # one title of each group
        for label in range(3):
            own = draw.parts[first][labels[draw.rows[first]] == label]
            assert np.ptp(np.bincount(own, minlength=parts)) <= 1


def test_sizes_are_those_asked_for_unless_one_is_too_large(capsys):
    labels, groups = titles(classes=(90, 60, 30))  # 30, 20 and 10 distinct titles, 24, 16 and 8 of them in training
    for wanted, kept in (([16, 8, 16], [8, 16]), ([None, 24, 8], [8, 24, None]), ([None], [None])):
        assert splits.label_sizes(wanted, labels, groups, 5) == kept
    assert "--labels 24: 2 of 3 categories have fewer distinct titles" in capsys.readouterr().err
    with pytest.raises(cli.Problem, match="--labels 25: no category.*24 distinct titles.*--labels all"):
        splits.label_sizes([25, 10, None], labels, groups, 5)
