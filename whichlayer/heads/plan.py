"""What train.py is to train: options, sets of layers, a run for each, and which runs are there."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import data
from whichlayer.common import cli, disk
from whichlayer.encoder import changes, store
from whichlayer.heads import naming, runs, splits
from whichlayer.heads.options import MLP_OPTIONS, PROTOCOL, Options

# what of a configuration is known before the training
PLANNED = ("columns", "classes", "options", "encoder", "data", "settings", "features", "files")
# categories are unequal where the largest has more than so many times the titles of the smallest
UNEQUAL = 3


@dataclass
class Task:
    """What all runs have in common: titles with labels, and the folds in which they are held out."""

    classes: list[str]  # names, in the order of their numbers
    labels: np.ndarray  # (titles,) int64
    groups: np.ndarray  # (titles,) int64, the same for copies of one another
    folds: np.ndarray  # (repeats, titles) int64


@dataclass
class LayerSet:
    """Runs on the same layers of the same features, which are read for all of them once."""

    features: store.Features
    runs: list[runs.Run]  # that are to be trained: they have no figures yet


# --- what is asked for ----------------------------------------------------------------------------


def choose_options(args):
    """The Options of all runs; options that contradict one another are a Problem."""
    if args.survey:
        check_survey(args)
    head = args.head or ("linear" if args.survey else Options.head)
    protocol = {name: getattr(args, name) for name in PROTOCOL}
    given = {name: getattr(args, name) for name in MLP_OPTIONS if getattr(args, name) is not None}
    if head == "mlp":
        if args.decide == "macro-f1":
            why = "the report's head holds no titles out to choose by"
            raise cli.Problem(f"--decide macro-f1: {why}; use --head linear")
        return Options(head="mlp", **given, **protocol)
    # the linear probe always does
    given.pop("standardize", None)
    if given:
        option = "--" + next(iter(given)).replace("_", "-")
        wrong = "an option of the report's head"
        raise cli.Problem(f"{option}: {wrong}; leave it out, or use --head mlp without --survey")
    return Options(head="linear", decide=args.decide, **protocol)


def check_survey(args):
    """Refuse what goes ill with --survey."""
    if args.head == "mlp":
        why = "the survey is of the linear probe"
        raise cli.Problem(f"--survey --head mlp: {why}; leave out one of the two")
    for name in ("layers", "each", "pooling"):
        if getattr(args, name):
            why = "the survey takes all layers and poolings that were extracted"
            raise cli.Problem(f"--survey --{name}: {why}; leave out one of the two")


def open_all(folders):
    """The Features of some folders; other titles than those of the first are a Problem."""
    different = {Path(folder).resolve(): folder for folder in folders}
    every = [store.open_features(folder) for folder in different.values()]
    for features in every:
        say_if_changed(features)
    first = every[0]
    for other in every[1:]:
        if other.manifest.data.titles != first.manifest.data.titles:
            wrong = "features of different titles, which cannot share a table"
            both = f"--features {first.folder} {other.folder}"
            raise cli.Problem(f"{both}: {wrong}; train on one after the other")
    return every


def say_if_changed(features):
    """Say so where the user's file holds something else than when its features were extracted."""
    made = features.manifest.made
    if made and made.source and disk.has_changed(made.source):
        path = made.source.path
        again = store.extract_command(features, path)
        changed = f"{path} has changed since {features.folder} was made"
        cli.say(f"{changed}; the features follow with: {again}")


def read_task(features, options):
    """Read titles and labels, tell which titles are copies, and share them among folds.

    Categories that are too rare for that are a Problem.
    """
    titles, names = features.titles()
    classes, labels = np.unique(np.array(names, dtype=object), return_inverse=True)
    classes = classes.tolist()
    groups = splits.numbered(map(splits.group_key, titles))
    counts = np.bincount(labels)
    if options.split == "grouped":
        counts = splits.distinct_titles(labels, groups)
    rare = data.rare_categories(dict(zip(classes, counts.tolist(), strict=True)), options.folds)
    if rare:
        once = " (copies of a title count once)" if counts.sum() < len(labels) else ""
        raise cli.Problem(f"{features.folder}: {rare}{once}")
    folds = splits.repeat_folds(labels, groups, options, classes)
    return Task(classes, labels, groups, folds)


# --- sets of layers -------------------------------------------------------------------------------


