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
    what = "answer: encoders; random is bert-base's shape with random weights, as fast as trained ones"
    add("--model", nargs="+", default=["minilm", "random"], metavar="NAME", help=what)
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
import itertools
import os
import platform
import random
import re
import shutil
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
    units = {"AMX": "amx_tile", "AVX512-BF16": "avx512_bf16", "AVX2": "avx2"}
    units = [f"{k} {'yes' if getattr(torch.cpu, f'_is_{v}_supported', bool)() else 'no'}" for k, v in units.items()]
    installed = {each.name: each.version for each in importlib.metadata.distributions(path=sys.path)}
    versions = ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)
    where = f"{processor[1] if processor else platform.machine()}, {torch.get_num_threads()} threads"
    command = f"`python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`"
    print(f"{where}, {', '.join(units)}; {versions}; {time.strftime('%Y-%m-%d')}; {command}\n")
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
    command = [sys.executable, "-c", MEASURE, sys.executable, data.HERE / script, *options]
    variables = {**os.environ, **environment}
    done = subprocess.run(list(map(str, command)), text=True, stdout=subprocess.PIPE, env=variables)
    if done.returncode:
        raise cli.Problem(f"{script} failed; its message stands above")
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak * (1e-6 if sys.platform == "darwin" else 1024e-6)  # bytes there, kilobytes here


def read_titles(args, most):
    """Titles and categories of --data as a table, at most so many rows, drawn by a fixed seed."""
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
    titles, auto = read_titles(args, args.titles or 1200)["title"].tolist(), choose_dtype("auto", torch.device("cpu"))
    folder, kinds = make_encoder(temporary / "base", args.tokenizer), {torch.float32: "float32", auto: "auto"}
    about = {}  # name: (dtype, titles, what to do with them)
    plain = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    lengths = np.array([len(ids) for ids in tokenizer(titles, truncation=True, max_length=128)["input_ids"]])
    fourth = [titles[i] for i in sorted(np.argsort(lengths, kind="stable")[2::4])]  # every fourth by length
    for dtype, kind in kinds.items():
        encoder = load_encoder(folder, "cpu", kind)
        work = functools.partial(lambda e: embed(e, tokenise(e, titles), range(1, 13), ("cls",)), encoder)
        about[f"this project, all layers, {kind}"] = dtype, titles, work
    try:
        from sentence_transformers import SentenceTransformer

        for dtype, kind in kinds.items():
            other = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})
            work = functools.partial(other.encode, titles, show_progress_bar=False)
            about[f"sentence-transformers encode, last layer, {kind}"] = dtype, titles, work
    except ImportError:
        cli.say("sentence-transformers is missing, its rows are left out; pip install -r requirements-bench.txt")
    pipe = transformers.pipeline("feature-extraction", model=plain, tokenizer=tokenizer, device="cpu")
    about["transformers pipeline, last layer"] = torch.float32, fourth, functools.partial(pipe, fourth)
    loop = functools.partial(plain_loop, plain, tokenizer, fourth)
    about["loop, all layers, 32 titles padded to the longest"] = torch.float32, fourth, loop
    limits = {f"limit {kind}": functools.partial(product_limit, dtype) for dtype, kind in kinds.items()}
    with torch.inference_mode():
        found = rounds(limits | {name: work for name, (_, _, work) in about.items()}, args.runs)
    linears = [m for n, m in plain.named_modules() if isinstance(m, torch.nn.Linear) and "pooler" not in n]
    flop = 2 * lengths.mean() * sum(module.weight.numel() for module in linears)
    speed = {name: len(timed) / found[name][0] for name, (_, timed, _) in about.items()}
    ours, rows = speed["this project, all layers, auto"], []
    for name, value in speed.items():
        share = value * flop / found[f"limit {kinds[about[name][0]]}"][1]
        rows.append((name, f"{value:.1f}", f"{ours / value:.2f}", f"{share:.0%}"))
    table((f":{len(titles):,} titles", "titles/s", "`auto` is times as fast", "share of the product limit"), rows)
    tops = ", ".join(f"{found[name][1] / 1e12:.3f} TFLOP/s ({name[6:]})" for name in limits)
    print(f"{lengths.mean():.1f} tokens a title. Fastest product of matrices in this run: {tops}.\n")


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


