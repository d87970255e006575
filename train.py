"""Train the report's head on frozen features and score it out of fold.

    python train.py                    # the report's six layer sets
    python train.py --layers 12 11     # one head on the fusion of layers 12 and 11
    python train.py --each             # every extracted layer alone

Each title is predicted once, by a head that has not seen it or a copy of it. The heads of all folds train together.
"""

import argparse

import cli


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--features", default="features", metavar="FOLDER", help="what extract.py made (default: features)")
    add("--results", default="results", metavar="FOLDER", help="where runs go, a folder each (default: results)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--layers",
        nargs="+",
        metavar="N",
        help="train one head on these layers together: numbers from 1, or -1 (last), -2 …, or all "
        "(default: the report's six sets, one after the other)",
    )
    which.add_argument("--each", action="store_true", help="train every extracted layer alone")
    add("--pooling", nargs="+", choices=cli.POOLINGS, default=["cls"], help="features to use, or both (default: cls)")
    add(
        "--standardize",
        action="store_true",
        help="bring every dimension to mean 0 and deviation 1, measured on the training folds (default: off)",
    )
    add(
        "--fusion",
        choices=("conv", "mix", "concat"),
        help="how several layers become one: point-wise convolution, softmax-weighted sum, or side by side (default: conv)",
    )
    add(
        "--reduction",
        choices=("conv", "none"),
        help="convolution of kernel and stride 3 over the dimensions, or none (default: conv)",
    )
    add("--hidden", type=cli.number(int, 1), help="width of the hidden layer (default: 512)")
    add("--folds", type=cli.number(int, 2), help="parts that are held out in turn (default: 5)")
    add(
        "--split",
        choices=("grouped", "random"),
        help="grouped keeps copies of a title on one side of the split, random does not (default: grouped)",
    )
    add("--epochs", type=cli.number(int, 1), help="passes over the training folds (default: 30)")
    add("--batch-size", type=cli.number(int, 1), help="titles a step (default: 64)")
    add("--lr", type=cli.number(float, above=0), help="learning rate of Adam (default: 0.001)")
    add("--seed", type=cli.number(int, 0), help="decides folds, first weights and order (default: 0)")
    add("--device", default="auto", metavar="auto|cpu|cuda[:n]", help="where to compute (default: auto)")
    add("--quiet", action="store_true", help="print nothing but errors")
    parser.set_defaults(**cli.HEAD)
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(
        parse_arguments
    )  # before the slow imports, so that --help and wrong options are answered at once

import csv
import platform
import shlex
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.func import stack_module_state
from torch.nn.functional import cross_entropy

import data
import metrics
import model
import store


def report_sets(depth):
    """The report's six layer sets, counted from the top of an encoder of any depth; those that do not exist are left out."""
    sets = [
        [depth],
        [depth - 1],
        [depth - 2],
        [depth - 3],
        [depth, depth - 1],
        [depth, depth - 1, depth - 2, depth - 3],
    ]
    return [layers for layers in sets if min(layers) >= 1]


def new_heads(config):
    """The heads of all folds with their first weights, which depend on the seed and the fold only; a list of Head."""
    heads = []
    with torch.random.fork_rng(devices=[]):
        for fold in range(config["options"]["folds"]):
            torch.manual_seed(int(np.random.SeedSequence([config["options"]["seed"], fold]).generate_state(1)[0]))
            heads.append(model.build(config))
    return heads


def standardization(x, folds):
    """Mean and deviation of each layer and dimension over the training titles of every fold: two (folds, layers, hidden).

    x: (titles, layers, hidden). Every title is read once: sums over each fold are taken from the sum over all, about
    the overall mean and in float64, so that nothing is lost. A dimension that never varies gets deviation 1.
    """
    center, count = x.mean(0), torch.as_tensor(np.bincount(folds), device=x.device)
    parts = [x[torch.as_tensor(folds == fold, device=x.device)].double() - center for fold in range(len(count))]
    first, second = (torch.stack([(part**power).sum(0) for part in parts]) for power in (1, 2))
    kept = (len(folds) - count)[:, None, None]
    mean = (first.sum(0) - first) / kept
    variance = (second.sum(0) - second) / kept - mean**2
    deviation = variance.clamp(min=0).sqrt().float()
    return (center + mean).float(), torch.where(deviation > 1e-7 * (1 + center.abs()), deviation, 1.0)


