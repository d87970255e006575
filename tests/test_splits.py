"""Splits: repeats with folds of their own, draws of a few labels, parts of the training titles held out for choices."""

import numpy as np
import pytest

import cli
import splits


def titles(classes=(80, 60, 40), copies=3, seed=0):
    """(labels, groups) of so many titles of each class; each group holds up to `copies` titles of its class."""
    labels = np.repeat(np.arange(len(classes)), classes)
    groups = splits.numbered((label, i // copies) for label, count in enumerate(classes) for i in range(count))
    order = np.random.default_rng(seed).permutation(len(labels))
    return labels[order], groups[order]


def chosen(**options):
    return {**cli.OPTIONS, **options}


def drawn(labels, groups, size, seed=0, **options):
    """The folds of all repeats, and what each head learns from when `size` labels of each category are drawn."""
    folds = splits.repeat_folds(labels, groups, chosen(seed=seed, **options))
    return folds, splits.draw_titles(labels, groups, folds, seed, size)


def test_repeats_have_different_folds_and_the_first_are_those_of_the_seed():
    labels, groups = titles()
    folds = splits.repeat_folds(labels, groups, chosen(repeats=4, seed=7))
    assert folds.shape == (4, 180)
    np.testing.assert_array_equal(folds[0], splits.repeat_folds(labels, groups, chosen(repeats=1, seed=7))[0])
    np.testing.assert_array_equal(folds[:2], splits.repeat_folds(labels, groups, chosen(repeats=2, seed=7)))
    together = folds[:, :, None] == folds[:, None]  # are two titles in one fold? whatever the folds are called
    assert len({pairs.tobytes() for pairs in together}) == 4
    assert not np.array_equal(folds[0], splits.repeat_folds(labels, groups, chosen(repeats=1, seed=8))[0])


def test_grouped_keeps_copies_together_in_every_repeat_and_random_does_not():
    labels, groups = titles()
    torn = {}
    for split in ("grouped", "random"):
        folds = splits.repeat_folds(labels, groups, chosen(split=split, repeats=3))
        for held in folds:
            torn.setdefault(split, []).append(sum(len(set(held[groups == group])) > 1 for group in np.unique(groups)))
            for label in range(3):  # stratified: even within a group
                assert np.ptp(np.bincount(held[labels == label], minlength=5)) <= 3
    assert torn["grouped"] == [0, 0, 0] and min(torn["random"]) > 20


def test_no_head_learns_from_its_held_out_fold_and_without_a_size_it_learns_from_all_others():
    labels, groups = titles()
    folds, every = drawn(labels, groups, None)
    heads = [(held, fold) for held in folds for fold in range(5)]
    assert len(every) == len(heads) == 15
    for (held, fold), (rows, parts) in zip(heads, every, strict=True):
        np.testing.assert_array_equal(rows, np.flatnonzero(held != fold))
        assert rows.dtype == np.int32 and parts.shape == rows.shape and parts.dtype == np.int8
    for size in (1, 5, 1000):
        for (held, fold), (rows, _) in zip(heads, splits.draw_titles(labels, groups, folds, 0, size), strict=True):
            assert (held[rows] != fold).all()


def test_few_labels_are_nested_count_copies_once_and_are_no_more_than_asked_for():
    labels, groups = titles(classes=(300, 150, 24))
    draws = {size: drawn(labels, groups, size)[1] for size in (8, 16, 32)}
    folds, every = drawn(labels, groups, None)
    for head, (rows, _) in enumerate(every):
        there = [len(np.unique(groups[rows[labels[rows] == label]])) for label in range(3)]
        for size, heads in draws.items():
            own = heads[head][0]
            assert len(np.unique(groups[own])) == len(own)
            np.testing.assert_array_equal(np.bincount(labels[own]), np.minimum(there, size))
        assert set(draws[8][head][0]) < set(draws[16][head][0]) < set(draws[32][head][0])
    assert len({heads[0].tobytes() for heads in draws[8]}) == 15  # each head draws titles of its own


def test_draws_depend_on_the_seed_and_on_nothing_else():
    labels, groups = titles()
    folds = splits.repeat_folds(labels, groups, chosen())
    one, same, other = (splits.draw_titles(labels, groups, folds, seed, 8) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(np.array_equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("size, parts", [(None, 4), (32, 4), (8, 4), (4, 4), (3, 2), (2, 2), (1, 1)])
def test_parts_are_stratified_and_keep_copies_together(size, parts):
    labels, groups = titles()
    for rows, part in drawn(labels, groups, size)[1]:
        assert sorted(set(part)) == list(range(parts))
        assert all(len(set(part[groups[rows] == group])) == 1 for group in groups[rows])
        for label in range(3):
            first = np.unique(groups[rows], return_index=True)[1]  # one title of each group
            own = part[first][labels[rows[first]] == label]
            assert np.ptp(np.bincount(own, minlength=parts)) <= 1


def test_a_category_whose_titles_all_stand_in_another_one_too_is_drawn_as_well():
    labels, groups = titles(classes=(40, 40, 6), copies=1)
    groups[labels == 2] = groups[labels == 0][:6]
    for size in (1, 4):
        for rows, _ in drawn(labels, groups, size)[1]:
            np.testing.assert_array_equal(np.bincount(labels[rows]), [size] * 3)


def test_sizes_that_are_too_large_are_left_out_with_a_line(capsys):
    labels, groups = titles(classes=(90, 60, 30))  # 30, 20 and 10 distinct titles, 24, 16 and 8 of them in training
    folds = splits.repeat_folds(labels, groups, chosen())
    assert splits.label_sizes([16, 8, 16], labels, groups, folds) == [8, 16]
    assert "--labels 16: 1 of 3 categories have fewer titles" in capsys.readouterr().err
    assert splits.label_sizes([None, 100, 8], labels, groups, folds) == [8, None]
    assert "left out: --labels 100" in capsys.readouterr().err
    assert splits.label_sizes([None], labels, groups, folds) == [None]
    assert splits.label_sizes([100, 24], labels, groups, folds) == [24]
    with pytest.raises(cli.Problem, match="--labels 25 100: no category.*--labels all"):
        splits.label_sizes([100, 25], labels, groups, folds)
