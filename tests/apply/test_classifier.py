"""Runs that predict: alone or combined, on one encoder, on several or on words, in several threads at once."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, call, refused, write_bert
from pages import of_class
from synthetic import combined, pooled, write_run
from test_predict import TITLES, changed, read, with_offsets

import predict
from whichlayer.apply import chosen
from whichlayer.heads import runs

NEW = [
    *TITLES,
    "cheap flights to rome",
    "piano cover of a love song",
    "street food",
    "x",
    "history of the ancient king",
]


@pytest.fixture(scope="module")
def other(kept, tmp_path_factory):
    """A run of a probe on layer 2 of an encoder of its own, on the same titles and folds: run and encoder."""
    folder = tmp_path_factory.mktemp("other")
    encoder = write_bert(folder / "encoder", layers=3, hidden=16, seed=7)
    options = ["--pooling", "mean", "--dtype", "float32", "--out", folder / "features"]
    assert call("extract", "--data", kept.titles, "--model", encoder, *options).code == 0
    options = ["--layers", 2, "--head", "linear", "--repeats", 2, "--results", folder / "r"]
    assert call("train", "--features", folder / "features", *options).code == 0
    (run,) = folder.glob("r/[!.]*")
    return SimpleNamespace(run=run, encoder=encoder, features=folder / "features")


def probabilities(folders, titles=NEW, **options):
    """What predict.table says of titles, (titles, classes)."""
    frame = predict.table(predict.load(folders, **options), titles)
    return frame.filter(like="probability of ").to_numpy()


# --- combinations -------------------------------------------------------------------------------------------------


def exponents(folders):
    """Of the calibrated probabilities of runs in their pool, by what their files hold of other folds."""
    labels, folds = (np.load(folders[0] / f"{name}.npy") for name in ("labels", "folds"))
    out_of_fold = [pooled(np.load(folder / "probabilities.npy").astype(float), [0.5, 0.5]) for folder in folders]
    fitted = combined(labels, folds[0], out_of_fold)[0]
    return fitted * [runs.open_run(folder).figures.pooled_temperature for folder in folders]


@pytest.mark.parametrize(
    "names",
    [("linear", "top"), ("linear", "other"), ("other", "words", "mlp")],
)
def test_several_runs_give_the_log_linear_pool_of_what_each_gives(kept, other, names):
    folders = [other.run if name == "other" else getattr(kept, name) for name in names]
    each = [probabilities(folder) for folder in folders]
    together = probabilities(folders)
    assert np.abs(together - pooled(each, exponents(folders))).max() < 1e-3
    assert all(np.abs(together - one).max() > 1e-2 for one in each)
    np.testing.assert_allclose(probabilities(folders[::-1]), together, atol=1e-6)


def test_a_run_that_says_nothing_is_named(tmp_path):
    """One is right in most titles, the other one is the opposite of the truth: of two, it counts for nothing."""
    labels = np.arange(200) % 2
    own = []
    for name, wrong in (("sound", 0.1), ("opposite", 0.9)):
        own.append(runs.open_run(write_run(tmp_path / name, labels, of_class(labels, wrong, 1))))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert (chosen.exponents_of(own) > 0).tolist() == [True, False]
    assert said.getvalue() == f"{own[1].folder}: adds nothing to what the others say\n"


def test_each_encoder_is_loaded_once_and_runs_once_no_deeper_than_needed(kept, other, loaded):
    for folders, depths in (
        ([kept.linear], [1]),
        ([kept.linear, kept.mlp, kept.top, kept.words], [2]),
        ([kept.linear, other.run], [1, 2]),
        ([kept.words], []),
    ):
        loaded.clear()
        classifier = predict.load(folders)
        assert len(loaded) == len(depths)
        calls = [[] for _ in loaded]
        for encoder, own in zip(loaded, calls, strict=True):
            for number, block in enumerate(encoder.blocks, 1):
                block.register_forward_hook(lambda *_, own=own, number=number: own.append(number))
        predict.table(classifier, ["a title"])
        assert calls == [list(range(1, depth + 1)) for depth in depths]


def test_a_combination_names_the_category_that_its_runs_decide_for(kept, tmp_path):
    """Offsets belong to each run's own probabilities, which its temperature and its exponent sharpen."""
    offsets = np.zeros((2, 5, 3), np.float32)
    offsets[..., 2] = -12
    decided = with_offsets(kept.top, tmp_path / "decided", offsets)
    titles = [title for title, _ in read(kept.titles)[1:]]
    frame = predict.table(predict.load([decided, kept.linear]), titles)
    values = frame.filter(like="probability of ").to_numpy()
    share = exponents([kept.top, kept.linear])[0]
    own = share * offsets[0, 0] / runs.open_run(kept.top).figures.temperature
    named = (np.log(values) - own).argmax(1)
    assert 3 < (named != values.argmax(1)).sum() < 87
    assert frame.prediction.tolist() == [["art", "food", "travel"][i] for i in named]
    np.testing.assert_allclose(frame.probability, values[np.arange(90), named])


