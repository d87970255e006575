"""Train heads on frozen features and score them out of fold.

    python train.py                                       # the report's six layer sets
    python train.py --layers 12 11                        # one head on the fusion of layers 12 and 11
    python train.py --each --head linear                  # a linear probe on every extracted layer alone
    python train.py --head linear --layers -1 --labels 8 16 32 64 128    # how many labels does it take?

In each repeat every title is predicted once, by a head that has not seen it or a copy of it. The heads of all folds
and repeats train together.
"""

import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add, default = parser.add_argument, cli.OPTIONS.get
    add("--features", default="features", metavar="FOLDER", help="what extract.py made")
    add("--results", default="results", metavar="FOLDER", help="where runs go, a folder each")
    layers = "layers to train on, together: numbers from 1, or -1 (last), -2 …, or all (default: the report's six sets)"
    add("--layers", nargs="+", metavar="N", help=layers)
    add("--each", action="store_true", help="train every extracted layer, or every one of --layers, alone")
    pooling = "features to use, or both side by side (default: cls where there is, else mean)"
    add("--pooling", nargs="+", choices=cli.POOLINGS, help=pooling)
    head = "mlp is the report's head, linear a logistic regression on standardised features"
    add("--head", choices=("mlp", "linear"), default=default("head"), help=head)
    sizes = "so many labelled titles of each category in training, or all; a run for each size (default: all)"
    add("--labels", nargs="+", type=label_count, default=[None], metavar="N", help=sizes)
    add("--folds", type=cli.number(int, 2), default=default("folds"), help="parts that are held out in turn")
    repeats = "how often all of it is done with new folds, first weights and order"
    add("--repeats", type=cli.number(int, 1, 1000), default=default("repeats"), help=repeats)
    split = "grouped keeps copies of a title on one side of the split, random does not"
    add("--split", choices=("grouped", "random"), default=default("split"), help=split)
    add("--seed", type=cli.number(int, 0), default=default("seed"), help="decides folds, first weights and order")
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute")
    group = parser.add_argument_group("options of the report's head (--head mlp)")
    standardize = "bring every dimension to mean 0 and deviation 1 on the training folds (linear always does)"
    group.add_argument("--standardize", action="store_true", help=standardize)
    for option, convert, text in (
        ("fusion", {"choices": ("conv", "mix", "concat")}, "several layers: point-wise convolution, sum, side by side"),
        ("reduction", {"choices": ("conv", "none")}, "convolution of kernel and stride 3 over the dimensions, or none"),
        ("hidden", {"type": cli.number(int, 1)}, "width of the hidden layer"),
        ("epochs", {"type": cli.number(int, 1)}, "passes over the training folds"),
        ("batch_size", {"type": cli.number(int, 1)}, "titles a step"),
        ("lr", {"type": cli.number(float, 1e-9)}, "learning rate of Adam"),
    ):
        group.add_argument(f"--{option.replace('_', '-')}", **convert, help=f"{text} (default: {default(option)})")
    return parser.parse_args(argv)


def label_count(text):
    """An argparse type: a number of labelled titles of each category, or None for all."""
    return None if text == "all" else cli.number(int, 1)(text)


label_count.__name__ = "number of titles (at least 1, or all)"

if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)

import functools
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from torch.func import stack_module_state
from torch.nn.functional import cross_entropy

import metrics
import model
import probe
import runs
import splits
import store


def report_sets(depth):
    """The report's six layer sets, counted from the top; those that an encoder of this depth lacks are left out."""
    sets = [[0], [1], [2], [3], [0, 1], [0, 1, 2, 3]]
    return [[depth - n for n in layers] for layers in sets if max(layers) < depth]


def new_heads(config):
    """The heads of all repeats and folds with their first weights, which depend on seed, repeat and fold; a list."""
    options, heads = config["options"], []
    with torch.random.fork_rng(devices=[]):
        for repeat, fold in np.ndindex(options["repeats"], options["folds"]):
            torch.manual_seed(splits.seed_of(options["seed"], repeat, fold))
            heads.append(model.build(config))
    return heads


