"""Images that cannot be used: refused or left out, and counted."""

import pytest

from safe_jax.data import readable
from safe_jax.data.records import Record
from safe_jax.runtime.errors import InputError, counted
from tests.data.image_files import picture


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for name in "abcd":
        picture(9, 9).save(root / f"{name}.png")
    for name in "xyz":
        (root / f"{name}.png").write_bytes(b"no image")
    return root


def parts_of(**parts):
    """`ab`: the images a.png of the class 0, and b.png of the class 1."""
    return {
        name: [Record(f"{letter}.png", n, ("cat", "dog")[n]) for n, letter in enumerate(part)]
        for name, part in parts.items()
    }


@pytest.mark.parametrize(
    ("parts", "kept", "count"),
    [
        ({"train": "ab", "val": "", "test": "cd"}, {"train": "ab", "val": "", "test": "cd"}, 0),
        ({"train": "ab", "val": "xd", "test": "cy"}, {"train": "ab", "val": "d", "test": "c"}, 2),
        ({"train": "ab", "val": "xx", "test": "cx"}, {"train": "ab", "val": "", "test": "c"}, 1),
    ],
)
def test_images_are_left_out_and_counted_once(root, parts, kept, count, caplog):
    found, left_out = readable.leave_out(parts_of(**parts), root, "skip", workers=2)
    assert left_out == count
    assert {name: "".join(r.path[0] for r in part) for name, part in found.items()} == kept
    assert [
        f"{counted(count, 'image')} cannot be used, and will be left out:" in m
        for m in caplog.messages[:1]
    ] == ([True] if count else [])


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"train": "ax", "test": "cd"}, "no usable training image of 1 class:\n  dog"),
        ({"train": "xy", "test": "cd"}, "no usable training image of 2 classes:\n  cat\n"),
        ({"train": "ab", "test": "xy"}, "none of the 2 test images can be used"),
    ],
)
def test_what_would_have_no_image_left_is_refused(root, parts, said):
    with pytest.raises(InputError, match=said):
        readable.leave_out(parts_of(**parts), root, "skip", workers=2)


def test_benchmarks_refuse_and_say_how_to_leave_out(root):
    with pytest.raises(InputError, match=r"1 image cannot be used:\n  x\.png: cannot be"):
        readable.leave_out(parts_of(train="ab", test="cx"), root, "refuse", workers=2)
    with pytest.raises(InputError, match=r"1 of 2 .* config\.unreadable=skip:\n.*x\.png"):
        readable.check([root / "a.png", root / "x.png"], workers=2)