# --- words --------------------------------------------------------------------------------------------------------


def test_words_predict_without_torch(kept):
    """A fresh process, with torch out of reach: as a script, and from Python."""
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); "
        "sys.modules['torch'] = sys.modules['transformers'] = sys.modules['sklearn'] = None; "
        f"sys.argv = ['predict.py', '--run', {str(kept.words)!r}, 'street food']; "
        "import predict; print(len(predict.table(predict.load(sys.argv[2]), ['street food']))); "
        f"runpy.run_path({str(ROOT / 'predict.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, line = done.stdout.splitlines()
    assert first == "1" and line + "\n" == call("predict", "--run", kept.words, "street food").out
    total, loading = map(float, re.search(r"1 title predicted in (\S+) s, (\S+) of them to load", done.stderr).groups())
    # imports are counted: they are nearly all of it
    assert total / 2 < loading <= total


# --- what cannot be combined ----------------------------------------------------------------------------------------


def test_runs_that_do_not_fit_together_are_refused(kept, tmp_path):
    swapped = changed(kept.top, tmp_path / "swapped", classes=["art", "food", "sport"])
    line = refused(
        call("predict", "a title", "--run", swapped, kept.linear), "not of the same titles, labels and folds"
    )
    assert str(kept.linear) in line and str(swapped) in line
    refused(call("predict", "a title", "--run", kept.linear, kept.majority), "majority class")
    (tmp_path / "empty").mkdir()
    refused(call("predict", "a title", "--run", kept.linear, tmp_path / "empty"), "empty", "no run is there")


def test_a_run_beside_its_copy_says_what_it_says_alone(kept, tmp_path):
    copy = shutil.copytree(kept.linear, tmp_path / "copy")
    alone = predict.load(kept.linear)
    both = predict.load([copy, kept.linear])
    assert sum(both.exponents) == pytest.approx(sum(alone.exponents), rel=1e-3)
    of_both, of_one = (predict.table(each, NEW) for each in (both, alone))
    assert of_both["prediction"].tolist() == of_one["prediction"].tolist()
    assert of_both["probability"].to_numpy() == pytest.approx(of_one["probability"].to_numpy(), abs=1e-3)


def test_encoders_that_have_moved_are_named_in_the_order_of_the_runs(kept, bert, other, tmp_path):
    wanted = call("predict", *NEW, "--run", kept.linear, other.run).out
    one = shutil.copytree(bert, tmp_path / "one")
    two = shutil.copytree(other.encoder, tmp_path / "two")
    ask = ["predict", *NEW, "--run", kept.linear, other.run, "--model"]
    assert call(*ask, one, two).out == wanted and len(wanted.splitlines()) == len(NEW)
    refused(call(*ask, one), "--model names 1", "need 2 encoders")
    refused(call(*ask, two, one), "two: not the encoder")


def test_an_encoder_of_the_hub_is_asked_for_as_the_commit_that_was_trained_with(kept, tmp_path):
    known = {"encoder__name": "someone/tiny@main", "encoder__revision": "4b825dc"}
    run = changed(kept.top, tmp_path / "run", **known)
    refused(call("predict", "a title", "--run", run), "--model someone/tiny@4b825dc: ")


def test_an_encoder_is_refused_where_words_alone_predict(kept):
    refused(call("predict", "a title", "--run", kept.words, "--model", "minilm"), "--model names 1", "need 0 encoders")


# --- threads ------------------------------------------------------------------------------------------------------


