"""Downloads: a server on this machine that behaves as the net does, and as the model hub does. Nothing leaves it."""
import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import torch

import data
from conftest import call, refused, reply, serving, shell, truth, write_bert, write_titles

TITLES = b"title,category\nhow to paint,art\nbest pasta,food\n" * 4000
SHA256 = hashlib.sha256(TITLES).hexdigest()


# --- the data set -------------------------------------------------------------------------------------------------


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """fetch(answers): download from a server that gives these answers in turn; the last one stays.

    Returns what was asked for, after a check that a failure leaves nothing behind and a success the file alone.
    """
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")

    def run(*answers, quiet=True, checksum=SHA256):
        path, turns = tmp_path / "titles" / "youtube.csv", list(answers)
        with serving(lambda request: (turns.pop(0) if len(turns) > 1 else turns[0])(request)) as (address, asked):
            run.asked = asked
            try:
                data.download(f"{address}/youtube.csv", path, checksum, quiet, patience=0)
            except data.Problem:
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


def test_download_succeeds(fetch):
    assert fetch(whole) == ["GET /youtube.csv"]


def test_download_without_a_length_succeeds(fetch):
    def unknown(request):
        request.send_response(200)
        request.end_headers()
        request.wfile.write(TITLES)
    assert len(fetch(unknown)) == 1


def test_download_follows_a_redirect(fetch):
    assert fetch(lambda request: reply(request, 302, Location="/elsewhere"), whole) == ["GET /youtube.csv", "GET /elsewhere"]


def test_progress_counts_the_bytes(fetch, monkeypatch):
    bars = []

    def progress(total, unit, *rest, **options):
        bars.append(original(total, unit, *rest, **options))
        bars[-1].update = lambda n: counts.append(n)
        return bars[-1]

    original, counts = data.progress, []
    monkeypatch.setattr(data, "progress", progress)
    fetch(whole, quiet=False)
    assert [bar.total for bar in bars] == [len(TITLES)] and sum(counts) == len(TITLES) and len(counts) > 1


@pytest.mark.parametrize("fault", [cut, cut_chunk, hang_up, garbage, status(503), status(429)],
                         ids=["cut", "cut-chunk", "hang-up", "garbage", "503", "429"])
def test_faults_that_pass_are_tried_again(fetch, fault):
    assert len(fetch(fault, whole)) == 2


@pytest.mark.parametrize("fault, reason, requests", [
    (cut, "cut after 70,000 of 200,000 bytes", 3), (cut_chunk, "IncompleteRead", 3), (status(503), "the server answered 503", 3),
    (status(404), "the server answered 404", 1), (status(403), "the server answered 403", 1)],
    ids=["cut", "cut-chunk", "503", "404", "403"])
def test_faults_that_stay_say_how_to_go_on(fetch, fault, reason, requests):
    with pytest.raises(data.Problem) as error:
        fetch(fault)
    assert reason in str(error.value) and "fetch it by hand from http" in str(error.value)
    assert "youtube.csv and save it as " in str(error.value)
    assert len(fetch.asked) == requests


@pytest.mark.parametrize("answer, words", [(page, "a web page (a proxy or a login?)"),
                                           (lambda request: reply(request, 200, TITLES[:-1] + b"!"), "what came is wrong")],
                         ids=["page", "changed"])
def test_another_file_is_refused(fetch, answer, words):
    with pytest.raises(data.Problem) as error:
        fetch(answer)
    assert words in str(error.value) and SHA256 in str(error.value) and "fetch it by hand" in str(error.value)
    assert len(fetch.asked) == 1


@pytest.mark.parametrize("url", ["http://example.org/youtube.csv", "ftp://example.org/youtube.csv", "file:///etc/hostname",
                                 "file://localhost/etc/hostname", "http://127.0.0.1.example.org/youtube.csv"])
def test_only_https_goes_out(url, tmp_path, monkeypatch):
    def network(*_, **__):
        raise AssertionError("it asked the network")
    monkeypatch.setattr("socket.getaddrinfo", network)
    monkeypatch.setattr("urllib.request.urlopen", network)
    with pytest.raises(data.Problem, match="only https"):
        data.download(url, tmp_path / "titles" / "youtube.csv", SHA256, patience=0)
    assert not (tmp_path / "titles").exists()


def test_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(whole) as (address, _):
        pass
    with pytest.raises(data.Problem, match="refused.*fetch it by hand"):
        data.download(f"{address}/youtube.csv", tmp_path / "youtube.csv", SHA256, patience=0)
    assert list(tmp_path.iterdir()) == []


def test_the_data_set_is_downloaded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "HERE", tmp_path)
    monkeypatch.setattr(data, "YOUTUBE_SHA256", SHA256)
    with serving(whole) as (address, asked):
        monkeypatch.setattr(data, "YOUTUBE_URL", f"{address}/youtube.csv")
        path = data.find_titles("youtube", quiet=True)
        assert path == tmp_path / "titles" / "youtube.csv" and path.read_bytes() == TITLES
        assert data.find_titles("youtube", quiet=True) == path
        path.write_bytes(TITLES + b"mine,art\n")
        with pytest.raises(data.Problem, match="not the report's data set .*delete it to download it again"):
            data.find_titles("youtube", quiet=True)
        assert asked == ["GET /youtube.csv"]
        assert path.read_bytes() == TITLES + b"mine,art\n"  # what the user wrote is still there