def epoch_batches(training, options, epoch):
    """The batches of one epoch for every head: row numbers (steps, heads, titles) and counts (steps, heads), int32.

    Every head's training titles, in an order of its own, are cut into the same number of batches of nearly equal
    size; of the row numbers of a batch only the first `count` are meant, the others fill up.
    """
    sizes = np.array([len(rows) for rows in training])
    steps = min(-(-sizes.max() // options["batch_size"]), sizes.min())  # no batch is empty
    counts = (sizes // steps + (np.arange(steps)[:, None] < sizes % steps)).astype(np.int32)
    rows = np.zeros((steps, len(training), counts.max()), np.int32)
    for head, titles in enumerate(training):
        random = np.random.default_rng([options["seed"], *divmod(head, options["folds"]), epoch])
        rows[:, head][np.arange(counts.max()) < counts[:, head, None]] = random.permutation(titles)
    return rows, counts


def train_heads(x, labels, folds, config, training, report=lambda epochs: None):
    """Train the report's heads of all folds and repeats in one loop. Returns (state, history, probabilities).

    x: (titles, layers, hidden) float32 tensor on the device; labels: (titles,) int; folds: (repeats, titles) int;
    training: the row numbers that each head learns from, repeat by repeat; report: called after each epoch. state: the
    trained heads as stacked tensors, (repeats · folds, …) each; history: a (repeat, fold, epoch, loss, macro-F1) for
    each head and epoch, the loss averaged over the epoch's batches, the macro-F1 on the held-out fold; probabilities:
    (repeats, titles, classes) float32, out of fold, after the last epoch. A loss that is not finite is a Problem.
    """
    options, classes = config["options"], len(config["classes"])
    heads = new_heads(config)
    parameters, buffers = stack_module_state(heads)
    # the first Linear's weights lie transposed in memory, as their gradients come out of the product: nothing is copied
    turned = {name: value.mT if name == "mlp.0.weight" else value for name, value in parameters.items()}
    turned = {name: value.detach().to(x.device).contiguous().requires_grad_() for name, value in turned.items()}
    parameters = {name: value.mT if name == "mlp.0.weight" else value for name, value in turned.items()}
    if options["standardize"]:
        learn = torch.zeros(len(heads), len(x), dtype=torch.bool)
        for member, rows in zip(learn, training, strict=True):
            member[rows] = True
        mean, deviation = probe.standardization(x.flatten(1), learn.to(x.device))
        buffers = {"mean": mean.unflatten(1, x.shape[1:]), "deviation": deviation.unflatten(1, x.shape[1:])}
    forward, target = model.stacked(heads[0]), torch.as_tensor(labels, device=x.device).long()
    optimizer = torch.optim.Adam(turned.values(), lr=options["lr"], fused=True)
    history = []
    for epoch in range(1, options["epochs"] + 1):
        rows, counts = (torch.from_numpy(a).to(x.device) for a in epoch_batches(training, options, epoch))
        losses, places = torch.zeros(len(heads), device=x.device), torch.arange(rows.shape[2], device=x.device)
        for batch, count in zip(rows, counts[..., None], strict=True):
            inputs = x.index_select(0, batch.flatten()).unflatten(0, batch.shape)  # faster than x[batch]
            logits = forward({**parameters, **buffers}, inputs)
            loss = cross_entropy(logits.flatten(0, 1), target[batch].flatten(), reduction="none")
            loss = (loss.view_as(batch) * (places < count) / count).sum(1)  # the mean over each head's batch
            optimizer.zero_grad()
            loss.sum().backward()  # heads share no weight, so each gets the gradient of its own loss
            optimizer.step()
            losses += loss.detach() / len(rows)
        losses = losses.cpu().numpy()
        del rows, counts, batch  # before the next epoch's are drawn
        if not np.isfinite(losses).all():
            wrong = f"the loss is no longer a finite number in epoch {epoch}"
            remedy = "" if options["standardize"] else ", or --standardize"
            raise cli.Problem(f"{wrong}; use a smaller --lr than {options['lr']:g}{remedy}")
        state = {name: value.detach() for name, value in {**parameters, **buffers}.items()}
        probabilities = model.held_out_probabilities(heads[0], state, x, folds)
        scores = np.ravel(metrics.score(labels, probabilities.argmax(2), folds, classes)["fold_macro_f1"])
        history += [(*divmod(h, options["folds"]), epoch, float(losses[h]), scores[h]) for h in range(len(heads))]
        report(1)
    return {name: value.cpu().contiguous() for name, value in state.items()}, history, probabilities


def choose_sets(args, features):
    """The poolings and layer sets that the arguments ask for; what was not extracted is a Problem, or left out."""
    depth, name = features.manifest["encoder"]["layers"], features.manifest["encoder"]["name"]
    held = [pooling for pooling in cli.POOLINGS if features.layers(pooling)]
    poolings = sorted(set(args.pooling or held[:1]))
    if missing := sorted(set(poolings) - set(held)):
        more = f"add it with: extract.py --pooling {missing[0]} and its other options as before"
        raise cli.Problem(f"--pooling {missing[0]}: {args.features} holds none; {more}")
    available = sorted(set.intersection(*(set(features.layers(pooling)) for pooling in poolings)))
    if args.layers or args.each:
        layers = store.resolve_layers(args.layers or ["all"], depth, name, poolings, available)
        return poolings, [[layer] for layer in layers] if args.each else [layers]
    wanted = report_sets(depth)
    sets = [layers for layers in wanted if set(layers) <= set(available)]
    if len(sets) < len(wanted):
        rest = "; ".join(", ".join(map(str, layers)) for layers in wanted if layers not in sets)
        cli.say(f"left out of the report's sets, since not extracted with {' and '.join(poolings)}: {rest}")
        if not sets:
            cli.say("none of them is left: each layer that was extracted is trained alone")
    return poolings, sets or [[layer] for layer in reversed(available)]


def choose_options(args):
    """The options of the runs, in their fixed order; one of the other head is a Problem."""
    given = [option for option in cli.MLP_OPTIONS if getattr(args, option) is not None]
    if args.head == "linear" and given:
        option = f"--{given[0].replace('_', '-')}"
        raise cli.Problem(f"{option}: an option of the report's head; leave it out, or use --head mlp")
    chosen = {**cli.OPTIONS, **{o: v for o, v in vars(args).items() if o in cli.OPTIONS and v is not None}}
    if args.head == "linear":
        chosen = {option: v for option, v in chosen.items() if option not in (*cli.MLP_OPTIONS, "standardize")}
    return chosen


def train_run(folder, config, inputs, labels, folds, groups, drawn, features):
    """Train one run, write its folder, and say how it did."""
    begun, (x, scale), options = time.time(), inputs, config["options"]
    columns = runs.in_words(config)
    bar = cli.progress(len(drawn) if scale else options["epochs"], " heads" if scale else " epochs", desc=columns)
    with bar:
        if options["head"] == "linear":
            state, penalties, probabilities = probe.train(x, scale, labels, folds, config, drawn, bar.update)
            extra, history, weights = {"penalties": penalties}, [], None
            bar.update(bar.total - bar.n)  # where the search for the penalty ended early
        else:
            training = [rows for rows, _ in drawn]
            state, history, probabilities = train_heads(x, labels, folds, config, training, bar.update)
            weights, penalties = model.layer_weights(state), []
            extra = {"layer_weights": weights}
    config = {**config, "results": runs.figures(labels, probabilities, folds, len(config["classes"])) | extra}
    config |= store.provenance(begun, device=x.device.type, threads=torch.get_num_threads())
    config["made"]["features"] = str(features.folder.resolve())
    arrays = {"labels": labels, "folds": folds, "groups": groups}
    arrays = {name: array.astype(np.int32) for name, array in arrays.items()}
    heads = {name: value.numpy() for name, value in state.items()}
    runs.write(folder, config, {"probabilities": probabilities, **arrays}, heads, history)
    result, size = config["results"], f", {options['labels']} labels a category" if options["labels"] else ""
    found = f"macro-F1 {result['macro_f1']:.4f}, folds {result['fold_mean']:.4f} ± {result['fold_deviation']:.4f}"
    cli.say(f"{columns}{size}: {found}")
    if fault := runs.collapse(config):
        cli.say("  " + "; try ".join(fault))
    if weights:
        pairs = zip(config["columns"], weights, strict=True)
        cli.say("  weights: " + ", ".join(f"layer {layer} ({pooling}) {w:+.3f}" for (pooling, layer), w in pairs))
    if ends := [c for c in np.ravel(penalties) if c in (probe.GRID[0], probe.GRID[-1])]:
        cli.say(f"  {len(ends)} of {len(drawn)} heads chose an end of the grid of penalties (C {ends[0]:g})")


def main(args):
    started = time.time()
    options, features = choose_options(args), store.open_features(args.features)
    manifest = features.manifest
    poolings, sets = choose_sets(args, features)
    device, results = cli.choose_device(args.device), Path(args.results)
    titles, names = features.titles()
    classes, labels = np.unique(np.array(names, dtype=object), return_inverse=True)
    classes = classes.tolist()
    groups = splits.numbered(map(splits.group_key, titles))  # kept with the run: copies are resampled together
    del titles, names
    folds = splits.repeat_folds(labels, groups, options, classes)
    sizes, trained = splits.label_sizes(args.labels, labels, groups, folds), 0
    drawn = functools.cache(lambda size: splits.draw_titles(labels, groups, folds, options["seed"], size))
    with store.locked(results, "a training"):
        for leftover in results.glob(".unfinished-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for layers in sets:
            columns = [(pooling, layer) for pooling in poolings for layer in layers]
            inputs = x = None  # the features of the set before are not needed any more
            for size in sizes:
                config = {
                    "format": runs.FORMAT,
                    "columns": [list(c) for c in columns],
                    "classes": classes,
                    "options": {**options, "labels": size},
                    "encoder": manifest["encoder"],
                    "data": {k: v for k, v in manifest["data"].items() if k != "classes"},
                    "settings": manifest["settings"],
                    "features": store.digest(store.identity(features.manifest)),
                    "files": {f: manifest["files"][f]["sha256"] for f in (store.feature_file(*c) for c in columns)},
                }
                folder = results / runs.name_of(config)
                if folder.exists():
                    old = runs.open_(folder)
                    if differ := [key for key in config if old.get(key) != config[key]]:
                        wrong = f"a run of that name is there, but its {' and '.join(differ)} differ"
                        raise cli.Problem(f"{folder}: {wrong}; delete it, or choose another --results")
                    cli.say(f"{folder.name}: trained already, macro-F1 {old['results']['macro_f1']:.4f}")
                    continue
                if inputs is None:
                    x = torch.from_numpy(features.stack(columns)).to(device)
                    inputs = x, probe.rescale(x) if args.head == "linear" else None
                train_run(folder, config, inputs, labels, folds, groups, drawn(size), features)
                trained += 1
    what = f"{trained} of {cli.count(len(sets) * len(sizes), 'run')} trained on {len(labels):,} titles"
    where = f"{args.folds} {args.split} folds, {cli.count(args.repeats, 'repeat')}, {time.time() - started:.1f} s"
    following = cli.command("evaluate.py", results=(args.results, "results"))
    cli.say(f"{results}: {what} of {manifest['data']['name']}, {where}. Next: {following}")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
