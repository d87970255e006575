"""TF-IDF of words and characters: what scikit-learn would learn, in any script, kept and applied without it."""

import json
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, call, refused
from pages import evaluate
from synthetic import guesses, scikit_learn, write_features, write_run

from whichlayer.common import cli, disk
from whichlayer.heads import baselines, runs, splits, words
from whichlayer.heads.options import Options
from whichlayer.scores import metrics

# --- titles in several scripts, on food, sport and travel; some have what any of them may have ---------------------


@dataclass
class Script:
    """Parts of sentences in one script."""

    space: str  # what stands between parts
    openings: list[str]
    endings: list[str]
    own: list[list[str]]  # of each category


CHINESE = Script(
    "",
    ["今天", "昨天晚上", "记者报道", "周末", "很多人", "为什么", "最新消息", "我们"],
    ["真好", "大家都喜欢", "引起关注", "值得看", "非常有名", "怎么样", "越来越多", "不容错过"],
    [
        ["做红烧肉", "吃火锅", "煮面条", "炒鸡蛋", "烤鸭店", "学做包子", "喝绿茶", "买豆腐"],
        ["踢足球", "赢了比赛", "打篮球", "跑马拉松", "游泳冠军", "球队教练", "进了三个球", "打乒乓球"],
        ["坐火车去云南", "游西湖", "爬长城", "住海边酒店", "去西藏旅行", "看草原", "坐飞机出国", "逛古城"],
    ],
)
HINDI = Script(
    " ",
    ["आज", "कल शाम को", "घर में", "दोस्तों के साथ", "पहली बार", "बिना किसी खर्च के", "सिर्फ दो दिन में", "क्यों लोग"],
    ["सबको पसंद आया", "देखिए", "कैसे होता है", "बहुत अच्छा है", "पूरी जानकारी", "नया वीडियो", "आसान तरीका", "जरूर जानिए"],
    [
        [
            "दाल बनाना",
            "रोटी और सब्जी",
            "मिठाई की दुकान",
            "चाय पीना",
            "पनीर पकाना",
            "खीर का स्वाद",
            "आलू के पराठे",
            "रसोई का मसाला",
        ],
        [
            "क्रिकेट खेलना",
            "मैच की जीत",
            "गेंदबाज का विकेट",
            "हॉकी की टीम",
            "दौड़ में पदक",
            "खिलाड़ी का रन",
            "कबड्डी का खेल",
            "कोच की सलाह",
        ],
        [
            "पहाड़ों की यात्रा",
            "रेल का टिकट",
            "गोवा का समुद्र",
            "होटल में ठहरना",
            "किले की सैर",
            "हवाई जहाज से जाना",
            "नदी के किनारे घूमना",
            "शिमला की बर्फ",
        ],
    ],
)
THAI = Script(
    "",
    ["วันนี้", "เมื่อคืน", "ทุกคน", "ครั้งแรก", "ทำไม", "มาดู", "เพื่อนของเรา", "สุดสัปดาห์"],
    ["ดีมาก", "น่าสนใจ", "คนชอบมาก", "ห้ามพลาด", "ง่ายนิดเดียว", "เป็นอย่างไร", "ที่สุด", "ในปีนี้"],
    [
        ["ทำต้มยำกุ้ง", "กินข้าวผัด", "ร้านก๋วยเตี๋ยว", "สูตรแกงเขียวหวาน", "ส้มตำรสเด็ด", "ดื่มชาเย็น", "ขนมหวานไทย", "ย่างไก่"],
        ["เตะฟุตบอล", "ชนะการแข่งขัน", "นักมวยไทย", "ทีมวอลเลย์บอล", "วิ่งมาราธอน", "ยิงประตู", "โค้ชทีมชาติ", "ได้เหรียญทอง"],
        ["เที่ยวเชียงใหม่", "นั่งรถไฟไปใต้", "เกาะและทะเล", "พักโรงแรม", "ขึ้นเครื่องบิน", "ไหว้พระที่วัด", "เดินป่าดอย", "ตลาดน้ำ"],
    ],
)
SCRIPTS = {"chinese": CHINESE, "hindi": HINDI, "thai": THAI}


