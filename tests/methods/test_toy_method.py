"""A method is added as a user would add one: a class, and a line in the catalogue."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pytest
from pydantic import AfterValidator

from configs import default
from safe_jax.experiment import knobs
from safe_jax.methods import catalogue
from safe_jax.methods.contract import Base, Batch, Fitted, Grid, Knobs, Params, Setting, Start
from safe_jax.methods.text_head import TextHead, cross_entropy, unit
from safe_jax.runtime.lazy import jax, jnp
from safe_jax.runtime.schema import Bounds, knob
from tests.experiment.test_knobs import DATA, HASHES
from tests.in_process import call_tiny, watch_tiny


class ToyKnobs(Knobs):
    steps: Annotated[int, AfterValidator(Bounds(ge=2, le=9))] = knob(3, "values of the mix")


@dataclasses.dataclass(frozen=True)
class Toy(Base):
    """Class means of the support images, mixed with the text rows: no parameter is tuned.

    logits = s unit(f) unit(mix M + (1 - mix) W)^T
    """

    label = "Mean & text"
    knobs = ToyKnobs
    settings = ToyKnobs
    tunes = False

    @classmethod
    def start(cls, setting: Setting, settings: ToyKnobs) -> Start:
        support = setting.support
        feature_nd = unit(jnp.asarray(support.arrays["original_bd"][support.row_nv])).mean(1)
        one_hot_nk = jax.nn.one_hot(support.label_n, len(setting.head.text_kd))
        return Start(cls(), {"means": unit(one_hot_nk.T @ feature_nd)}, setting.head)

    @classmethod
    def grid(cls, settings: ToyKnobs, earlier: Mapping[str, Fitted]) -> Grid:
        return {"mix": np.linspace(0, 1, settings.steps)}

    def loss(self, params: Params, context: TextHead, batch: Batch) -> "jax.Array":
        return cross_entropy(self.logits(params, context, batch)(0.5), batch)

    def logits(self, params: Params, context: TextHead, batch: Batch) -> Any:
        def at(mix):
            rows_kd = unit(mix * params["means"] + (1 - mix) * context.text_kd)
            return context.scale * unit(batch["original_bd"]) @ rows_kd.T

        return at


@pytest.fixture(autouse=True)
def _in_the_catalogue(monkeypatch):
    monkeypatch.setitem(catalogue.METHODS, "toy", Toy)


def test_its_knob_has_a_default_and_a_line_in_the_help():
    assert default.get_config().toy.to_dict() == {"steps": 3}
    help_lines = knobs.help_text().splitlines()
    assert "config.toy.steps = 3 (at least 2 and at most 9): values of the mix" in help_lines


def test_a_bad_value_of_its_knob_has_one_line(tiny_root, tmp_path):
    with pytest.raises(SystemExit) as caught:
        call_tiny(tiny_root, tmp_path, tmp_path / "cache", methods="toy", **{"toy.steps": 1})
    message = "error: config.toy.steps=1: at least 2 and at most 9 is expected"
    assert caught.value.code == message


def test_main_tunes_chooses_prints_and_reports_it(tiny_root, tmp_path):
    run = watch_tiny(
        tiny_root, tmp_path, tmp_path / "cache", methods="toy,zero_shot", **{"toy.steps": 5}
    )
    # In the catalogue's order, whatever the config's.
    heading, _, *lines = run.printed.splitlines()
    assert [line[: line.index("  ")] for line in lines[:2]] == ["zero-shot", "Mean & text"]
    assert f"{run.rows['toy'].accuracy:.2f}" in lines[1]
    assert heading.endswith("; mix by few_shot_val")

    written = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    (row,) = [row for row in written if row["method"] == "toy"]
    assert row["knobs"] == {"steps": 5}
    assert row["selection"] == "few_shot_val"
    assert row["curve"]["mix"] == [0, 0.25, 0.5, 0.75, 1]
    at = row["curve"]["mix"].index(row["point"]["mix"])
    assert row["curve"]["val"][at] == max(row["curve"]["val"])
    assert row["accuracy"] == row["curve"]["eval"][at]
    (zero_shot,) = [row for row in written if row["method"] == "zero_shot"]
    assert row["curve"]["eval"][0] == zero_shot["accuracy"]  # at mix 0 there is text alone

    page = (tmp_path / "report.html").read_text()
    assert "Mean &amp; text" in page
    assert f"{row['accuracy']:.2f}" in page

    # The same command again keeps its row; another value of its knob makes another.
    again = call_tiny(
        tiny_root, tmp_path, tmp_path / "cache", methods="toy,zero_shot", **{"toy.steps": 5}
    )
    assert again == run.printed
    call_tiny(tiny_root, tmp_path, tmp_path / "cache", methods="toy", **{"toy.steps": 2})
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["knobs"] for row in rows if row["method"] == "toy"] == [
        {"steps": 5}, {"steps": 2},
    ]  # fmt: skip
    assert {row["config_hash"] for row in rows} == {row["config_hash"]}


def test_rows_of_other_methods_stay_valid():
    """Its knobs are in its own rows, and so in no hash."""
    wanted, _ = HASHES["defaults"]
    config = default.get_config()
    config.dtype = "float32"
    assert "toy" in config
    assert knobs.experiment_hash(knobs.read(config), DATA, "digest") == wanted
