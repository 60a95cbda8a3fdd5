"""What a config may hold, what is filled in for it, and what identifies an experiment."""

import dataclasses
import json
import pathlib
import re

import pytest
from ml_collections import ConfigDict, config_dict

from configs import ablations, base_to_new, cross_dataset, default, digits, imagenet
from safe_jax.data import datasets
from safe_jax.data.datasets import Dataset, Transfer
from safe_jax.data.layouts import CROSS
from safe_jax.data.records import Record, Splits
from safe_jax.experiment import knobs
from safe_jax.methods import cache
from safe_jax.methods.catalogue import METHODS
from safe_jax.runtime.errors import InputError
from tests import tiny

# A change of a default changes the hash and the numbers of everybody's next run.
DEFAULTS = {
    "dataset": "",
    "data_root": "data",
    "image_dir": "",
    "split_file": "",
    "tfds": "",
    "templates": (),
    "prompts_file": "",
    "unreadable": "refuse",
    "shots": (1, 2, 4, 8, 16),
    "seeds": (1, 2, 3),
    "methods": ("zero_shot", "safe"),
    "weights": "RN50",
    "image_size": 0,
    "dtype": "auto",
    "trainable": "attnpool/.*",
    "learning_rate": 1e-4,
    "weight_decay": 0.01,
    "learning_rates": (),
    "weight_decays": (),
    "epochs": 50,
    "warmup_epochs": 1.0,
    "batch_size": 64,
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "blend": "feature",
    "train_alpha": 1.0,
    "tip_adapter": {"a_max": 0.0, "a_steps": 20, "b_max": 0.0, "b_steps": 200, "a": 0.0, "b": 1.0},
    "safe_a": {"a_max": 0.0, "a_steps": 20, "b_max": 0.0, "b_steps": 20, "a": 0.0, "b": 1.0},
    "tip_adapter_f": {
        "trainable": "keys",
        "learning_rate": 1e-3,
        "eps": 1e-4,
        "weight_decay": 0.01,
        "epochs": 0,
        "warmup_epochs": 0.0,
        "batch_size": 256,
    },
    "clip_adapter": {
        "trainable": "down|up",
        "ratio": 0.2,
        "reduction": 4,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "epochs": 50,
        "warmup_epochs": 1.0,
        "batch_size": 64,
    },
    "prolip": {
        "trainable": "c_proj/kernel",
        "regularizer": 1.0,
        "learning_rate": 1e-5,
        "eps": 1e-4,
        "weight_decay": 0.0,
        "epochs": 300,
        "warmup_epochs": 0.0,
        "batch_size": 0,
    },
    "linear_probe": {
        "trainable": "classifier",
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "epochs": 50,
        "warmup_epochs": 1.0,
        "batch_size": 64,
    },
    "partial": {
        "trainable": "attnpool/.*|classifier",
        "learning_rate": 1e-5,
        "weight_decay": 0.01,
        "epochs": 50,
        "warmup_epochs": 1.0,
        "batch_size": 64,
    },
    "features": "bank",
    "views": 1,
    "crop_scale": (0.8, 1.0),
    "bank_dtype": "float16",
    "selection": "few_shot_val",
    "protocol": "few_shot",
    "alpha": 0.5,
    "alpha_grid_size": 21,
    "eval_split": "test",
    "transfer": (),
    "cache_dir": "~/.cache/safe_jax",
    "workers": 0,
    "trunk_batch_size": 32,
    "eval_batch_size": 256,
    "checkpoint_every": 500,
    "population": 1,
    "save_classifiers": False,
    "compilation_cache": True,
}


def changed(config=None, **knobs):
    """A config with knobs changed, a knob of a group by its path."""
    config = config or default.get_config()
    config.update_from_flattened_dict(knobs)
    return config


def test_every_default_is_as_it_was():
    found = default.get_config().to_dict()
    assert found == DEFAULTS
    same_types = {
        knob: {k: type(v) for k, v in value.items()} if isinstance(value, dict) else type(value)
        for knob, value in DEFAULTS.items()
    }
    for knob, value in found.items():
        if isinstance(value, dict):
            assert {k: type(v) for k, v in value.items()} == same_types[knob]
        else:
            assert type(value) is same_types[knob], knob


