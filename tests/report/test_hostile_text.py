"""No text that reaches a page becomes markup, hides or cannot be written: the page's elements are
those of a page with plain texts, whatever stands in a name, a path, a knob or a reason.
"""

import html.parser

import pytest

from safe_jax.report import evaluation, page, runs
from tests.fake_run import PETS, example, put, rows
from tests.report.test_evaluation_page import MAPS, evaluate, picture

MARKUP = (
    "\"><script>alert(1)</script><img src=x onerror='alert(1)'>--></style>{{ 7 * 7 }}{% raw %}"
    "$\\frac{"
)
UNSEEN = "\u202e\u2066\x07\x85"  # overrides and isolates a direction, a bell, an end of line
TEXTS = {"plain": "plain", "hostile": MARKUP + UNSEEN}
SURROGATE = "\udcff"  # of a file's name in another encoding


class Elements(html.parser.HTMLParser):
    """Every element of a page with the names of its attributes, in order, and all its text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, [name for name, _ in attrs]))
        self.texts += [value for _, value in attrs if value]

    def handle_data(self, data):
        self.texts.append(data)


def page_of_runs(tmp_path, text):
    """A text in each place that takes one, of two experiments beside each other."""
    common = PETS | {
        "dataset": text, "weights": f"{text}@1234", "protocol": text,
        "released": text, "images": text,
    }  # fmt: skip
    found = rows(seeds=(1,), **common)
    for row in found:
        if row["method"] == "safe":
            row |= {"selection": text, "point": {text: 1.0}, "tuned_on": text}
            row |= {"knobs": {text: text}, "examples": [
                example("examples/there.png", text, text), example(text, text),
            ]}  # fmt: skip
            found = [*found, row | {"method": text, "curve": {}}]
    folder = tmp_path / (text.replace("/", "_") + SURROGATE)
    knobs = {text: text, "nested": {text: [text]}}
    first = put(folder, found, {"c0ffee": knobs})
    second = put(tmp_path / "other", rows(seeds=(1,), config_hash="beef", **common), {"beef": {}})
    return page.render(runs.load([first, second]))


def page_of_an_evaluation(text):
    classes = [f"{text}{n}" for n in range(4)]
    unreadable = [(f"{text}.jpg", text)]
    found = evaluate(
        classes, seen=3, unreadable=unreadable, classifier=text, photos=text, method=text
    )
    found = found.with_looks([picture(), None, None], [MAPS, None, None])
    return evaluation.render(found)


@pytest.mark.parametrize("of", ["runs", "an evaluation"])
def test_no_text_becomes_markup(tmp_path, of):
    pages = {
        kind: page_of_runs(tmp_path / kind, text) if of == "runs" else page_of_an_evaluation(text)
        for kind, text in TEXTS.items()
    }
    plain, hostile = map(Elements, pages.values())
    assert hostile.found == plain.found
    assert not {tag for tag, _ in hostile.found} & {"script", "img"}
    assert any(MARKUP in text for text in hostile.texts)  # it is shown as it was written
    assert not set(UNSEEN) & set(pages["hostile"])
    assert "\\u202e" in pages["hostile"].encode().decode()
    assert ("\\udcff" in pages["hostile"]) == (of == "runs")
