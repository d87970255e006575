"""Measure time and memory beside what one would use instead, in the same run; prints markdown tables.

    python bench.py extract    # titles a second, beside sentence-transformers, the pipeline and a plain loop
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
    add("what", choices=("extract", "train", "scale", "busy", "answer", "all"), help="what to measure")
    add("--runs", type=cli.number(int, 1), default=3, help="rounds over all contenders; scale has one")
    add("--data", default="youtube", metavar="youtube|sample|FILE", help="extract, busy, answer: the titles")
    add("--titles", type=cli.number(int, 40), help="extract, busy, answer: so many, drawn (default: 1200; answer: all)")
    what = "extract, answer: encoders; random is bert-base's shape with random weights, as fast as trained ones"
    add("--model", nargs="+", metavar="NAME", help=f"{what} (default: random; answer: minilm random)")
    add("--tokenizer", default="minilm", metavar="NAME", help="tokenizer of the encoders that are made here")
    add("--features", metavar="FOLDER", help="train: what extract.py made; its last layer (default: made-up features)")
    add("--epochs", type=cli.number(int, 1), default=30, help="train, busy: passes of the report's head")
    add("--max-titles", type=cli.number(int, 2000), default=1_000_000, help="scale: the largest corpus")
    add("--hidden", type=cli.number(int, 4), default=32, help="scale: width of the encoder, a multiple of 4")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = cli.begin(parse_arguments)  # before the slow imports, so that --help is answered at once

import functools
import importlib.metadata
import importlib.util
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
import pandas as pd
import torch
import transformers
from torch.nn.functional import cross_entropy, linear
from torch.utils.data import DataLoader, TensorDataset

import data
import metrics
import probe
import splits
import store
import train
from encoder import choose_dtype, embed, find_model, load_encoder, quiet_library, tokenise

WORDS = ["how", "to", "make", "the", "best", "street", "food", "in", "rome", "cheap", "flights", "hidden", "beach", "paint", "sunset", "guitar", "lesson", "of", "war"]
SPINNING = {
    "GOMP_SPINCOUNT": "300000",
    "OPENBLAS_THREAD_TIMEOUT": "26",
}  # the libraries' defaults, which cli.begin sets
# runs a command from a process that is itself small: a child starts with the peak memory of the one that made it
MEASURE = """import resource, subprocess, sys, time
started = time.time()
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.time() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""


