"""What train.py is to train: options, sets of layers, a run for each, and which runs are there."""

import contextlib
import itertools
from dataclasses import dataclass, replace

import numpy as np

from whichlayer.common import cli, disk
from whichlayer.encoder import store
from whichlayer.encoder.poolings import POOLINGS
from whichlayer.heads import runs, splits
from whichlayer.heads.options import HEADS, PROTOCOL, Options

# the report's sets of layers, counted from the top
REPORTS_SETS = ([0], [1], [2], [3], [0, 1], [0, 1, 2, 3])


@dataclass
class Task:
    """What all runs have in common: titles with labels, and the folds in which they are held out."""

    classes: list[str]  # names, in the order of their numbers
    labels: np.ndarray  # (titles,) int64
    groups: np.ndarray  # (titles,) int64, the same for copies of one another
    folds: np.ndarray  # (repeats, titles) int64


@dataclass(eq=False)
class LayerSet:
    """Runs on the same layers of the same features, which are read for all of them once."""

    features: store.Features
    runs: list[runs.Run]  # that are to be trained: they have no figures yet


# --- what is asked for ----------------------------------------------------------------------------


def choose_options(args):
    """The Options of all runs; options that contradict one another are a Problem."""
    for name in ("head", "layers", "each", "pooling"):
        if args.survey and getattr(args, name):
            raise cli.Problem(
                f"--survey --{name}: the survey is of linear probes on all that was extracted; leave out one of the two"
            )
    head = args.head or ("linear" if args.survey else Options.head)
    names = [*PROTOCOL, *itertools.chain.from_iterable(kind.options for kind in HEADS.values())]
    options = Options(head, **{name: getattr(args, name) for name in names})
    for name in options.unusual:
        if name not in (*PROTOCOL, *HEADS[head].options):
            raise cli.Problem(f"--{name.replace('_', '-')}: --head {head} has no such option; leave it out")
    return options


def open_all(folders):
    """The Features of some folders; other titles than those of the first are a Problem."""
    every = [store.open_features(folder) for folder in folders]
    first = every[0]
    for features in every:
        say_if_changed(features)
        if features.data.titles != first.data.titles:
            raise cli.Problem(
                f"--features {first.folder} {features.folder}: features of different titles, which cannot share a "
                "table; train on one after the other"
            )
    return every


def say_if_changed(features):
    """Say so where the user's file holds something else than when its features were extracted."""
    made = features.made
    # nothing is known of a file that is gone
    with contextlib.suppress(OSError):
        if made and made.titles and disk.sha256(made.titles) != features.data.sha256:
            cli.say(
                f"{made.titles} has changed since {features.folder} was made; the features follow with: {made.command}"
            )


def read_task(features, options):
    """Read titles and labels, tell which titles are copies, and share them among folds.

    A category that is too rare for that is a Problem.
    """
    titles, names = features.titles()
    owners = features.groups()
    classes, labels = np.unique(np.array(names, dtype=object), return_inverse=True)
    classes = classes.tolist()
    groups = splits.group_titles(titles, owners)
    if owners:
        sizes = np.bincount(groups)
        largest = cli.quote(owners[(groups == sizes.argmax()).argmax()])
        of_largest = f"the largest, that of {largest}, has {sizes.max():,} of {len(titles):,} titles"
        cli.say(f"groups that stay in one fold: {len(sizes):,}; {of_largest}")
    folds = splits.repeat_folds(labels, groups, options, classes)
    return Task(classes, labels, groups, folds)


# --- sets of layers -------------------------------------------------------------------------------


def choose_sets(args, features, head):
    """The columns of each run that the arguments ask for: lists of (pooling, layer).

    head: a key of HEADS. What was not extracted is a Problem; of the report's sets, those that were
    are trained, or, where none was, each layer alone.
    """
    if args.survey:
        return survey_sets(features)
    asked = args.pooling or [usual_pooling(features, head)]
    poolings = [pooling for pooling in POOLINGS if pooling in asked]
    available = layers_with(features, poolings)
    if not available:
        option = f"--pooling {' '.join(poolings)}"
        raise cli.Problem(f"{option}: {features.folder} has no such layer; add it with extract.py {option}")
    if args.layers or args.each:
        layers = store.resolve_layers(args.layers or ["all"], features.encoder, poolings, available)
        sets = [[layer] for layer in layers] if args.each else [layers]
    else:
        reports = [[features.encoder.layers - n for n in layers] for layers in REPORTS_SETS]
        sets = [layers for layers in reports if set(layers) <= set(available)]
        sets = sets or [[layer] for layer in available]
    return [side_by_side(poolings, layers) for layers in sets]


