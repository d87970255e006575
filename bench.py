"""Measure time and memory beside what one would use instead, in the same run; prints markdown tables.

    python bench.py extract    # titles a second, beside sentence-transformers and a plain loop
    python bench.py train      # both heads, beside the usual loop and scikit-learn
    python bench.py scale      # every step from end to end, from 1,000 titles to 1,000,000
    python bench.py busy       # beside another busy process, with the threads' settings and without
    python bench.py answer     # from titles to the finished comparison, beside transformers with scikit-learn
    python bench.py all > results/bench.md

Contenders take turns, round after round, so that a machine that slows down slows all of them; figures are medians.
"""

import cli


def parse_arguments(argv=None):
    parser = cli.parser(__doc__)
    add = parser.add_argument
    add("what", choices=(*PARTS, "all"), help="what to measure")
    add("--runs", type=cli.number(int, 1), default=3, help="rounds over all contenders; scale and answer have one")
    add("--data", default="youtube", metavar="youtube|sample|FILE", help="the titles (scale makes its own)")
    what = "answer: encoders; random is bert-base's shape with random weights, as fast as trained ones"
    add("--model", nargs="+", default=["minilm", "random"], metavar="NAME", help=what)
    add("--max-titles", type=cli.number(int, 2000), default=1_000_000, help="scale: the largest corpus")
    add("--hidden", type=cli.number(int, 4), default=384, help="scale: width of the encoder, a multiple of 4")
    return parser.parse_args(argv)


PARTS = ("extract", "train", "scale", "busy", "answer")

if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)  # before the slow imports, so that --help is answered at once

import functools
import importlib.metadata
import itertools
import os
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
import transformers
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import data
import metrics
import probe
import splits
import store
import train
from encoder import choose_dtype, embed, find_model, load_encoder, tokenise

PACKAGES = ("torch", "transformers", "scikit-learn", "sentence-transformers")
WORDS = "how to make the best street food in rome cheap flights hidden beach paint sunset guitar lesson of war"
SPINNING = {"GOMP_SPINCOUNT": "300000", "OPENBLAS_THREAD_TIMEOUT": "26"}  # as the libraries do where nothing is set
# runs a command from a process that is itself small: a child starts with the peak memory of the one that made it
MEASURE = """import resource, subprocess, sys, time
started = time.time()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.time() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""


def table(columns, rows):
    """Print the line that says where, with what and how, and a markdown table."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    processor = re.search(r"model name\s*: (.*)", info)
    installed = {each.name: each.version for each in importlib.metadata.distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)
    where = f"{processor[1] if processor else platform.machine()}, {torch.get_num_threads()} threads"
    command = f"`python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`"
    print(f"{where}; {versions}; {time.strftime('%Y-%m-%d')}; {command}\n")
    print(cli.markdown(columns, rows), end="\n\n", flush=True)


def rounds(contenders, runs):
    """(median seconds, last result) of each contender: all of them in turn, `runs` times over."""
    seconds, results = {name: [] for name in contenders}, {}
    for turn, (name, work) in itertools.product(range(runs), contenders.items()):
        started = time.perf_counter()
        results[name] = work()
        seconds[name].append(time.perf_counter() - started)
        cli.say(f"round {turn + 1} of {runs}: {name}, {seconds[name][-1]:.2f} s")
    return {name: (statistics.median(values), results[name]) for name, values in seconds.items()}


def run(script, *options, **environment):
    """Run one of the scripts; returns (seconds, peak memory in MB). One that fails is a Problem."""
    command = [sys.executable, "-c", MEASURE, sys.executable, data.HERE / script, *options, "--quiet"]
    variables = {**os.environ, **environment}
    done = subprocess.run(list(map(str, command)), text=True, stdout=subprocess.PIPE, env=variables)
    if done.returncode:
        raise cli.Problem(f"{script} failed; its message stands above")
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak * (1e-6 if sys.platform == "darwin" else 1024e-6)  # bytes there, kilobytes here