def choose_sets(args, features):
    """The columns of each run that the arguments ask for: lists of (pooling, layer).

    What was not extracted is a Problem, or, of the report's sets, left out.
    """
    if args.survey:
        return survey_sets(features)
    encoder = features.manifest.encoder
    poolings = choose_poolings(args, features)
    available = layers_with(features, poolings)
    if not available:
        what = f"no layer is there with both of {' and '.join(poolings)}"
        raise cli.Problem(f"--pooling {' '.join(poolings)}: {what}; extract it with both")
    if args.layers or args.each:
        wanted = args.layers or ["all"]
        layers = store.resolve_layers(wanted, encoder.layers, encoder.name, poolings, available)
        sets = [[layer] for layer in layers] if args.each else [layers]
    else:
        sets = available_sets(encoder.layers, available, poolings, features.folder)
    return [side_by_side(poolings, layers) for layers in sets]


def choose_poolings(args, features):
    """The poolings that --pooling names, or the first that is there; one that is not is a Problem."""
    held = poolings_of(features)
    poolings = sorted(set(args.pooling or held[:1]))
    for pooling in poolings:
        if pooling not in held:
            more = f"add it with: extract.py --pooling {pooling} and its other options as before"
            raise cli.Problem(f"--pooling {pooling}: {features.folder} holds none; {more}")
    return poolings


def poolings_of(features):
    """The poolings that features hold, [CLS] first."""
    return [pooling for pooling in cli.POOLINGS if features.layers(pooling)]


def layers_with(features, poolings):
    """The layers that were extracted with all of some poolings, ascending."""
    common = set(features.layers(poolings[0]))
    for pooling in poolings[1:]:
        common &= set(features.layers(pooling))
    return sorted(common)


def side_by_side(poolings, layers):
    """The columns of layers with some poolings: a list of (pooling, layer)."""
    return [(pooling, layer) for pooling in poolings for layer in layers]


def available_sets(depth, available, poolings, folder):
    """Those of the report's six layer sets that are there, or else each layer alone."""
    from_top = [[0], [1], [2], [3], [0, 1], [0, 1, 2, 3]]
    wanted = [[depth - n for n in layers] for layers in from_top if max(layers) < depth]
    sets = [layers for layers in wanted if set(layers) <= set(available)]
    missing = [", ".join(map(str, layers)) for layers in wanted if layers not in sets]
    if missing:
        why = f"since not extracted with {' and '.join(poolings)}"
        cli.say(f"{folder}: left out of the report's sets, {why}: {'; '.join(missing)}")
    if not sets:
        cli.say("none of them is left: each layer that was extracted is trained alone")
        sets = [[layer] for layer in reversed(available)]
    return sets


def survey_sets(features):
    """The columns of --survey's runs: every layer alone, the last four, all, all with both
    poolings.

    "Last" and "all" are meant of the layers that were extracted; sets that coincide are there once.
    Several layers side by side have mean pooling where that was extracted: with [CLS] alone they
    were never the best (results/study.md).
    """
    poolings = poolings_of(features)
    sets = []
    for pooling in poolings:
        layers = layers_with(features, [pooling])[::-1]
        sets += [[(pooling, layer)] for layer in layers]
        if pooling != poolings[-1]:
            continue
        if len(layers) >= 4:
            sets.append(side_by_side([pooling], layers[:4]))
        sets.append(side_by_side([pooling], layers))
    common = layers_with(features, poolings)[::-1]
    if common:
        sets.append(side_by_side(poolings, common))

    distinct = []
    for columns in sets:
        if columns not in distinct:
            distinct.append(columns)
    return distinct


# --- runs -----------------------------------------------------------------------------------------


def plan_runs(features, sets, task, options, sizes, survey):
    """A LayerSet for each set of columns, with a run for each of some numbers of labels (None:
    all).

    A survey of unequal categories shows what the decision brings: all layers, with mean pooling
    where it is there, are decided both ways.
    """
    both_ways = None  # columns
    counts = np.bincount(task.labels)
    if survey and None in sizes and counts.max() > UNEQUAL * counts.min():
        pooling = poolings_of(features)[-1]
        both_ways = side_by_side([pooling], layers_with(features, [pooling])[::-1])

    layer_sets = []
    for columns in sets:
        wanted = [replace(options, labels=size) for size in sizes]
        if columns == both_ways:
            other = "likeliest" if options.decide == "macro-f1" else "macro-f1"
            wanted.append(replace(options, decide=other))
        configs = [configure(features, columns, task.classes, each) for each in wanted]
        layer_sets.append(LayerSet(features, [runs.Run(None, config) for config in configs]))
    return layer_sets