def test_automatic_values_are_filled_in_by_data_set_and_belong_to_their_method():
    config = default.get_config()
    config.dataset = "eurosat"
    config.tip_adapter.b_max = 3.5
    config.methods = ("zero_shot, tip_adapter",)  # as it comes from a command line
    read = knobs.read(config)
    assert config.tip_adapter.a == 0  # the user's own stays
    assert read.methods == ("zero_shot", "tip_adapter")
    settings = knobs.settings(read, "tip_adapter_f")
    assert (settings.a_max, settings.b_max, settings.a) == (10, 3.5, 2)
    (recipe,) = knobs.recipes(read, "tip_adapter_f")
    assert (recipe.epochs, recipe.learning_rate, recipe.b1) == (100, 1e-3, 0.9)
    (recipe,) = knobs.recipes(read, "safe")
    assert recipe.learning_rate == 1e-4
    assert knobs.method_knobs(read, "safe") == {}
    config.dataset, config.tfds = "", "eurosat/rgb"
    assert knobs.method_knobs(knobs.read(config), "tip_adapter_f")["epochs"] == 100
    config.dataset, config.tfds = "mine", ""
    assert knobs.method_knobs(knobs.read(config), "tip_adapter_f")["epochs"] == 20
    assert knobs.method_knobs(knobs.read(config), "safe_a")["b_max"] == cache.MEDIANS.b_max


def test_a_method_has_the_knobs_of_the_groups_that_it_shares():
    read = knobs.read(default.get_config())
    own = {name: set(knobs.method_knobs(read, name)) for name in METHODS}
    groups = {name: set(group) for name, group in DEFAULTS.items() if isinstance(group, dict)}
    shared = {
        "safe_a_f": groups["safe_a"] | groups["tip_adapter_f"],
        "tip_adapter_f": groups["tip_adapter"] | groups["tip_adapter_f"],
    }
    assert own == {name: set() for name in METHODS} | groups | shared


def test_every_rate_with_every_decay_is_a_recipe():
    rates, decays = (1e-3, 1e-4), (0.0, 0.1, 0.2)
    config = changed(learning_rates=rates, weight_decays=decays)
    for name in ("safe", "prolip"):
        recipes = knobs.recipes(knobs.read(config), name)
        assert [(recipe.learning_rate, recipe.weight_decay) for recipe in recipes] == [
            (rate, decay) for rate in rates for decay in decays
        ]
    (recipe,) = knobs.recipes(knobs.read(changed(weight_decays=(0.5,))), "prolip")
    assert (recipe.learning_rate, recipe.weight_decay) == (1e-5, 0.5)


