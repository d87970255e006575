"""Measure speed and memory beside what one would use instead, in the same run; prints markdown tables.

    python bench.py extract            # titles a second, beside sentence-transformers, the pipeline and plain loops
    python bench.py train              # the report's six layer sets, beside ordinary training loops
    python bench.py memory             # peak memory of extract.py at 20,000 and 1,000,000 titles
    python bench.py scale              # cost per title from 1,000 to 1,000,000 titles
    python bench.py all > bench.md

Contenders take turns, round after round, so that a machine that slows down slows all of them; figures are medians.
"""

import argparse

import cli


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("what", choices=("extract", "train", "memory", "scale", "all"), help="what to measure")
    add("--runs", type=cli.number(int, 1), default=3, help="rounds over all contenders (default: 3)")
    add("--data", default="youtube", metavar="youtube|sample|FILE", help="extract: titles (default: youtube)")
    add("--text-column", default="title", help="extract: column of the titles (default: title)")
    add("--titles", type=cli.number(int, 8), default=1200, help="extract: how many, from the first on (default: 1200)")
    add(
        "--model",
        metavar="FOLDER",
        help="extract: an encoder with its tokenizer (default: bert-base's shape with random weights, as fast as trained ones)",
    )
    add(
        "--tokenizer",
        default="minilm",
        metavar="NAME",
        help="tokenizer of the encoders made here (default: minilm, which has the vocabulary of bert-base-uncased)",
    )
    add(
        "--features",
        default="features",
        metavar="FOLDER",
        help="train: what extract.py made; random numbers where there is nothing (default: features)",
    )
    add(
        "--random",
        type=cli.number(int, 3),
        nargs=3,
        metavar=("TITLES", "LAYERS", "HIDDEN"),
        help="train: random numbers of that shape (3599 6 384 where there are no features)",
    )
    add("--epochs", type=cli.number(int, 1), default=30, help="train: passes (default: 30)")
    add(
        "--max-titles",
        type=cli.number(int, 2000),
        default=1_000_000,
        help="memory, scale: the largest corpus (default: 1000000)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(
        parse_arguments
    )  # before the slow imports, so that --help and wrong options are answered at once

import functools
import importlib.metadata
import itertools
import platform
import random
import re
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

import data
import metrics
import store
import train
from encoder import choose_dtype, embed, find_model, load_encoder, quiet_library, tokenise

WORDS = "how to make the best street food in rome cheap flights hidden beach paint sunset guitar lesson history of war".split()
# runs a command from a process that is itself small: a child starts with the peak memory of the one that made it
MEASURE = """import resource, subprocess, sys, time
started = time.time()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.time() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""


# --- what all parts share -----------------------------------------------------------------------------------------


def table(columns, rows, *packages):
    """Print the line that says where, with what and how, and a markdown table."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    processor = re.search(r"model name\s*: (.*)", info)
    units = [
        f"{title} {'yes' if getattr(torch.cpu, f'_is_{unit}_supported', bool)() else 'no'}"
        for title, unit in (("AMX", "amx_tile"), ("AVX512-BF16", "avx512_bf16"))
    ]
    print(
        f"{processor[1] if processor else platform.machine()}, {torch.get_num_threads()} threads, {', '.join(units)}; "
        f"{', '.join(f'{name} {importlib.metadata.version(name)}' for name in ('torch', *packages))}; "
        f"{time.strftime('%Y-%m-%d')}; `python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`\n"
    )
    for row in (columns, [":---", *["---:"] * (len(columns) - 1)], *rows):
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def rounds(contenders, runs):
    """Median seconds of each contender, {name: seconds}: all of them in turn, `runs` times over."""
    seconds = {name: [] for name in contenders}
    for turn, (name, work) in itertools.product(range(runs), contenders.items()):
        started = time.perf_counter()
        work()
        seconds[name].append(time.perf_counter() - started)
        cli.say(f"round {turn + 1} of {runs}: {name}, {seconds[name][-1]:.2f} s")
    return {name: statistics.median(values) for name, values in seconds.items()}


def make_encoder(folder, tokenizer, **config):
    """Save a BERT with random weights and a tokenizer to a folder; returns its path as text."""
    import transformers

    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(find_model(tokenizer)[0])
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(tokenizer), **config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# --- extract ------------------------------------------------------------------------------------------------------


