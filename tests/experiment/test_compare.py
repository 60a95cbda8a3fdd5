"""The rows and the table of a run of every method."""

import json

from safe_jax.methods.catalogue import METHODS
from tests.commands import rows

CACHED = {"tip_adapter", "tip_adapter_f", "safe_a", "safe_a_f"}


def test_every_method_has_a_row_with_its_choices_and_losses(every_method):
    by_method = {row["method"]: row for row in rows(every_method.workdir)}
    assert list(by_method) == list(METHODS)
    chosen = {
        method: {name for name in ("alpha", "a", "b") if row.get(name) is not None}
        for method, row in by_method.items()
    }
    assert {method for method, names in chosen.items() if {"a", "b"} <= names} == CACHED
    assert {m for m, names in chosen.items() if "alpha" in names} == {"safe", "safe_a", "safe_a_f"}
    for method, row in by_method.items():
        assert row["selection"] == ("few_shot_val" if chosen[method] else "none")
        assert ("val_accuracy" in row) == (method in CACHED)
        untuned = method in ("zero_shot", "tip_adapter", "safe_a")
        assert len(row.get("losses", [])) == (0 if untuned else 3 if method == "safe" else 2)
        assert len(json.dumps(row)) < 2000 or method == "safe"


def test_rows_in_the_file_are_those_in_memory(every_method):
    for method, row in every_method.rows.items():
        (written,) = [r for r in rows(every_method.workdir) if r["method"] == method]
        in_memory = json.loads(row.line())
        del in_memory["seconds"]
        assert written == in_memory


def test_the_table_has_the_methods_in_the_catalogues_order(every_method):
    heading, _, *lines = every_method.printed.splitlines()
    assert "; alpha, a, b by few_shot_val" in heading
    assert [line[: line.index("  ")] for line in lines[: len(METHODS)]] == [
        "zero-shot", "SAFE", "SAFE-A", "SAFE-A (keys tuned)", "Tip-Adapter", "Tip-Adapter-F",
        "CLIP-Adapter", "ProLIP", "linear probe", "pool + linear head",
    ]  # fmt: skip


def test_zero_shot_is_safe_at_alpha_0(every_method):
    safe = every_method.rows["safe"]
    assert safe.curve["alpha"][0] == 0
    assert every_method.rows["zero_shot"].accuracy == safe.curve["eval"][0]


def test_a_row_has_the_time_of_the_methods_before_it(every_method):
    seconds = {name: row.seconds for name, row in every_method.rows.items()}
    outcomes = every_method.trial.outcomes
    assert seconds["safe_a"] > outcomes["safe"].seconds + outcomes["safe_a"].seconds
    assert seconds["safe_a_f"] > sum(outcomes[n].seconds for n in ("safe", "safe_a", "safe_a_f"))
