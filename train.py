"""Train heads on frozen features and score them out of fold.

    python train.py                                       # the report's six layer sets
    python train.py --layers 12 11                        # one head on the fusion of layers 12 and 11
    python train.py --each --head linear                  # a linear probe on every extracted layer alone
    python train.py --head linear --layers -1 --labels 8 16 32 64 128    # how many labels does it take?

In each repeat every title is predicted once, by a head that has not seen it or a copy of it. The heads of all folds
and repeats train together.
"""

import cli
from options import MLP_OPTIONS, PROTOCOL, Options


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("--features", default="features", metavar="FOLDER", help="what extract.py made")
    add("--results", default="results", metavar="FOLDER", help="where runs go, a folder each")
    add(
        "--layers",
        nargs="+",
        metavar="N",
        help="layers to train on, together: numbers from 1, or -1 (last), -2 …, or all "
        "(default: the report's six sets)",
    )
    add("--each", action="store_true", help="train every extracted layer, or every one of --layers, alone")
    add(
        "--pooling",
        nargs="+",
        choices=cli.POOLINGS,
        help="features to use, or both side by side (default: cls where there is, else mean)",
    )
    add(
        "--head",
        choices=("mlp", "linear"),
        default=Options.head,
        help="mlp is the report's head, linear a logistic regression on standardised features",
    )
    add(
        "--labels",
        nargs="+",
        type=label_count,
        default=[None],
        metavar="N",
        help="so many labelled titles of each category in training, or all; a run for each size (default: all)",
    )
    add(
        "--decide",
        choices=("likeliest", "macro-f1"),
        help="name the likeliest category, or the one with the largest p / prior^τ, τ chosen for macro-F1 "
        "(default: macro-f1 with --head linear, likeliest with mlp)",
    )
    add("--folds", type=cli.number(int, 2), default=Options.folds, help="parts that are held out in turn")
    add(
        "--repeats",
        type=cli.number(int, 1, 1000),
        default=Options.repeats,
        help="how often all of it is done with new folds, first weights and order",
    )
    add(
        "--split",
        choices=("grouped", "random"),
        default=Options.split,
        help="grouped keeps copies of a title on one side of the split, random does not",
    )
    add("--seed", type=cli.number(int, 0), default=Options.seed, help="decides folds, first weights and order")
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute")
    add_mlp_options(parser.add_argument_group("options of the report's head (--head mlp)").add_argument)
    return parser.parse_args(argv)


def add_mlp_options(add):
    """The options of the report's head: None unless they are given."""
    add(
        "--standardize",
        action="store_true",
        default=None,
        help="bring every dimension to mean 0 and deviation 1 on the training folds (linear always does)",
    )
    add(
        "--fusion",
        choices=("conv", "mix", "concat"),
        help=f"several layers: point-wise convolution, sum, side by side (default: {Options.fusion})",
    )
    add(
        "--reduction",
        choices=("conv", "none"),
        help=f"convolution of kernel and stride 3 over the dimensions, or none (default: {Options.reduction})",
    )
    at_least_1 = cli.number(int, 1)
    add("--hidden", type=at_least_1, help=f"width of the hidden layer (default: {Options.hidden})")
    add("--epochs", type=at_least_1, help=f"passes over the training folds (default: {Options.epochs})")
    add("--batch-size", type=at_least_1, help=f"titles a step (default: {Options.batch_size})")
    add("--lr", type=cli.number(float, 1e-9), help=f"learning rate of Adam (default: {Options.lr})")


def label_count(text):
    """An argparse type: a number of labelled titles of each category, or None for all."""
    return None if text == "all" else cli.number(int, 1)(text)


label_count.__name__ = "number of titles (at least 1, or all)"

if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import functools
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import disk
import figures
import mlp
import model
import naming
import probe
import runs
import splits
import store

# what of a configuration is known before the training
PLANNED = ("columns", "classes", "options", "encoder", "data", "settings", "features", "files")


@dataclass
class Task:
    """What all runs have in common: titles with labels, and the folds in which they are held out."""

    classes: list[str]  # names, in the order of their numbers
    labels: np.ndarray  # (titles,) int64
    groups: np.ndarray  # (titles,) int64, the same for copies of one another
    folds: np.ndarray  # (repeats, titles) int64


# --- what is to be trained ------------------------------------------------------------------------


