"""The command that reports which data sets are there, and what is missing or misnamed.

    python -m safe_jax.data.check --root DATA
    python -m safe_jax.data.check --config configs/caltech101.py --config.data_root=DATA

The first looks for the whole benchmark under a root, the second at the data sets of a config. The
exit code is 0 if all data sets that were found can be used, and those of a config were found.
"""

import argparse
import collections
import difflib
import pathlib
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from safe_jax.data import datasets, tfds
from safe_jax.data.datasets import DataSettings
from safe_jax.data.layouts import CROSS, LAYOUTS, TRANSFER
from safe_jax.data.records import Record
from safe_jax.runtime import command_line, files, paths
from safe_jax.runtime.errors import InputError

SHOWN = 3  # missing images that a message names
OTHER_NAMES = {"2750": ("EuroSAT_RGB",)}  # of the benchmark's folders, as archives have them

# Folders of the benchmark, none of which is a misspelling of another.
_FOLDERS = {pathlib.Path(x.image_dir).parts[0] for x in [*LAYOUTS.values(), *TRANSFER.values()]}


class Finding(NamedTuple):
    """A summary of a data set and its problems; one without any files is `absent`."""

    absent: bool
    summary: str
    problems: list[str]


def look_at(settings: DataSettings) -> Finding:
    """Checks the data set that `settings` describe."""
    root = paths.parse(settings.data_root)
    needed = []
    if not settings.tfds:  # which has records in place of a folder
        layout = datasets.describe(settings)
        if not layout.make:
            needed = [path for path in (layout.image_dir, layout.split_file) if path]
    return _inspect(root, needed, lambda: datasets.load(settings))


def look_at_transfer(settings: DataSettings, name: str) -> Finding:
    """Checks a variant of ImageNet, or another data set that what was tuned is evaluated on."""
    if name in CROSS:
        return look_at(datasets.cross_settings(settings, name))
    root = paths.parse(settings.data_root)
    known = name in TRANSFER and not settings.tfds
    needed = [TRANSFER[name].image_dir] if known else []
    return _inspect(root, needed, lambda: datasets.load_transfer(settings, name))


def _inspect(
    root: paths.Path, needed: list[str], load: Callable[[], datasets.Dataset | datasets.Transfer]
) -> Finding:
    """Looks for the `needed` paths below `root`, then for the images of what `load` returns."""
    traced = [_trace(root, path, cutoff=0.85) for path in needed]
    if missing := [trace for trace in traced if trace.missing]:
        if missing == traced and all(t.at_root and not t.near and not t.moved for t in traced):
            return Finding(True, "absent", [])
        return Finding(False, "incomplete", list(dict.fromkeys(map(_describe, missing))))
    try:
        data = load()
    except InputError as error:
        return Finding(False, "incomplete", [str(error)])
    if isinstance(data, datasets.Transfer):
        records = data.records
        summary = f"{len(data.classes)} classes; {len(records)} test images"
    else:
        records = [record for part in data.splits for record in part]
        counts = "{} train, {} val and {} test images".format(*map(len, data.splits))
        summary = f"{len(data.classnames)} classes; {counts}"
    if isinstance(data.image_dir, tfds.Prepared):
        return Finding(False, summary, [])
    return Finding(False, summary, _missing_images(data.image_dir, records))


class _Trace(NamedTuple):
    """The first missing folder or file of a path, if any, and a misspelling of it beside.

    `moved` is where the whole path is, with a folder too many or too few on the way.
    """

    missing: paths.Path | None
    near: paths.Path | None
    at_root: bool = False  # whether it would be in the root itself
    moved: tuple[paths.Path, paths.Path] | None = None  # where it is, and where it should be


def _trace(root: paths.Path, path: str | pathlib.PurePath, cutoff: float, first: int = 1) -> _Trace:
    """Follows a path from `root`; folders from the `first` on may be too many."""
    target = paths.join(root, path)
    steps = [*reversed(target.parents), target]
    if target.is_relative_to(root):
        steps = [step for step in steps if step not in (root, *root.parents)]
    elif paths.is_remote(target):
        steps = [target]  # a bucket's parents are no folders
    for step in steps:
        if not step.exists():
            at = step.parent
            near = _nearest(step.name, paths.names(at), cutoff) if at.is_dir() else None
            moved = _moved(root, target, first)
            return _Trace(step, at / near if near else None, at == root, moved)
    return _Trace(None, None)