def table(columns, rows, *packages):
    """Print the line that says where, with what and how, and a markdown table."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    processor = re.search(r"model name\s*: (.*)", info)
    units = {"AMX": "amx_tile", "AVX512-BF16": "avx512_bf16", "AVX2": "avx2"}
    units = [f"{k} {'yes' if getattr(torch.cpu, f'_is_{v}_supported', bool)() else 'no'}" for k, v in units.items()]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *packages))
    where = f"{processor[1] if processor else platform.machine()}, {torch.get_num_threads()} threads"
    command = f"`python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`"
    print(f"{where}, {', '.join(units)}; {versions}; {time.strftime('%Y-%m-%d')}; {command}\n")
    print(cli.markdown(columns, rows), end="\n\n", flush=True)


def rounds(contenders, runs):
    """Median seconds of each contender, {name: seconds}: all of them in turn, `runs` times over."""
    seconds = {name: [] for name in contenders}
    for turn, (name, work) in itertools.product(range(runs), contenders.items()):
        started = time.perf_counter()
        work()
        seconds[name].append(time.perf_counter() - started)
        cli.say(f"round {turn + 1} of {runs}: {name}, {seconds[name][-1]:.2f} s")
    return {name: statistics.median(values) for name, values in seconds.items()}


def run(script, *options, **environment):
    """Run one of the scripts; returns (seconds, peak memory in MB). One that fails is a Problem."""
    command = [sys.executable, "-c", MEASURE, sys.executable, data.HERE / script, *options]
    variables = {**os.environ, **environment}
    done = subprocess.run(list(map(str, command)), text=True, stdout=subprocess.PIPE, env=variables)
    if done.returncode:
        raise cli.Problem(f"{script} failed; its message stands above")
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak * (1e-6 if sys.platform == "darwin" else 1024e-6)  # bytes there, kilobytes here


def read_titles(args, most):
    """Titles and categories of --data as a table with these two columns, at most so many rows, drawn by a fixed seed."""
    rows = data.read_table(data.find_titles(args.data), ["title", "category"])
    head = next(rows)
    found = pd.DataFrame([cells for _, cells in rows], columns=head)[["title", "category"]]
    return found.sample(most, random_state=0) if most and most < len(found) else found


def make_encoder(folder, tokenizer, **config):
    """Save a BERT with random weights and a tokenizer to a folder; returns the folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(find_model(tokenizer)[0])
    torch.manual_seed(0)
    with quiet_library():
        transformers.BertModel(transformers.BertConfig(vocab_size=len(tokenizer), **config)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


def product_limit(dtype):
    """FLOP/s of torch's fastest product with a Linear's weights, of bert-base's two large shapes."""
    best = 0.0
    for inputs, outputs in ((768, 3072), (3072, 768)):
        x, weight = torch.randn(2048, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
        ways = [lambda x=x, weight=weight: linear(x, weight)]
        if torch.backends.mkldnn.is_available():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            ways.append(functools.partial(torch.ops.mkldnn._linear_pointwise, x, packed, None, "none", [], ""))
        for way in ways * 6:
            started = time.perf_counter()
            way()
            best = max(best, 2 * x.numel() * outputs / (time.perf_counter() - started))
    return best


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
    titles, runs = read_titles(args, args.titles or 1200)["title"].tolist(), {}
    st = importlib.util.find_spec("sentence_transformers") and importlib.import_module("sentence_transformers")
    if not st:
        cli.say("sentence-transformers is missing, its rows are left out; pip install -r requirements-bench.txt")
    for name in args.model or ["random"]:
        folder = make_encoder(temporary / name, args.tokenizer) if name == "random" else find_model(name)[0]
        kinds = {torch.float32: "float32", choose_dtype("auto", torch.device("cpu")): "auto"}
        runs, plain = {}, transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        lengths = np.array([len(ids) for ids in tokenizer(titles, truncation=True, max_length=128)["input_ids"]])
        fourth = [titles[i] for i in sorted(np.argsort(lengths, kind="stable")[2::4])]
        for dtype, kind in kinds.items():
            encoder = load_encoder(folder, "cpu", kind)
            layers = range(1, encoder.info["layers"] + 1)
            work = functools.partial(lambda e, layers: embed(e, tokenise(e, titles), layers, ("cls",)), encoder, layers)
            runs[f"this project, all layers, --dtype {kind}"] = dtype, titles, work
        for dtype, kind in kinds.items() if st else ():
            other = st.SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})
            work = functools.partial(other.encode, titles, show_progress_bar=False)
            runs[f"sentence-transformers encode, last layer, {kind}"] = dtype, titles, work
        pipe = transformers.pipeline("feature-extraction", model=plain, tokenizer=tokenizer, device="cpu")
        runs["transformers feature-extraction pipeline, last layer"] = torch.float32, fourth, lambda p=pipe: p(fourth)
        work = functools.partial(plain_loop, plain, tokenizer, fourth)
        runs["loop, all layers, 32 titles padded to the longest"] = torch.float32, fourth, work
        limits = {dtype: [] for dtype in kinds}
        measure = {"products": lambda: [limits[dtype].append(product_limit(dtype)) for dtype in limits]}
        seconds = rounds({**measure, **{name: work for name, (_, _, work) in runs.items()}}, args.runs)
        limits = {dtype: max(values) for dtype, values in limits.items()}
        linears = [m for n, m in plain.named_modules() if isinstance(m, torch.nn.Linear) and "pooler" not in n]
        flop = 2 * lengths.mean() * sum(module.weight.numel() for module in linears)
        speed = {name: len(timed) / seconds[name] for name, (_, timed, _) in runs.items()}
        ours = [value for name, value in speed.items() if name.startswith("this")][-1]
        rows = [
            (name, f"{v:.1f}", f"{ours / v:.2f}", f"{v * flop / limits[runs[name][0]]:.0%}")
            for name, v in speed.items()
        ]
        columns = (f":encoder {name}", "titles/s", "`auto` is times as fast", "share of the product limit")
        table((f":{len(titles):,} titles", *columns[1:]), rows, "transformers", *["sentence-transformers"] * bool(st))
        tops = ", ".join(f"{value / 1e12:.3f} TFLOP/s in {str(d)[6:]}" for d, value in limits.items())
        print(f"{lengths.mean():.1f} tokens a title. Limit, the fastest product of matrices in this run: {tops}.\n")


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