MISTAKES = [
    # Values of another type.
    ({"views": True}, "config.views=True: a whole number is expected"),
    ({"population": 1.5}, "config.population=1.5: a whole number is expected"),
    ({"epochs": 2.0}, "config.epochs=2.0: a whole number is expected"),
    ({"alpha": True}, "config.alpha=True: a number is expected"),
    ({"weight_decay": "0.1"}, "config.weight_decay='0.1': a number is expected"),
    ({"shots": (1, "2")}, "config.shots[1]='2': a whole number is expected"),
    ({"seeds": (1.0,)}, "config.seeds[0]=1.0: a whole number is expected"),
    ({"seeds": (True,)}, "config.seeds[0]=True: a whole number is expected"),
    ({"learning_rates": ("fast",)}, "config.learning_rates[0]='fast': a number is expected"),
    ({"shots": 4}, "config.shots=4: a list is expected"),
    ({"weights": 50}, "config.weights=50: a text is expected"),
    ({"prolip": 3}, "config.prolip=3: an object is expected"),
    # Numbers that are none.
    ({"learning_rate": float("nan")}, "config.learning_rate=nan: a finite number is expected"),
    ({"alpha": float("nan")}, "config.alpha=nan: a finite number is expected"),
    ({"eps": float("inf")}, "config.eps=inf: a finite number is expected"),
    ({"eps": 0.0}, "config.eps=0.0: at least 1e-30 and at most 1 is expected"),
    ({"prolip.eps": 1e-300}, "config.prolip.eps=1e-300: at least 1e-30 and at most 1 is"),
    (
        {"weight_decays": (0.1, float("nan"))},
        "config.weight_decays[1]=nan: a finite number is expected",
    ),
    # Bounds.
    ({"epochs": 0}, "config.epochs=0: at least 1 and at most 100000 is expected"),
    ({"batch_size": 0}, "config.batch_size=0: at least 1 and at most 65536 is expected"),
    ({"workers": -1}, "config.workers=-1: at least 0 and at most 1024 is expected"),
    ({"alpha_grid_size": 1}, "config.alpha_grid_size=1: at least 2 and at most 1001 is expected"),
    ({"learning_rate": -1e-3}, "config.learning_rate=-0.001: at least 0 and at most 1e+30 is"),
    ({"warmup_epochs": -0.5}, "config.warmup_epochs=-0.5: at least 0 and at most 10000 is"),
    ({"alpha": 1.5}, "config.alpha=1.5: at least 0 and at most 1 is expected"),
    ({"train_alpha": 0.0}, "config.train_alpha=0.0: above 0 and at most 1 is expected"),
    ({"b2": 1.0}, "config.b2=1.0: at least 0 and below 1 is expected"),
    ({"shots": (4, 0)}, "config.shots[1]=0: at least 1 and at most 1000000 is expected"),
    ({"seeds": (-1,)}, "config.seeds[0]=-1: at least 0 and at most 4294967295 is expected"),
    ({"seeds": (2**32,)}, "config.seeds[0]=4294967296: at least 0 and at most 4294967295 is"),
    ({"learning_rates": (-1.0,)}, "config.learning_rates[0]=-1.0: at least 0 and at most 1e+30"),
    ({"crop_scale": (0.9, 0.8)}, "config.crop_scale=(0.9, 0.8): 0 < low <= high <= 1 is expected"),
    ({"crop_scale": (0.9,)}, "config.crop_scale[1] is missing"),
    # Values that are not among those that there are.
    ({"dtype": "int8"}, "config.dtype='int8': one of auto, float32, bfloat16, float16 is expected"),
    ({"blend": "weights"}, "config.blend='weights': one of feature, unit, logit is expected"),
    ({"features": ""}, "config.features='': one of bank, online is expected"),
    (
        {"protocol": "zhang"},
        "config.protocol='zhang': one of few_shot, tip_adapter, base_to_new is expected",
    ),
    (
        {"methods": ("safe,tip",)},
        "config.methods=('safe', 'tip'): there is no tip; choose from zero_shot, safe, safe_a,",
    ),
    # Tuples that are empty, and values that come twice.
    ({"shots": ()}, "config.shots=(): at least one value is expected"),
    ({"seeds": ()}, "config.seeds=(): at least one value is expected"),
    ({"methods": ()}, "config.methods=(): at least one value is expected"),
    ({"methods": None}, "config.methods=None: a list is expected"),
    ({"methods": ("safe", 5)}, "config.methods[1]=5: a text is expected"),
    ({"methods": (("safe",),)}, "config.methods[0]=('safe',): a text is expected"),
    ({"shots": ((1, 2),)}, "config.shots[0]=(1, 2): a whole number is expected"),
    ({"seeds": (None,)}, "config.seeds[0]=None: a whole number is expected"),
    ({"methods": (" , ",)}, "config.methods=(): at least one value is expected"),
    ({"methods": ("safe", "safe")}, "config.methods=('safe', 'safe'): different values are"),
    ({"seeds": (1, 2, 1)}, "config.seeds=(1, 2, 1): different values are expected"),
    ({"learning_rates": (0.1, 0.1)}, "config.learning_rates=(0.1, 0.1): different values are"),
    # Texts.
    ({"trainable": "("}, "config.trainable='(': a regular expression is expected (missing ),"),
    ({"trainable": "(a+)+\\1"}, "config.trainable='(a+)+\\\\1': a regular expression without"),
    ({"trainable": "(?!x).*"}, "config.trainable='(?!x).*': a regular expression without look"),
    ({"trainable": "a{9999}" * 99}, "config.trainable='a{9999}a{9999}"),
    ({"trainable": "a{99999999999}"}, "config.trainable='a{99999999999}': a regular expression is"),
    ({"data_root": "a\0b"}, "config.data_root='a\\x00b': a text without NUL is expected"),
    ({"weights": " "}, "config.weights=' ': a text that is not blank is expected"),
    ({"weights": "RN\udcff"}, "config.weights='RN\\udcff': valid UTF-8 is expected"),
    ({"methods": ("\udcff",)}, "config.methods[0]='\\udcff': valid UTF-8 is expected"),
    ({"templates": ("a \ud800 {}.",)}, "config.templates[0]='a \\ud800 {}.': valid UTF-8 is"),
    # Knobs of a method.
    ({"tip_adapter.a_steps": 0}, "config.tip_adapter.a_steps=0: at least 1 and at most 1000 is"),
    ({"tip_adapter.a": -1.0}, "config.tip_adapter.a=-1.0: at least 0 and at most 1000 is"),
    ({"tip_adapter_f.epochs": -1}, "config.tip_adapter_f.epochs=-1: at least 0 and at most 10000"),
    ({"prolip.trainable": "("}, "config.prolip.trainable='(': a regular expression is expected"),
    ({"prolip.epochs": 0}, "config.prolip.epochs=0: at least 1 and at most 100000 is"),
    ({"linear_probe.batch_size": 0}, "config.linear_probe.batch_size=0: at least 1 and at most"),
    ({"partial.epochs": 0}, "config.partial.epochs=0: at least 1 and at most 100000 is"),
    ({"clip_adapter.ratio": 3.0}, "config.clip_adapter.ratio=3.0: at least 0 and at most 1 is"),
    ({"clip_adapter.ratio": -1.0}, "config.clip_adapter.ratio=-1.0: at least 0 and at most 1 is"),
    ({"clip_adapter.reduction": 0}, "config.clip_adapter.reduction=0: at least 1 and at most"),
    # Knobs that do not fit together.
    (
        {"methods": ("safe", "prolip"), "features": "online"},
        "prolip: set config.features=bank, for these need a bank",
    ),
    ({"features": "online", "population": 2}, "config.population tunes members on rows of a bank"),
    (
        {"learning_rates": (0.1,), "selection": "fixed"},
        "config.learning_rates are chosen from on validation images, but config.selection=fixed",
    ),
    (
        {"weight_decays": (0.1,), "selection": "fixed"},
        "config.weight_decays are chosen from on validation images, but config.selection=fixed",
    ),
    (
        {"eval_split": "val", "selection": "full_val"},
        "config.eval_split=val evaluates on validation images that chose no alpha, but",
    ),
    (
        {"eval_split": "val", "protocol": "tip_adapter"},
        "config.eval_split=val evaluates on validation images that chose no alpha, but",
    ),
    (
        {"eval_split": "val", "protocol": "base_to_new"},
        "config.protocol=base_to_new evaluates on test images, for nothing may be chosen by the",
    ),
    (
        {"transfer": ("dtd",), "protocol": "base_to_new"},
        "config.transfer evaluates what was tuned on all classes, but config.protocol=base_to_new",
    ),
    # Several at once.
    ({"views": 0, "b1": -1.0}, "config.b1=-1.0: at least 0 and below 1 is expected (and 1 more)"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[str(m) for m, _ in MISTAKES])
def test_a_mistake_has_one_line(mistake, message):
    values = default.get_config().to_dict()
    for path, value in mistake.items():
        group, _, knob = path.rpartition(".")
        (values[group] if group else values)[knob] = value
    with pytest.raises(InputError, match=f"^{re.escape(message)}") as caught:
        knobs.read(ConfigDict(values))  # a config of its own, in which any value has its place
    assert len(str(caught.value).splitlines()) == 1


NUMBERS = [
    (f"{group}.{knob}" if group else knob, type(value))
    for group, values in {"": DEFAULTS, **DEFAULTS}.items()
    if isinstance(values, dict)
    for knob, value in values.items()
    if type(value) in (int, float)
]


@pytest.mark.parametrize(("path", "kind"), NUMBERS, ids=[path for path, _ in NUMBERS])
def test_every_number_has_a_greatest_value(path, kind):
    huge = 10**15 if kind is int else 1e300
    with pytest.raises(InputError, match=rf"^config\.{path}=1.*: .*(at most|below) ") as caught:
        knobs.read(changed(**{path: huge}))
    assert len(str(caught.value).splitlines()) == 1


def test_the_longest_of_numbers_has_one_line():
    values = default.get_config().to_dict() | {"seeds": (10**5000,)}
    with pytest.raises(InputError, match=r"^config\.seeds\[0\]=a huge int: at least 0 and at most"):
        knobs.read(ConfigDict(values))


@pytest.mark.parametrize("missing", ["shots", "methods", "prolip", "prolip.epochs"])
def test_a_config_without_a_knob_is_refused(missing):
    config = default.get_config().unlock()
    group, _, knob = missing.rpartition(".")
    del (config[group] if group else config)[knob]
    with pytest.raises(InputError, match=rf"^config\.{missing} is missing: a config is `default"):
        knobs.read(config)


@pytest.mark.parametrize("given", [None, {}, DEFAULTS])
def test_what_is_no_config_is_refused(given):
    with pytest.raises(InputError, match=r"^a ConfigDict is expected as config, not a (dict|None)"):
        knobs.read(given)


def test_a_knob_without_a_value_is_refused():
    config = default.get_config().unlock()
    config.epochs = config_dict.required_placeholder(int)
    with pytest.raises(InputError, match="has no value yet"):
        knobs.read(config)


def test_an_unknown_knob_is_refused():
    values = default.get_config().to_dict()
    values["prolip"]["lambda"] = 1.0
    with pytest.raises(InputError, match=r"^config\.prolip\.lambda is unknown: remove it$"):
        knobs.read(ConfigDict(values))


def test_the_published_protocol_sets_selection_and_seed():
    read = knobs.read(changed(protocol="tip_adapter"))
    assert (read.selection, read.seeds) == ("full_val", (1,))


@pytest.mark.parametrize(
    ("given", "read"), [({}, (16,)), ({"shots": (2, 4)}, (2, 4)), ({"shots": (16, 1)}, (16, 1))]
)
def test_base_to_new_has_16_shots_where_no_others_are_given(given, read):
    found = knobs.read(changed(protocol="base_to_new", **given))
    assert (found.shots, found.seeds, found.selection) == (read, (1, 2, 3), "few_shot_val")


def test_transfers_with_classes_of_their_own_are_in_the_hash():
    read = knobs.read(default.get_config())
    variant = Transfer("imagenet_a", pathlib.Path("a"), [1], RECORDS)
    cross = Transfer("dtd", pathlib.Path("dtd"), [], RECORDS, (("a red.",), ("a blue.",)))
    other_prompts = dataclasses.replace(cross, prompts=(("red.",), ("a blue.",)))
    other_images = dataclasses.replace(cross, records=RECORDS[:1])
    found = [
        knobs.experiment_hash(read, DATA, "digest", transfers)
        for transfers in ((), [variant], [cross], [other_prompts], [other_images])
    ]
    assert found[0] == found[1]  # as it was before there were others
    assert len(set(found)) == 4


def test_help_has_a_line_for_every_knob():
    lines = knobs.help_text().splitlines()
    names = [line.split(" = ")[0].removeprefix("config.") for line in lines]
    paths = {
        f"{knob}.{k}" if k else knob
        for knob, value in DEFAULTS.items()
        for k in (value if isinstance(value, dict) else [""])
    }
    assert sorted(names) == sorted(paths)
    assert (
        "config.alpha = 0.5 (at least 0 and at most 1): the blend where selection is fixed" in lines
    )
    assert (
        "config.blend = 'feature' (feature, unit or logit): where pools are blended; "
        "methods/safe.py has the formulas" in lines
    )
    assert (
        "config.shots = (1, 2, 4, 8, 16) (each at least 1 and at most 1000000): "
        "labelled images a class" in lines
    )
    assert not [line for line in lines if line.endswith(": ")]  # each has a meaning


RECORDS = [Record("red/a.jpg", 0, "red"), Record("blue/b.jpg", 1, "blue")]
DATA = Dataset(
    "patches", pathlib.Path("images"), ("red", "blue"), (("a red.",), ("a blue.", "blue!")),
    Splits(RECORDS, RECORDS[1:], [Record("blue/c\udcff.jpg", 1, "blue")]), {},
)  # fmt: skip


# Rows that were written before keep their place in their file as long as these stay.
HASHES = {
    "defaults": ("044c5f354734", changed()),
    "knobs of a method, and those that change no number": (
        "044c5f354734",
        changed(
            **{"tip_adapter.a_steps": 3, "prolip.epochs": 7}, methods=("prolip",), shots=(3,),
            seeds=(7,), workers=3, data_root="elsewhere", weights="small", cache_dir="x",
            population=4, trunk_batch_size=1, eval_batch_size=2, checkpoint_every=3,
            save_classifiers=True,
            compilation_cache=False,
        ),
    ),
    "digits": ("2e4643a27e96", digits.get_config()),
    "transfers": (
        "1d3913443665", changed(imagenet.get_config(), transfer=("imagenet_v2,imagenet_r",)),
    ),
    "blend": ("8247e2d6a1bc", ablations.get_config("through_blend")),
    "tuples": (
        "1fe8359b838f",
        changed(
            learning_rates=(1e-3, 1e-5), weight_decays=(0.0, 0.5), crop_scale=(0.5, 0.9),
            templates=("a {}.", "é {}."),
        ),
    ),
    "numbers": ("86be78aa3609", changed(views=3, batch_size=8, warmup_epochs=0.0, alpha=1.0)),
    "protocol": ("738fa2b26fb5", changed(protocol="tip_adapter")),
}  # fmt: skip


@pytest.mark.parametrize("name", HASHES)
def test_the_hash_of_an_experiment_is_as_it_was(name):
    wanted, config = HASHES[name]
    config = changed(config, dtype="float32")  # auto is another type on an accelerator
    assert knobs.experiment_hash(knobs.read(config), DATA, "digest") == wanted


def test_other_images_labels_classes_or_weights_have_another_hash():
    read = knobs.read(default.get_config())
    other_labels = [Record("red/a.jpg", 1, "blue"), RECORDS[1]]
    variants = [
        (DATA, "digest"),
        (DATA, "another digest"),
        (dataclasses.replace(DATA, classnames=("scarlet", "blue")), "digest"),
        (dataclasses.replace(DATA, splits=DATA.splits._replace(train=other_labels)), "digest"),
        (dataclasses.replace(DATA, splits=DATA.splits._replace(test=RECORDS)), "digest"),
    ]
    hashes = [knobs.experiment_hash(read, data, digest) for data, digest in variants]
    assert len(set(hashes)) == len(variants)


def test_other_prompts_have_another_hash_wherever_they_come_from(tiny_root, tmp_path):
    def hash_of(**knobs_changed):
        read = knobs.read(tiny.config(tiny_root, **knobs_changed))
        return knobs.experiment_hash(read, datasets.load(read), "digest")

    file, copy = tmp_path / "prompts.json", tmp_path / "copy.json"
    for path in (file, copy):
        path.write_text('{"red": ["a"], "green": ["b"], "blue": ["c"], "dark grey": ["d"]}')
    before = hash_of(prompts_file=str(file))
    assert before != hash_of()
    assert before == hash_of(prompts_file=str(copy))
    file.write_text(file.read_text().replace('"d"', '"d", "e"'))
    assert before != hash_of(prompts_file=str(file))


def test_every_knob_is_written_down_for_readers(tmp_path):
    read = knobs.read(changed(dataset="eurosat"))
    knobs.write_config(tmp_path / "configs" / "hash.json", read)
    written = json.loads((tmp_path / "configs" / "hash.json").read_text())
    assert written.keys() == DEFAULTS.keys()
    assert (written["dataset"], written["shots"]) == ("eurosat", [1, 2, 4, 8, 16])
    assert written["tip_adapter_f"] == DEFAULTS["tip_adapter_f"] | {"epochs": 100}


def test_the_configs_of_other_classes_have_methods_with_an_answer_for_them():
    halves, cross = (knobs.read(c.get_config()) for c in (base_to_new, cross_dataset))
    assert (halves.protocol, halves.shots, cross.shots) == ("base_to_new", (16,), (16,))
    assert sorted(cross.transfer) == sorted(CROSS)
    assert {*CROSS, "imagenet"} == set(halves.dataset.split(","))
    for config in (halves, cross):
        assert all(METHODS[name].open_classes for name in config.methods)
