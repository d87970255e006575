"""What evaluate.py recommends is what predict.py applies, from results or from the folder that keeps it."""

import json
import shutil

import numpy as np
import pytest
from conftest import call, refused
from pages import recommendation, recommended, tables
from synthetic import rewrite
from test_predict import TITLES, read

import predict


@pytest.fixture
def results(kept, tmp_path):
    """Results with a probe of one layer, and words: a folder that a test may change."""
    return shutil.copytree(kept.folder / "linear", tmp_path / "results")


def answers(*folders):
    """Probabilities of TITLES, (titles, classes), and what is named."""
    frame = predict.table(predict.load(list(folders)), TITLES)
    return frame.filter(like="probability of ").to_numpy(), frame.prediction.tolist()


def test_what_is_recommended_is_applied_without_naming_runs(results, monkeypatch):
    page = call("evaluate", "--results", results).out
    own = [results / name for name in recommended(results)]
    assert ("TF-IDF" in recommendation(page)[:60]) == any("tfidf" in folder.name for folder in own)
    wanted, named = answers(*own)
    found, also = answers(results)
    np.testing.assert_array_equal(found, wanted)
    assert also == named
    # on the command line, in the folder where results is
    monkeypatch.chdir(results.parent)
    done = call("predict", *TITLES[:2])
    assert done.code == 0 and [line.split()[0] for line in done.out.splitlines()] == named[:2]
    assert predict.table(predict.load(), TITLES).prediction.tolist() == named


def test_a_combination_is_recommended_and_kept_with_its_exponents(results, tmp_path, monkeypatch):
    """Both runs made as good as can be, each in titles of its own: together they are better."""
    make_complementary(results)
    done = call("evaluate", "--results", results, "--keep", tmp_path / "classifier")
    assert "+ TF-IDF" in recommendation(done.out) and len(recommended(results)) == 2
    assert done.err.splitlines()[-1].endswith(f"--run {tmp_path / 'classifier'} 'a title of your own'")
    wanted, named = answers(*[results / name for name in recommended(results)])

    # elsewhere, without results, features or titles
    place = shutil.copytree(tmp_path / "classifier", tmp_path / "far" / "away")
    shutil.rmtree(results)
    shutil.rmtree(tmp_path / "classifier")
    found, also = answers(place)
    np.testing.assert_array_equal(found, wanted)
    assert also == named
    monkeypatch.chdir(place.parent)
    line = call("predict", "--run", "away", TITLES[0]).out
    assert line.split()[0] == named[0]


