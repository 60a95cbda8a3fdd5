"""The page of an evaluation, whose numbers are known."""

import base64
import io
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from safe_jax.classifier.evaluation import Attention, Facts, evaluate_probabilities
from safe_jax.report import evaluation
from tests.report.test_page import cells

CLASSES = ["cat", "dog", "<b>fox</b> & co", "owl"]
HOSTILE = '"><script>alert(1)</script>'
MAPS = Attention(original=[[0.25, 0.25], [0.25, 0.25]], tuned=[[0.7, 0.1], [0.1, 0.1]])


def picture(kind="jpeg"):
    file = io.BytesIO()
    PIL.Image.new("RGB", (320, 240), "teal").save(file, kind)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def evaluate(classes=CLASSES, temperature=2.0, **facts):
    """Three of four cats are right, both dogs, no fox of two; there is no owl."""
    label_n = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    answer_n = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    sure_n = np.array([4.0, 5, 6, 1, 2, 3, 7, 8])
    logits_nk = sure_n[:, None] * np.eye(len(classes))[answer_n]
    paths = [f"{n}.jpg" for n in range(7)] + [HOSTILE]
    facts = Facts("pets.safe", "photos", "SAFE")._replace(**facts)
    return evaluate_probabilities(logits_nk, label_n, paths, classes, temperature, facts)


@pytest.fixture(scope="module")
def html():
    """With every section."""
    unreadable = [("torn.jpg", f"cut off {HOSTILE}")]
    found = evaluate(classifier=HOSTILE, seen=3, unreadable=unreadable)
    no_picture = "data:image/jpeg;base64,AA=="
    return evaluation.render(found.with_looks([picture(), no_picture, None], [MAPS, MAPS, None]))


def test_the_tiles_have_accuracy_calibration_and_images(html):
    found = evaluate()
    tiles = re.findall(
        r"<div><span>(.*?)</span>\s*<b>(.*?)<small> (.*?)</small></b>\s*<span>(.*?)</span>", html
    )
    low, high = found.interval.low, found.interval.high
    assert tiles == [
        ("accuracy", "62.50", "%", f"95 % interval {low:.2f} to {high:.2f} %"),
        ("calibration error", f"{found.calibration_error:.2f}", "%", "with temperature 2"),
        (
            "calibration error",
            f"{found.calibration_error_untempered:.2f}",
            "%",
            "without temperature",
        ),
        ("evaluated", "8", "images", "1 more could not be read"),
    ]
    assert "SAFE, evaluated on 8 labelled images of 4 classes." in html


def test_two_figures_and_their_numbers_as_tables(html):
    labels = re.findall(r'<svg[^>]*role="img" aria-label="(A[^"]*?); the table has', html)
    assert labels == [
        "Accuracy against confidence, and the part of the images",
        "Accuracy and coverage against the threshold",
    ]
    assert cells(html, "0", "threshold (%)") == ["100.00", "62.50"]
    assert cells(html, "99", "threshold (%)") == ["0.00", "-"]
    found = evaluate()
    assert len(re.findall(r"<th scope=\"row\">[\d.]+ to [\d.]+</th>", html)) == 15
    last = found.reliability[-1]
    assert cells(html, "93.3 to 100.0") == [
        f"{last.confidence:.2f}",
        f"{last.accuracy:.2f}",
        str(last.count),
    ]
    assert cells(html, "0.0 to 6.7") == ["-", "-", "0"]


def test_classes_stand_by_recall_and_gaps_are_dashes(html):
    table = html[html.index("<h2>Classes") : html.index("<h2>Confusions")]
    names = re.findall(r'<th scope="row">(.*?)</th>', table)
    assert names == ["&lt;b&gt;fox&lt;/b&gt; &amp; co", "cat", "dog", "owl"]
    assert cells(table, names[0], "<thead>") == ["0.00", "-", "2"]
    assert cells(table, "cat", "<thead>") == ["75.00", "75.00", "4"]
    assert cells(table, "dog", "<thead>") == ["100.00", "50.00", "2"]
    assert cells(table, "owl", "<thead>") == ["-", "-", "0"]