def make_encoder(folder, **config):
    """Save a BERT with random weights, of bert-base's shape unless told otherwise, to a folder; returns the folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(find_model("minilm")[0])
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(tokenizer), **config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def sample(args, most=None):
    """(titles, categories) of --data in an order of their own, at most so many: two lists."""
    rows = data.read_table(data.find_titles(args.data), ["title", "category"])
    title, category = map(next(rows).index, ("title", "category"))
    pairs = [(cells[title], cells[category]) for _, cells in rows]
    random.Random(0).shuffle(pairs)
    return map(list, zip(*pairs[:most], strict=True))


def plain_loop(model, tokenizer, titles):
    """What one writes by hand, 32 titles at a time: {(pooling, layer): (titles, hidden) array} of all layers."""
    found = {}
    for start in range(0, len(titles), 32):
        batch = titles[start : start + 32]
        tokens = tokenizer(batch, truncation=True, max_length=128, padding=True, return_tensors="pt")
        with torch.inference_mode():
            states = model(**tokens, output_hidden_states=True).hidden_states
        mask = tokens["attention_mask"][..., None]
        for layer, state in enumerate(states[1:], 1):
            found.setdefault(("cls", layer), []).append(state[:, 0].numpy())
            found.setdefault(("mean", layer), []).append(((state * mask).sum(1) / mask.sum(1)).numpy())
    return {column: np.concatenate(parts) for column, parts in found.items()}


def bench_extract(args, temporary):
    (titles, _), folder = sample(args, 1200), make_encoder(temporary / "base")
    model, contenders = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    contenders["loop over batches of 32, all layers"] = lambda: plain_loop(model, tokenizer, titles)
    for dtype in sorted({torch.float32, choose_dtype("auto", torch.device("cpu"))}, key=str):
        kind = str(dtype).removeprefix("torch.")
        encoder = load_encoder(folder, "cpu", kind)
        work = functools.partial(lambda e: embed(e, tokenise(e, titles), range(1, 13), ("cls",)), encoder)
        contenders[f"this project, all layers, {kind}"] = work
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            cli.say("sentence-transformers is missing, its row is left out; pip install -r requirements-bench.txt")
            continue
        other = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})
        work = functools.partial(other.encode, titles, show_progress_bar=False)
        contenders[f"sentence-transformers, last layer, {kind}"] = work
    found = rounds(contenders, args.runs)
    slowest = max(seconds for seconds, _ in found.values())
    rows = [(name, f"{len(titles) / t:.1f}", f"{slowest / t:.2f}") for name, (t, _) in found.items()]
    table((f":bert-base's shape, {len(titles):,} titles", "titles/s", "times as fast"), rows)


def usual_heads(x, labels, folds, config):
    """train.train_heads as one would write it: one head after the other, its convolutions called as modules."""
    options, target, classes = config["options"], torch.from_numpy(labels), len(config["classes"])
    probabilities = np.empty((len(folds), len(x), classes), np.float32)
    for (repeat, fold), head in zip(np.ndindex(len(folds), options["folds"]), train.new_heads(config), strict=True):
        held = folds[repeat] == fold
        own = TensorDataset(x[torch.from_numpy(~held)], target[torch.from_numpy(~held)])
        optimizer = torch.optim.Adam(head.parameters(), lr=options["lr"])
        for _ in range(options["epochs"]):
            for inputs, wanted in DataLoader(own, options["batch_size"], shuffle=True):
                optimizer.zero_grad()
                cross_entropy(head.mlp(head.reduce(inputs).squeeze(1)), wanted).backward()
                optimizer.step()
            with torch.inference_mode():
                values = head.mlp(head.reduce(x[torch.from_numpy(held)]).squeeze(1)).softmax(-1)
            probabilities[repeat, held] = values.numpy()
            metrics.macro_f1(labels[held], values.argmax(1).numpy(), classes)
    return probabilities


def usual_probe(x, labels, folds, penalties):
    """Out-of-fold probabilities as scikit-learn gives them, (repeats, titles, classes); it chooses by log loss, too."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.model_selection import PredefinedSplit, StratifiedShuffleSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    solver = LogisticRegression(max_iter=10_000)
    if penalties:
        inner = StratifiedShuffleSplit(1, test_size=0.25, random_state=0)
        options = {"scoring": "neg_log_loss", "l1_ratios": (0,), "use_legacy_attributes": False, "max_iter": 10_000}
        solver = LogisticRegressionCV(Cs=penalties, cv=inner, **options)
    solver, method = make_pipeline(StandardScaler(), solver), "predict_proba"
    return np.stack([cross_val_predict(solver, x, labels, cv=PredefinedSplit(f), method=method) for f in folds])


