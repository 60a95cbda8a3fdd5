"""Split files and files of prompts that other programs wrote: each mistake gets one line."""

import json
import time

import pytest

from safe_jax.data import prompts
from safe_jax.data.records import Record, read_split_file
from safe_jax.runtime.errors import InputError

ROW = '["a.jpg", 0, "x"]'


def split(row: str = ROW, **parts: str) -> str:
    """JSON of a split file with this row in train; `parts` replaces or adds keys."""
    parts = {"train": f"[{row}]", "val": "[]", "test": f"[{ROW}]"} | parts
    return "{" + ", ".join(f'"{key}": {value}' for key, value in parts.items() if value) + "}"


def boxes(box: str) -> str:
    return split(boxes=f'{{"a.jpg": {box}}}')


ORDER = "[left, top, right, bottom] with 0 <= left < right, 0 <= top < bottom is expected"

SPLIT_FILES = {
    "empty file": ("", " is not JSON: EOF while parsing a value at line 1 column 0"),
    "not JSON": ("{", " is not JSON: EOF while parsing an object at line 1 column 1"),
    "a list": ("[]", ": []: an object is expected"),
    "null": ("null", ": None: an object is expected"),
    "no val": (split(val=""), ": val is missing"),
    "part is an object": (split(val="{}"), ": val={}: a list is expected"),
    "no training image": (split(row=""), ": train=[]: at least 1 values are expected"),
    "no test image": (split(test="[]"), ": test=[]: at least 1 values are expected"),
    "row is a text": (split('"a.jpg"'), ": train[0]='a.jpg': a list is expected"),
    "row is short": (split('["a.jpg", 0]'), ": train[0][2] is missing"),
    "row is long": (
        split('["a", 0, "x", 1]'), ': train[0]=["a", 0, "x", 1]: at most 3 values are expected'
    ),
    "boolean label": (split('["a", true, "x"]'), ": train[0][1]=True: a whole number is expected"),
    "label is a fraction": (
        split('["a", 0.5, "x"]'), ": train[0][1]=0.5: a whole number is expected"
    ),
    "label is a text": (split('["a", "0", "x"]'), ": train[0][1]='0': a whole number is expected"),
    "negative label": (split('["a", -1, "x"]'), ": train[0][1]=-1: at least 0 is expected"),
    "blank name": (
        split('["a", 0, " "]'), ": train[0][2]=' ': a text that is not blank is expected"
    ),
    "blank path": (split('["", 0, "x"]'), ": train[0][0]='': a text that is not blank is expected"),
    "null name": (split('["a", 0, null]'), ": train[0][2]=None: a text is expected"),
    "name is a number": (split('["a", 0, 737]'), ": train[0][2]=737: a text is expected"),
    "second row": (split(f"{ROW}, [3, 0, 4]"), ": train[1][0]=3: a text is expected (and 1 more)"),
    "lone surrogate": (
        split('["a\\udc00", 0, "x"]'),
        " is not JSON: lone leading surrogate in hex escape at line 1 column 20",
    ),
    "invalid UTF-8": (
        split('["a\xff", 0, "x"]').encode("latin1"),
        " is not JSON: invalid unicode code point at line 1 column 15",
    ),
    "nested ten thousand deep": (
        split("[" * 10_000), " is not JSON: recursion limit exceeded at line 1 column 211"
    ),
    "nested in a key that is ignored": (
        split(note="[" * 10_000), " is not JSON: recursion limit exceeded at line 1 column 280"
    ),
    "NUL in a path": (
        split('["a\\u0000", 0, "x"]'),
        ": train[0][0]='a\\x00': a text without NUL is expected",
    ),
    "infinite label": (
        split('["a", Infinity, "x"]'), ": train[0][1]=inf: a whole number is expected"
    ),
    "label is a whole fraction": (
        split('["a", 1.0, "x"]'), ": train[0][1]=1.0: a whole number is expected"
    ),
    "name is a list": (split('["a", 0, ["x"]]'), ': train[0][2]=["x"]: a text is expected'),
    "name of no width": (
        split('["a", 0, "\u200b"]'),
        ": train[0][2]='\\u200b': a text that is not blank is expected",
    ),
    "a part twice": (
        '{"train": [], ' + split()[1:], ": 'train' is there 2 times; keep one"
    ),
    "a box twice": (
        split(boxes='{"a.jpg": [0, 0, 1, 1], "a.jpg": [0, 0, 2, 2]}'),
        ": 'a.jpg' is there 2 times; keep one",
    ),
    "box left of the image": (boxes("[-9, 0, 1, 5]"), f": boxes['a.jpg']=[-9, 0, 1, 5]: {ORDER}"),
    "boxes are a list": (split(boxes="[1]"), ": boxes=[1]: an object is expected"),
    "infinite box": (
        boxes("[0, 0, Infinity, 5]"), ": boxes['a.jpg'][2]=inf: a finite number is expected"
    ),
    "overflowing box": (
        boxes("[0, 0, 1e999, 5]"), ": boxes['a.jpg'][2]=inf: a finite number is expected"
    ),
    "box from right to left": (boxes("[5, 0, 1, 5]"), f": boxes['a.jpg']=[5, 0, 1, 5]: {ORDER}"),
    "box without height": (boxes("[0, 5, 1, 5]"), f": boxes['a.jpg']=[0, 5, 1, 5]: {ORDER}"),
    "short box": (boxes("[0, 0, 1]"), ": boxes['a.jpg'][3] is missing"),
    "long box": (
        boxes("[0, 0, 1, 1, 1]"),
        ": boxes['a.jpg']=[0, 0, 1, 1, 1]: at most 4 values are expected",
    ),
    "box is a text": (boxes('"0 0 1 1"'), ": boxes['a.jpg']='0 0 1 1': a list is expected"),
    "text in a box": (boxes('[0, 0, "1", 1]'), ": boxes['a.jpg'][2]='1': a number is expected"),
    "texts in a box": (
        boxes('["x", "x", "x", "x"]'),
        ": boxes['a.jpg'][0]='x': a number is expected (and 3 more)",
    ),
    "boolean in a box": (
        boxes("[0, 0, true, 1]"), ": boxes['a.jpg'][2]=True: a number is expected"
    ),
}  # fmt: skip

