"""Says what of a data set is present, missing or misnamed, before anything is run.

    python -m safe_jax.data.check --root DATA
    python -m safe_jax.data.check --config configs/caltech101.py --config.data_root=DATA

The first looks for the whole benchmark under a root, the second at one data set. The exit code is
0 if what was found, or the one data set that was asked for, can be used.
"""

import argparse
import collections
import difflib
import pathlib
import sys
from typing import NamedTuple

from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from safe_jax.data import datasets, tfds
from safe_jax.data.layouts import LAYOUTS, TRANSFER
from safe_jax.runtime import command_line, paths
from safe_jax.runtime.errors import InputError

SHOWN = 3  # names of missing images

# Each is somebody's, and no misspelling of another.
_FOLDERS = {pathlib.Path(x.image_dir).parts[0] for x in [*LAYOUTS.values(), *TRANSFER.values()]}


class Finding(NamedTuple):
    """What is there, and what is wrong with it; a data set without files is `absent`."""

    absent: bool
    summary: str
    problems: list[str]


def look_at(config) -> Finding:
    """Checks the data set that `config` describes."""
    root = paths.parse(config.data_root)
    if config.dataset == "digits" or config.tfds:
        needed = []  # made on first use; records in place of a folder
    else:
        layout = datasets.describe(config)
        needed = [path for path in (layout.image_dir, layout.split_file) if path]
    return _look(root, needed, lambda: datasets.load(config))


def look_at_transfer(config, name: str) -> Finding:
    """Checks a variant of ImageNet."""
    root = paths.parse(config.data_root)
    known = name in TRANSFER and not config.tfds
    needed = [TRANSFER[name].image_dir] if known else []
    return _look(root, needed, lambda: datasets.load_transfer(config, name))


def _look(root, needed, load):
    traced = [_trace(root, path, cutoff=0.85) for path in needed]
    if missing := [trace for trace in traced if trace.missing]:
        if missing == traced and all(t.missing.parent == root and not t.near for t in traced):
            return Finding(True, "absent", [])
        return Finding(False, "incomplete", list(dict.fromkeys(map(_said, missing))))
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
    listed = not isinstance(data.image_dir, tfds.Prepared)
    return Finding(False, summary, _missing_images(data.image_dir, records) if listed else [])


class _Trace(NamedTuple):
    """The first step of a path that is not there, if any, and what may be meant to be it."""

    missing: pathlib.Path | epath.Path | None
    near: pathlib.Path | epath.Path | None


def _trace(root, path, cutoff):
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
            return _Trace(step, near and at / near)
    return _Trace(None, None)


def _said(trace):
    if trace.near:
        return f"{trace.near} is probably {trace.missing.name}: rename it"
    return f"{trace.missing} is missing"


def _nearest(name, candidates, cutoff):
    """The candidate most like `name`; one that differs in case and punctuation is the same."""
    plain = {_plain(candidate): candidate for candidate in candidates if candidate not in _FOLDERS}
    near = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=cutoff)
    return plain[near[0]] if near else None


def _plain(name):
    return "".join(c for c in name.casefold() if c.isalnum())


def _missing_images(image_dir, records):
    by_folder = collections.defaultdict(set)
    for record in records:
        path = pathlib.Path(record.path)
        by_folder[path.parent].add(path.name)
    absent = []
    for folder, names in sorted(by_folder.items()):
        there = set(paths.names(image_dir / folder)) if (image_dir / folder).is_dir() else set()
        absent += [folder / name for name in sorted(names - there)]
    if not absent:
        return []
    shown = ", ".join(map(str, absent[:SHOWN])) + (", ..." if len(absent) > SHOWN else "")
    problems = [f"{len(absent)} of {len(records)} images are missing: {shown}"]
    trace = _trace(image_dir, absent[0], cutoff=1)
    return [*problems, _said(trace)] if trace.near else problems


def main(argv: list[str]) -> int:
    """Prints a line for each data set; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m safe_jax.data.check",
        description="Says what of a data set is present, missing or misnamed.",
        allow_abbrev=False,
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--root", metavar="DIR", help="look for the whole benchmark here")
    asked.add_argument("--config", metavar="FILE", help="look at the data set of a config")
    args, rest = parser.parse_known_args(argv)
    if args.root:
        if rest:
            parser.error(f"unexpected with --root: {' '.join(rest)}")
        findings = _whole(args.root)
    else:
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        command_line.parse([parser.prog, f"--config={args.config}", *rest], values)
        try:
            findings = _one(values.config)
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
        root = paths.absolute(paths.parse(values.config.data_root))
        named = ", ".join(absent)
        print(f"error: {named} is not in {root}; see config.data_root", file=sys.stderr)
    complete = found if args.root else not absent
    return 0 if complete and not any(finding.problems for finding in found) else 1


def _whole(root):
    def config(name):
        return ConfigDict(
            {"dataset": name, "data_root": root, "image_dir": "", "split_file": "",
             "tfds": "", "templates": (), "prompts_file": ""}
        )  # fmt: skip

    findings = {name: look_at(config(name)) for name in LAYOUTS if name != "digits"}
    return findings | {name: look_at_transfer(config(""), name) for name in TRANSFER}


def _one(config):
    findings = {}
    for dataset in datasets.names(config):
        one = ConfigDict(config)
        one.dataset = dataset
        findings[datasets.name(one)] = look_at(one)
    names = datasets.transfer_names(config)
    return findings | {name: look_at_transfer(config, name) for name in names}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