def test_the_confusion_matrix_is_coloured_by_the_part_of_a_label(html):
    table = html[html.index('<table class="confusion">') :]
    of_row = re.findall(r'<tr><th scope="row">.*?</th>(.*?)</tr>', table, re.DOTALL)[:4]
    found = [
        re.findall(r'<td class="(\w+)" style="--share: (\d+)%">(.*?)</td>', row) for row in of_row
    ]
    assert [[text for _, _, text in row] for row in found] == [
        ["3", "1", "", ""], ["", "2", "", ""], ["1", "1", "0", ""], ["", "", "", "0"],
    ]  # fmt: skip
    assert [[int(share) for _, share, _ in row] for row in found] == [
        [38, 12, 0, 0], [0, 50, 0, 0], [25, 25, 0, 0], [0, 0, 0, 0],
    ]  # fmt: skip
    assert [[kind for kind, _, _ in row].index("same") for row in found] == [0, 1, 2, 3]


def test_many_classes_have_pairs_and_a_folded_table():
    classes = [f"class {n}" for n in range(31)]
    html = evaluation.render(evaluate(classes))
    assert '<table class="confusion">' not in html
    table = html[html.index("<h2>Confusions") : html.index("<h2>The surest")]
    found = re.findall(r'<th scope="row">(.*?)</th>\s*<td>(.*?)</td>\s*<td>(.*?)</td>', table)
    assert found == [
        ("class 0", "class 1", "1"), ("class 2", "class 0", "1"), ("class 2", "class 1", "1"),
    ]  # fmt: skip
    assert "<summary>1 more with higher recall</summary>" in html
    at_the_bound = evaluation.render(evaluate(classes[:30]))
    assert '<table class="confusion">' in at_the_bound
    assert "more with higher recall" not in at_the_bound


def test_the_surest_mistakes_are_cards_with_what_is_known(html):
    first, second, third = html.split('<article class="card">')[1:]
    assert first.count("data:image/jpeg") == 1  # the picture, once for all three
    assert first.count("data:image/png") == 2  # the maps
    assert "peak 70 %" in first
    assert "&lt;script&gt;" in first  # the path
    assert re.search(r"<dt>SAFE</dt>\s*<dd>dog\s*<span class=\"number\">95 %</span>", first)
    assert "✗ wrong" in first
    for card, path in ((second, "6.jpg"), (third, "3.jpg")):
        assert "picture missing" in card
        assert "data:image" not in card
        assert f"<dt>image</dt><dd>{path}</dd>" in card
    assert "Heat is a pool" in html
    assert "Heat is a pool" not in evaluation.render(evaluate())


def test_a_picture_without_attention_is_shown_alone():
    html = evaluation.render(evaluate().with_looks([picture()] * 3, [None] * 3))
    assert html.count("data:image/jpeg") == 3
    assert "data:image/png" not in html


def test_unreadable_images_and_images_fitted_on_are_named(html):
    listed = html[html.index("<h2>Images that could not be read") :]
    assert cells(listed, "torn.jpg", "<thead>")[0].startswith("cut off &#34;&gt;&lt;script&gt;")
    warning = re.search(r'<p class="warning"><b>Warning:</b> (.*?)</p>', html)[1]
    assert warning == (
        "the classifier was fitted on 3 of these 8 images: do not expect this accuracy of new "
        "images."
    )
    plain = evaluation.render(evaluate())
    assert "could not be read" not in plain
    assert "Warning" not in plain


def test_without_a_mistake_the_page_says_so():
    label_n = np.arange(40)
    found = evaluate_probabilities(
        9 * np.eye(40), label_n, list(map(str, label_n)), list(map(str, label_n)), 1.0,
        Facts("pets.safe", "photos", "SAFE"),
    )  # fmt: skip
    html = evaluation.render(found)
    assert "<p>No image has a wrong answer.</p>" in html
    assert "mistakes" not in html


def test_the_page_is_one_file_and_everything_is_escaped(html):
    assert html.startswith("<!doctype html>")
    assert html.endswith("</html>")
    assert "<script" not in html
    assert "<b>fox" not in html
    targets = re.findall(r'(?:href|src|srcset)="([^"]*)"', html)
    others = {target for target in targets if not target.startswith(("#", "data:"))}
    assert others == {"https://arxiv.org/abs/2311.04464", "https://arxiv.org/abs/1706.04599"}
    assert not re.search(r"url\((?!#)|@import|<link|<style>[^<]*http", html)
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)
    assert set(re.findall(r"var\((--[\w-]+)\)", html)) <= set(re.findall(r"(--[\w-]+):", html))


def test_the_same_evaluation_gives_the_same_bytes(html):
    found = evaluate().with_looks([picture()] * 3, [MAPS] * 3)
    assert evaluation.render(found) == evaluation.render(found)


def test_the_page_is_made_without_jax():
    script = "import safe_jax.report.evaluation, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