def epoch_batches(folds, options, epoch):
    """The batches of one epoch for every fold: row numbers and weights, (steps, folds, titles) each.

    Every fold's training titles, in an order of its own, are cut into the same number of batches of nearly equal
    size; where a batch has a title less than the largest, its last place has weight 0.
    """
    count = options["folds"]
    training = [np.flatnonzero(folds != fold) for fold in range(count)]
    steps = min(-(-max(map(len, training)) // options["batch_size"]), min(map(len, training)))  # no batch is empty
    width = -(-max(map(len, training)) // steps)
    rows, weights = np.zeros((steps, count, width), np.int64), np.zeros((steps, count, width), np.float32)
    for fold, titles in enumerate(training):
        order = np.random.default_rng([options["seed"], fold, epoch]).permutation(titles)
        for step, batch in enumerate(np.array_split(order, steps)):
            rows[step, fold, : len(batch)] = batch
            weights[step, fold, : len(batch)] = 1 / len(batch)
    return rows, weights


def train_heads(x, labels, folds, config, bar=None):
    """Train the heads of all folds in one loop. Returns (state, history, probabilities).

    x: (titles, layers, hidden) float32 tensor on the device; labels, folds: (titles,) int arrays.
    state: the trained heads as stacked tensors, (folds, …) each; history: a (epoch, fold, loss, macro-F1) for each epoch
    and fold, the loss averaged over the epoch's batches, the macro-F1 on the held-out fold; probabilities: (titles,
    classes) float32, out of fold, after the last epoch. A loss that is not finite is a Problem.
    """
    options, classes = config["options"], len(config["classes"])
    heads = new_heads(config)
    parameters, buffers = stack_module_state(heads)
    # the first Linear's weights lie transposed in memory, as their gradients come out of the product: nothing is copied
    turned = {name: value.mT if name == "mlp.0.weight" else value for name, value in parameters.items()}
    turned = {name: value.detach().to(x.device).contiguous().requires_grad_() for name, value in turned.items()}
    parameters = {name: value.mT if name == "mlp.0.weight" else value for name, value in turned.items()}
    buffers = dict(zip(("mean", "deviation"), standardization(x, folds))) if options["standardize"] else buffers
    forward, target = model.stacked(heads[0]), torch.as_tensor(labels, device=x.device)
    optimizer = torch.optim.Adam(turned.values(), lr=options["lr"], fused=True)
    history = []
    for epoch in range(1, options["epochs"] + 1):
        rows, weights = (torch.as_tensor(a, device=x.device) for a in epoch_batches(folds, options, epoch))
        losses = torch.zeros(options["folds"], device=x.device)
        for batch, weight in zip(rows, weights):
            inputs = x.index_select(0, batch.flatten()).unflatten(0, batch.shape)  # faster than x[batch]
            logits = forward({**parameters, **buffers}, inputs)
            loss = cross_entropy(logits.flatten(0, 1), target[batch].flatten(), reduction="none")
            loss = (loss.view_as(weight) * weight).sum(1)  # the mean over each fold's batch
            optimizer.zero_grad()
            loss.sum().backward()  # folds share no weight, so each gets the gradient of its own loss
            optimizer.step()
            losses += loss.detach()
        losses = (losses / len(rows)).cpu().numpy()
        if not np.isfinite(losses).all():
            raise cli.Problem(
                f"the loss is no longer a finite number in epoch {epoch}; use a smaller --lr than "
                f"{options['lr']:g}" + ("" if options["standardize"] else ", or --standardize")
            )
        probabilities = model.held_out_probabilities(forward, {**parameters, **buffers}, x, folds)
        scores = metrics.score(labels, probabilities.argmax(1), folds, classes)["fold_macro_f1"]
        history += [(epoch, fold, float(losses[fold]), score) for fold, score in enumerate(scores)]
        if bar is not None:
            bar.update()
    state = {name: value.detach().cpu().contiguous() for name, value in {**parameters, **buffers}.items()}
    return state, history, probabilities


def run_name(config):
    """The name of a run's folder: encoder, data, layers, and every option that is not the default."""
    layers = list(dict.fromkeys(layer for _, layer in config["columns"]))
    poolings = list(dict.fromkeys(pooling for pooling, _ in config["columns"]))
    parts = [store.slug(Path(config["encoder"]["name"]).name), store.slug(config["data"]["name"]), "layers", *layers]
    parts += [] if poolings == ["cls"] else ["and".join(poolings)]
    for option, value in config["options"].items():
        if value != cli.HEAD[option] and not (option == "fusion" and len(config["columns"]) == 1):
            parts.append(
                option
                if value is True
                else value
                if option in ("fusion", "split")
                else f"{option.replace('_', '-')}-{value}"
            )
    name = "-".join(map(str, parts))
    return name if len(name) <= 200 else f"{name[:180]}-{store.digest(name)[:12]}"


def write_history(history, path):
    """Write loss and macro-F1 of every epoch and fold as CSV."""
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("epoch", "fold", "loss", "macro_f1"), *history])


def model_card(config, name):
    """A README for a run's folder: what it is, how good, and how to use it."""
    result, options, titles = config["results"], config["options"], config["data"]
    used = " and ".join(f"layer {layer} ({pooling})" for pooling, layer in config["columns"])
    classes = "\n".join(f"- {cli.escape_markdown(name)}" for name in config["classes"])
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in options.items())
    return f"""---
library_name: pytorch
pipeline_tag: text-classification
---
# {name}

Classifies titles into {len(config["classes"])} categories from {used} of the frozen encoder
`{config["encoder"]["name"].replace("`", "")}`. The folder holds {options["folds"]} heads; their probabilities are averaged.

| Layers | F1-macro, last epoch | Folds |
|:------:|:--------------------:|:-----:|
| {", ".join(str(layer) for _, layer in config["columns"])} | {result["macro_f1"]:.4f} | {result["fold_mean"]:.4f} ± {result["fold_deviation"]:.4f} |

Scored out of fold on {titles["rows"]:,} titles of `{titles["name"].replace("`", "")}` (sha256 `{titles["sha256"]}`).
Encoder weights `{config["encoder"]["weights"]}`, revision `{config["encoder"]["revision"]}`.
Options: {settings}.

Categories:

{classes}

Made with `{config["made"]["command"].replace("`", "")}`. Use it with `python predict.py --run FOLDER "a title"`.
"""


