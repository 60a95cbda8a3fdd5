"""The page, made of rows whose numbers are known."""

import re

import pytest

from safe_jax.experiment.results import Results
from safe_jax.report import gallery, page, plots, published, runs
from tests.fake_run import GAIN, PETS, example, put, rows


@pytest.fixture
def drawn():
    """Figures are drawn."""


@pytest.fixture(autouse=True)
def _sketched(request, monkeypatch):
    """Figures are empty but for their label, unless a test asks for them to be `drawn`."""
    if "drawn" not in request.fixturenames:
        empty = '<svg width="1" viewBox="0 0 1 1"></svg>'
        monkeypatch.setattr(plots, "_svg", lambda _, alt: plots._for_page(empty, alt))


def render(*directories):
    return page.render(runs.load(list(directories)))


def cells(html, label, after="<body>"):
    """The cells of the first table row with this label, after some text."""
    of_row = re.search(
        rf'<th scope="row">{re.escape(label)}</th>(.*?)</tr>', html[html.index(after) :], re.DOTALL
    )
    return [text.strip() for text in re.findall(r"<td>(.*?)</td>", of_row[1], re.DOTALL)]


def test_the_page_names_another_protocol(tmp_path):
    html = render(put(tmp_path / "run", rows(protocol="tip_adapter")))
    assert "Tip-Adapter&#39;s protocol: the full validation set, one seed" in html
    assert "<dt>selection</dt><dd>chosen on min(shots, 4) validation images a class; Tip" in html


def test_seconds_that_two_methods_have_are_told(tmp_path):
    found = rows()
    found += [row | {"method": "safe_a"} for row in found if row["method"] == "safe"]
    html = render(put(tmp_path / "run", found))
    assert "Those of SAFE-A have those of SAFE in them: do not add them up." in html


def test_base_to_new_has_a_table_and_is_compared_with_no_other_protocol(tmp_path):
    found = rows(protocol="base_to_new", config_hash="beef")
    for row in found:
        row |= {"new_accuracy": 30.0, "harmonic_mean": 35.0}
    html = render(put(tmp_path / "run", [*found, *rows()]))
    after = "Base to new</h"
    assert cells(html, "zero-shot", after) == ["40.00", "30.00", "35.00"]
    assert cells(html, "SAFE", after) == ["44.00 ± 1.00 (2.48)", "30.00", "35.00"]
    assert html.count(after) == 1
    assert "<h2>pets: test images of the base classes</h2>" in html
    assert "<h2>pets: test images</h2>" in html
    assert "What differs" not in html


def test_chosen_learning_rates_are_listed(tmp_path):
    found = rows()
    for row in found:
        if row["method"] == "safe":
            chosen = {"learning_rate": 1e-4 * row["seed"], "weight_decay": 0.01}
            row.update(chosen, candidates=[chosen | {"val_accuracy": 50.0}] * 2)
    html = render(put(tmp_path / "run", found))
    assert (
        cells(html, "SAFE", "Learning rate and weight decay")
        == ["0.0001/0.01, 0.0002/0.01, 0.0003/0.01"] * 2
    )


def test_the_page_has_the_numbers(tmp_path):
    html = render(put(tmp_path / "run", rows(), {"c0ffee": {"epochs": 50, "shots": [1, 2]}}))
    assert cells(html, "zero-shot", "Accuracy against shots") == ["40.00", "40.00"]
    assert cells(html, "SAFE", "Accuracy against shots") == [
        "44.00 ± 1.00 (2.48)",
        "48.00 ± 1.00 (2.48)",
    ]
    assert "<b>48.00 ± 1.00<small> %</small></b>" in html
    assert "<b>+8.00<small> points</small></b>" in html
    assert "SAFE, 2 shots</span>" in html
    assert "<span>mean of 3 seeds</span>" in html
    assert cells(html, "alpha, by seed") == ["0.50, 0.50, 0.50"] * 2
    assert cells(html, "SAFE", "Mean seconds") == ["1.50", "1.50"]
    assert "do not add them up" not in html
    assert cells(html, "epochs") == ["50"]
    assert cells(html, "shots", "All 2 knobs") == ["[1, 2]"]
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html[: html.index("</dl>")])
    assert dict(facts) == {
        "weights": "RN50@1234",
        "evaluated on": "test images",
        "seeds": "1, 2 and 3",
        "selection": "chosen on min(shots, 4) validation images a class",
        "config hash": "c0ffee",
    }
    assert re.findall(r'aria-label="(.*?): accuracy against alpha', html) == [
        "Validation accuracy (%): alpha is chosen here",
        "Accuracy (%) on test: for inspection only",
    ]
    assert html.count("<svg") == 4  # shots, alpha on validation and on test, loss


def test_the_page_needs_no_other_file(drawn, tmp_path):
    found = rows()
    found[-1]["examples"] = [example("examples/there.png")]
    html = render(put(tmp_path / "run", found))
    targets = re.findall(r'(?:href|src|srcset)="([^"]*)"', html)
    assert {target for target in targets if not target.startswith(("#", "data:"))} == {
        "https://arxiv.org/abs/2311.04464"
    }
    assert not re.search(r"url\((?!#)|@import|<script|<link|<style>[^<]*http", html)
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)
    variables = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert variables <= set(re.findall(r"(--[\w-]+):", html))