def choose_options(args):
    """The Options of all runs; with the linear probe, one of the report's head is a Problem."""
    protocol = {name: getattr(args, name) for name in PROTOCOL}
    given = {name: getattr(args, name) for name in MLP_OPTIONS if getattr(args, name) is not None}
    if args.head == "mlp":
        if args.decide == "macro-f1":
            why = "the report's head holds no titles out to choose by"
            raise cli.Problem(f"--decide macro-f1: {why}; use --head linear")
        return Options(head="mlp", **given, **protocol)
    given.pop("standardize", None)  # the linear probe always does
    if given:
        option = "--" + next(iter(given)).replace("_", "-")
        wrong = "an option of the report's head"
        raise cli.Problem(f"{option}: {wrong}; leave it out, or use --head mlp")
    return Options(head="linear", decide=args.decide, **protocol)


def choose_sets(args, features):
    """The columns of each run that the arguments ask for: lists of (pooling, layer).

    What was not extracted is a Problem, or, of the report's sets, left out.
    """
    encoder = features.manifest.encoder
    poolings = choose_poolings(args, features)
    available = features.layers(poolings[0])
    for pooling in poolings[1:]:
        available = sorted(set(available) & set(features.layers(pooling)))
    if args.layers or args.each:
        wanted = args.layers or ["all"]
        layers = store.resolve_layers(wanted, encoder.layers, encoder.name, poolings, available)
        sets = [[layer] for layer in layers] if args.each else [layers]
    else:
        sets = available_sets(encoder.layers, available, poolings)
    return [[(pooling, layer) for pooling in poolings for layer in layers] for layers in sets]


def choose_poolings(args, features):
    """The poolings that --pooling names, or the first that is there; one that is not is a Problem."""
    held = [pooling for pooling in cli.POOLINGS if features.layers(pooling)]
    poolings = sorted(set(args.pooling or held[:1]))
    for pooling in poolings:
        if pooling not in held:
            more = f"add it with: extract.py --pooling {pooling} and its other options as before"
            raise cli.Problem(f"--pooling {pooling}: {args.features} holds none; {more}")
    return poolings


def available_sets(depth, available, poolings):
    """Those of the report's six layer sets that are there, or else each layer alone."""
    from_top = [[0], [1], [2], [3], [0, 1], [0, 1, 2, 3]]
    wanted = [[depth - n for n in layers] for layers in from_top if max(layers) < depth]
    sets = [layers for layers in wanted if set(layers) <= set(available)]
    missing = [", ".join(map(str, layers)) for layers in wanted if layers not in sets]
    if missing:
        why = f"since not extracted with {' and '.join(poolings)}"
        cli.say(f"left out of the report's sets, {why}: {'; '.join(missing)}")
    if not sets:
        cli.say("none of them is left: each layer that was extracted is trained alone")
        sets = [[layer] for layer in reversed(available)]
    return sets


def read_task(features, options):
    """Read titles and labels, tell which titles are copies, and share them among folds."""
    titles, names = features.titles()
    classes, labels = np.unique(np.array(names, dtype=object), return_inverse=True)
    classes = classes.tolist()
    groups = splits.numbered(map(splits.group_key, titles))
    folds = splits.repeat_folds(labels, groups, options, classes)
    return Task(classes, labels, groups, folds)


def configure(features, columns, classes, options, size):
    """The runs.Config of a run that is to be trained with so many labels of each category."""
    manifest = features.manifest
    names = [store.feature_file(pooling, layer) for pooling, layer in columns]
    return runs.Config(
        format=runs.FORMAT,
        columns=columns,
        classes=classes,
        options=replace(options, labels=size),
        encoder=manifest.encoder,
        data=replace(manifest.data, classes=None),
        settings=manifest.settings,
        features=disk.digest(store.identity(manifest)),
        files={name: manifest.files[name].sha256 for name in names},
    )


def is_trained(results, config):
    """Whether a run is there already; another one in its place is a Problem."""
    folder = results / naming.run_name(config)
    if not folder.exists():
        return False
    run = runs.open_run(folder)
    differ = [name for name in PLANNED if getattr(run.config, name) != getattr(config, name)]
    if differ:
        wrong = f"a run of that name is there, but its {' and '.join(differ)} differ"
        raise cli.Problem(f"{folder}: {wrong}; delete it, or choose another --results")
    cli.say(f"{folder.name}: trained already, macro-F1 {run.figures.macro_f1:.4f}")
    return True


# --- training -------------------------------------------------------------------------------------


def train_set(results, configs, features, task, draw, device):
    """Train runs on the same layers. draw(size): what splits.draw_titles gives for a size."""
    x = torch.from_numpy(features.stack(configs[0].columns)).to(device)
    scale = None
    if configs[0].options.head == "linear":
        scale = probe.rescale(x)
    for config in configs:
        draws = draw(config.options.labels)
        train_run(results, config, x, scale, task, draws, features)