def poolings_of(features):
    """The poolings that features hold, in the order of POOLINGS."""
    return [pooling for pooling in POOLINGS if features.layers(pooling)]


def usual_pooling(features, head):
    """The pooling that a head takes unless --pooling says otherwise: its own, or what is there."""
    held = poolings_of(features)
    usual = HEADS[head].pooling
    return usual if usual in held else held[0]


def layers_with(features, poolings):
    """The layers that were extracted with all of some poolings, ascending."""
    return sorted(set.intersection(*(set(features.layers(pooling)) for pooling in poolings)))


def side_by_side(poolings, layers):
    """The columns of layers with some poolings: a list of (pooling, layer)."""
    return [(pooling, layer) for pooling in poolings for layer in layers]


def survey_sets(features):
    """The columns of --survey's runs: every layer alone, the last four, all, all with all poolings.

    "Last" and "all" are meant of the layers that were extracted; sets that coincide are there once.
    Several layers side by side have mean pooling where that was extracted: with [CLS] alone they
    were the best in 1 of 16 cases (results/study.md).
    """
    poolings = poolings_of(features)
    sets = []
    for pooling in poolings:
        sets += [[(pooling, layer)] for layer in layers_with(features, [pooling])[::-1]]
    usual = usual_pooling(features, "linear")
    several = side_by_side([usual], layers_with(features, [usual])[::-1])
    sets += [several[:4], several]
    sets.append(side_by_side(poolings, layers_with(features, poolings)[::-1]))
    return [list(columns) for columns in dict.fromkeys(map(tuple, sets)) if columns]


# --- runs -----------------------------------------------------------------------------------------


def plan_runs(features, sets, classes, options, sizes):
    """A LayerSet for each set of columns, with a run for each number of labels (None: all)."""
    wanted = [replace(options, labels=size) for size in sizes]
    return [LayerSet(features, [new_run(features, columns, classes, each) for each in wanted]) for columns in sets]


def new_run(features, columns, classes, options):
    """The runs.Run that is to be trained, which has no folder yet."""
    names = [store.feature_file(*column) for column in columns]
    deepest = max(layer for _, layer in columns)
    return runs.Run(
        format=runs.FORMAT,
        columns=columns,
        classes=classes,
        options=options,
        encoder=features.encoder,
        data=features.data,
        settings=features.settings,
        features=disk.digest(store.identity(features)),
        files={name: features.files[name].sha256 for name in names},
        flop=features.cost and features.cost.flop[deepest],
    )


def find_missing(results, layer_sets):
    """The LayerSets of what is still to be trained, each run with its folder; says what is there.

    Runs of an earlier state of the titles are trained again. Another run in the place of one is a
    Problem.
    """
    planned = {}  # runs by folder
    missing = []
    for layer_set in layer_sets:
        own = []
        for run in layer_set.runs:
            run.folder = results / runs.run_name(run)
            first = planned.setdefault(run.folder, run)
            if first is not run:
                refuse_other(first, run)
            elif not is_trained(run, layer_set.features):
                own.append(run)
        if own:
            missing.append(LayerSet(layer_set.features, own))
    return missing


def is_trained(run, features):
    """Whether a run is there already; says so."""
    if not run.folder.exists():
        return False
    there = runs.open_run(run.folder)
    if runs.is_earlier(there, features):
        cli.say(f"{runs.out_of_date([there])}, trained again in the same place: {run.folder.name}")
        return False
    refuse_other(there, run)
    cli.say(
        f"{run.folder.name}: trained already (macro-F1 {there.figures.macro_f1:.4f}); "
        f"delete {run.folder} to train it again"
    )
    return True


def refuse_other(first, second):
    """Raise a Problem unless two runs that would share a folder are of the same features."""
    if (first.features, first.files) != (second.features, second.files):
        raise cli.Problem(
            f"{second.folder}: a run of that name is on other features; delete it, or train with another --results"
        )