def product_limit(dtype):
    """FLOP/s of the fastest way that torch has here to multiply by a Linear's weights, of bert-base's two large shapes."""
    best = 0.0
    for inputs, outputs in ((768, 3072), (3072, 768)):
        x, weight = torch.randn(2048, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
        ways = [lambda: linear(x, weight)]
        if torch.backends.mkldnn.is_available():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            ways.append(lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""))
        for way in ways * 6:
            started = time.perf_counter()
            way()
            best = max(best, 2 * x.numel() * outputs / (time.perf_counter() - started))
    return best


def loop_of_batches(model, tokenizer, titles, padding):
    """What one writes by hand: titles as they come, 32 at a time, padded; [CLS] of all layers."""
    for start in range(0, len(titles), 32):
        tokens = tokenizer(
            titles[start : start + 32], truncation=True, max_length=128, padding=padding, return_tensors="pt"
        )
        states = model(**tokens, output_hidden_states=True).hidden_states
        torch.stack([state[:, 0] for state in states[1:]]).numpy()


@torch.inference_mode()
def bench_extract(args):
    import transformers

    try:
        import sentence_transformers
    except ImportError:
        sentence_transformers = None
        cli.say("sentence-transformers is missing, its rows are left out; pip install -r requirements-bench.txt")
    reader = data.read_table(data.find_titles(args.data), [args.text_column])
    column = next(reader).index(args.text_column)
    titles = [cells[column] for _, cells in itertools.islice(reader, args.titles)]
    contenders, about = {}, {}  # name: function without arguments; name: (dtype, what it gives, titles)

    def enter(name, dtype, gives, titles, work, *arguments, **options):
        about[name] = dtype, gives, len(titles)
        contenders[name] = functools.partial(work, *arguments, **options)

    def extraction(encoder):
        embed(encoder, tokenise(encoder, titles), range(1, encoder.info["layers"] + 1), ("cls",))

    with tempfile.TemporaryDirectory() as temporary, quiet_library():
        folder = args.model or make_encoder(temporary, args.tokenizer)
        kinds = dict.fromkeys([torch.float32, choose_dtype("auto", torch.device("cpu"))])
        for dtype in kinds:
            encoder = load_encoder(folder, "cpu", name_of(dtype))
            auto = f"this project, {name_of(dtype)}{' (--dtype auto)' if dtype == list(kinds)[-1] else ''}"
            enter(auto, dtype, "[CLS] of all layers", titles, extraction, encoder)
        for dtype in kinds if sentence_transformers else ():
            other = sentence_transformers.SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})
            enter(
                f"sentence-transformers encode, {name_of(dtype)}",
                dtype,
                "mean of the last layer",
                titles,
                other.encode,
                titles,
                show_progress_bar=False,
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        plain = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        pipe = transformers.pipeline("feature-extraction", model=plain, tokenizer=tokenizer, device="cpu")
    ids, place, _ = tokenise(encoder, titles)
    lengths = np.array([len(ids[i]) for i in place])
    by_length = np.argsort(lengths, kind="stable")
    fourth, eighth = (
        [titles[i] for i in sorted(by_length[n // 2 :: n])] for n in (4, 8)
    )  # every n-th, sorted by length
    enter(
        "transformers pipeline feature-extraction", torch.float32, "all tokens of the last layer", fourth, pipe, fourth
    )
    enter(
        "loop, 32 titles a batch, padded to its longest",
        torch.float32,
        "[CLS] of all layers",
        fourth,
        loop_of_batches,
        plain,
        tokenizer,
        fourth,
        True,
    )
    enter(
        "loop, 32 titles a batch, padded to 128 tokens",
        torch.float32,
        "[CLS] of all layers",
        eighth,
        loop_of_batches,
        plain,
        tokenizer,
        eighth,
        "max_length",
    )
    limits = {dtype: [] for dtype in kinds}

    def measure_limits():
        for dtype in kinds:
            limits[dtype].append(product_limit(dtype))

    seconds = rounds({"limit of matrix products": measure_limits, **contenders}, args.runs)
    limits = {dtype: max(values) for dtype, values in limits.items()}
    flop = (
        2
        * lengths.mean()
        * sum(
            module.weight.numel()
            for name, module in plain.named_modules()
            if isinstance(module, torch.nn.Linear) and "pooler" not in name
        )
    )
    speed = {name: about[name][2] / seconds[name] for name in contenders}
    table(
        (
            "contender",
            "gives",
            "titles timed",
            "titles/s",
            "`auto` is times as fast",
            "times the first row",
            "share of limit",
        ),
        [
            (
                name,
                *about[name][1:],
                f"{value:.1f}",
                f"{speed[auto] / value:.2f}",
                f"{value / next(iter(speed.values())):.2f}",
                f"{value * flop / limits[about[name][0]]:.0%}",
            )
            for name, value in speed.items()
        ],
        "transformers",
        *["sentence-transformers"] * bool(sentence_transformers),
    )
    print(
        f"{lengths.mean():.1f} tokens a title, {flop / 1e9:.3f} GFLOP in Linear weights. Limit, the fastest matrix product in "
        f"this run: {', '.join(f'{value / 1e12:.3f} TFLOP/s in {name_of(dtype)}' for dtype, value in limits.items())}. Slow "
        f"contenders ran on every 4th or 8th of the {len(titles):,} titles, sorted by length.\n"
    )


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


# --- train --------------------------------------------------------------------------------------------------------


def usual_forward(head, x):
    """The report's head as one writes it, its convolutions called as modules; the same values as head(x)."""
    return head.mlp(head.reduce(head.fuse(x) if head.fusion == "conv" else x).squeeze(1))


def plain_loop(x, labels, folds, config, loader=False):
    """train.train_heads by ordinary means: one fold after the other, one module each, on the same batches.

    loader: the usual DataLoader and the head as usually written instead, in an order of its own. Returns (heads: list of Head, probabilities:
    (titles, classes) float32, out of fold).
    """
    options, target, classes = config["options"], torch.from_numpy(labels), len(config["classes"])
    batches = [train.epoch_batches(folds, options, epoch) for epoch in range(1, options["epochs"] + 1) if not loader]
    heads, probabilities = train.new_heads(config), np.empty((len(x), classes), np.float32)
    for fold, head in enumerate(heads):
        held_out = folds == fold
        inputs, targets = x[torch.from_numpy(~held_out)], target[torch.from_numpy(~held_out)]
        if options["standardize"]:
            deviation, mean = torch.std_mean(inputs, 0, correction=0)
            head.mean, head.deviation = mean, torch.where(deviation > 0, deviation, 1.0)
        forward = functools.partial(usual_forward, head) if loader else head
        shuffled = DataLoader(TensorDataset(inputs, targets), options["batch_size"], shuffle=True)
        optimizer = torch.optim.Adam(head.parameters(), lr=options["lr"])
        for epoch in range(options["epochs"]):
            for batch in shuffled if loader else zip(*(part[:, fold] for part in batches[epoch])):
                if not loader:
                    rows = torch.from_numpy(batch[0][batch[1] > 0])  # the others only fill up
                    batch = x[rows], target[rows]
                optimizer.zero_grad()
                cross_entropy(forward(batch[0]), batch[1]).backward()
                optimizer.step()
            with torch.inference_mode():  # scored after every epoch, as train.train_heads does
                probabilities[held_out] = forward(x[torch.from_numpy(held_out)]).softmax(-1).numpy()
            metrics.macro_f1(labels[held_out], probabilities[held_out].argmax(1), classes)
    return heads, probabilities


def bench_train(args):
    options, shape = {**cli.HEAD, "epochs": args.epochs}, args.random
    if not shape and (Path(args.features) / "manifest.json").exists():
        features = store.open_features(args.features)
        x = {layer: np.asarray(features.read("cls", layer), np.float32) for layer in features.layers("cls")}
        depth, width = features.manifest["encoder"]["layers"], features.manifest["encoder"]["hidden"]
        classes, labels = np.unique(features.titles()[1], return_inverse=True)
        source = f"features of {features.manifest['encoder']['name']}"
    else:
        rows, depth, width = shape or (3599, 6, 384)
        generator = np.random.default_rng(0)
        x = {layer: generator.standard_normal((rows, width), np.float32) for layer in range(1, depth + 1)}
        classes, labels, source = np.arange(4), np.arange(rows) % 4, "random numbers"
    sets = [layers for layers in train.report_sets(depth) if set(layers) <= set(x)]
    if not sets:
        raise cli.Problem(
            f"--features {args.features}: holds none of the report's layer sets with [CLS]; add them with: "
            "python extract.py --layers -1 -2 -3 -4"
        )
    folds = data.make_folds(labels, np.arange(len(labels)), options["folds"], options["seed"], list(map(str, classes)))

    def every_set(loop, **changes):
        for layers in sets:
            config = {
                "columns": [("cls", layer) for layer in layers],
                "classes": list(classes),
                "encoder": {"hidden": width},
                "options": {**options, **changes},
            }
            loop(torch.from_numpy(np.stack([x[layer] for layer in layers], 1)), labels, folds, config)

    contenders = {
        "this project, all folds in one loop": train.train_heads,
        "one fold after the other, tensors in memory": plain_loop,
        "one fold after the other, DataLoader(TensorDataset)": functools.partial(plain_loop, loader=True),
    }
    for loop in contenders.values():
        every_set(loop, epochs=1)  # what torch sets up once is no part of any contender
    seconds = rounds({name: functools.partial(every_set, loop) for name, loop in contenders.items()}, args.runs)
    table(
        (f"{len(sets)} layer sets, {options['folds']} folds, {args.epochs} epochs", "seconds", "times as long"),
        [(name, f"{value:.2f}", f"{value / next(iter(seconds.values())):.2f}") for name, value in seconds.items()],
    )
    print(f"{len(labels):,} titles, {width} dimensions ({source}).\n")


# --- memory and scale ---------------------------------------------------------------------------------------------


@functools.cache
def tiny_extraction(rows, tokenizer, turn=0):
    """(seconds, peak memory in MB) of extract.py on so many made-up titles with an encoder of 2 layers and 32 dimensions."""
    with tempfile.TemporaryDirectory() as folder:
        folder, generator = Path(folder), random.Random(0)
        encoder = make_encoder(
            folder / "encoder",
            tokenizer,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
        )
        with open(folder / "titles.csv", "w") as file:
            file.write("title,category\n")
            for row in range(rows):
                file.write(
                    f"{' '.join(generator.choices(WORDS, k=generator.randint(3, 12)))} {row},category {row % 4}\n"
                )
        command = [
            sys.executable,
            data.HERE / "extract.py",
            "--data",
            folder / "titles.csv",
            "--model",
            encoder,
            "--dtype",
            "float32",
            "--device",
            "cpu",
            "--out",
            folder / "features",
            "--quiet",
        ]
        done = subprocess.run([sys.executable, "-c", MEASURE, *map(str, command)], text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise cli.Problem("extract.py failed on made-up titles; its message stands above")
    seconds, peak = map(float, done.stdout.split())
    peak *= 1e-6 if sys.platform == "darwin" else 1024e-6  # counted in bytes there, in kilobytes here
    cli.say(f"extract.py, {rows:,} titles: {seconds:.1f} s, {peak:.0f} MB")
    return seconds, peak


def bench_memory(args):
    peaks = {
        rows: tiny_extraction(rows, args.tokenizer)[1] for rows in (min(20_000, args.max_titles // 2), args.max_titles)
    }
    low, high = peaks.values()
    table(
        ("extract.py, 2 layers of 32 dimensions", "peak memory, MB"),
        [*((f"{rows:,} titles", f"{peak:.0f}") for rows, peak in peaks.items()), ("difference", f"{high - low:+.0f}")],
        "transformers",
    )


def bench_scale(args):
    sizes = [16, *(n for n in (1_000, 10_000, 100_000, 1_000_000) if n < args.max_titles), args.max_titles]
    seconds = [
        statistics.median(
            tiny_extraction(rows, args.tokenizer, turn)[0] for turn in range(args.runs if rows <= 10_000 else 1)
        )
        for rows in sizes
    ]
    # what a fraction of a second is left of when the start-up is taken off says nothing
    net = [rows / (spent - seconds[0]) if spent - seconds[0] > 0.5 else None for rows, spent in zip(sizes, seconds)]
    table(
        ("extract.py, 2 layers of 32 dimensions", "seconds", "titles/s", "titles/s net of start-up"),
        [
            (
                f"{rows:,} titles",
                f"{spent:.1f}",
                f"{rows / spent:,.0f}",
                f"{speed:,.0f}" if speed else "too short to tell",
            )
            for rows, spent, speed in list(zip(sizes, seconds, net))[1:]
        ],
        "transformers",
    )
    print(f"Start-up, {seconds[0]:.1f} s, is what {sizes[0]} titles take.", end=" " if net[-2] and net[-1] else "\n\n")
    if net[-2] and net[-1]:
        change = net[-2] / net[-1] - 1
        print(
            f"From {sizes[-2]:,} to {sizes[-1]:,} titles the net cost of a title changes by {change:+.0%}: "
            f"{'flat' if abs(change) <= 0.15 else 'not flat'} within 15%.\n"
        )


def main(args):
    started = time.time()
    parts = {"extract": bench_extract, "train": bench_train, "memory": bench_memory, "scale": bench_scale}
    for name in parts if args.what == "all" else [args.what]:
        parts[name](args)
    cli.say(f"{args.what}: {time.time() - started:.0f} s. The tables are markdown, for the README.")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