def sentences(script, count=240, seed=0):
    """(titles, labels): in each, something of its category, and in one of four, something of any."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    titles = []
    for label in labels:
        parts = [random.choice(script.openings), random.choice(script.own[label])]
        if random.random() < 0.25:
            parts.append(random.choice(script.own[random.integers(0, 3)]))
        parts.append(random.choice(script.endings))
        titles.append(script.space.join(parts))
    return titles, labels


def kept(folder, titles, labels, classes=3):
    """(Words that learned from titles, the run that keeps them)."""
    fitted = words.fit(titles, labels, classes)
    files = words.files(fitted)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    contents = {name: disk.sha256(folder / name) for name in files}
    return fitted, runs.Run(folder, SimpleNamespace(contents=contents, classes=["c"] * classes, baseline="tfidf"))


# --- what is learned ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_kept_predicts_as_scikit_learn_does(tmp_path, script, classes):
    titles, labels = sentences(SCRIPTS[script])
    chosen = np.flatnonzero(labels < classes)
    titles, labels = [titles[row] for row in chosen], labels[chosen]
    new = [
        *sentences(SCRIPTS[script], 60, seed=1)[0],
        "Something else: a_b 2 words",
        "x",
        "❤️ 1️⃣",
        "A\tB\u3000C",
        "ÅÉ É",
        "-",
    ]
    fitted, run = kept(tmp_path / "run", titles, labels, classes)
    again = words.probabilities(words.read(run), new)
    np.testing.assert_array_equal(again, words.probabilities(fitted, new))
    # weights are kept in float32
    np.testing.assert_allclose(again, scikit_learn(titles, labels, new), atol=1e-6)


@pytest.mark.parametrize("script", SCRIPTS)
def test_titles_in_other_scripts_are_told_apart(script):
    titles, labels = sentences(SCRIPTS[script])
    groups = splits.numbered(titles)
    folds = splits.repeat_folds(labels, groups, Options(repeats=1))
    table = SimpleNamespace(labels=labels, groups=groups, folds=folds, classes=list("abc"))
    probabilities, _ = baselines.out_of_fold("tfidf", titles, table, Options(repeats=1, decide="likeliest"))
    assert metrics.macro_f1(labels, probabilities[0].argmax(1), 3) > 0.8


@pytest.mark.parametrize(
    "text, expected",
    [
        ("हिन्दी की किताब", ["हिन्दी", "की", "किताब"]),
        ("เที่ยว น้ำตก", ["เที่ยว", "น้ำตก"]),
        ("snake_case, it's 2nd", ["snake_case", "it", "s", "2nd"]),
        ("cafe\u0301 ❤️ ok", ["cafe\u0301", "ok"]),
    ],
    ids=["hindi", "thai", "english", "marks"],
)
def test_a_word_keeps_its_marks(text, expected):
    found = words.words_in(text)
    assert found[: len(expected)] == expected
    assert found[len(expected) :] == [f"{one} {two}" for one, two in zip(expected, expected[1:], strict=False)]


def test_where_nothing_can_be_learned_the_shares_are_named():
    for titles, labels, expected in (
        (["a b", "c"], [1, 1], [0, 1, 0]),
        ([" ", "  ", "\t"], [0, 0, 2], [2 / 3, 0, 1 / 3]),
    ):
        fitted = words.fit(titles, np.array(labels), 3)
        np.testing.assert_allclose(words.probabilities(fitted, ["a b", "new", ""]), [expected] * 3)
    assert words.probabilities(fitted, []).shape == (0, 3)


# --- what is kept -------------------------------------------------------------------------------------------------


def test_a_title_has_the_same_probabilities_whatever_stands_beside_it():
    """In any order, alone, and where several threads ask at once."""
    fitted = words.fit(*sentences(CHINESE), 3)
    new, _ = sentences(CHINESE, 200, seed=1)
    expected = words.probabilities(words.fit(*sentences(CHINESE), 3), new)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda title: words.probabilities(fitted, [title])[0], new))
    np.testing.assert_array_equal(alone, expected)
    np.testing.assert_array_equal(words.probabilities(fitted, new[::-1]), expected[::-1])


@pytest.mark.parametrize("name", words.FILES)
def test_files_that_are_gone_changed_or_do_not_fit_are_refused(tmp_path, name):
    _, run = kept(tmp_path / "run", *sentences(THAI, 60))
    path = run.folder / name
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b" ", None):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(cli.Problem, match=f"{name}: gone or changed"):
            words.read(run)
        path.write_bytes(whole)
    # changed with its checksum: of other titles, or nothing of the kind
    _, other = kept(tmp_path / "other", *sentences(HINDI, 60))
    for content in ((other.folder / name).read_bytes(), b"", b"[]", b"{}", whole[: len(whole) // 2]):
        path.write_bytes(content)
        run.config.contents[name] = disk.sha256(path)
        with pytest.raises(cli.Problem, match="not the weights that config.json describes"):
            words.read(run)


def results_with_words(folder, script=CHINESE):
    """Results with a run on titles, and its TF-IDF: (titles, labels, folder of the TF-IDF)."""
    titles, labels = sentences(script)
    features = write_features(folder / "features", titles, [f"c{label}" for label in labels])
    write_run(folder / "r", labels, guesses(labels, 3, 0.8, repeats=2), features=features)
    evaluate(folder / "r", "--baselines")
    (found,) = (folder / "r").glob("*-tfidf-*")
    return titles, labels, found


def test_one_fit_on_all_titles_is_kept_with_the_temperature_of_one_fit(tmp_path):
    titles, labels, folder = results_with_words(tmp_path)
    run = runs.open_run(folder)
    new, _ = sentences(CHINESE, 50, seed=1)
    found = words.probabilities(words.read(run), new)
    np.testing.assert_allclose(found, scikit_learn(titles, labels, new), atol=1e-6)
    # not that of the mean of two repeats
    single = [metrics.fit_temperature(labels, repeat) for repeat in run.probabilities]
    assert run.figures.temperature == pytest.approx(np.exp(np.mean(np.log(single))))


@pytest.mark.parametrize("name", ["weights.safetensors", "probabilities.npy"])
def test_damaged_tf_idf_is_made_again_by_the_command_that_is_named(tmp_path, name):
    *_, folder = results_with_words(tmp_path)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    script = "predict" if name == "weights.safetensors" else "evaluate"
    given = ["--run", folder, "a title"] if script == "predict" else ["--results", folder.parent]
    line = refused(call(script, *given), f"{name}: gone or changed")
    assert "train again" not in line
    shutil.rmtree(folder)
    again = shlex.split(line.partition("delete the run's folder and make it again with: ")[2])
    assert call(Path(again[1]).stem, *again[2:]).code == 0
    assert (folder / name).read_bytes() == whole


def test_words_are_applied_without_torch_and_scikit_learn(tmp_path):
    """As somebody does who has neither; predict.py takes a run of words as any other."""
    _, _, folder = results_with_words(tmp_path)
    code = """
import sys
for name in ("torch", "transformers", "sklearn", "scipy"):
    sys.modules[name] = None
sys.argv = ["predict.py", "--run", sys.argv[1], "--format", "jsonl", *sys.argv[2:]]
import runpy
runpy.run_path("predict.py", run_name="__main__")
"""
    titles = ["为什么吃火锅", "打篮球真好", "我们游西湖"]
    done = subprocess.run([sys.executable, "-c", code, folder, *titles], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["prediction"] for line in done.stdout.splitlines()] == ["c0", "c1", "c2"]