def test_the_gallery_shows_pictures_maps_and_predictions(tmp_path):
    found = rows()
    found[-1]["examples"] = [example("examples/there.png", label="of the highest seed")]
    found[-5]["examples"] = [  # two shots, seed 1
        example("examples/there.png", label="<b>bold</b> & co", blended="<b>bold</b> & co"),
        example("examples/absent.png", label="eight"),
    ]
    html = render(put(tmp_path / "run", found))
    assert "SAFE with 2 shots, seed 1." in html
    assert "of the highest seed" not in html
    assert "<b>bold" not in html
    first, second = html.split('<article class="card">')[1:]
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; co" in first
    assert first.count("data:image/png") == 2  # the maps
    assert first.count("data:image/jpeg") == 1  # the picture, once for all three
    assert "peak 25 %" in first
    assert "peak 70 %" in first
    assert re.findall("[✗✓] [a-z]+", first) == ["✗ wrong", "✓ right"]
    assert "31 %" in first
    assert "92 %" in first
    assert "picture missing" in second
    assert "data:image" not in second


def test_a_picture_outside_of_the_run_is_not_shown(tmp_path):
    run = put(tmp_path / "run", rows(seeds=(1,)))
    secret = tmp_path / "secret.png"
    (run / "examples" / "there.png").rename(secret)
    (run / "examples" / "link.png").symlink_to(secret)
    (run / "examples" / "loop.png").symlink_to(run / "examples" / "loop.png")
    for named in ("../secret.png", str(secret), "examples/link.png", "examples/loop.png", "x/../y",
                  "examples", "x" * 5000, ""):  # fmt: skip
        assert gallery._read_inside(run, named) is None, named
    (run / "examples" / "there.png").write_bytes(b"inside")
    for named in ("examples/there.png", "./examples/there.png"):
        assert gallery._read_inside(run, named) == b"inside"


def test_attention_on_the_object_is_a_figure_and_a_table(tmp_path):
    found = rows()
    for row in found:
        if row["method"] == "safe":
            share = {"original": 20.0, "tuned": 10.0 * row["seed"]}
            row["attention_on_object"] = share if row["shots"] == 1 else share | {"even": 5.0}
    html = render(put(tmp_path / "run", found))
    assert html.count("<svg") == 5  # one more than without
    assert cells(html, "1", "Attention on the object") == ["20.00", "20.00 ± 10.00", "-"]
    assert cells(html, "2", "Attention on the object") == ["20.00", "20.00 ± 10.00", "5.00"]


def panels(html):
    """The label of every panel of a loss, and what its drawing says of itself."""
    return re.findall(r'<div><span>(.*?)</span>\n<svg[^>]*aria-label="(.*?)"', html)


def test_one_figure_has_the_losses_of_every_tuned_method(drawn, tmp_path):
    found = rows()
    tuned = [row for row in found if row["method"] == "safe"]
    more_shots = [tuned[0] | {"shots": 4}]
    for method, factor in (("prolip", 0.5), ("<new>", 2.0)):
        for row in tuned[-3:]:  # two shots
            losses = [factor * loss for loss in row["losses"]]
            found.append(row | {"method": method, "losses": losses, "curve": {}})
    html = render(put(tmp_path / "run", found + more_shots))
    assert re.findall("<h2>Training loss.*?</h2>", html) == ["<h2>Training loss</h2>"]
    assert html.count('<figure class="plot several">') == 1
    alt = "training loss against epochs, a line for each number of shots, mean over seeds."
    labels = ["SAFE", "ProLIP", "&lt;new&gt;"]
    assert panels(html) == [(label, f"{label}: {alt}") for label in labels]
    assert "All panels have one scale." in html
    figure = html[html.index('<figure class="plot several">') :]
    figure = figure[: figure.index("</figure>")]
    assert re.findall(r"</i>(.*?)</span>", figure) == ["1 shot", "2 shots", "4 shots"]
    drawings = re.findall("<svg.*?</svg>", figure, re.DOTALL)
    # Two shots have the second ink in every panel, though they alone are in two of them.
    inks = [sorted(set(re.findall(r"--shots-\d", svg))) for svg in drawings]
    assert inks == [["--shots-1", "--shots-2", "--shots-3"], ["--shots-2"], ["--shots-2"]]
    ticks = [re.findall(r"<text[^>]*>([\d.]+)</text>", svg) for svg in drawings]
    assert ticks[0] == ticks[1] == ticks[2]


def test_a_loss_that_one_scale_would_flatten_has_a_scale_of_its_own(tmp_path):
    found = rows(seeds=(1,))
    large = [row | {"method": "prolip", "losses": [90.0, 50.0, 20.0]} for row in found[1::2]]
    html = render(put(tmp_path / "run", found + large))
    assert [label for label, _ in panels(html)] == ["SAFE", "ProLIP"]
    assert "Each panel has its own scale." in html
    alone = render(put(tmp_path / "alone", found))
    assert "scale" not in alone[alone.index(">Training loss<") : alone.index("several")]