def train_run(results, config, x, scale, task, draws, features):
    """Train one run, write its folder, and say how it did. x, scale, draws: see fit."""
    begun = time.time()
    trained = fit(config, x, scale, task, draws)

    # how good it is, and how it was made
    measured = figures.measure(task.labels, trained.probabilities, task.folds, len(task.classes), trained.offsets)
    measured = replace(
        measured,
        layer_weights=model.layer_weights(trained.state),
        penalties=trained.penalties,
        grid_ends=count_grid_ends(trained.penalties),
    )
    place = str(features.folder.resolve())
    made = disk.provenance(begun, place, device=x.device.type, threads=torch.get_num_threads())
    config = replace(config, results=measured, **made)

    # the folder
    folder = results / naming.run_name(config)
    arrays = {name: getattr(task, name).astype(np.int32) for name in ("labels", "folds", "groups")}
    arrays["probabilities"] = trained.probabilities
    if trained.offsets is not None:
        arrays["offsets"] = trained.offsets
    heads = {name: value.numpy() for name, value in trained.state.items()}
    runs.write(folder, config, arrays, heads, trained.history)
    say_outcome(runs.Run(folder, config))


def fit(config, x, scale, task, draws):
    """Train the heads of one run: a model.Trained.

    x: (titles, layers, hidden) float32 tensor; for linear probes it is rescaled, and scale is what it
    had; draws: the titles that each head learns from.
    """
    options = config.options
    classes = len(task.classes)
    layers = naming.layers_in_words(config.columns)
    if options.head == "mlp":
        with cli.progress(options.epochs, " epochs", desc=layers) as bar:
            return mlp.train_heads(x, task.labels, task.folds, options, classes, draws, bar.update)
    with cli.progress(len(draws), " heads", desc=layers) as bar:
        trained = probe.train(x, scale, task.labels, task.folds, draws, classes, options.decide, bar.update)
        bar.update(bar.total - bar.n)  # where the search for penalties ended early
        return trained


def say_outcome(run):
    """Say how good a run is, and what of it is worth knowing."""
    found = run.figures
    what = naming.layers_in_words(run.columns)
    if run.labels_per_category:
        what += f", {run.labels_per_category} labels a category"
    folds = f"folds {found.fold_mean:.4f} ± {found.fold_deviation:.4f}"
    cli.say(f"{what}: macro-F1 {found.macro_f1:.4f}, {folds}")
    collapsed = runs.collapse(run)
    if collapsed:
        fault, remedy = collapsed
        cli.say(f"  {fault}; try {remedy}")
    if found.layer_weights:
        weighed = zip(run.columns, found.layer_weights, strict=True)
        weights = [f"layer {layer} ({pooling}) {w:+.3f}" for (pooling, layer), w in weighed]
        cli.say(f"  weights: {', '.join(weights)}")


def count_grid_ends(penalties):
    """How many heads chose a penalty at an end of the grid; None where there are no penalties."""
    if penalties is None:
        return None
    return int(np.isin(penalties, (probe.GRID[0], probe.GRID[-1])).sum())


def main(args):
    started = time.time()

    # what is asked for, and what is there
    options = choose_options(args)
    features = store.open_features(args.features)
    sets = choose_sets(args, features)
    device = cli.choose_device(args.device)

    # titles, folds, and numbers of labels
    task = read_task(features, options)
    sizes = splits.label_sizes(args.labels, task.labels, task.groups, task.folds)
    # all layer sets learn from the same titles
    draw = functools.cache(lambda size: splits.draw_titles(task.labels, task.groups, task.folds, options.seed, size))

    # a run for each set of layers and each number of labels
    results = Path(args.results)
    trained = 0
    with disk.locked(results, "a training"):
        for leftover in results.glob(".unfinished-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for columns in sets:
            configs = [configure(features, columns, task.classes, options, size) for size in sizes]
            missing = [config for config in configs if not is_trained(results, config)]
            if missing:
                train_set(results, missing, features, task, draw, device)
            trained += len(missing)

    # what was done
    wanted = cli.count(len(sets) * len(sizes), "run")
    titles = f"{len(task.labels):,} titles of {features.manifest.data.name}"
    folds = f"{options.folds} {options.split} folds, {cli.count(options.repeats, 'repeat')}"
    seconds = time.time() - started
    following = cli.command("evaluate.py", results=(args.results, "results"))
    done = f"{trained} of {wanted} trained on {titles}, {folds}, {seconds:.1f} s"
    cli.say(f"{results}: {done}. Next: {following}")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
