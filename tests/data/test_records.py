"""FGVC-Aircraft's lists; split files have their mistakes in `test_malformed.py`."""

import pytest

from safe_jax.data import datasets
from safe_jax.data.datasets import DataSettings
from safe_jax.runtime.errors import InputError


def load(**knobs):
    return datasets.load(DataSettings(**knobs))


@pytest.fixture
def aircraft_root(tmp_path):
    root = tmp_path / "fgvc_aircraft"
    root.mkdir()
    (root / "variants.txt").write_text("737-400\nA300B4\nF-16A/B\n")
    (root / "images_variant_train.txt").write_text("0000001 A300B4\n0000002 F-16A/B\n")
    (root / "images_variant_val.txt").write_text("0000003 737-400\n")
    (root / "images_variant_test.txt").write_text("0000004 737-400\n0000005 A300B4\n")
    return tmp_path


def test_aircraft_are_read_from_their_own_lists(aircraft_root):
    data = load(dataset="fgvc_aircraft", data_root=str(aircraft_root))
    assert data.classnames == ("737-400", "A300B4", "F-16A/B")
    assert data.prompts[2] == ("a photo of a F-16A/B, a type of aircraft.",)
    assert data.splits.train == [("0000001.jpg", 1, "A300B4"), ("0000002.jpg", 2, "F-16A/B")]
    assert [len(part) for part in data.splits] == [2, 1, 2]
    assert data.image_dir == aircraft_root / "fgvc_aircraft" / "images"


def test_what_is_wrong_with_aircrafts_lists_is_said(aircraft_root):
    (aircraft_root / "fgvc_aircraft" / "images_variant_val.txt").write_text("1 737-400\n2 737\n")
    with pytest.raises(InputError, match=r"val\.txt, line 2: .* not '2 737'"):
        load(dataset="fgvc_aircraft", data_root=str(aircraft_root))
    (aircraft_root / "fgvc_aircraft" / "variants.txt").unlink()
    with pytest.raises(InputError, match=r"1 lists .* are missing.*\n.*variants\.txt"):
        load(dataset="fgvc_aircraft", data_root=str(aircraft_root))
