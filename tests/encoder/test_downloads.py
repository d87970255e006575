"""Downloads: a server on this machine that behaves as the net does, and as the model hub does. Nothing leaves it."""

import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import refused, reply, serving, shell, truth, write_titles

import data
from whichlayer.common import cli
from whichlayer.encoder import store

TITLES = b"title,category\nhow to paint,art\nbest pasta,food\n" * 4000
SHA256 = hashlib.sha256(TITLES).hexdigest()


# --- the data set -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Nothing is waited for before another attempt."""
    monkeypatch.setattr(data, "time", SimpleNamespace(sleep=lambda seconds: None))


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """fetch(answers): download from a server that gives these answers in turn; the last one stays.

    Returns what was asked for, after a check that a failure leaves nothing behind and a success the file alone.
    """
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")

    def run(*answers):
        path = tmp_path / "titles" / "youtube.csv"
        path.parent.mkdir()
        turns = list(answers)

        def answer(request):
            following = turns.pop(0) if len(turns) > 1 else turns[0]
            following(request)

        with serving(answer) as (address, asked):
            run.asked = asked
            try:
                data.download(f"{address}/youtube.csv", path, SHA256)
            except cli.Problem:
                assert list(path.parent.iterdir()) == []
                raise
            assert [file.name for file in path.parent.iterdir()] == ["youtube.csv"]
            assert path.read_bytes() == TITLES
            return asked

    return run


def whole(request):
    reply(request, 200, TITLES)


def cut(request):
    reply(request, 200, TITLES, cut=70_000)


def cut_chunk(request):
    """A cut answer of a server that does not know the length beforehand."""
    request.protocol_version = "HTTP/1.1"
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"10000\r\n" + TITLES[:30_000])
    request.close_connection = True


def hang_up(request):
    request.close_connection = True


def garbage(request):
    request.wfile.write(b"220 smtp.example.org ESMTP\r\n\r\n")


def page(request):
    reply(request, 200, b"<!DOCTYPE html>\n<HTML><body>Please log in to the guest network</body></HTML>")


def status(code):
    return lambda request: reply(request, code, b"<html>sorry</html>")


def without_length(request):
    request.send_response(200)
    request.end_headers()
    request.wfile.write(TITLES)


def redirect(request):
    reply(request, 302, Location="/elsewhere")


@pytest.mark.parametrize(
    "answers, requests",
    [
        ([whole], 1),
        ([without_length], 1),
        ([redirect, whole], 2),
        *(([fault, whole], 2) for fault in (cut, cut_chunk, hang_up, garbage, status(503), status(429))),
    ],
)
def test_download_succeeds_and_faults_that_pass_are_tried_again(fetch, answers, requests):
    assert len(fetch(*answers)) == requests


def other_bytes(request):
    reply(request, 200, TITLES[:-1] + b"!")


@pytest.mark.parametrize(
    "fault, reason, requests",
    [
        (cut, "IncompleteRead", 3),
        (status(503), "503", 3),
        (status(403), "403", 3),
        (page, "its sha256 differs", 3),
        (other_bytes, "its sha256 differs", 3),
    ],
)
def test_faults_that_stay_say_how_to_go_on(fetch, fault, reason, requests):
    with pytest.raises(cli.Problem) as error:
        fetch(fault)
    assert reason in str(error.value) and "by hand" in str(error.value)
    assert len(fetch.asked) == requests


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/youtube.csv",
        "file:///etc/hostname",
        "http://127.0.0.1.example.org/youtube.csv",
        "http://127.0.0.1:80@example.org/youtube.csv",
    ],
)
def test_only_https_goes_out(url, tmp_path, monkeypatch):
    def network(*_, **__):
        raise AssertionError("it asked the network")

    monkeypatch.setattr("socket.getaddrinfo", network)
    monkeypatch.setattr("urllib.request.urlopen", network)
    with pytest.raises(cli.Problem, match="only https"):
        data.download(url, tmp_path / "youtube.csv", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_the_data_set_is_downloaded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "HERE", tmp_path)
    monkeypatch.setattr(data, "YOUTUBE_SHA256", SHA256)
    (tmp_path / "titles").mkdir()
    with serving(whole) as (address, asked):
        monkeypatch.setattr(data, "YOUTUBE_URL", f"{address}/youtube.csv")
        path = data.find_titles("youtube")
        assert path == tmp_path / "titles" / "youtube.csv" and path.read_bytes() == TITLES
        assert data.find_titles("youtube") == path
        path.write_bytes(TITLES + b"mine,art\n")
        with pytest.raises(cli.Problem, match="not the report's data set .*delete it, or give it another name"):
            data.find_titles("youtube")
        assert asked == ["GET /youtube.csv"]
        assert path.read_bytes() == TITLES + b"mine,art\n"  # what the user wrote is still there