def configure(features, columns, classes, options):
    """The runs.Config of a run that is to be trained."""
    manifest = features.manifest
    names = [store.feature_file(pooling, layer) for pooling, layer in columns]
    config = runs.Config(
        format=runs.FORMAT,
        columns=columns,
        classes=classes,
        options=options,
        encoder=manifest.encoder,
        data=replace(manifest.data, classes=None),
        settings=manifest.settings,
        features=disk.digest(store.identity(manifest)),
        files={name: manifest.files[name].sha256 for name in names},
    )
    if manifest.cost is None:
        return config
    deepest = max(layer for _, layer in columns)
    return replace(config, flop=manifest.cost.flop[deepest], tokens=manifest.cost.tokens)


def find_missing(results, layer_sets):
    """The LayerSets of what is still to be trained, each run with its folder; says what is there.

    Runs of an earlier state of the titles are trained again. Another run in the place of one is a
    Problem.
    """
    planned = {}  # configurations by folder
    missing = []
    outdated = find_outdated(results, [layer_set.features for layer_set in layer_sets])
    for layer_set in layer_sets:
        own = []
        for run in layer_set.runs:
            folder = find_folder(results, run.config, planned)
            if folder in planned:
                differ = differing(planned[folder], run.config)
                if differ:
                    wrong = f"two features folders give a run that name, but their {differ} differ"
                    remedy = "train on one after the other, with another --results"
                    raise cli.Problem(f"{folder}: {wrong}; {remedy}")
                continue
            planned[folder] = run.config
            if folder in outdated or not is_trained(folder, run.config):
                own.append(replace(run, folder=folder))
        if own:
            missing.append(LayerSet(layer_set.features, own))
    say_outdated(outdated, planned)
    return missing


def find_outdated(results, every):
    """The runs that were trained on some features before their titles changed: {folder: Run}."""
    there = []
    for path in sorted(results.glob("[!.]*/config.json")):
        # a damaged run is in nobody's way here
        with contextlib.suppress(cli.Problem):
            there.append(runs.open_run(path.parent))
    return {run.folder: run for run in changes.find_outdated(there, every)}


def say_outdated(outdated, planned):
    """Say which runs are of earlier titles, and what becomes of them. planned: by folder."""
    again = [run for folder, run in outdated.items() if folder in planned]
    others = [run for folder, run in outdated.items() if folder not in planned]
    if again:
        cli.say(f"{changes.out_of_date(again)}, trained again in the same place")
    if others:
        names = ", ".join(run.folder.name for run in others[:3])
        names += ", …" if len(others) > 3 else ""
        kept = f"not asked for, kept in a table of the earlier titles: {names}"
        cli.say(f"{changes.out_of_date(others)}, {kept}")


def find_folder(results, config, planned):
    """The folder of a run. Where another encoder of that name has it, the name tells them apart.

    planned: configurations by folder, of runs that are to come.
    """
    folder = results / naming.run_name(config)
    telling = results / naming.run_name(config, tell_apart=True)
    if telling.exists():
        return telling
    other = planned.get(folder)
    if other is None and folder.exists():
        other = runs.open_run(folder).config
    if other is not None and other.encoder.weights != config.encoder.weights:
        return telling
    return folder


def is_trained(folder, config):
    """Whether a run is there already; another one in its place is a Problem."""
    if not folder.exists():
        return False
    run = runs.open_run(folder)
    differ = differing(run.config, config)
    if differ:
        wrong = f"a run of that name is there, but its {differ} differ"
        raise cli.Problem(f"{folder}: {wrong}; delete it, or choose another --results")
    again = f"delete {folder} to train it again"
    cli.say(f"{folder.name}: trained already (macro-F1 {run.figures.macro_f1:.4f}); {again}")
    return True


def differing(first, second):
    """In what two runs.Config are not of the same run, in words; empty where they are."""
    names = [name for name in PLANNED if getattr(first, name) != getattr(second, name)]
    return cli.listing(names) if names else ""
