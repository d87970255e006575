"""Every stored figure of a table's runs, computed again from heads and features; what differs is a
Problem.
"""

import dataclasses

import numpy as np

from whichlayer.common import cli
from whichlayer.heads import baselines, runs, words


def verify(table, features):
    """Check all runs of a table. features: the folder of their features, or None for where they
    were trained from.
    """
    for row in table.everything:
        run = row.run
        # files and labels are those that were written
        for name in run.config.contents:
            run.file(name)
        opened = runs.features_of(run, features)
        titles, names = opened.titles()
        if [table.classes[number] for number in table.labels] != names:
            raise cli.Problem(f"{run.folder}/labels.npy: not the labels of the features")

        # probabilities are what heads and features give
        weights = None
        if run.baseline:
            again = baselines.out_of_fold(run.baseline, words.count(titles, table.labels), table, run.options)[0]
        else:
            again, weights = from_heads(run, opened, table.folds)
        stored = run.probabilities
        off = float(np.abs(again - stored).max())
        if not off < 1e-4:
            what = f"up to {off:.2g} away from what heads and features give"
            raise cli.Problem(f"{run.folder}/probabilities.npy: {what}")

        # figures are what the probabilities give
        measured = table.measure(stored, run.offsets, heads=1 if run.baseline else None)
        check_figures(run, dataclasses.replace(measured, layer_weights=weights))
        check_history(run)
        check_words(run, titles, table)
        cli.say(f"{run.folder.name}: verified")


def from_heads(run, features, folds):
    """(out-of-fold probabilities of a trained run, its layers' weights or None), from its heads and
    its features.
    """
    import torch  # nothing else here needs it

    import model

    head, state = model.read_heads(run)
    x = torch.from_numpy(features.stack(run.columns))
    weights = model.layer_weights(state) if run.options.head == "mlp" else None
    return model.held_out_probabilities(head, state, x, folds), weights


def check_figures(run, again):
    """Raise a Problem unless a run's stored Figures are these."""
    for field in dataclasses.fields(again):
        old = getattr(run.figures, field.name)
        new = getattr(again, field.name)
        # of these, nothing but training tells
        if field.name not in ("penalties", "grid_ends"):
            check_equal(run, field.name, old, new)


def check_history(run):
    """Raise a Problem unless the last epoch in a run's history.csv has the macro-F1 of the folds."""
    if "history.csv" not in run.config.contents:
        return
    import pandas as pd

    history = pd.read_csv(run.folder / "history.csv")
    last = history[history.epoch == run.options.epochs]
    check_equal(run, "last epoch in history.csv", last.macro_f1.tolist(), np.ravel(run.figures.fold_macro_f1))


def check_words(run, titles, table):
    """Raise a Problem unless the TF-IDF that a run keeps, if any, is what the titles give."""
    if words.FILES[0] not in run.config.contents:
        return
    fitted = words.fit(words.count(titles, table.labels))
    stored = words.read(run)
    same = stored.terms == fitted.terms
    if not same or not np.allclose(stored.weights, fitted.weights, rtol=0, atol=1e-4):
        raise cli.Problem(f"{run.folder}/weights.safetensors: not the weights that all titles give")


def check_equal(run, name, old, new):
    """Raise a Problem unless a stored figure equals the one that was computed again, up to
    rounding.
    """
    same = np.shape(old) == np.shape(new)
    if same and new is not None:
        same = np.allclose(old, new, rtol=0, atol=1e-6)
    if not same:
        raise cli.Problem(f"{run.folder}: its {name} is {old}, computed again it is {new}")