def test_a_folder_that_cannot_be_written_to_is_one_line(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = Path("/proc/self")  # nobody may write there, root included
    words = "fetch it by hand .*pass that file to --data"
    with serving(whole) as (address, _), pytest.raises(cli.Problem, match=words):
        data.download(f"{address}/youtube.csv", folder / "youtube.csv", SHA256)


# --- the model hub ------------------------------------------------------------------------------------------------

NAME = "someone/tiny-bert"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "old", COMMIT)
HEADERS = {"X_Repo_Commit": COMMIT, "X_Request_Id": "1"}


class Hub:
    """What the model hub answers for one small encoder with one commit, on the branches main and old."""

    def __init__(self, folder):
        self.files = {file.name: file.read_bytes() for file in Path(folder).iterdir()}
        self.faults = []  # (start of "GET /path", answer): each is used once

    def __call__(self, request):
        for fault in self.faults:
            start, answer = fault
            if f"{request.command} {request.path}".startswith(start):
                self.faults.remove(fault)
                return answer(request)
        path = request.path.partition("?")[0]
        api = f"/api/models/{NAME}"
        resolve = f"/{NAME}/resolve/"
        if path.startswith("/cdn/"):
            reply(request, 200, self.files[path.removeprefix("/cdn/")])
        elif path in (api, *(f"{api}/revision/{revision}" for revision in REVISIONS)):
            names = [{"rfilename": name} for name in self.files]
            self.json(request, {"id": NAME, "sha": COMMIT, "siblings": names})
        elif path.startswith(f"{api}/tree/"):
            self.tree(request, path.removeprefix(f"{api}/tree/"))
        elif path.startswith(resolve):
            self.file(request, *path.removeprefix(resolve).split("/", 1))
        elif path.startswith(api):
            reply(request, 404, b"{}", X_Error_Code="RevisionNotFound")
        else:
            reply(request, 404, b"{}", X_Error_Code="RepoNotFound")

    def tree(self, request, place):
        """The list of files at a revision."""
        if "/" in place:  # there are no folders
            return reply(request, 404, b"{}", X_Error_Code="EntryNotFound", **HEADERS)
        listed = []
        for name, content in self.files.items():
            listed.append({"type": "file", "path": name, "size": len(content), "oid": self.etag(name)})
        self.json(request, listed)

    def file(self, request, revision, name):
        """A file at a revision; large ones are elsewhere."""
        if revision not in REVISIONS:
            return reply(request, 404, b"{}", X_Error_Code="RevisionNotFound")
        if name not in self.files:
            return reply(request, 404, b"{}", X_Error_Code="EntryNotFound", **HEADERS)
        etag = f'"{self.etag(name)}"'
        if not name.endswith(".safetensors"):
            return reply(request, 200, self.files[name], ETag=etag, **HEADERS)
        elsewhere = f"http://localhost:{request.server.server_port}/cdn/{name}"
        linked = {"X_Linked_ETag": etag, "X_Linked_Size": len(self.files[name])}
        reply(request, 302, Location=elsewhere, **linked, **HEADERS)

    def json(self, request, content):
        reply(request, 200, json.dumps(content).encode(), Content_Type="application/json")

    def etag(self, name):
        return hashlib.sha256(self.files[name]).hexdigest()


@pytest.fixture
def hub(bert):
    return Hub(bert)