def bench_train(args, temporary):
    path, place = data.find_titles(args.data), temporary / "features"
    run("extract.py", "--data", path, "--model", "minilm", "--layers", -1, "--pooling", "mean", "--out", place)
    features = store.open_features(place)
    names, labels = np.unique(features.titles()[1], return_inverse=True)
    x, hidden = torch.from_numpy(features.stack([("mean", 6)])), features.manifest["encoder"]["hidden"]
    scaled = x.clone()
    options, scale, groups = cli.OPTIONS, probe.rescale(scaled), np.arange(len(labels))
    config = {"classes": names.tolist(), "columns": [("mean", 6)], "encoder": {"hidden": hidden}, "options": options}
    linear = {**config, "options": {**options, "head": "linear"}}
    folds = splits.repeat_folds(labels, groups, options)
    drawn = splits.draw_titles(labels, groups, folds, 0)
    usual_probe(np.eye(4), np.arange(4) % 2, np.arange(4)[None] // 2, None)  # its imports are not timed
    work = {
        f"report's head, {options['epochs']} epochs": {
            "this project": lambda: train.train_heads(x, labels, folds, config, [rows for rows, _ in drawn])[2],
            "DataLoader loop": lambda: usual_heads(x, labels, folds, config),
        },
        f"linear probe, C chosen among {len(probe.GRID)}": {
            "this project": lambda: probe.train(scaled, scale, labels, folds, linear, drawn)[2],
            "scikit-learn": lambda: usual_probe(x[:, 0].numpy(), labels, folds, probe.GRID),
        },
    }
    for what, contenders in work.items():
        found, rows = rounds(contenders, args.runs), []
        for name, (seconds, values) in found.items():
            score = np.mean([metrics.macro_f1(labels, part.argmax(1), len(names)) for part in values])
            loss = np.mean([metrics.log_loss(labels, part) for part in values])
            times = seconds / found["this project"][0]
            rows.append((name, f"{seconds:.2f}", f"{times:.2f}", f"{score:.4f}", f"{loss:.4f}"))
        size = f":{what}, {len(drawn)} heads; {len(labels):,} titles × {hidden}, {len(names)} categories"
        table((size, "seconds", "times as long", "macro-F1", "log loss"), rows)


def bench_scale(args, temporary):
    sizes = [n for n in (1_000, 10_000, 100_000, 1_000_000) if n < args.max_titles] + [args.max_titles]
    shape = {"hidden_size": args.hidden, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = make_encoder(temporary / "tiny", intermediate_size=2 * args.hidden, **shape)
    seconds, rows = {}, {}
    for before, size in itertools.pairwise([0, *sizes]):
        place, generator = temporary / str(size), random.Random(0)
        place.mkdir()
        titles, results = place / "titles.csv", place / "results"
        with open(titles, "w", encoding="utf-8") as file:
            print("title,category", file=file)
            for row in range(size):
                words = generator.choices(WORDS.split()[row % 4 * 5 :], k=generator.randint(3, 12))
                print(f"{' '.join(words)} {row},category {row % 4}", file=file)
        fit = ("--features", place / "features", "--results", results, "--layers", "-1", "--repeats", 1)
        for name, *options in (
            ("extract.py", "--data", titles, "--model", encoder, "--out", place / "features"),
            ("train.py --head linear", *fit, "--head", "linear"),
            ("predict.py --csv", "--csv", titles, "--out", place / "out.csv", "--run", results),
            ("train.py --head mlp, 2 epochs", *fit, "--epochs", 2),
            ("evaluate.py", "--results", results),
        ):
            seconds[size, name], peak = run(name.split()[0], *options)
            more = (seconds[size, name] - seconds.get((before, name), 0)) / (size - before)
            row = f"{size:,}", name, f"{seconds[size, name]:.1f}", f"{more * 1e6:,.1f}", f"{peak:,.0f}"
            rows.setdefault(name, []).append(row)
            cli.say(" ".join(row))
    columns = (":titles", ":step", "seconds", "µs for each title more than above", "peak memory, MB")
    table(columns, itertools.chain(*rows.values()))
    print(f"Encoder: 2 layers of {args.hidden} dimensions, random weights; 1 repeat of 5 folds.\n")


def bench_busy(args, temporary):
    features, model = temporary / "features", ("--data", data.find_titles(args.data), "--model", "minilm")
    run("extract.py", *model, "--out", features)
    training = ("--features", features, "--layers", "-1", "--results")
    steps = {"train.py": training, "extract.py": (*model, "--out")}
    kinds = {"as the scripts set them": {}, "as the libraries do": SPINNING}

    def work(script, kind, busy):
        with subprocess.Popen([sys.executable, "-c", "while True: pass" if busy else ""]) as other:
            try:
                run(script, *steps[script], tempfile.mkdtemp(dir=temporary), **kinds[kind])
            finally:
                other.kill()

    cases = itertools.product(steps, kinds, (False, True))
    found, rows = rounds({case: functools.partial(work, *case) for case in cases}, args.runs), []
    for script, kind in itertools.product(steps, kinds):
        alone, busy = found[script, kind, False][0], found[script, kind, True][0]
        rows.append((script, kind, f"{alone:.1f}", f"{busy:.1f}", f"{busy / alone:.2f}"))
    table((":script", ":waiting threads", "alone, s", "beside a busy process, s", "times as long"), rows)


def bench_answer(args, temporary):
    path, (titles, names) = data.find_titles(args.data), sample(args)
    labels = np.unique(names, return_inverse=True)[1]
    folds = splits.make_folds(labels, np.arange(len(labels)), 5, 0)[None]
    usual_probe(np.eye(4), np.arange(4) % 2, np.arange(4)[None] // 2, None)  # its imports are not timed
    usual = {"probes, usual": None, "probes, usual with as many penalties": probe.GRID}
    for name in args.model:
        folder = make_encoder(temporary / "base") if name == "random" else find_model(name)[0]
        place, took = temporary / f"features-{Path(name).name}", {}
        fit = ("train.py", "--features", place, "--results", place / "runs", "--each", "--head", "linear")
        extraction = ("extract.py", "--data", path, "--model", folder, "--pooling", *cli.POOLINGS, "--out", place)
        took["features"], _ = run(*extraction)
        started = time.perf_counter()
        model = transformers.AutoModel.from_pretrained(folder).eval()
        features = plain_loop(model, transformers.AutoTokenizer.from_pretrained(folder), titles)
        took["features, usual"] = time.perf_counter() - started
        took["probes"] = sum(run(*fit, "--repeats", 1, "--pooling", pooling)[0] for pooling in cli.POOLINGS)
        for stage, penalties in usual.items():
            started = time.perf_counter()
            for x in features.values():
                usual_probe(x, labels, folds, penalties)
            took[stage] = time.perf_counter() - started
        took["table with intervals"], _ = run("evaluate.py", "--results", place / "runs")
        rows = [(stage, f"{seconds:.1f}", "") for stage, seconds in took.items()]
        ours = took["features"] + took["probes"] + took["table with intervals"]
        rows.append(("**all, this project**", f"{ours:.1f}", "1.0"))
        for stage in usual:
            seconds = took["features, usual"] + took[stage]
            rows.append((f"**all, features and {stage}**", f"{seconds:.1f}", f"{seconds / ours:.1f}"))
        table((f":{Path(name).name}, {len(labels):,} titles", "seconds", "times as long"), rows)
    print(
        "Usual: transformers in batches of 32, then scikit-learn's cross_val_predict, with C = 1 or with a C chosen "
        f"among {len(probe.GRID)} as here; its start-up is left out, and it has no intervals.\n"
    )


def main(args):
    transformers.logging.disable_progress_bar()
    for name in PARTS if args.what == "all" else [args.what]:
        started = time.time()
        with tempfile.TemporaryDirectory() as temporary:
            globals()[f"bench_{name}"](args, Path(temporary))
        cli.say(f"{name}: {time.time() - started:.0f} s")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
