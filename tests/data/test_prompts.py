"""Sentences of a file in place of templates; `test_malformed.py` has the mistakes of such files."""

import json

import pytest

from safe_jax.data import datasets
from safe_jax.data.datasets import DataSettings
from safe_jax.runtime.errors import InputError
from tests.data.listings import touch


def load(**knobs):
    return datasets.load(DataSettings(**knobs))


def test_sentences_of_a_file_replace_templates(tmp_path):
    touch(tmp_path / "x", *(f"{name}/{n}.png" for name in ("red_cat", "dog") for n in range(3)))
    sentences = {"red_cat": ["A cat.", "It is red."], "dog": ["A dog."], "cow": ["A cow."]}
    (tmp_path / "prompts.json").write_text(json.dumps(sentences))
    data = load(image_dir="x", data_root=str(tmp_path), prompts_file="prompts.json")
    assert data.prompts == (("A dog.",), ("A cat.", "It is red."))

    (tmp_path / "prompts.json").write_text(json.dumps({"dog": ["A dog."], "redcat": ["A cat."]}))
    said = "sentences for 1 of 2 classes are missing:\n  red cat .there is 'redcat'"
    with pytest.raises(InputError, match=said):
        load(image_dir="x", data_root=str(tmp_path), prompts_file="prompts.json")