def usual_probe(x, labels, folds):
    """Out-of-fold probabilities as scikit-learn gives them, over the same grid of penalties; (1, titles, classes)."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import PredefinedSplit, StratifiedKFold, StratifiedShuffleSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    few = len(x) * 4 // 5 <= probe.FEW  # the probe holds each quarter out in turn, or, of many titles, one
    inner = StratifiedKFold(4) if few else StratifiedShuffleSplit(1, test_size=0.25, random_state=0)
    options = {"scoring": "neg_log_loss", "max_iter": 10_000, "l1_ratios": (0,), "use_legacy_attributes": False}
    solver = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=probe.GRID, cv=inner, **options))
    return cross_val_predict(solver, x, labels, cv=PredefinedSplit(folds), method="predict_proba")[None]


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
    for head, repeats, usual in (("mlp", 3, "DataLoader loop"), ("linear", 1, "scikit-learn LogisticRegressionCV")):
        config = {**shape, "options": {**cli.OPTIONS, "head": head, "epochs": args.epochs, "repeats": repeats}}
        folds = splits.repeat_folds(labels, np.arange(len(labels)), config["options"], names)
        drawn = splits.draw_titles(labels, np.arange(len(labels)), folds, 0)
        ours, arguments = f"this project, --head {head}", (labels, folds, config)
        if head == "mlp":
            mine = functools.partial(train.train_heads, x, *arguments, [rows for rows, _ in drawn])
            other = functools.partial(usual_heads, x, *arguments)
            work = f"{args.epochs} epochs"
        else:  # what rescale does in place is done once, before the first round
            mine = functools.partial(probe.train, x, probe.rescale(x), *arguments, drawn)
            other = functools.partial(usual_probe, x.flatten(1).numpy(), labels, folds[0])
            work = f"{len(probe.GRID)} penalties"
        found, rows = rounds({ours: mine, usual: other}, args.runs), []
        for name, (seconds, result) in found.items():
            probabilities = result[2] if name == ours else result
            score = metrics.macro_f1(labels, probabilities[0].argmax(1), len(names))
            rows.append((name, f"{seconds:.2f}", f"{seconds / found[ours][0]:.2f}", f"{score:.4f}"))
        size = f":{len(labels):,} × {x.shape[2]}, {len(names)} classes, {repeats} × 5 folds, {work}"
        table((size, "seconds", "times as long", "macro-F1"), rows)


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
                words = generator.choices(WORDS.split()[row % 4 * 5 :], k=generator.randint(3, 12))
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
    table((":titles", ":step", "seconds", "µs a title", "peak memory, MB"), rows)
    (least, *_, last), before = sizes, sizes[-2]
    for name in steps if before > least else ():
        net = [(seconds[n, name] - seconds[least, name]) / (n - least) for n in (before, last)]
        change = net[1] / net[0] - 1 if net[0] > 0 else np.inf
        verdict = "flat within 20%" if abs(change) <= 0.2 else "cheaper" if change < 0 else "not flat"
        print(f"- {name}: from {before:,} to {last:,} titles a title costs {change:+.0%}, start-up apart: {verdict}")
    print(f"\nEncoder: 2 layers of {args.hidden} dimensions. Start-up is what {least:,} titles take.\n")


def bench_busy(args, temporary):
    titles, features, turn = temporary / "busy.csv", temporary / "features", itertools.count()
    read_titles(args, args.titles or 1200).to_csv(titles, index=False)
    extraction = ("extract.py", "--data", titles, "--model", "minilm", "--quiet", "--out")
    training = ("train.py", "--features", features, "--layers", "-1", "--epochs", args.epochs, "--quiet", "--results")
    run(*extraction, features)

    def work(step, environment, busy):
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        try:
            run(*step, temporary / f"busy-{next(turn)}", **environment)
        finally:
            if other:
                other.kill()
                other.wait()

    kinds, steps = {"as the scripts set them": {}, "as the libraries do": SPINNING}, (training, extraction)
    cases, contenders = list(itertools.product(steps, kinds)), {}
    for (step, kind), busy in itertools.product(cases, (False, True)):
        contenders[step[0], kind, busy] = functools.partial(work, step, kinds[kind], busy)
    found, rows = rounds(contenders, args.runs), []
    for step, kind in cases:
        alone, busy = (found[step[0], kind, state][0] for state in (False, True))
        rows.append((step[0], kind, f"{alone:.1f}", f"{busy:.1f}", f"{busy / alone:.2f}"))
    table((":script", ":waiting threads", "alone, s", "beside a busy process, s", "times as long"), rows)


def bench_answer(args, temporary):
    titles, found = temporary / "answer.csv", read_titles(args, args.titles)
    found.to_csv(titles, index=False)
    labels = found["category"].to_numpy()
    folds = data.make_folds(np.unique(labels, return_inverse=True)[1], np.arange(len(labels)), 5, 0)
    for name in args.model:
        folder = make_encoder(temporary / "base", args.tokenizer) if name == "random" else find_model(name)[0]
        place, features = temporary / f"features-{name}", {}
        fit = (
            "--features",
            place,
            "--results",
            place / "runs",
            "--each",
            "--repeats",
            1,
            "--quiet",
            "--head",
            "linear",
        )

        def encode(folder=folder, place=place):
            shutil.rmtree(place, ignore_errors=True)
            options = ("--pooling", *cli.POOLINGS, "--out", place, "--quiet")
            run("extract.py", "--data", titles, "--model", folder, *options)

        def probes(fit=fit):
            for pooling in cli.POOLINGS:
                run("train.py", *fit, "--pooling", pooling)

        def usual_encode(folder=folder, features=features):
            model = transformers.AutoModel.from_pretrained(folder).eval()
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            features.update(plain_loop(model, tokenizer, found["title"].tolist()))

        def usual_probes(features=features):
            return [usual_probe(x, labels, folds) for x in features.values()]

        table_of = functools.partial(run, "evaluate.py", "--results", place / "runs", "--quiet")
        ours = {"features": encode, "probes": probes, "table with intervals": table_of}
        usual = {"features, usual": usual_encode, "probes, usual": usual_probes}
        seconds = {stage: value for stage, (value, _) in rounds(ours | usual, args.runs).items()}
        seconds["all"], seconds["all, usual"] = (sum(map(seconds.get, stages)) for stages in (ours, usual))
        rows = []
        for stage in (*ours, "all"):
            mine, other = seconds[stage], seconds.get(f"{stage}, usual")
            rows.append((stage, f"{mine:.1f}", *((f"{other:.1f}", f"{other / mine:.1f}") if other else ("", ""))))
        table((f":{name}, {len(labels):,} titles: seconds", "this project", "usual script", "ratio"), rows)
        print("Usual: transformers in batches of 32, then scikit-learn; its start-up and imports are left out.\n")


def main(args):
    parts = {"extract": bench_extract, "train": bench_train, "scale": bench_scale}
    parts |= {"busy": bench_busy, "answer": bench_answer}
    transformers.logging.disable_progress_bar()
    for name in parts if args.what == "all" else [args.what]:
        started = time.time()
        with tempfile.TemporaryDirectory() as temporary:
            parts[name](args, Path(temporary))
        cli.say(f"{name}: {time.time() - started:.0f} s")


if __name__ == "__main__":
    cli.launch(main, ARGUMENTS)
