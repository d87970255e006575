"""TF-IDF of words and characters: what scikit-learn would learn, in any script, kept and applied without it."""

import shutil

import numpy as np
import pytest
from conftest import call, refused
from pages import evaluate
from synthetic import guesses, scikit_learn, write_features, write_run

from whichlayer.common import cli, disk
from whichlayer.heads import runs, words
from whichlayer.scores import calibration, metrics

# --- titles in several scripts: openings, what is said of food, of sport, of travel, and endings -------------------

SCRIPTS = {
    "chinese": """
        今天|昨天晚上|记者报道|周末|很多人|为什么
        做红烧肉|吃火锅|煮面条|炒鸡蛋|烤鸭店|学做包子
        踢足球|赢了比赛|打篮球|跑马拉松|游泳冠军|球队教练
        坐火车去云南|游西湖|爬长城|住海边酒店|去西藏旅行|看草原
        真好|大家都喜欢|引起关注|值得看|非常有名|怎么样
    """,
    "hindi": """
        आज|कल शाम को|घर में|दोस्तों के साथ|पहली बार|बिना किसी खर्च के
        दाल बनाना|रोटी और सब्जी|मिठाई की दुकान|चाय पीना|पनीर पकाना|खीर का स्वाद
        क्रिकेट खेलना|मैच की जीत|गेंदबाज का विकेट|हॉकी की टीम|दौड़ में पदक|खिलाड़ी का रन
        पहाड़ों की यात्रा|रेल का टिकट|गोवा का समुद्र|होटल में ठहरना|किले की सैर|हवाई जहाज से जाना
        सबको पसंद आया|देखिए|कैसे होता है|बहुत अच्छा है|पूरी जानकारी|नया वीडियो
    """,
    "thai": """
        วันนี้|เมื่อคืน|ทุกคน|ครั้งแรก|ทำไม|มาดู
        ทำต้มยำกุ้ง|กินข้าวผัด|ร้านก๋วยเตี๋ยว|สูตรแกงเขียวหวาน|ส้มตำรสเด็ด|ดื่มชาเย็น
        เตะฟุตบอล|ชนะการแข่งขัน|นักมวยไทย|ทีมวอลเลย์บอล|วิ่งมาราธอน|ยิงประตู
        เที่ยวเชียงใหม่|นั่งรถไฟไปใต้|เกาะและทะเล|พักโรงแรม|ขึ้นเครื่องบิน|ไหว้พระที่วัด
        ดีมาก|น่าสนใจ|คนชอบมาก|ห้ามพลาด|ง่ายนิดเดียว|เป็นอย่างไร
    """,
}


def sentences(script, count=240, seed=0, classes=3):
    """(titles, labels): in each, something of its category, and in one of four, something of any."""
    random = np.random.default_rng(seed)
    openings, *own, endings = [line.strip().split("|") for line in SCRIPTS[script].strip().splitlines()]
    labels = random.integers(0, classes, count)
    titles = []
    for label in labels:
        middle = [random.choice(own[label])]
        if random.random() < 0.25:
            middle.append(random.choice(own[random.integers(0, 3)]))
        parts = [random.choice(openings), *middle, random.choice(endings)]
        titles.append((" " if script == "hindi" else "").join(parts))
    return titles, labels


def kept(folder, titles, labels):
    """(Words that learned from titles, the run that keeps them)."""
    fitted = words.fit(words.count(titles, labels))
    files = words.files(fitted)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    contents = {name: disk.sha256(folder / name) for name in files}
    classes = ["c"] * (labels.max() + 1)
    run = runs.Run(runs.FORMAT, classes, options=None, data=None, baseline="tfidf", contents=contents)
    run.folder = folder
    return fitted, run


# --- what is learned ----------------------------------------------------------------------------------------------

ODD = ["Something else: a_b 2 words", "x", "❤️ 1️⃣", "A\tB\u3000C", "ÅÉ É", "-", ""]


@pytest.mark.parametrize("script, classes", [("chinese", 3), ("hindi", 3), ("thai", 2)])
def test_what_is_kept_predicts_as_scikit_learn_does(tmp_path, script, classes):
    titles, labels = sentences(script, classes=classes)
    new, truth = sentences(script, 60, seed=1, classes=classes)
    fitted, run = kept(tmp_path / "run", titles, labels)
    found = words.probabilities(words.read(run), new + ODD)
    np.testing.assert_array_equal(found, words.probabilities(fitted, new + ODD))
    # weights are kept in float32
    np.testing.assert_allclose(found, scikit_learn(titles, labels, new + ODD), atol=1e-6)
    assert metrics.macro_f1(truth, found[:60].argmax(1), classes) > 0.8


def test_a_title_has_the_same_probabilities_whatever_stands_beside_it():
    """In any order, and alone."""
    titles, labels = sentences("chinese")
    fitted = words.fit(words.count(titles, labels))
    alone = [words.probabilities(fitted, [title])[0] for title in titles]
    expected = words.probabilities(fitted, titles)
    np.testing.assert_array_equal(alone, expected)
    np.testing.assert_array_equal(words.probabilities(fitted, titles[::-1]), expected[::-1])
    assert words.probabilities(fitted, []).shape == (0, 3)


# --- what is kept -------------------------------------------------------------------------------------------------


def test_files_that_are_gone_or_changed_are_refused(tmp_path):
    name = "terms.json"
    _, run = kept(tmp_path / "run", *sentences("thai", 60))
    path = run.folder / name
    _, other = kept(tmp_path / "other", *sentences("hindi", 60))
    for content in ((other.folder / name).read_bytes(), b"", path.read_bytes()[:-1]):
        path.write_bytes(content)
        with pytest.raises(cli.Problem, match=f"{name}: gone or changed"):
            words.read(run)
    path.unlink()
    with pytest.raises(cli.Problem, match=f"{name}: gone or changed"):
        words.read(run)


def test_one_fit_on_all_titles_is_kept_and_made_again_where_it_is_damaged(tmp_path):
    titles, labels = sentences("chinese", 90)
    features = write_features(tmp_path / "features", titles, [f"c{label}" for label in labels])
    results = tmp_path / "r"
    write_run(results, labels, guesses(labels, 3, 0.8, repeats=2), features=features)
    evaluate(results, "--baselines")
    (folder,) = results.glob("*-tfidf-*")
    run = runs.open_run(folder)
    found = words.probabilities(words.read(run), titles[:20])
    np.testing.assert_allclose(found, scikit_learn(titles, labels, titles[:20]), atol=1e-6)
    # its temperature is that of one fit, not of the mean of two repeats
    single = [1 / calibration.fit(labels, [repeat])[0] for repeat in run.probabilities]
    assert run.figures.temperature == pytest.approx(np.exp(np.mean(np.log(single))))

    path = folder / "weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refused(call("predict", "--run", folder, "a title"), "weights.safetensors: gone or changed", "make it again")
    shutil.rmtree(folder)
    evaluate(results, "--baselines")
    assert path.read_bytes() == whole
