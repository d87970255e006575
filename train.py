"""Train heads on frozen features and score them out of fold.

    python train.py                                    # the report's six layer sets
    python train.py --survey                           # the linear probe on all that is worth comparing
    python train.py --survey --features features features-mpnet      # the same for two encoders
    python train.py --head linear --pooling mean --layers -1 -2 -3 -4   # what to take without a survey
    python train.py --layers 12 11                     # one head on the fusion of layers 12 and 11
    python train.py --each --head linear               # a linear probe on every extracted layer alone
    python train.py --head linear --layers -1 --labels 8 16 32 64    # how many labels does it take?

Prefer the linear probe (--survey, --head linear): it is solved to convergence, so there is no
learning rate and no number of epochs to choose, and it did better than the report's head wherever
both were measured. --head mlp, the default, repeats the report. On eight sets of titles and two
sentence encoders, the last four layers side by side with mean pooling lost 0.004 of macro-F1 on
average to the best of all rows in hindsight, and 0.015 at most (results/study.md).

In each repeat every title is predicted once, by a head that has not seen it or a copy of it. The
heads of all folds and repeats train together; on Linux, linear probes of several small sets of
layers train side by side, a process each.
"""

from whichlayer.common import cli
from whichlayer.heads.options import Options


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add(
        "--features",
        type=cli.place,
        nargs="+",
        default=["features"],
        metavar="FOLDER",
        help="what extract.py made; of several, with the same titles, one after the other",
    )
    add("--results", type=cli.place, default="results", metavar="FOLDER", help="where runs go, a folder each")
    add(
        "--survey",
        action="store_true",
        help="train the linear probe on every extracted layer with each pooling, on the last four and "
        "on all side by side (mean pooling where there is), and on all with both poolings; where "
        "categories are unequal, also decide the other way (see --decide)",
    )
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
        help="mlp is the report's head, linear a logistic regression on standardised features, the "
        "better choice (default: mlp, or linear with --survey)",
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
        "(default: macro-f1 with the linear probe, likeliest with mlp)",
    )
    add_protocol_options(add)
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute")
    add_mlp_options(parser.add_argument_group("options of the report's head (--head mlp)").add_argument)
    return parser.parse_args(argv)


def add_protocol_options(add):
    """The options that decide which titles a head is scored on: rows of one table share them."""
    add("--folds", type=cli.number(int, 2, 1000), default=Options.folds, help="parts that are held out in turn")
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
    add("--batch-size", type=cli.number(int, 1, 1 << 20), help=f"titles a step (default: {Options.batch_size})")
    add("--lr", type=cli.number(float, 1e-9), help=f"learning rate of Adam (default: {Options.lr})")


def label_count(text):
    """An argparse type: a number of labelled titles of each category, or None for all."""
    return None if text == "all" else cli.number(int, 1)(text)


label_count.__name__ = "number of titles (at least 1, or all)"

if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import contextlib
import functools
import itertools
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import model
from whichlayer.common import disk
from whichlayer.heads import mlp, naming, parallel, plan, probe, runs, splits
from whichlayer.heads.options import DECISIONS
from whichlayer.scores import figures

# numbers of the features up to which a second thread gains little, and several sets take little memory
SMALL = 1 << 24
# titles from which on it takes longer to train a set than to begin a process
MANY = 1000

# --- training -------------------------------------------------------------------------------------


def train_sets(layer_sets, task, draw, device, is_shared):
    """Train the runs of plan.LayerSets, write their folders, and say how they did.

    draw(size): what splits.draw_titles gives for a size; is_shared: whether small sets are trained
    side by side, each on one thread.
    """

    def train_all(layer_set):
        return list(train_set(layer_set, task, draw, device))

    small = []
    if is_shared:
        small = [layer_set for layer_set in layer_sets if count_numbers(layer_set) <= SMALL]
    # the largest first, so that none of them is waited for in the end
    small.sort(key=count_numbers, reverse=True)
    with contextlib.closing(parallel.each(train_all, small)) as outcomes:
        for outcome in itertools.chain.from_iterable(outcomes):
            finish(*outcome)
    for layer_set in layer_sets:
        if not is_shared or count_numbers(layer_set) > SMALL:
            for outcome in train_set(layer_set, task, draw, device):
                finish(*outcome)


def count_numbers(layer_set):
    """How many numbers the features of a plan.LayerSet are."""
    manifest = layer_set.features.manifest
    return manifest.data.rows * manifest.encoder.hidden * len(layer_set.runs[0].columns)


def can_share(layer_sets, device):
    """Whether small ones of the sets that a command asks for are trained side by side.

    That is decided by all of them, trained already or not: last digits depend on the number of
    threads, and should not depend on what is there.
    """
    first = layer_sets[0].runs[0].config
    is_probe = first.options.head == "linear" and device.type == "cpu"
    is_worth_it = len(layer_sets) > 1 and first.data.rows >= MANY
    return is_probe and is_worth_it and parallel.is_possible()


