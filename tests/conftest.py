"""What the tests share: small real encoders that need no network, and the scripts called as a user calls them."""

import contextlib
import http.server
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # these encoders are tiny, and threads would only wait for one another

import pytest

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell's background job ignores it, and so would what we start

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = sorted([*ROOT.glob("*.py"), *ROOT.glob("whichlayer/**/*.py")])
sys.path.insert(0, str(ROOT))

VOCABULARY = """
how to cook the best street food in rome travel vlog cheap flights hidden beaches paint a sunset guitar lesson
history of war empire king queen recipe chocolate cake pasta museum tour night market piano cover love song
ancient egypt battle 10 things 2019 my first trip ep 1 ! ? | : - , . ' " ( ) & # @ = + ##s ##ing ##er a b c d
e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9 ##a ##b ##c ##d ##e ##f ##g ##h ##i ##j ##k
##l ##m ##n ##o ##p ##q ##r ##t ##u ##v ##w ##x ##y ##z ##0 ##1 ##2 ##3 ##4 ##5 ##6 ##7 ##8 ##9
"""
WORDS = VOCABULARY.split()


def write_tokenizer(folder, **options):
    """A WordPiece tokenizer of BERT's kind with a small vocabulary, saved to `folder`."""
    import transformers

    tokens = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = transformers.BertTokenizer(vocab={t: i for i, t in enumerate(tokens)}, **options)
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_bert(folder, layers=2, hidden=24, seed=0, **config):
    """A BERT with random weights and its tokenizer, saved to `folder` as a user's own encoder would be."""
    import torch
    import transformers

    torch.manual_seed(seed)
    tokenizer = write_tokenizer(folder)
    config = {"num_attention_heads": 4, "intermediate_size": 2 * hidden, "max_position_embeddings": 160} | config
    model = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, initializer_range=0.2, **config
        )
    )
    model.save_pretrained(folder)
    return str(folder)


def call(script, *arguments):
    """Run a script's main in this process; returns its exit code, standard output and standard error."""
    module = __import__(script)
    from whichlayer.common import cli

    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        argv, sys.argv = sys.argv, [f"{script}.py", *map(str, arguments)]
        try:
            cli.launch(module.main, module.parse_arguments(list(map(str, arguments))))
        except SystemExit as exit:
            code = exit.code or 0
        finally:
            sys.argv = argv
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def shell(script, *arguments, **options):
    """Run a script in a process of its own, as from a shell; returns the finished process with its output as text."""
    return subprocess.run(
        [sys.executable, str(ROOT / f"{script}.py"), *map(str, arguments)],
        text=True,
        capture_output=True,
        timeout=300,
        **options,
    )


def refused(result, *words):
    """Assert exit code 2 and one clear line, no traceback, that holds each of the words."""
    lines = result.err.strip().splitlines()
    assert result.code == 2, (result.code, result.out, result.err)
    assert len(lines) == 1 and "Traceback" not in result.err, result.err
    for word in words:
        assert word in lines[0], (word, lines[0])
    return lines[0]


def spelled(number):
    """A number as a word of letters: titles that differ in digits only are copies of one another."""
    return str(number).translate(str.maketrans("0123456789", "abcdefghij"))