def test_a_method_that_the_catalogue_lacks_keeps_its_name(tmp_path):
    found = rows()
    found += [
        row
        | {"method": "<new>", "accuracy": row["accuracy"] - 1, "curve": {"alpha": [0], "a": [1]}}
        for row in found
        if row["method"] == "safe"
    ]
    html = render(put(tmp_path / "run", found))
    assert cells(html, "&lt;new&gt;") == ["43.00 ± 1.00 (2.48)", "47.00 ± 1.00 (2.48)"]
    assert "<new>" not in html
    assert re.findall("Accuracy against alpha, (.*?)</h2>", html) == ["SAFE"]  # new: not alone


def test_one_seed_has_no_standard_deviation(tmp_path):
    html = render(put(tmp_path / "run", rows(seeds=(3,))))
    assert cells(html, "SAFE") == ["45.00", "49.00"]
    assert "A single seed, 3: there is no standard deviation." in html
    assert "±" not in html


def test_a_run_under_way_says_what_it_has(tmp_path):
    run = put(tmp_path / "run", rows()[:-1])
    with open(run / "results.jsonl", "a") as file:
        file.write('{"method": "safe", "sho')
    assert cells(render(run), "SAFE")[1].split() == [
        "47.50", "±", "0.71", "(6.35)", "<small>2", "seeds</small>",
    ]  # fmt: skip
    with Results(run / "results.jsonl", dataset="pets"):  # the run holds the lock
        assert cells(render(run), "SAFE")[1].startswith("47.50 ± 0.71 (6.35)")


def test_fixed_alpha_has_no_curve(tmp_path):
    html = render(put(tmp_path / "run", rows(fixed=True)))
    assert "<p>Alpha was fixed beforehand: nothing was chosen, and there is no curve.</p>" in html
    assert "<dt>selection</dt><dd>fixed beforehand</dd>" in html
    assert cells(html, "alpha, by seed") == ["0.50, 0.50, 0.50"] * 2
    assert html.count("<svg") == 2  # shots, loss


def test_zero_shot_alone_is_a_page(tmp_path):
    html = render(put(tmp_path / "run", [row for row in rows() if row["method"] == "zero_shot"]))
    assert cells(html, "zero-shot") == ["40.00", "40.00"]
    assert 'class="tiles"' not in html  # nothing to be compared with it
    assert html.count("<svg") == 1


def test_published_figures_name_their_protocol(tmp_path):
    released = put(tmp_path / "released", rows(**PETS))
    html = render(released)
    assert cells(html, "zero-shot, published") == ["85.83", "85.83"]
    assert cells(html, "Tip-Adapter-F, published") == ["87.00", "87.03"]
    assert f"s protocol is not ours: {published.PROTOCOL}." in html
    assert 'class="dashed"' in html
    # Weights of the same name, as another file gave them; alone and beside the released ones.
    others = put(tmp_path / "others", rows(**PETS | {"released": None, "config_hash": "beef"}))
    for html in (render(others), render(others, released).partition("One by one")[0]):
        assert "Tip-Adapter-F" not in html
        assert 'class="dashed"' not in html


def test_several_directories_are_compared(tmp_path):
    first = put(tmp_path / "first", rows(), {"c0ffee": {"epochs": 50, "learning_rate": 1e-4}})
    second = put(
        tmp_path / "second",
        rows(gain=2, config_hash="beef") + rows(gain=3, config_hash="f00d"),
        {h: {"epochs": 50, "learning_rate": lr} for h, lr in (("beef", 1e-3), ("f00d", 1e-2))},
    )
    elsewhere = put(tmp_path / "elsewhere", rows(dataset="flowers"))
    html = render(first, second, elsewhere, first)
    assert "<h1>Comparison of 4 experiments</h1>" in html
    names = re.findall(r"<summary>(?!All)(.*?)</summary>", html)
    assert names == ["first", "second f00d", "second beef", "elsewhere"]  # the newest first
    joint = html[html.index("<h2>pets") : html.index("<summary>")]
    for name, gain in (("first", 1), ("second f00d", 3), ("second beef", 2)):
        found = cells(joint, "SAFE", f">{name}</th>")
        assert found == [f"{40 + gain * points:.2f} ± 1.00 (2.48)" for points in GAIN.values()]
    assert joint.count(": SAFE</span>") == 3
    assert "elsewhere" not in joint
    assert cells(joint, "learning_rate", "What differs") == ["0.0001", "0.01", "0.001"]
    assert "epochs" not in joint
    assert "configs/c0ffee.json is missing" in html[html.index("<h2>flowers") :]


def test_the_same_files_give_the_same_bytes(drawn, tmp_path):
    found = rows()
    found[-1]["examples"] = [example("examples/there.png")]
    run = put(tmp_path / "run", found, {"c0ffee": {"epochs": 50}})
    assert render(run) == render(run)