def train_set(layer_set, task, draw, device):
    """Train the runs of a plan.LayerSet; yields what train_run gives for each."""
    features = layer_set.features
    first = layer_set.runs[0]
    x = torch.from_numpy(features.stack(first.columns)).to(device)
    scale = None
    if first.options.head == "linear":
        scale = probe.rescale(x)
    for run in layer_set.runs:
        draws = draw(run.labels_per_category)
        yield train_run(run, x, scale, task, draws, features)


def train_run(run, x, scale, task, draws, features):
    """Train a planned run. x, scale, draws: see fit.

    Returns the run with its figures, and the arrays, heads and history of its folder, see
    runs.write.
    """
    begun = time.time()
    trained = fit(run.config, x, scale, task, draws)

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
    run = replace(run, config=replace(run.config, results=measured, **made))

    # for its folder
    arrays = {name: getattr(task, name).astype(np.int32) for name in ("labels", "folds", "groups")}
    arrays |= {"probabilities": trained.probabilities, "offsets": trained.offsets}
    heads = {name: value.numpy() for name, value in trained.state.items()}
    return run, arrays, heads, trained.history


def finish(run, arrays, heads, history):
    """Write the folder of a run that is trained, and say how it did."""
    runs.write(run.folder, run.config, arrays, heads, history)
    say_outcome(run)


def fit(config, x, scale, task, draws):
    """Train the heads of one run: a model.Trained.

    x: (titles, layers, hidden) float32 tensor; for linear probes it is rescaled, and scale is what
    it had; draws: the titles that each head learns from.
    """
    options = config.options
    classes = len(task.classes)
    layers = naming.layers_in_words(config.columns)
    if options.head == "mlp":
        with cli.progress(options.epochs, " epochs", desc=layers) as bar:
            return mlp.train_heads(x, task.labels, task.folds, options, classes, draws, bar.update)
    with cli.progress(len(draws), " heads", desc=layers) as bar:
        trained = probe.train(x, scale, task.labels, task.folds, draws, classes, options.decide, bar.update)
        # the search reports nothing for the fit that follows it, nor where there is nothing to choose by
        bar.update(bar.total - bar.n)
        return trained


def say_outcome(run):
    """Say how good a run is, and what of it is worth knowing."""
    found = run.figures
    what = naming.layers_in_words(run.columns)
    if run.labels_per_category:
        what += f", {run.labels_per_category} labels a category"
    if run.options.decide != DECISIONS[run.options.head]:
        what += f", {run.options.decide}"
    folds = f"folds {found.fold_mean:.4f} ± {found.fold_deviation:.4f}"
    cli.say(f"{what}: macro-F1 {found.macro_f1:.4f}, {folds}")
    collapsed = runs.collapse(run)
    if collapsed:
        cli.say(f"  {'; try '.join(collapsed)}")
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
    options = plan.choose_options(args)
    every = plan.open_all(args.features)
    sets = [plan.choose_sets(args, features) for features in every]
    device = cli.choose_device(args.device)

    # titles, folds, and numbers of labels are the same for all encoders
    task = plan.read_task(every[0], options)
    sizes = splits.label_sizes(args.labels, task.labels, task.groups, task.folds)
    # all layer sets learn from the same titles
    draw = functools.cache(lambda size: splits.draw_titles(task.labels, task.groups, task.folds, options.seed, size))

    # a run for each set of layers and each number of labels
    layer_sets = []
    for features, chosen in zip(every, sets, strict=True):
        layer_sets += plan.plan_runs(features, chosen, task, options, sizes, args.survey)

    # those that are not there yet
    results = Path(args.results)
    with disk.locked(results, "a training"):
        for leftover in results.glob(".unfinished-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        missing = plan.find_missing(results, layer_sets)
        is_shared = can_share(layer_sets, device)
        for features in every:
            own = [layer_set for layer_set in missing if layer_set.features is features]
            if own and len(every) > 1:
                encoder = naming.short_encoder(features.manifest.encoder.name)
                cli.say(f"{features.folder}, {encoder}:")
            if own:
                train_sets(own, task, draw, device, is_shared)

    # what was done
    trained = sum(len(layer_set.runs) for layer_set in missing)
    wanted = cli.count(sum(len(layer_set.runs) for layer_set in layer_sets), "run")
    titles = f"{len(task.labels):,} titles of {every[0].manifest.data.name}"
    folds = f"{options.folds} {options.split} folds, {cli.count(options.repeats, 'repeat')}"
    seconds = time.time() - started
    following = cli.command("evaluate.py", results=(args.results, "results"))
    done = f"{trained} of {wanted} trained on {titles}, {folds}, {seconds:.1f} s"
    cli.say(f"{results}: {done}. Next: {following}")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