def test_threads_that_share_a_classifier_get_the_answers_of_one(kept):
    """Titles of many lengths, one at a time and several at once."""
    classifier = predict.load([kept.linear, kept.mlp, kept.words])
    asked = []
    for number in range(24):
        many = 1 + number % 3
        asked.append([" ".join(NEW[(number + i) % len(NEW)].split()[: 1 + number % 7]) for i in range(many)])
    alone = [predict.table(classifier, titles) for titles in asked]
    start = threading.Barrier(4)

    def answer(thread):
        start.wait()
        return [(number, predict.table(classifier, asked[number])) for number in range(thread % 2, 24, 1 + thread // 2)]

    with ThreadPoolExecutor(4) as threads:
        answers = [each for found in threads.map(answer, range(4)) for each in found]
    assert len(answers) == 24 + 23 + 12 + 12
    for number, table in answers:
        assert table.prediction.tolist() == alone[number].prediction.tolist()
        np.testing.assert_allclose(table.iloc[:, 2:], alone[number].iloc[:, 2:], atol=1e-6)


# --- other processes ----------------------------------------------------------------------------------------------

FORKING = """
import gc, os, pickle, signal, sys, threading, torch
import numpy as np
before = dict(os.environ)
threads = torch.get_num_threads()
import predict
from whichlayer.apply import frozen
# the encoder is tiny: all titles together are to be many tokens, one is few
frozen.FEW = 1e5
classifier = predict.load(RUN)
titles = [f"how to cook {i} things" for i in range(300)]
wanted = predict.table(classifier, titles)
alone = predict.table(classifier, titles[:1])
assert np.allclose(alone.iloc[0, 2:].astype(float), wanted.iloc[0, 2:].astype(float), atol=1e-5)

# nothing else feels it: garbage is looked for as before, in all there is; the environment but for what
# torch puts there where it compiles, the number of threads here and in threads of the host's that begin later
assert gc.isenabled() and not gc.get_freeze_count()
assert {name for name in os.environ if os.environ[name] != before.get(name)} <= {"TORCHINDUCTOR_CACHE_DIR"}
counts = [torch.get_num_threads()]
def later():
    torch.ones(9).sum()
    counts.append(torch.get_num_threads())
thread = threading.Thread(target=later)
thread.start()
thread.join()
assert counts == [threads, threads] == [2, 2], counts
try:
    pickle.dumps(classifier)
except TypeError as error:
    assert "call predict.load in each process" in str(error)
else:
    raise AssertionError("it was pickled")

# a worker of the host's with the host's own tokenizer
import transformers
tokenizer = transformers.AutoTokenizer.from_pretrained(ENCODER)
own = tokenizer(titles).input_ids
batches = torch.utils.data.DataLoader(
    titles, batch_size=150, num_workers=1, collate_fn=lambda batch: tokenizer(batch).input_ids, timeout=120
)
assert [ids for batch in batches for ids in batch] == own

# a fork that answers; the alarm kills it where it would wait without end
child = os.fork()
if child == 0:
    signal.alarm(120)
    predict.table(classifier, titles[:1])
    answers = predict.table(classifier, titles)
    # one thread adds in another order than two
    is_same = np.allclose(answers.iloc[:, 2:], wanted.iloc[:, 2:], atol=1e-5)
    os._exit(0 if is_same else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_answers_and_the_hosts_own_workers_work(kept, bert):
    code = f"RUN, ENCODER = {str(kept.linear)!r}, {bert!r}\n{FORKING}"
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 400}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "2"}, **options)
    assert done.returncode == 0, done.stderr


# --- only what is likely enough -----------------------------------------------------------------------------------


def test_below_at_least_no_category_is_named_in_any_format(kept):
    frame = predict.table(predict.load(kept.linear), NEW)
    least = float(frame.probability.median())
    sure = (frame.probability >= least).tolist()
    assert 0 < sum(sure) < len(NEW)
    named = [name if each else None for name, each in zip(frame.prediction, sure, strict=True)]
    ask = ["predict", "--run", kept.linear, "--at-least", least]
    unsure = f"{sure.count(False)} without an answer"

    text = call("predict", *NEW, *ask[1:])
    lines = [line.split(maxsplit=2) for line in text.out.splitlines()]
    assert [line[0] for line in lines] == [name or "-" for name in named] and unsure in text.err
    assert [line[1] for line in lines] == [f"{value:.3f}" for value in frame.probability]  # is there, all the same
    items = [json.loads(line) for line in call("predict", *NEW, *ask[1:], "--format", "jsonl").out.splitlines()]
    assert [item["prediction"] for item in items] == named
    assert [item["probability"] for item in items] == pytest.approx(frame.probability.tolist(), abs=1e-6)