def usual_probe(x, labels, cv):
    """Out-of-fold probabilities as scikit-learn gives them, over the same grid of penalties; (titles, classes)."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    few = len(x) * 4 // 5 <= probe.FEW  # the probe holds each quarter out in turn, or, of many titles, one
    inner = StratifiedKFold(4) if few else StratifiedShuffleSplit(1, test_size=0.25, random_state=0)
    options = {"scoring": "neg_log_loss", "max_iter": 10_000, "use_legacy_attributes": False}
    solver = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=probe.GRID, cv=inner, **options))
    return cross_val_predict(solver, x, labels, cv=cv, method="predict_proba")


def bench_train(args, temporary):
    if args.features:
        features = store.open_features(args.features)
        column = [(pooling, layers[-1]) for pooling in cli.POOLINGS if (layers := features.layers(pooling))][-1]
        x, labels = features.stack([column]), np.unique(features.titles()[1], return_inverse=True)[1]
    else:
        generator, labels = np.random.default_rng(0), np.arange(3599) % 4
        x = (generator.normal(size=(3599, 1, 384)) + generator.normal(0, 0.1, (4, 1, 384))[labels]).astype(np.float32)
    names = list(map(str, range(labels.max() + 1)))
    x, shape = torch.from_numpy(x), {"classes": names, "columns": [("mean", 1)], "encoder": {"hidden": x.shape[2]}}
    found = {}
    for head, repeats, usual in (("mlp", 3, "DataLoader loop"), ("linear", 1, "scikit-learn LogisticRegressionCV")):
        options = {**cli.OPTIONS, "head": head, "epochs": args.epochs, "repeats": repeats}
        config, groups = {**shape, "options": options}, np.arange(len(labels))
        folds = splits.repeat_folds(labels, groups, options, names)
        drawn = splits.draw_titles(labels, groups, folds, 0)

        def ours(head=head, folds=folds, config=config, drawn=drawn):
            if head == "linear":
                own = x.clone()
                found[head] = probe.train(own, probe.rescale(own), labels, folds, config, drawn)[2]
            else:
                found[head] = train.train_heads(x, labels, folds, config, [rows for rows, _ in drawn])[2]

        def theirs(head=head, folds=folds, config=config, usual=usual):
            if head == "mlp":
                found[usual] = usual_heads(x, labels, folds, config)
            else:
                from sklearn.model_selection import PredefinedSplit

                found[usual] = usual_probe(x.flatten(1).numpy(), labels, PredefinedSplit(folds[0]))[None]

        seconds = rounds({head: ours, usual: theirs}, args.runs)
        figures = {name: metrics.macro_f1(labels, found[name][0].argmax(1), len(names)) for name in seconds}
        rows = [(n, f"{s:.2f}", f"{s / seconds[head]:.2f}", f"{figures[n]:.4f}") for n, s in seconds.items()]
        rows[0] = (f"this project, --head {head}", *rows[0][1:])
        work = f"{len(labels):,} × {x.shape[2]}, {len(names)} classes, {repeats} × 5 folds"
        work += f", {args.epochs} epochs" if head == "mlp" else f", {len(probe.GRID)} penalties"
        table((f":{work}", "seconds", "times as long", "macro-F1"), rows, *["scikit-learn"] * (head == "linear"))


def bench_scale(args, temporary):
    sizes = [n for n in (1_000, 10_000, 100_000, 1_000_000) if n < args.max_titles] + [args.max_titles]
    shape = {"hidden_size": args.hidden, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = make_encoder(temporary / "tiny", args.tokenizer, intermediate_size=2 * args.hidden, **shape)
    seconds, rows = {}, []
    for size in sizes:
        place, generator = temporary / str(size), random.Random(0)
        place.mkdir()
        titles, features, results = place / "titles.csv", place / "features", place / "results"
        with open(titles, "w", encoding="utf-8") as file:
            file.write("title,category\n")
            for row in range(size):
                words = generator.choices(WORDS[row % 4 * 5 :], k=generator.randint(3, 12))
                file.write(f"{' '.join(words)} {row},category {row % 4}\n")
        fit = ("--features", features, "--results", results, "--layers", "-1", "--repeats", 1, "--quiet")
        steps = {
            "extract.py": ("--data", titles, "--model", encoder, "--out", features, "--quiet"),
            "train.py --head linear": (*fit, "--head", "linear"),
            "train.py --head mlp, 2 epochs": (*fit, "--epochs", 2),
            "evaluate.py": ("--results", results, "--quiet"),
            "predict.py --csv": ("--csv", titles, "--out", place / "out.csv", "--quiet"),
        }
        for name, options in steps.items():
            if name.startswith("predict"):
                options += ("--run", next(results.glob("*linear*")))
            taken, peak = run(name.split()[0], *options)
            seconds[size, name] = taken
            rows.append((f"{size:,}", name, f"{taken:.1f}", f"{taken / size * 1e6:,.1f}", f"{peak:,.0f}"))
            cli.say(f"{size:,} titles, {name}: {taken:.1f} s, {peak:.0f} MB")
    table((":titles", ":step", "seconds", "µs a title", "peak memory, MB"), rows, "transformers")
    (least, *_, last), before = sizes, sizes[-2]
    for name in steps if before > least else ():
        net = [(seconds[n, name] - seconds[least, name]) / (n - least) for n in (before, last)]
        change = net[1] / net[0] - 1 if net[0] > 0 else np.inf
        verdict = "flat within 20%" if abs(change) <= 0.2 else "cheaper" if change < 0 else "not flat"
        print(f"- {name}: from {before:,} to {last:,} titles a title costs {change:+.0%}, start-up apart: {verdict}")
    print(f"\nEncoder: 2 layers of {args.hidden} dimensions. Start-up is what {least:,} titles take.\n")


def bench_busy(args, temporary):
    titles, features, turn = temporary / "busy.csv", temporary / "busy-features", itertools.count()
    read_titles(args, args.titles or 1200).to_csv(titles, index=False)
    extraction = ("extract.py", "--data", titles, "--model", "minilm", "--quiet", "--out")
    run(*extraction, features)
    training = ("train.py", "--features", features, "--layers", "-1", "--epochs", args.epochs, "--quiet", "--results")

    def work(step, busy, environment):
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        try:
            run(*step, temporary / f"busy-{next(turn)}", **environment)
        finally:
            if other:
                other.kill()
                other.wait()

    kinds = {"cli.begin's settings": {}, "the libraries' own": SPINNING}
    names = {"training": training, "extraction": extraction}
    cases = list(itertools.product(names, kinds, (False, True)))
    label = "{}, {}, {}".format
    contenders = {label(*case): functools.partial(work, names[case[0]], case[2], kinds[case[1]]) for case in cases}
    seconds, rows = rounds(contenders, args.runs), []
    for name, kind in itertools.product(names, kinds):
        alone, busy = (seconds[label(name, kind, state)] for state in (False, True))
        rows.append((name, kind, f"{alone:.1f}", f"{busy:.1f}", f"{busy / alone:.2f}"))
    table((":work", ":threads that wait", "alone, s", "beside a busy process, s", "times as long"), rows)


def usual_answer(folder, path):
    """What one would write with transformers and scikit-learn; prints the seconds of features and probes."""
    from sklearn.model_selection import StratifiedKFold

    found = pd.read_csv(path, keep_default_na=False)
    started, (titles, labels) = time.time(), (found[name].tolist() for name in ("title", "category"))
    model, tokenizer = (
        transformers.AutoModel.from_pretrained(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    features, labels = plain_loop(model.eval(), tokenizer, titles), np.array(labels)
    encoded = time.time()
    for x in features.values():
        probabilities = usual_probe(x, labels, StratifiedKFold(5, shuffle=True, random_state=0))
        metrics.macro_f1(np.unique(labels, return_inverse=True)[1], probabilities.argmax(1), probabilities.shape[1])
    print(encoded - started, time.time() - encoded)


def bench_answer(args, temporary):
    titles, turn = temporary / "answer.csv", itertools.count()
    count = len(read_titles(args, args.titles).to_csv(titles, index=False) or pd.read_csv(titles))
    for name in args.model or ["minilm", "random"]:
        folder = make_encoder(temporary / "answer", args.tokenizer) if name == "random" else find_model(name)[0]
        stages = {"features": [], "probes": [], "table": [], "all": []}, {"features": [], "probes": [], "all": []}

        def ours(folder=folder, stages=stages[0]):
            place = temporary / f"answer-{next(turn)}"
            fit = ("--features", place, "--results", place / "results", "--head", "linear", "--each", "--repeats", 1)
            encode = ("--data", titles, "--model", folder, "--pooling", "cls", "mean", "--out", place, "--quiet")
            stages["features"].append(run("extract.py", *encode)[0])
            both = [run("train.py", *fit, "--quiet", "--pooling", pooling)[0] for pooling in cli.POOLINGS]
            stages["probes"].append(sum(both))
            stages["table"].append(run("evaluate.py", "--results", place / "results", "--quiet")[0])

        def theirs(folder=folder, stages=stages[1]):
            call = [sys.executable, "-c", "import sys, bench; bench.usual_answer(*sys.argv[1:])", folder, titles]
            done = subprocess.run(list(map(str, call)), cwd=data.HERE, text=True, check=True, stdout=subprocess.PIPE)
            for stage, value in zip(stages, done.stdout.split(), strict=False):
                stages[stage].append(float(value))

        whole = rounds({f"{name}, this project": ours, f"{name}, usual": theirs}, args.runs).values()
        cells = [{k: statistics.median(v) for k, v in own.items() if v} for own in stages]
        rows = [(f"{k}", f"{v:.1f}", f"{cells[1][k]:.1f}" if k in cells[1] else "") for k, v in cells[0].items()]
        rows = [(*row, f"{cells[1][row[0]] / cells[0][row[0]]:.1f}" if row[2] else "") for row in rows]
        mine, other = whole
        rows.append(("all, start-up too", f"{mine:.1f}", f"{other:.1f}", f"{other / mine:.1f}"))
        columns = (f":{name}, {count:,} titles: seconds", "this project", "transformers + scikit-learn", "ratio")
        table(columns, rows, "transformers", "scikit-learn")


def main(args):
    parts = {"extract": bench_extract, "train": bench_train, "scale": bench_scale}
    parts |= {"busy": bench_busy, "answer": bench_answer}
    for name in parts if args.what == "all" else [args.what]:
        started = time.time()
        with tempfile.TemporaryDirectory() as temporary:
            parts[name](args, Path(temporary))
        cli.say(f"{name}: {time.time() - started:.0f} s")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