@pytest.fixture
def extract(tmp_path):
    """extract(address, model, out): extract.py as from a shell, with that hub and a cache of this test's own."""
    titles = write_titles(tmp_path / "titles.csv", 15)

    def run(address, model=NAME, out="f", **environment):
        hub = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "no_proxy": "127.0.0.1,localhost",
        }
        options = ["--data", titles, "--model", model, "--dtype", "float32", "--out", tmp_path / out]
        done = shell("extract", *options, env={**os.environ, **hub, **environment})
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)

    return run


def revision(folder):
    return store.open_features(folder).manifest.encoder.revision


def test_model_comes_from_the_hub_and_then_from_the_cache(hub, extract, bert, tmp_path):
    with serving(hub) as (address, asked):
        result = extract(address)
        assert result.code == 0 and result.err.count("\n") == 2, result.err
    features = store.open_features(tmp_path / "f")
    assert revision(tmp_path / "f") == COMMIT
    wanted = truth(bert, features.titles()[0])["cls", 2]
    assert abs(features.read("cls", 2) - wanted).max() < 1e-5 * abs(wanted).max()
    assert not any(name in line for line in asked for name in (".bin", ".py", ".h5"))  # no pickles, no code
    again = extract(address, out="again", HF_HUB_OFFLINE="1")
    assert again.code == 0 and revision(tmp_path / "again") == COMMIT, again.err
    unplugged = extract(address, f"{NAME}@{COMMIT}", out="unplugged")  # the server has gone, and nobody said so
    assert unplugged.code == 0 and revision(tmp_path / "unplugged") == COMMIT, unplugged.err


def test_revision_is_pinned_and_faults_that_pass_are_tried_again(hub, extract, tmp_path):
    hub.faults = [(start, status(503)) for start in (f"HEAD /{NAME}/resolve/{COMMIT}/config.json", "GET /cdn/")]
    with serving(hub) as (address, asked):
        # nobody repeats that of the weights
        refused(extract(address, f"{NAME}@old"), f"{NAME}@old", "503", "try again")
        result = extract(address, f"{NAME}@old")
    assert result.code == 0, result.err
    assert not hub.faults and revision(tmp_path / "f") == COMMIT
    assert [line for line in asked if "/api/models/" in line][0].endswith("/revision/old")
    assert not any("resolve/main/" in line for line in asked)


@pytest.mark.parametrize("model", ["someone/tiny-brt", f"{NAME}@new"])
def test_a_wrong_name_is_one_line(hub, extract, model, tmp_path):
    with serving(hub) as (address, asked):
        refused(extract(address, model), f"--model {model}", "the model hub has no such model or revision")
    assert len(asked) == 1 and not list((tmp_path / "f").glob("*.json"))


def test_no_connection_and_nothing_in_the_cache_is_one_line(hub, extract):
    hub.faults = [("GET /api/models", status(503))]
    with serving(hub) as (address, _):
        refused(extract(address), NAME, "not in the cache", "cannot be reached", "--model minilm")


def test_cut_weights_are_never_used(hub, extract, tmp_path):
    weights = hub.files["model.safetensors"]
    hub.faults = [("GET /cdn/", lambda request: reply(request, 200, weights, cut=len(weights) // 2))]
    hub.faults += [("GET /cdn/", lambda request: reply(request, 200, weights, cut=0))] * 6
    with serving(hub) as (address, asked):
        refused(extract(address), f"--model {NAME}", "model hub")
        assert asked.count("GET /cdn/model.safetensors") == 6  # once, and five times more
        kept = [file for file in (tmp_path / "hf" / "hub").rglob("*") if file.is_file()]
        kept = [file for file in kept if ".no_exist" not in file.parts]  # names of what is not on the hub
        assert kept
        for file in kept:
            assert file.suffix != ".safetensors"
            assert file.stat().st_size < len(weights) // 2
        result = extract(address)
    assert result.code == 0, result.err


def test_what_cannot_be_used_is_refused_before_it_is_downloaded(hub, extract):
    """Nor is the hub asked to convert weights that could hold code."""
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    with serving(hub) as (address, asked):
        refused(extract(address), NAME, "holds no weights as safetensors")
        hub.files["adapter_config.json"] = b"{}"
        refused(extract(address), NAME, "adapter_config.json is an adapter", "merge it")
    assert not any(word in line for line in asked for word in ("pytorch_model", "discussions", "convert"))