PROMPTS_FILES = {
    "not JSON": ("{", " is not JSON: EOF while parsing an object at line 1 column 1"),
    "a list": ('["dog"]', ': ["dog"]: an object is expected'),
    "sentences are a text": ('{"dog": "A dog."}', ": dog='A dog.': a list is expected"),
    "sentences are null": ('{"dog": null}', ": dog=None: a list is expected"),
    "no sentence": ('{"dog": []}', ": dog=[]: at least one sentence is expected"),
    "blank sentence": ('{"dog": [" "]}', ": dog[0]=' ': a text that is not blank is expected"),
    "sentence is a number": ('{"a dog": ["b", 3]}', ": ['a dog'][1]=3: a text is expected"),
    "a class twice": (
        '{"dog": ["A dog."], "dog": ["b"]}', ": 'dog' is there 2 times; keep one"
    ),
    "a class in two spellings": (
        '{"a_dog": ["b"], "a dog": ["b"]}', ": a_dog with _ and with a space are one class"
    ),
    "nested ten thousand deep": (
        '{"dog": ' + "[" * 10_000, " is not JSON: recursion limit exceeded at line 1 column 209"
    ),
    "of a class not asked for": ('{"dog": ["b"], "cow": 1}', ": cow=1: a list is expected"),
    "lone surrogate": (
        '{"dog": ["\\udc00"]}',
        " is not JSON: lone leading surrogate in hex escape at line 1 column 16",
    ),
    "invalid UTF-8": (
        b'{"dog": ["\xff"]}', " is not JSON: invalid unicode code point at line 1 column 11"
    ),
}  # fmt: skip


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("mistake", SPLIT_FILES)
def test_malformed_split_files_are_refused(tmp_path, mistake):
    content, message = SPLIT_FILES[mistake]
    file = write(tmp_path / "split.json", content)
    with pytest.raises(InputError) as caught:
        read_split_file(file, tmp_path)
    assert str(caught.value) == f"{file}{message}"


@pytest.mark.parametrize("mistake", PROMPTS_FILES)
def test_malformed_prompts_are_refused(tmp_path, mistake):
    content, message = PROMPTS_FILES[mistake]
    file = write(tmp_path / "prompts.json", content)
    with pytest.raises(InputError) as caught:
        prompts.read(file, ["dog"])
    assert str(caught.value) == f"{file}{message}"


def test_missing_files_are_named(tmp_path):
    file = tmp_path / "absent.json"
    with pytest.raises(InputError, match=f"{file}: no such split file; point config.data_root"):
        read_split_file(file, tmp_path)
    with pytest.raises(InputError, match=f"{file}: no such file of prompts; see config.prompts_"):
        prompts.read(file, ["dog"])


def test_well_formed_files_with_a_byte_order_mark_and_other_keys_are_read(tmp_path):
    content = split('["a.jpg", 1, "é"]', boxes='{"a.jpg": [0, 0.5, 3, 4]}', note='"x"')
    splits, found = read_split_file(write(tmp_path / "split.json", "\ufeff" + content), tmp_path)
    assert splits == ([("a.jpg", 1, "é")], [], [("a.jpg", 0, "x")])
    assert isinstance(splits.train[0], Record)
    assert found == {"a.jpg": (0, 0.5, 3, 4)}
    file = write(tmp_path / "prompts.json", "\ufeff" + '{"red_cat": ["A cat.", "Red."]}')
    assert prompts.read(file, ["red cat"]) == (("A cat.", "Red."),)


def test_a_large_split_file_is_read_at_once(tmp_path):
    rows = [[f"class {n % 1000}/{n}.jpg", n % 1000, f"class {n % 1000}"] for n in range(100_000)]
    content = json.dumps({"train": rows, "val": [], "test": rows[:1]})
    file = write(tmp_path / "split.json", content)
    start = time.process_time()
    splits, _ = read_split_file(file, tmp_path)
    assert time.process_time() - start < 2  # 0.3 s alone; more beside much garbage of others
    assert splits.train == list(map(tuple, rows))
