"""Measure speed and memory beside what one would use instead, in the same run; prints markdown tables.

    python bench.py extract            # titles a second, beside sentence-transformers, the pipeline and plain loops
    python bench.py train              # the report's six layer sets, beside ordinary training loops
    python bench.py memory             # peak memory of extract.py at 20,000 and 1,000,000 titles
    python bench.py scale              # cost per title from 1,000 to 1,000,000 titles
    python bench.py all > bench.md

Contenders take turns, round after round, so that a machine that slows down slows all of them; figures are medians.
"""
import argparse

import data

PARTS = ("extract", "train", "memory", "scale")


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("what", choices=(*PARTS, "all"), help="what to measure")
    add("--runs", type=data.number(int, 1), default=3, help="rounds over all contenders (default: 3)")
    add("--data", default="youtube", metavar="youtube|sample|FILE", help="extract: titles (default: youtube)")
    add("--text-column", default="title", help="extract: column of the titles (default: title)")
    add("--titles", type=data.number(int, 8), default=1200, help="extract: how many, from the first on (default: 1200)")
    add("--model", metavar="FOLDER",
        help="extract: an encoder with its tokenizer (default: bert-base's shape with random weights, as fast as trained ones)")
    add("--tokenizer", default="minilm", metavar="NAME",
        help="tokenizer of the encoders made here (default: minilm, which has the vocabulary of bert-base-uncased)")
    add("--features", default="features", metavar="FOLDER",
        help="train: what extract.py made; random numbers where there is nothing (default: features)")
    add("--random", type=data.number(int, 3), nargs=3, metavar=("TITLES", "LAYERS", "HIDDEN"),
        help="train: random numbers of that shape (3599 6 384 where there are no features)")
    add("--epochs", type=data.number(int, 1), default=30, help="train: passes (default: 30)")
    add("--max-titles", type=data.number(int, 2000), default=1_000_000,
        help="memory, scale: the largest corpus (default: 1000000)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the slow imports, so that --help and wrong options are answered at once

import contextlib
import csv
import functools
import importlib.metadata
import itertools
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils.data import DataLoader, TensorDataset

import extract
import metrics
import train

WORDS = """how to make the best street food in rome cheap flights hidden beaches paint sunset guitar lesson history of war
empire king recipe chocolate cake museum tour night market piano cover love song ancient battle my first trip""".split()
# runs a command from a process that is itself small: a child starts with the peak memory of the one that made it
MEASURE = """import resource, subprocess, sys, time
started = time.time()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.time() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""


# --- what all parts share -----------------------------------------------------------------------------------------


def table(columns, rows, *packages):
    """Print the line that says where and how, and a markdown table."""
    with contextlib.suppress(OSError):
        names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    processor = next(iter(locals().get("names", [])), platform.processor() or platform.machine())
    units = [f"{title} {'yes' if getattr(torch.cpu, f'_is_{unit}_supported', bool)() else 'no'}"
             for title, unit in (("AMX", "amx_tile"), ("AVX512-BF16", "avx512_bf16"))]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", *packages)]
    print(f"{processor}, {torch.get_num_threads()} threads, {', '.join(units)}; {', '.join(versions)}; "
          f"{time.strftime('%Y-%m-%d')}; `python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`\n")
    print("| " + " | ".join(columns) + " |\n|:---" + "|---:" * (len(columns) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def rounds(contenders, runs):
    """Seconds of each contender, (name: [seconds, …]): all of them in turn, `runs` times over."""
    seconds = {name: [] for name in contenders}
    for turn in range(runs):
        for name, work in contenders.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
            data.say(f"round {turn + 1} of {runs}: {name}, {seconds[name][-1]:.2f} s")
    return seconds


def make_encoder(folder, tokenizer, **config):
    """Save a BERT with random weights and a tokenizer to a folder; returns its path as text."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(extract.find_model(tokenizer)[0])
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(tokenizer), **config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# --- extract ------------------------------------------------------------------------------------------------------


def product_limit(dtype):
    """FLOP/s of the fastest way to multiply by a Linear's weights that torch has here, of bert-base's two large shapes."""
    best = 0.0
    for inputs, outputs in ((768, 3072), (3072, 768)):
        x, weight = torch.randn(2048, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
        ways = [lambda: linear(x, weight)]
        if torch.backends.mkldnn.is_available():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            ways.append(lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""))
        for way in ways:
            for _ in range(6):
                started = time.perf_counter()
                way()
                best = max(best, 2 * x.numel() * outputs / (time.perf_counter() - started))
    return best


def plain_loop_of_batches(model, tokenizer, titles, **padding):
    """What one writes by hand: titles as they come, 32 at a time, padded; [CLS] of all layers."""
    with torch.inference_mode():
        for start in range(0, len(titles), 32):
            tokens = tokenizer(titles[start:start + 32], truncation=True, max_length=128, return_tensors="pt", **padding)
            states = model(**tokens, output_hidden_states=True).hidden_states
            torch.stack([state[:, 0] for state in states[1:]]).numpy()


def bench_extract(args):
    import transformers

    path = data.find_titles(args.data)
    reader = data.read_table(path, [args.text_column])
    column = next(reader).index(args.text_column)
    titles = [cells[column] for _, cells in itertools.islice(reader, args.titles)]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        folder = args.model or make_encoder(folder, args.tokenizer)
        kinds = dict.fromkeys([torch.float32, extract.choose_dtype("auto", torch.device("cpu"))])
        ours = {dtype: extract.load_encoder(folder, "cpu", str(dtype).removeprefix("torch."), 128) for dtype in kinds}
        encoder = ours[torch.float32]
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        plain = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        pipe = transformers.pipeline("feature-extraction", model=folder, tokenizer=folder, device="cpu")
        ids, place, _ = extract.tokenise(encoder, titles)
        lengths = np.array([len(ids[i]) for i in place])
        by_length = np.argsort(lengths, kind="stable")
        part = {n: [titles[i] for i in sorted(by_length[n // 2::n])] for n in (1, 4, 8)}  # every n-th one by length
        layers = range(1, encoder.info["layers"] + 1)

        def extraction(encoder):
            extract.embed(encoder, extract.tokenise(encoder, titles), layers, ("cls",))

        contenders, last = {}, {}  # name: work; name: (dtype, what it gives, titles)
        for dtype, encoder in ours.items():
            name = f"this project, {'--dtype auto' if dtype != torch.float32 or len(ours) == 1 else '--dtype float32'}"
            contenders[name] = functools.partial(extraction, encoder)
            last[name] = dtype, "[CLS] of all layers", titles
        auto = name
        try:
            import sentence_transformers
        except ImportError:
            data.say("sentence-transformers is not installed, its rows are left out: pip install -r requirements-bench.txt")
        else:
            for dtype in kinds:
                with extract.quiet_library():
                    other = sentence_transformers.SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})
                name = f"sentence-transformers encode, {str(dtype).removeprefix('torch.')}"
                contenders[name] = functools.partial(other.encode, titles, show_progress_bar=False)
                last[name] = dtype, "mean of the last layer", titles
        for name, work, gives, titles_of in (
                ("transformers pipeline feature-extraction", lambda: pipe(part[4]), "all tokens of the last layer", part[4]),
                ("BertModel loop, batches of 32, padded to the longest",
                 lambda: plain_loop_of_batches(plain, tokenizer, part[4], padding=True), "[CLS] of all layers", part[4]),
                ("BertModel loop, batches of 32, padded to 128 tokens",
                 lambda: plain_loop_of_batches(plain, tokenizer, part[8], padding="max_length"), "[CLS] of all layers", part[8])):
            contenders[name], last[name] = work, (torch.float32, gives, titles_of)
        limits = {dtype: [] for dtype in kinds}

        def measure_limits():
            for dtype in kinds:
                limits[dtype].append(product_limit(dtype))

        seconds = rounds({"limit of matrix products": measure_limits, **contenders}, args.runs)
        weights = sum(module.weight.numel() for module in plain.encoder.modules() if isinstance(module, torch.nn.Linear))
    speed = {name: len(last[name][2]) / statistics.median(seconds[name]) for name in contenders}
    limits = {dtype: max(values) for dtype, values in limits.items()}
    flop = 2 * weights * lengths.mean()
    first = next(iter(speed))
    rows = [(name, last[name][1], len(last[name][2]), f"{value:.1f}", f"{speed[auto] / value:.2f}", f"{value / speed[first]:.2f}",
             f"{value * flop / limits[last[name][0]]:.0%}") for name, value in speed.items()]
    table(("contender", "gives", "titles timed", "titles/s", "`auto` is times as fast", "times the first row",
           "share of the limit"), rows, "transformers",
          *["sentence-transformers"] * any(name.startswith("sentence") for name in speed))
    print(f"{lengths.mean():.1f} tokens a title, {flop / 1e9:.3f} GFLOP; limit of matrix products in this run: " +
          ", ".join(f"{value / 1e12:.3f} TFLOP/s in {str(dtype).removeprefix('torch.')}" for dtype, value in limits.items()) +
          f". Slow contenders ran on every 4th or 8th of the {len(titles):,} titles, counted by length.\n")


# --- train --------------------------------------------------------------------------------------------------------


def plain_loop(x, labels, folds, config):
    """train.train_heads by ordinary means: one fold after the other, one module each, on the same batches.

    Returns (heads: list of Head, probabilities: (titles, classes) float32).
    """
    batches = [train.epoch_batches(folds, config["options"], e) for e in range(1, config["options"]["epochs"] + 1)]

    def batches_of(fold, inputs, targets):
        for rows, weights in batches:
            yield (torch.from_numpy(row[weight > 0]) for row, weight in zip(rows[:, fold], weights[:, fold]))

    return ordinary_loop(x, labels, folds, config, batches_of, lambda batch, x, target: (x[batch], target[batch]))


def loader_loop(x, labels, folds, config):
    """The usual training loop: a DataLoader over the training fold that shuffles; returns what plain_loop returns."""

    def batches_of(fold, inputs, targets):
        training = torch.from_numpy(folds != fold)
        loader = DataLoader(TensorDataset(inputs[training], targets[training]), config["options"]["batch_size"], shuffle=True)
        return itertools.repeat(loader, config["options"]["epochs"])

    return ordinary_loop(x, labels, folds, config, batches_of, lambda batch, x, target: batch)


def ordinary_loop(x, labels, folds, config, batches_of, look_up):
    """One head after the other, scored on its held-out fold after every epoch as train.train_heads does."""
    target, classes = torch.from_numpy(labels), len(config["classes"])
    heads, probabilities = train.new_heads(config), np.empty((len(x), classes), np.float32)
    for fold, head in enumerate(heads):
        held_out = x[torch.from_numpy(folds == fold)]
        if config["options"]["standardize"]:
            deviation, mean = torch.std_mean(x[torch.from_numpy(folds != fold)], 0, correction=0)
            head.mean, head.deviation = mean, torch.where(deviation > 0, deviation, 1.0)
        optimizer = torch.optim.Adam(head.parameters(), lr=config["options"]["lr"])
        for batches in batches_of(fold, x, target):
            for batch in batches:
                inputs, targets = look_up(batch, x, target)
                optimizer.zero_grad()
                cross_entropy(head(inputs), targets).backward()
                optimizer.step()
            with torch.inference_mode():
                probabilities[folds == fold] = head(held_out).softmax(-1).numpy()
            metrics.macro_f1(labels[folds == fold], probabilities[folds == fold].argmax(1), classes)
    return heads, probabilities


def bench_train(args):
    shape, x, options = args.random, {}, {**data.HEAD, "epochs": args.epochs}
    if not shape and (Path(args.features) / "manifest.json").exists():
        features = data.open_features(args.features)
        depth, width, (_, names) = features.manifest["encoder"]["layers"], features.manifest["encoder"]["hidden"], features.titles()
        there = features.layers("cls")
        x = {layer: np.asarray(features.read("cls", layer), np.float32) for layer in there}
        classes, labels = np.unique(names, return_inverse=True)
        source = f"{args.features}, {features.manifest['encoder']['name']}"
    else:
        rows, depth, width = shape or (3599, 6, 384)
        generator = np.random.default_rng(0)
        x = {layer: generator.standard_normal((rows, width), np.float32) for layer in range(1, depth + 1)}
        classes, labels, source = np.arange(4), generator.integers(0, 4, rows), "random numbers"
    sets = [layers for layers in train.report_sets(depth) if set(layers) <= set(x)]
    if not sets:
        raise data.Problem(f"--features {args.features}: holds none of the report's layer sets with [CLS]; add them with: "
                           "python extract.py --layers -1 -2 -3 -4")
    labels = np.ascontiguousarray(labels, np.int64)
    folds = data.make_folds(labels, np.arange(len(labels)), options["folds"], options["seed"], list(map(str, classes)))

    def every_set(loop):
        for layers in sets:
            config = {"columns": [("cls", layer) for layer in layers], "classes": list(classes), "encoder": {"hidden": width},
                      "options": options}
            loop(torch.from_numpy(np.stack([x[layer] for layer in layers], 1)), labels, folds, config)

    contenders = {"this project, all folds in one loop": train.train_heads,
                  "one fold after the other, tensors in memory": plain_loop,
                  "one fold after the other, DataLoader(TensorDataset)": loader_loop}
    options["epochs"] = 1
    every_set(train.train_heads)  # what torch sets up once is no part of any contender
    options["epochs"] = args.epochs
    seconds = rounds({name: functools.partial(every_set, loop) for name, loop in contenders.items()}, args.runs)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(middle.values()))
    table((f"{len(sets)} layer sets, {options['folds']} folds, {args.epochs} epochs", "seconds", "times as long"),
          [(name, f"{value:.2f}", f"{value / first:.2f}") for name, value in middle.items()])
    print(f"{len(labels):,} titles, {width} dimensions ({source}).\n")


# --- memory and scale ---------------------------------------------------------------------------------------------


@functools.cache
def tiny_extraction(rows, tokenizer):
    """(seconds, peak memory in MB) of extract.py on so many made-up titles with an encoder of 2 layers and 32 dimensions."""
    with tempfile.TemporaryDirectory() as folder:
        folder, generator = Path(folder), random.Random(0)
        encoder = make_encoder(folder / "encoder", tokenizer, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                               intermediate_size=64)
        with open(folder / "titles.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["title", "category"])
            for row in range(rows):
                writer.writerow([f"{' '.join(generator.choices(WORDS, k=generator.randint(3, 12)))} {row}", f"category {row % 4}"])
        command = [sys.executable, data.HERE / "extract.py", "--data", folder / "titles.csv", "--model", encoder, "--dtype",
                   "float32", "--device", "cpu", "--out", folder / "features", "--quiet"]
        done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, command)], text=True, stdout=subprocess.PIPE)
        if done.returncode:
            raise data.Problem("extract.py failed on made-up titles; its message stands above")
        seconds, peak = map(float, done.stdout.split())
        peak *= 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes here
        data.say(f"extract.py, {rows:,} titles: {seconds:.1f} s, {peak / 1e6:.0f} MB")
        return seconds, peak / 1e6


