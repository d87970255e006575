"""Downloads: a server on this machine that behaves as the net does, and as the model hub does. Nothing leaves it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, reply, serving

import data
from whichlayer.common import cli
from whichlayer.encoder.loading import read_model

TITLES = b"title,category\nhow to paint,art\nbest pasta,food\n" * 4000
SHA256 = hashlib.sha256(TITLES).hexdigest()


# --- the data set -------------------------------------------------------------------------------------------------


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


def hang_up(request):
    request.close_connection = True


def status(code):
    return lambda request: reply(request, code, b"<html>sorry</html>")


def redirect(request):
    reply(request, 302, Location="/elsewhere")


@pytest.mark.parametrize("answers", [[whole], [redirect, whole]])
def test_download_succeeds(fetch, answers):
    assert len(fetch(*answers)) == len(answers)


def other_bytes(request):
    reply(request, 200, TITLES[:-1] + b"!")


@pytest.mark.parametrize(
    "fault, reason",
    [
        (cut, "IncompleteRead"),
        (hang_up, "closed"),
        (status(503), "503"),
        (other_bytes, "its sha256 differs"),
    ],
)
def test_faults_say_how_to_go_on(fetch, fault, reason):
    with pytest.raises(cli.Problem) as error:
        fetch(fault)
    assert reason in str(error.value) and "by hand" in str(error.value)


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
        with pytest.raises(cli.Problem, match="not the report's data set"):
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


READ = """
import sys
from whichlayer.common import cli
from whichlayer.encoder.loading import read_model
for name in sys.argv[1:]:
    try:
        # twice: as it is named, and where it will be found again
        info = read_model(read_model(name)[2].place)[2]
        print(info.revision, info.weights)
    except cli.Problem as problem:
        print(problem)
"""


@pytest.fixture
def read(tmp_path):
    """read(address, *names): what a process with a cache of this test's own makes of them: a line for each.

    It is the commit with the fingerprint of the weights, or why it is refused.
    """

    def run(address, *names):
        hub = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        environment = os.environ | hub | {"no_proxy": "127.0.0.1,localhost"}
        options = {"cwd": ROOT, "env": environment, "text": True, "capture_output": True, "timeout": 300}
        done = subprocess.run([sys.executable, "-c", READ, *names], **options)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.splitlines()

    return run


def test_models_come_from_the_hub_as_one_commit_and_then_from_the_cache(hub, read, bert):
    right = f"{COMMIT} {read_model(bert)[2].weights}"
    with serving(hub) as (address, asked):
        assert read(address, f"{NAME}@old") == [right]
        revisions = [line for line in asked if "/revision/" in line]
        assert revisions[0].endswith("/revision/old") and revisions[-1].endswith(f"/revision/{COMMIT}")
        # no pickles, no code, nothing of another state
        assert not any(word in line for line in asked for word in (".bin", ".py", ".h5", "resolve/main/"))
    # the server has gone, and nobody said so
    assert read(address, f"{NAME}@old", f"{NAME}@{COMMIT}") == [right, right]


def test_faults_that_pass_are_tried_again_and_cut_weights_never_used(hub, read, bert, tmp_path):
    weights = hub.files["model.safetensors"]
    hub.faults = [(f"HEAD /{NAME}/resolve/{COMMIT}/config.json", status(503))]
    hub.faults += [("GET /cdn/", lambda request: reply(request, 200, weights, cut=len(weights) // 2))]
    hub.faults += [("GET /cdn/", lambda request: reply(request, 200, weights, cut=0))] * 5
    with serving(hub) as (address, asked):
        first, second = read(address, NAME, NAME)
    assert first.startswith(f"--model {NAME}: ") and not hub.faults
    assert second == f"{COMMIT} {read_model(bert)[2].weights}"
    # once, five times more, and whole
    assert asked.count("GET /cdn/model.safetensors") == 7


def test_what_cannot_be_had_or_used_is_one_line_and_not_downloaded(hub, read):
    """Nor is the hub asked to convert weights that could hold code."""
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    hub.faults = [("GET /api/models", status(503))]
    with serving(hub) as (address, asked):
        *nowhere, pickled = read(address, NAME, "someone/tiny-brt", f"{NAME}@new", NAME)
    for name, line in zip((NAME, "someone/tiny-brt", f"{NAME}@new"), nowhere, strict=True):
        assert line.startswith(f"--model {name}: ") and "it must be a folder, in the cache or on the model hub" in line
    assert "hold its weights as safetensors" in pickled
    assert not any(word in line for line in asked for word in ("pytorch_model", "discussions", "convert"))
