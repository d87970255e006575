"""Train heads on frozen features and score them out of fold.

    python train.py                                    # the report's six layer sets
    python train.py --survey                           # the linear probe on all that is worth comparing
    python train.py --survey --features features features-mpnet      # the same for two encoders
    python train.py --head linear --layers -1 -2 -3 -4 # what to take without a survey
    python train.py --layers 12 11                     # one head on the fusion of layers 12 and 11
    python train.py --each --head linear               # a linear probe on every extracted layer alone
    python train.py --head linear --layers -1 --labels 8 16 32 64    # how many labels does it take?

Prefer the linear probe (--survey, --head linear): it is solved to convergence, so there is no
learning rate and no number of epochs to choose, and it did better than the report's head wherever
both were measured. --head mlp, the default, repeats the report. On eight sets of titles and two
sentence encoders, the last four layers side by side with mean pooling lost 0.004 and 0.008 of macro-F1
on average to the best of all rows in hindsight, and 0.019 at most (results/study.md).

In each repeat every title is predicted once, by a head that has not seen it or a copy of it. The
heads of all folds and repeats train together; on Linux, linear probes of several small sets of
layers train side by side, a process each.
"""

from whichlayer.common import cli
from whichlayer.encoder.poolings import POOLINGS
from whichlayer.heads.options import DECISIONS, HEADS, Options


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
        "on all side by side (mean pooling where there is), and on all with all poolings",
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
        choices=POOLINGS,
        help="features to use, several side by side (default: see --head, or what is there)",
    )
    kinds = [f"{name} is the {head.words}, usually with --pooling {head.pooling}" for name, head in HEADS.items()]
    add("--head", choices=HEADS, help=f"{', '.join(kinds)} (default: {Options.head}, or linear with --survey)")
    add(
        "--labels",
        nargs="+",
        type=label_count,
        default=[None],
        metavar="N",
        help="so many labelled titles of each category in training, or all; a run for each size, whose "
        "probabilities are those of equal categories (default: all)",
    )
    add(
        "--decide",
        choices=DECISIONS,
        help="the linear probe: name the likeliest category, or the one with the largest p / prior^τ, τ chosen for "
        "macro-F1 (default: macro-f1)",
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
    """The options of the report's head."""
    add(
        "--standardize",
        action="store_true",
        help="bring every dimension to mean 0 and deviation 1 on the training folds (linear always does)",
    )
    add(
        "--fusion",
        choices=("conv", "mix", "concat"),
        default=Options.fusion,
        help="several layers: point-wise convolution, sum, side by side",
    )
    add(
        "--reduction",
        choices=("conv", "none"),
        default=Options.reduction,
        help="convolution of kernel and stride 3 over the dimensions, or none",
    )
    at_least_1 = cli.number(int, 1)
    add("--hidden", type=at_least_1, default=Options.hidden, help="width of the hidden layer")
    add("--epochs", type=at_least_1, default=Options.epochs, help="passes over the training folds")
    add("--batch-size", type=cli.number(int, 1, 1 << 20), default=Options.batch_size, help="titles a step")
    add("--lr", type=cli.number(float, 1e-9), default=Options.lr, help="learning rate of Adam")


def label_count(text):
    """An argparse type: a number of labelled titles of each category, or None for all."""
    return None if text == "all" else cli.number(int, 1)(text)


label_count.__name__ = "number of titles (at least 1, or all)"

if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import contextlib
import functools
import importlib.util
import itertools
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch.nn.functional import cross_entropy

import model
from whichlayer.common import disk, parallel
from whichlayer.heads import plan, probe, runs, splits, stacking
from whichlayer.scores import figures, metrics

# numbers of the features up to which a second thread gains little, and several sets take little memory
SMALL = 1 << 24
# titles from which on it takes longer to train a set than to begin a process
MANY = 1000

# --- the report's head ----------------------------------------------------------------------------


def train_heads(x, labels, folds, options, classes, draws, report=lambda epochs: None):
    """Train the report's heads of all folds and repeats at once. Returns a model.Trained.

    x: (titles, layers, hidden) float32 tensor on the device; labels: (titles,) int; folds:
    (repeats, titles) int; options: options.Options; classes: how many there are; draws: the titles
    that each head learns from, see splits.draw_titles; report: called after each epoch. The
    history's losses are averaged over an epoch's batches, its macro-F1 is that of the held-out
    fold. A loss that is not finite is a Problem.
    """
    # all heads are one function of stacked tensors, and have one optimizer
    heads = stacking.new_heads(options, *x.shape[1:], classes)
    forward = model.stacked(heads[0])
    state, leaves = stacking.stack(heads, x, draws)
    optimizer = torch.optim.Adam(leaves, lr=options.lr, fused=True)
    targets = torch.as_tensor(labels, device=x.device).long()

    history = []
    for epoch in range(1, options.epochs + 1):
        losses = train_epoch(forward, state, optimizer, x, targets, *stacking.epoch_batches(draws, options, epoch))

        # how well the heads do on the titles that they have not seen
        learned = {name: value.detach() for name, value in state.items()}
        probabilities = model.held_out_probabilities(heads[0], learned, x, folds)
        if not (np.isfinite(losses).all() and np.isfinite(probabilities).all()):
            raise cli.Problem(
                f"the loss is no longer a finite number in epoch {epoch}; "
                f"use a smaller --lr than {options.lr:g}, or --standardize"
            )
        scores = metrics.fold_scores(labels, probabilities.argmax(2), folds, classes)
        for (repeat, fold), loss in zip(np.ndindex(scores.shape), losses.tolist(), strict=True):
            history.append((repeat, fold, epoch, loss, scores[repeat, fold]))
        report(1)
    learned = {name: value.cpu().contiguous() for name, value in learned.items()}
    return model.Trained(learned, probabilities, history)


def train_epoch(forward, state, optimizer, x, targets, rows, counts):
    """Train all heads for one epoch, and return their mean losses: (heads,) float32 numpy.

    forward: see model.stacked; state: what it takes; rows, counts: see stacking.epoch_batches.
    """
    rows = rows.to(x.device)
    places = torch.arange(rows.shape[2], device=x.device)
    losses = torch.zeros(rows.shape[1], device=x.device)
    for batch, count in zip(rows, counts.to(x.device), strict=True):
        # (heads, titles, layers, hidden); faster than x[batch]
        inputs = x.index_select(0, batch.flatten()).unflatten(0, batch.shape)
        logits = forward(state, inputs)
        each = cross_entropy(logits.flatten(0, 1), targets[batch].flatten(), reduction="none")
        # the mean over each head's batch, without what fills up
        loss = (each.view_as(batch) * (places < count) / count).sum(1)
        optimizer.zero_grad()
        # heads share no weight, so each gets the gradient of its own loss
        loss.sum().backward()
        optimizer.step()
        losses += loss.detach() / len(rows)
    return losses.cpu().numpy()


# --- runs: the report's head, or the linear probe ---------------------------------------------------


def train_set(layer_set, task, draw, device):
    """Train the runs of a plan.LayerSet; yields what finish takes for each.

    task: plan.Task; draw(size): what splits.draw_titles gives for a size.
    """
    features = layer_set.features
    first = layer_set.runs[0]
    x = torch.from_numpy(features.stack(first.columns)).to(device)
    scale = probe.rescale(x) if first.options.head == "linear" else None
    made_of = str(features.folder.resolve())
    for run in layer_set.runs:
        begun = time.time()
        trained = fit(run, x, scale, task, draw(run.labels_per_category))
        run.results = figures.measure(
            task.labels, trained.probabilities, task.folds, len(task.classes), trained.offsets
        )
        run.results.penalties = trained.penalties
        threads = torch.get_num_threads()
        vars(run).update(disk.provenance(begun, made_of, device=device.type, threads=threads))
        # numpy's arrays can be sent from one process to another as they are
        heads = {name: value.numpy() for name, value in trained.state.items()}
        yield run, replace(trained, state=heads)


def fit(run, x, scale, task, draws):
    """Train the heads of one run: a model.Trained.

    x: (titles, layers, hidden) float32 tensor; for linear probes it is rescaled, and scale is what
    it had; draws: the titles that each head learns from.
    """
    options = run.options
    classes = len(task.classes)
    # as a table names it
    name = runs.layers_in_words(run, run.head)
    if options.head == "mlp":
        with cli.progress(options.epochs, " epochs", name) as bar:
            return train_heads(x, task.labels, task.folds, options, classes, draws, bar.update)
    with cli.progress(len(draws), " heads", name) as bar:
        return probe.train(x, scale, task.labels, task.folds, draws, classes, options.decide, bar.update)


def finish(run, trained, task):
    """Write the folder of a run that is trained, and say how it did."""
    arrays = {name: getattr(task, name).astype(np.int32) for name in runs.ARRAYS}
    arrays |= {"probabilities": trained.probabilities, "offsets": trained.offsets}
    files = {"heads.safetensors": save(trained.state)}
    if trained.history:
        # here: half a second that the probe can do without
        import pandas as pd

        history = pd.DataFrame(trained.history, columns=("repeat", "fold", "epoch", "loss", "macro_f1"))
        files["history.csv"] = history.to_csv(index=False).encode()
    runs.write(run.folder, run, arrays, files)

    collapsed = ", collapsed to one class: try --standardize" if run.figures.collapsed else ""
    cli.say(f"{run.folder.name}: macro-F1 {run.figures.macro_f1:.4f}{collapsed}")


# --- all that is asked for --------------------------------------------------------------------------


def train_all(layer_sets, train, is_shared):
    """Yield what finish takes for each run of plan.LayerSets.

    train(layer_set): see train_set; is_shared: whether small sets are trained side by side, each on
    one thread.
    """
    small = [layer_set for layer_set in layer_sets if is_shared and count_numbers(layer_set) <= SMALL]
    # the largest first, so that none of them is waited for in the end
    small.sort(key=count_numbers, reverse=True)
    with contextlib.closing(parallel.each(lambda layer_set: list(train(layer_set)), small)) as outcomes:
        yield from itertools.chain.from_iterable(outcomes)
    for layer_set in layer_sets:
        if layer_set not in small:
            yield from train(layer_set)


def count_numbers(layer_set):
    """How many numbers the features of a plan.LayerSet are."""
    return np.prod(layer_set.features.shape) * len(layer_set.runs[0].columns)


def can_share(layer_sets, options, device):
    """Whether small ones of the sets that a command asks for are trained side by side.

    That is decided by all of them, trained already or not: last digits depend on the number of
    threads, and should not depend on what is there.
    """
    is_probe = options.head == "linear" and device.type == "cpu"
    is_worth_it = len(layer_sets) > 1 and layer_sets[0].features.data.rows >= MANY
    return is_probe and is_worth_it and parallel.is_possible()


def main(args):
    device = cli.choose_device(args.device)

    # titles and folds, which are the same for all encoders
    options = plan.choose_options(args)
    every = plan.open_all(args.features)
    task = plan.read_task(every[0], options)

    # a run for each set of layers and each number of labels
    sizes = splits.label_sizes(args.labels, task.labels, task.groups, options.folds)
    layer_sets = []
    for features in every:
        chosen = plan.choose_sets(args, features, options.head)
        layer_sets += plan.plan_runs(features, chosen, task.classes, options, sizes)

    # those that are not there yet
    results = Path(args.results)
    with disk.locked(results, "a training"):
        for leftover in results.glob(".unfinished-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        missing = plan.find_missing(results, layer_sets)
        # all sets of layers learn from the same titles
        draw = functools.cache(
            lambda size: splits.draw_titles(task.labels, task.groups, task.folds, options.seed, size)
        )
        train = functools.partial(train_set, task=task, draw=draw, device=device)
        with contextlib.closing(train_all(missing, train, can_share(layer_sets, options, device))) as outcomes:
            for run, trained in outcomes:
                finish(run, trained, task)

    # what was done
    trained = sum(len(layer_set.runs) for layer_set in missing)
    wanted = cli.count(sum(len(layer_set.runs) for layer_set in layer_sets), "run")
    # words belong in every comparison
    words = ["--baselines"]
    if not importlib.util.find_spec("sklearn"):
        cli.say("words cannot compete without scikit-learn: pip install scikit-learn, then evaluate.py --baselines")
        words = []
    following = cli.command("evaluate.py", *words, results=(args.results, "results"))
    cli.say(
        f"{results}: {trained} of {wanted} trained on {len(task.labels):,} titles of {every[0].data.name}, "
        f"{cli.took()}. Next: {following}"
    )


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