def _moved(
    root: paths.Path, target: paths.Path, first: int
) -> tuple[paths.Path, paths.Path] | None:
    """Where a path is instead: a folder in one of its own name, or a folder left out.

    Gives the folder that is there, and the one that it should be.
    """
    if not target.is_relative_to(root) or paths.is_remote(target):
        return None
    parts = target.relative_to(root).parts
    for at, part in enumerate(parts[:-1]):
        before, after = root.joinpath(*parts[:at]), parts[at + 1 :]
        for other in (part, *OTHER_NAMES.get(part, ())):
            twice = before / other / other
            if twice.joinpath(*after).exists():
                return twice, before / part
        if at >= first and before.joinpath(*after).exists():
            return before / after[0], before / part / after[0]
    for other in OTHER_NAMES.get(parts[-1], ()):
        if (beside := root.joinpath(*parts[:-1]) / other).exists():
            return beside, target
    return None


def _describe(trace: _Trace) -> str:
    if trace.moved:
        found, wanted = trace.moved
        return f"{wanted} is expected, and its contents are in {found}: move them"
    if trace.near and trace.missing:
        return f"{trace.near} is probably {trace.missing.name}: rename it"
    return f"{trace.missing} is missing"


def _nearest(name: str, candidates: Sequence[str], cutoff: float) -> str | None:
    """The candidate most like `name`, whatever its case and punctuation."""
    plain = {_plain(candidate): candidate for candidate in candidates if candidate not in _FOLDERS}
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=cutoff)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _missing_images(image_dir: paths.Path, records: Collection[Record]) -> list[str]:
    by_folder = collections.defaultdict(set)
    for record in records:
        path = pathlib.Path(record.path)
        by_folder[path.parent].add(path.name)
    absent = []
    for folder, names in sorted(by_folder.items()):
        place = image_dir / folder
        there = set(paths.names(place)) if files.exists(place) and place.is_dir() else set()
        absent += [folder / name for name in sorted(names - there)]
    if not absent:
        return []
    shown = ", ".join(map(str, absent[:SHOWN])) + (", ..." if len(absent) > SHOWN else "")
    problems = [f"{len(absent)} of {len(records)} images are missing: {shown}"]
    trace = _trace(image_dir, absent[0], cutoff=1, first=0)
    return [*problems, _describe(trace)] if trace.near or trace.moved else problems


def main(argv: list[str], prog: str = "python -m safe_jax.data.check") -> int:
    """Prints a line for each data set; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Reports which data sets are there, and what is missing or misnamed.",
        epilog=f"example: {prog} --root DATA",
        allow_abbrev=False,
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--root", metavar="DIR", help="look for the whole benchmark here")
    asked.add_argument("--config", metavar="FILE", help="look at the data set of a config")
    args, rest = parser.parse_known_args(argv)
    if args.root:
        if rest:
            parser.error(f"unexpected with --root: {' '.join(rest)}")
        data_root, findings = args.root, _whole_benchmark(args.root)
    else:
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        command_line.parse([parser.prog, f"--config={args.config}", *rest], values)
        try:
            config: Any = values["config"].value
            settings = datasets.read_settings(config)
            data_root, findings = settings.data_root, _configured(settings)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    width = max(map(len, findings))
    for name, (_, summary, problems) in findings.items():
        print(f"{name:{width}}  {summary}")
        for problem in problems:
            print("    " + problem.replace("\n", "\n    "))
    found = [finding for finding in findings.values() if not finding.absent]
    absent = [name for name, finding in findings.items() if finding.absent]
    if args.root and not found:
        print(f"error: nothing of the benchmark is in {args.root}", file=sys.stderr)
    if args.config and absent:
        root = paths.absolute(paths.parse(data_root))
        named = ", ".join(absent)
        print(f"error: {named} is not in {root}; see config.data_root", file=sys.stderr)
    complete = found if args.root else not absent
    return 0 if complete and not any(finding.problems for finding in found) else 1


def _whole_benchmark(root: str) -> dict[str, Finding]:
    findings = {
        name: look_at(DataSettings(dataset=name, data_root=root))
        for name, layout in LAYOUTS.items()
        if not layout.make
    }
    settings = DataSettings(data_root=root)
    return findings | {name: look_at_transfer(settings, name) for name in TRANSFER}


def _configured(settings: DataSettings) -> dict[str, Finding]:
    """Findings about the data sets and the transfers that `settings` name."""
    findings = {}
    for dataset in datasets.names(settings):
        described = settings.model_copy(update={"dataset": dataset})
        findings[datasets.name(described)] = look_at(described)
    names = datasets.transfer_names(settings)
    return findings | {name: look_at_transfer(settings, name) for name in names}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