def write_titles(path, rows=60, classes=("art", "food", "travel"), header="title,category"):
    """A small CSV of distinct titles, `rows` in all, whose words depend on their category."""
    lines = [header]
    for i in range(rows):
        word = WORDS[(i * 7) % 60].strip('",') or "x"
        name = classes[i % len(classes)]
        lines.append(f"{'how to' if i % 2 else 'the best'} {word} {name[:1]} {i},{name}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@contextlib.contextmanager
def serving(answer):
    """A web server on this machine's loopback: answer(request) replies to each GET and HEAD, with `reply`.

    Yields its address and the list of what was asked for so far, as "GET /path".
    """
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(f"{self.command} {self.path}")
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        socket.create_connection(server.server_address, timeout=10).close()
    except OSError as error:
        pytest.skip(f"no server may listen on this machine's own address 127.0.0.1: {error}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def reply(request, status, body=b"", cut=None, **headers):
    """Answer a request of `serving`; the body stops after `cut` bytes, though its whole length is announced."""
    request.send_response(status)
    for name, value in {"Content_Length": len(body), **headers}.items():
        request.send_header(name.replace("_", "-"), str(value))
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body[:cut])


def truth(folder, titles, **options):
    """transformers' own hidden states, one title at a time: {(pooling, layer): (titles, hidden)}."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    out = {}
    with torch.no_grad():
        for title in titles:
            tokens = tokenizer(title, return_tensors="pt", return_token_type_ids=False, **options)
            for layer, state in enumerate(model(**tokens, output_hidden_states=True).hidden_states):
                out.setdefault(("cls", layer), []).append(state[0, 0])
                out.setdefault(("mean", layer), []).append(state[0].mean(0))
    return {key: torch.stack(value).numpy() for key, value in out.items()}


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A folder with a random BERT of 2 layers and 24 dimensions."""
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def bert12(tmp_path_factory):
    """A folder with a random BERT of 12 layers, standing in for bert-base-uncased."""
    return write_bert(tmp_path_factory.mktemp("bert12"), layers=12)


@pytest.fixture
def titles(tmp_path):
    return write_titles(tmp_path / "titles.csv")


@pytest.fixture(scope="session")
def extraction(tmp_path_factory, bert):
    """A folder with titles.csv and its features: both layers, both poolings, float32."""
    folder = tmp_path_factory.mktemp("extraction")
    source = ("--data", write_titles(folder / "titles.csv"), "--model", bert, "--dtype", "float32")
    result = call("extract", *source, "--pooling", "cls", "mean", "--out", folder / "features")
    assert result.code == 0, result.err
    return folder


@pytest.fixture
def features(tmp_path, extraction, titles):
    """The folder of that extraction as if it had been made of `titles`, to be changed by the test."""
    from whichlayer.common import disk

    folder = Path(shutil.copytree(extraction / "features", tmp_path / "features"))
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    manifest = json.loads(text.replace(str(extraction), str(tmp_path)))
    del manifest["checksum"]
    disk.write_json(folder / "manifest.json", manifest)
    return folder


@pytest.fixture(scope="session")
def kept(tmp_path_factory, bert):
    """Features of a random encoder, and the runs on them, which no test changes: a SimpleNamespace.

    mlp: the report's head on both layers and poolings; linear: a probe of layer 1; top: of layer 2; words; majority.
    """
    folder = tmp_path_factory.mktemp("kept")
    titles = write_titles(folder / "titles.csv", rows=90)
    features = ["--pooling", "cls", "mean", "--out", folder / "features", "--dtype", "float32"]
    assert call("extract", "--data", titles, "--model", bert, *features).code == 0
    found = {"folder": folder, "features": folder / "features", "titles": titles}
    both = ["--layers", "2", "1", "--standardize", "--pooling", "cls", "mean", "--epochs", 12]
    probe = ["--head", "linear"]
    for name, options in (
        ("mlp", both),
        ("linear", [*probe, "--layers", 1]),
        ("top", [*probe, "--layers", 2, "--pooling", "mean"]),
    ):
        place = ["--repeats", 2, "--results", folder / name]
        result = call("train", "--features", folder / "features", *place, *options)
        assert result.code == 0, result.err
        (found[name],) = folder.glob(f"{name}/[!.]*")
    baselines = ["--baselines", "--features", folder / "features"]
    result = call("evaluate", "--results", folder / "linear", *baselines)
    assert result.code == 0, result.err
    (found["words"],) = folder.glob("linear/*baseline-tfidf*")
    (found["majority"],) = folder.glob("linear/*baseline-majority*")
    return SimpleNamespace(**found)


@pytest.fixture
def loaded(monkeypatch):
    """The encoders that predict.py loads from now on, each encoder.Encoder as often as it is loaded: a list."""
    from whichlayer.apply import frozen

    found = []
    load_encoder = frozen.load_encoder

    def noted(*arguments):
        found.append(load_encoder(*arguments))
        return found[-1]

    monkeypatch.setattr(frozen, "load_encoder", noted)
    return found


@pytest.fixture
def encoded(monkeypatch):
    """How many titles of each window extract.py has encoded so far: a list."""
    import extract

    counts = []
    embed = extract.embed

    def count(encoder, tokenised, *rest):
        counts.append(len(tokenised.place))
        return embed(encoder, tokenised, *rest)

    monkeypatch.setattr(extract, "embed", count)
    return counts
