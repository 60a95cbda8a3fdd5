"""The tables for the terminal, made of rows whose numbers are known."""

import pytest

from safe_jax import report
from safe_jax.methods.catalogue import METHODS
from safe_jax.report import summary
from tests.fake_run import NOT_PETS, PETS, parsed, rows


def test_the_table_has_means_standard_deviations_and_protocol():
    lines = report.table(parsed(rows())).splitlines()
    assert lines[0] == (
        "pets, RN50@1234: test accuracy (%), mean ± standard deviation (half the 95% interval "
        "of the mean) over seeds 1, 2, 3; alpha by few_shot_val"
    )
    assert [line.split() for line in lines[1:]] == [
        ["shots", "1", "2"],
        ["zero-shot", "40.00", "40.00"],
        ["SAFE", "44.00", "±", "1.00", "(2.48)", "48.00", "±", "1.00", "(2.48)"],
    ]


def test_the_heading_names_what_was_chosen_and_another_protocol():
    candidates = [{"learning_rate": rate, "weight_decay": 0.01} for rate in (1e-4, 1e-3)]
    chosen = candidates[1] | {"candidates": candidates}
    found = rows(seeds=(1,), protocol="tip_adapter", a=2.0, b=5.5, point={"mix": 0.5}, **chosen)
    assert report.table(parsed(found)).splitlines()[0] == (
        "pets, RN50@1234: test accuracy (%), seed 1; alpha, a, b, learning rate, mix by "
        "few_shot_val; Tip-Adapter's protocol: the full validation set, one seed"
    )


def test_the_table_takes_other_methods_gaps_and_attention():
    found = rows(seeds=(1, 2))
    other = found[0] | {"method": "another_method", "accuracy": 12.345}
    found[-1]["attention_on_object"] = {"original": 23.4, "tuned": 55.21}
    found[-3]["attention_on_object"] = {"original": 23.4, "tuned": 53.21}
    lines = report.table(parsed([other, *found])).splitlines()
    assert lines[2].startswith("zero-shot ")
    assert lines[4].split() == ["another_method", "12.35", "-"]
    assert len({len(line) for line in lines[1:5]}) == 1
    assert lines[5] == "attention on the object (%), SAFE"
    assert [line.split() for line in lines[6:]] == [
        ["original", "pool", "-", "23.40"],
        ["tuned", "pool", "-", "54.21", "±", "1.41"],
    ]


def test_methods_have_the_labels_and_the_order_of_the_catalogue():
    names = ["unknown", *reversed(METHODS), "another"]
    found = parsed([rows()[0] | {"method": name} for name in names])
    assert summary.methods(found) == [*METHODS, "unknown", "another"]
    lines = report.table(found).splitlines()[2:]
    labels = [kind.label for kind in METHODS.values()]
    assert [line[: line.index("  ")] for line in lines] == [*labels, "unknown", "another"]


def test_data_sets_have_a_table_each_then_transfers_and_a_mean():
    transfer = [row | {"tuned_on": "pets"} for row in rows(dataset="pets_v2")]
    flowers = [row | {"accuracy": row["accuracy"] + 10} for row in rows(dataset="flowers")]
    found = report.tables(parsed([*transfer, *rows(), *flowers])).split("\n\n")
    headings = [table.partition(",")[0] for table in found]
    assert headings == ["pets", "flowers", "pets_v2 (tuned on pets)", "mean of 2 data sets"]
    assert found[3].splitlines()[3].split()[:4] == ["SAFE", "49.00", "±", "1.00"]
    of_both = report.tables(parsed([*rows(seeds=(1, 2)), *flowers])).split("\n\n")[2]
    assert "over seeds 1, 2;" in of_both.splitlines()[0]  # those that both data sets have


def test_published_figures_stand_in_the_table_of_test_images():
    lines = report.table(parsed(rows(**PETS))).splitlines()
    assert [line.split() for line in lines[4:6]] == [
        ["zero-shot,", "published", "85.83", "85.83"],
        ["Tip-Adapter-F,", "published", "87.00", "87.03"],
    ]
    assert lines[6] == (
        "(published: RN50; Tip-Adapter-F: one seed; the full validation set, on ImageNet the test "
        "images; the epoch picked on test)"
    )


@pytest.mark.parametrize(
    ("classes", "images", "is_told"),
    [(3, 999, False), (2, 999, True), (3, 4, True), (None, 4, False)],
)
def test_zero_shot_no_better_than_chance_is_told(classes, images, is_told):
    said = report.table(parsed(rows(classes=classes, eval_images=images)))  # 40 % are right
    assert ("these weights do not know these classes, as far as" in said) == is_told


@pytest.mark.parametrize("other", NOT_PETS, ids=str)
def test_published_figures_do_not_stand_beside_other_images_or_weights(other):
    assert "published" not in report.table(parsed(rows(**PETS | other)))


def test_what_was_tuned_elsewhere_or_on_half_of_the_classes_is_not_compared_with_all_figures():
    elsewhere = report.table(parsed(rows(**PETS, tuned_on="imagenet")))
    assert elsewhere.splitlines()[-2:] == [
        f"{'zero-shot, published':<22}{'85.83':>21}{'85.83':>21}",
        "(published: RN50)",
    ]
    half = rows(**PETS, protocol="base_to_new")
    assert "published" not in report.table(parsed(half))


def halves(**common):
    """New classes: zero-shot 30 %, SAFE 22 ± 1, and no answer by a third method."""
    found = [row for row in rows(protocol="base_to_new", **common) if row["shots"] == 2]
    for row in found:
        base, new = row["accuracy"], 30.0 if row["method"] == "zero_shot" else 20.0 + row["seed"]
        row |= {"new_accuracy": new, "harmonic_mean": 2 * base * new / (base + new)}
    cache = found[0] | {"method": "tip_adapter", "accuracy": 50.0, "closed_set": "no answer"}
    return [*found, cache | {"new_accuracy": None, "harmonic_mean": None}]


def test_base_to_new_has_both_halves_and_their_harmonic_mean():
    heading, *lines = report.table(parsed(halves())).splitlines()
    assert "base to new: tuned and chosen on the first half of the classes (base)" in heading
    assert [" ".join(line.split()) for line in lines] == [
        "2 shots base new H",
        "zero-shot 40.00 30.00 34.29",
        "SAFE 48.00 ± 1.00 (2.48) 22.00 ± 1.00 (2.48) 30.17 ± 1.14 (2.83)",
        "Tip-Adapter 50.00 - -",
        "(Tip-Adapter: no answer)",
    ]


def test_the_mean_over_data_sets_has_the_harmonic_mean_of_the_means():
    other = [row | {"accuracy": 80.0, "new_accuracy": 70.0} for row in halves(dataset="flowers")]
    other[-1]["new_accuracy"] = None
    mean = report.tables(parsed([*halves(), *other])).split("\n\n")[2].splitlines()
    assert " ".join(mean[2].split()) == "zero-shot 60.00 50.00 54.55"
    assert mean[4].split() == ["Tip-Adapter", "65.00", "-", "-"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "-"),
        ([40.0, 40.0], "40.00"),
        ([44.0, 45.0, 46.0], "45.00 ± 1.00 (2.48)"),  # t of 2 degrees of freedom: 4.303
        ([43.0, 45.0], "44.00 ± 1.41 (12.71)"),  # of 1: 12.706
    ],
)
def test_a_cell_has_mean_standard_deviation_and_half_interval(values, text):
    assert summary.cell(values) == text
    assert summary.cell(values, interval=False) == text.partition(" (")[0]