def make_complementary(results):
    """Rewrite the out-of-fold probabilities of the two runs that predict: each knows another half of the titles."""
    (words,) = results.glob("*tfidf*")
    (probe,) = results.glob("*-linear*")
    labels = np.load(words / "labels.npy")
    for half, folder in enumerate((words, probe)):
        probabilities = np.load(folder / "probabilities.npy")
        knows = (np.arange(len(labels)) // 3) % 2 == half
        truth = np.where(np.arange(probabilities.shape[-1]) == labels[:, None], 0.9, 0.05)
        probabilities[:] = np.where(knows[:, None], truth, 1 / 3)
        np.save(folder / "probabilities.npy", probabilities)
        rewrite(folder, lambda config: config.update(offsets=None), "probabilities.npy")


def test_a_kept_folder_holds_what_prediction_needs_and_a_model_card(results, tmp_path, kept):
    done = call("evaluate", "--results", results, "--keep", tmp_path / "c")
    assert done.code == 0, done.err
    files = {str(path.relative_to(tmp_path / "c")) for path in (tmp_path / "c").rglob("*") if path.is_file()}
    (name,) = recommended(results)
    assert files <= {"README.md", "recommended.json"} | {
        f"{name}/{file}" for file in ("config.json", "heads.safetensors", "weights.safetensors", "terms.json")
    }
    # no title, and no place on this machine's disk
    everything = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "c").rglob("*.json"))
    everything += (tmp_path / "c" / "README.md").read_text(encoding="utf-8")
    assert str(kept.features) not in everything
    assert not any(title in everything for title, _ in read(kept.titles)[1:])

    # the card: hubs read its header; its figures are the page's
    card = (tmp_path / "c" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\npipeline_tag: text-classification\n")
    shown = [f"**{row['F1-macro']}** (95% interval {row['95% interval']})" for row in tables(done.out)[0]]
    assert any(each in " ".join(card.split()) for each in shown)
    assert all(name in card for name in ("art", "food", "travel", "90 titles of titles.csv"))
    assert tables(card) == tables(done.out)[1:]

    # what is kept may be kept again, and nothing else is replaced
    before = (tmp_path / "c" / name / "config.json").read_bytes()
    assert call("evaluate", "--results", results, "--keep", tmp_path / "c").code == 0
    assert (tmp_path / "c" / name / "config.json").read_bytes() == before
    assert not list(tmp_path.glob(".unfinished-*"))


@pytest.mark.parametrize("there", ["results", "file", "notes", "beside", "here"])
def test_keep_replaces_nothing_of_somebody_elses(results, tmp_path, monkeypatch, there):
    call("evaluate", "--results", results)
    place = {"results": results, "file": tmp_path / "f.txt", "notes": tmp_path / "notes"}.get(there, tmp_path / "c")
    if there in ("beside", "here"):
        assert call("evaluate", "--results", results, "--keep", place).code == 0
    if there == "beside":
        (place / "labelled.csv").write_text("mine")
    if there == "here":
        monkeypatch.chdir(place)
    if there == "file":
        place.write_text("mine")
    if there == "notes":
        place.mkdir()
        (place / "mine.txt").write_text("mine")
    before = sorted(place.rglob("*"))
    refused(call("evaluate", "--results", results, "--keep", place), "--keep", str(place), "something else is there")
    assert sorted(place.rglob("*")) == before


def test_what_was_kept_is_not_taken_for_results(results, tmp_path):
    call("evaluate", "--results", results, "--keep", tmp_path / "c")
    (run,) = (tmp_path / "c").glob("*/")
    (probe,) = results.glob("*-linear*")
    assert call("predict", "--run", run, "a title").code == 0
    refused(call("evaluate", "--results", tmp_path / "c"), str(run), "kept for prediction only")
    refused(call("predict", "--run", probe, run, "a title"), str(run), "kept for prediction only")


@pytest.mark.parametrize("what", ["gone", "changed", "damaged", "escaped"])
def test_a_recommendation_that_no_longer_holds_is_refused_with_the_command_that_makes_it_anew(results, what):
    call("evaluate", "--results", results)
    run = results / recommended(results)[0]
    path = results / "recommended.json"
    if what == "gone":
        shutil.rmtree(run)
    if what == "changed":
        rewrite(run, lambda config: config["made"].update(seconds=99.0))
    if what == "damaged":
        path.write_text(path.read_text(encoding="utf-8").replace('"runs"', '"rums"'), encoding="utf-8")
        refused(call("predict", "--run", results, "a title"), str(path), "recommend anew with")
        assert call("evaluate", "--results", results).code in (0, 2)
        return
    if what == "escaped":
        run.rename(results.parent / run.name)
        rewrite_names(path, f"../{run.name}")
    words = ("gone or changed since", "recommend anew with", f"evaluate.py --results {results}")
    refused(call("predict", "--run", results, "a title"), run.name, *words)
    assert call("evaluate", "--results", results).code in (0, 2)


def rewrite_names(path, name):
    """A recommendation of a run elsewhere, whose checksum fits."""
    from whichlayer.common import disk

    content = json.loads(path.read_text(encoding="utf-8"))
    del content["checksum"]
    disk.write_json(path, content | {"runs": [name]})


def test_where_nothing_is_recommended_nothing_is_applied_or_kept(results, tmp_path):
    call("evaluate", "--results", results)
    (probe,) = results.glob("*-linear*")
    for folder in results.glob("*baseline*"):
        shutil.rmtree(folder)
    probabilities = np.load(probe / "probabilities.npy")
    probabilities[:] = np.random.default_rng(0).dirichlet(np.ones(3), probabilities.shape[:2])
    np.save(probe / "probabilities.npy", probabilities)
    rewrite(probe, lambda config: None, "probabilities.npy")
    done = call("evaluate", "--results", results, "--keep", tmp_path / "c")
    assert done.code == 2 and "nothing is recommended" in done.err and "Recommended: none" in done.out
    assert not (tmp_path / "c").exists()
    refused(
        call("predict", "--run", results, "a title"), "no run is there, nor a recommendation", "evaluate.py --results"
    )


def test_a_folder_that_was_mistyped_is_no_title(kept):
    refused(call("predict", "--run", kept.linear, f"{kept.words}x", "a title"), f"{kept.words}x", "no such folder")
    assert call("predict", "--run", kept.words, "and/or").code == 0
