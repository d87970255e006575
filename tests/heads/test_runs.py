"""Names of runs: what differs from the defaults is in them, and every disk can hold them."""

import pytest

from whichlayer.encoder import store
from whichlayer.heads import runs
from whichlayer.heads.options import Options


def run_of(columns=(("cls", 2), ("cls", 1)), encoder="some/encoder", data="titles.csv", **options):
    """A run with these options."""
    return runs.Run(
        format=runs.FORMAT,
        classes=[],
        options=Options(**options),
        data=store.TitlesInfo(name=data, sha256="s", titles="t", rows=1),
        columns=columns,
        encoder=store.EncoderInfo(encoder, revision=None, layers=2, hidden=8, weights="w", tokenizer="t"),
    )


def named(*arguments, **options):
    """The name of a run's folder."""
    return runs.run_name(run_of(*arguments, **options))


def test_names_of_runs_show_every_option_that_is_not_the_default():
    assert named() == "encoder-titles.csv-layers-2-1"
    assert named([("mean", 2), ("mean", 1)], head="linear") == "encoder-titles.csv-layers-2-1-mean-linear"
    names = {named([("cls", 2), ("mean", 2)]), named([("cls", 2)]), named([("mean", 2)])}
    other = {"head": "linear", "standardize": True, "fusion": "mix", "reduction": "none", "hidden": 8, "labels": 16}
    other |= {"folds": 4, "repeats": 9, "split": "random", "epochs": 7, "batch_size": 32, "lr": 0.002, "seed": 3}
    other |= {"decide": "macro-f1"}
    assert set(other) == set(vars(Options()))
    for option, value in other.items():
        name = named(**{option: value})
        shown = option if value is True else str(value)
        assert shown in name.removeprefix(named()), option
        names.add(name)
    assert len(names) == 3 + len(other)


@pytest.mark.parametrize("name", ["n" * 70, "題" * 70, "/".join("ab") + "é" * 200, "a b/c\\d:e*?\n"])
def test_names_of_runs_fit_every_disk(name):
    columns = [("cls", layer) for layer in range(48, 0, -1)]
    one = named(columns, name, name, seed=12345, standardize=True)
    other = named(columns, name, name, seed=12346, standardize=True)
    assert one != other
    assert len(one.encode()) <= 200
    assert not set("/\\:*?\n ") & set(one)