def main(args):
    started = time.time()
    features = store.open_features(args.features)
    manifest = features.manifest
    depth, name = manifest["encoder"]["layers"], manifest["encoder"]["name"]
    poolings = sorted(set(args.pooling))
    missing = [pooling for pooling in poolings if not features.layers(pooling)]
    if missing:
        raise cli.Problem(
            f"--pooling {missing[0]}: {args.features} holds none; add it with: extract.py --pooling "
            f"{missing[0]} and its other options as before"
        )
    available = sorted(set.intersection(*(set(features.layers(pooling)) for pooling in poolings)))
    if args.each:
        sets = [[layer] for layer in reversed(available)]
    else:
        wanted = [args.layers] if args.layers else [[str(n) for n in s] for s in report_sets(depth)]
        sets = [store.resolve_layers(layers, depth, name, poolings, available) for layers in wanted]
    device = model.choose_device(args.device)
    titles, names = features.titles()
    classes = sorted(set(names))
    positions = {name: i for i, name in enumerate(classes)}
    labels = np.array([positions[name] for name in names])
    groups = data.numbered(map(data.group_key, titles))  # kept with the run: copies are resampled together
    folds = data.make_folds(
        labels, groups if args.split == "grouped" else np.arange(len(titles)), args.folds, args.seed, classes
    )
    arrays = {"labels": labels.astype(np.int32), "folds": folds.astype(np.int32), "groups": groups.astype(np.int32)}
    results, trained = Path(args.results), 0
    if results.exists() and not results.is_dir():
        raise cli.Problem(f"--results {results}: this is a file; name a folder")
    with store.locked(results, "a training"):
        for leftover in results.glob(".unfinished-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for layers in sets:
            columns = [(pooling, layer) for pooling in poolings for layer in layers]
            config = {
                "format": store.FORMAT,
                "columns": [list(c) for c in columns],
                "classes": classes,
                "options": {option: getattr(args, option) for option in cli.HEAD},
                "encoder": manifest["encoder"],
                "data": {k: v for k, v in manifest["data"].items() if k != "classes"},
                "settings": manifest["settings"],
                "features": features.identity,
                "files": {f: manifest["files"][f]["sha256"] for f in (store.feature_file(*c) for c in columns)},
            }
            folder = results / run_name(config)
            if folder.exists():
                old = store.read_json(folder / "config.json", "a run")
                differ = [key for key in config if old.get(key) != config[key]]
                if differ:
                    raise cli.Problem(
                        f"{folder}: a run of that name is there, but its {' and '.join(differ)} differ; "
                        "delete it, or choose another --results"
                    )
                cli.say(f"{folder.name}: trained already, macro-F1 {old['results']['macro_f1']:.4f}", args.quiet)
                continue
            begun = time.time()
            x = model.stack_columns(config, features).to(device)
            with cli.progress(args.epochs, " epochs", args.quiet, desc=f"layers {', '.join(map(str, layers))}") as bar:
                state, history, probabilities = train_heads(x, labels, folds, config, bar)
            config["results"] = {
                **metrics.score(labels, probabilities.argmax(1), folds, len(classes)),
                "layer_weights": model.layer_weights(state),
            }
            config["software"] = {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            }
            config["machine"] = {"device": device.type, "threads": torch.get_num_threads()}
            config["made"] = {
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "features": args.features,
                "seconds": round(time.time() - begun, 2),
                "command": cli.one_line(shlex.join(["python", *sys.argv])),
            }
            store.write_run(
                folder,
                config,
                {"probabilities": probabilities, **arrays},
                [
                    ("heads.safetensors", lambda path: save_file(state, path)),
                    ("history.csv", lambda path: write_history(history, path)),
                    ("README.md", lambda path: path.write_text(model_card(config, folder.name), encoding="utf-8")),
                ],
            )
            trained += 1
            describe(config, layers, args.quiet)
    cli.say(
        f"{results}: {trained} of {len(sets)} layer sets trained on {len(titles):,} titles of "
        f"{manifest['data']['name']}, {args.folds} {args.split} folds, {time.time() - started:.1f} s. "
        f"Next: python evaluate.py{cli.unless_default('--results', args.results, 'results')}",
        args.quiet,
    )


def describe(config, layers, quiet):
    """Say how one layer set did, and what its weights are where layers are weighed."""
    result = config["results"]
    cli.say(
        f"layers {', '.join(map(str, layers))}: macro-F1 {result['macro_f1']:.4f}, folds {result['fold_mean']:.4f} ± "
        f"{result['fold_deviation']:.4f}",
        quiet,
    )
    if fault := store.collapse(config):
        cli.say("  " + "; try ".join(fault), quiet)
    if result["layer_weights"]:
        pairs = zip(config["columns"], result["layer_weights"])
        cli.say(
            "  weights: " + ", ".join(f"layer {layer} ({pooling}) {weight:+.3f}" for (pooling, layer), weight in pairs),
            quiet,
        )


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