def bench_memory(args):
    sizes = [min(20_000, args.max_titles // 2), args.max_titles]
    peaks = [tiny_extraction(rows, args.tokenizer)[1] for rows in sizes]
    table(("extract.py, 2 layers of 32 dimensions", "peak memory, MB"),
          [*((f"{rows:,} titles", f"{peak:.0f}") for rows, peak in zip(sizes, peaks)),
           ("difference", f"{peaks[1] - peaks[0]:+.0f}")], "transformers")


def bench_scale(args):
    sizes = [n for n in (1_000, 10_000, 100_000, 1_000_000) if n < args.max_titles] + [args.max_titles]
    least = 16  # titles; that run is all start-up
    start = statistics.median(tiny_extraction.__wrapped__(least, args.tokenizer)[0] for _ in range(args.runs))
    seconds = [tiny_extraction(rows, args.tokenizer)[0] for rows in sizes]
    net = [(rows - least) / max(spent - start, 1e-9) for rows, spent in zip(sizes, seconds)]
    table(("extract.py, 2 layers of 32 dimensions", "seconds", "titles/s", "titles/s net of start-up"),
          [(f"{rows:,} titles", f"{spent:.1f}", f"{rows / spent:,.0f}", f"{speed:,.0f}")
           for rows, spent, speed in zip(sizes, seconds, net)], "transformers")
    change = net[-2] / net[-1] - 1
    print(f"Start-up, {start:.1f} s, is the median of {args.runs} runs over {least} titles. From {sizes[-2]:,} to {sizes[-1]:,} "
          f"titles the net cost of a title changes by {change:+.0%}: {'flat' if abs(change) <= 0.15 else 'not flat'} within 15%.\n")


def main(args):
    started = time.time()
    parts = {"extract": bench_extract, "train": bench_train, "memory": bench_memory, "scale": bench_scale}
    for name in PARTS if args.what == "all" else [args.what]:
        parts[name](args)
    data.say(f"{args.what}: {time.time() - started:.0f} s. The tables are markdown, for the README.")


if __name__ == "__main__":
    data.run(main, ARGUMENTS)
