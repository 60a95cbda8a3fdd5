"""Tunes a method on trials, with every candidate of rate and decay: one by one, or together.

Axes: s steps, b images of a batch, m members.
"""

import functools
import hashlib
import json
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

from safe_jax.bank import batches
from safe_jax.experiment import knobs
from safe_jax.experiment.trial import Images, Trial, Tuned
from safe_jax.tuning import loop, population, train


class Start(NamedTuple):
    """What a method begins with on a trial, as its `init` gives it, and the images it tunes on."""

    method: object
    params: dict
    context: object
    images: Images | None  # None: fresh crops, through the trunk


class Member(NamedTuple):
    """A tuning to be done: where, from what, and with which rate and decay."""

    trial: Trial
    start: Start
    config: FrozenConfigDict
    plan: batches.Plan


def candidates(config) -> list[FrozenConfigDict]:
    """The config with each learning rate and weight decay that validation is to choose from."""
    return [
        FrozenConfigDict(config.to_dict() | {"learning_rate": rate, "weight_decay": decay})
        for rate in config.learning_rates or (config.learning_rate,)
        for decay in config.weight_decays or (config.weight_decay,)
    ]


def tune(trials: list[Trial], starts: list[Start], name: str, config) -> list[list[Tuned]]:
    """What the method has become on each trial, with each of the candidates.

    As many as `config.population` run in one program, if they are alike in all shapes. Raises
    `loop.DivergedError` where no candidate kept a finite loss.
    """
    members = [
        Member(trial, start, one, _plan(trial, one))
        for trial, start in zip(trials, starts, strict=True)
        for one in candidates(config)
    ]
    alike = {}
    for number, member in enumerate(members):
        alike.setdefault(_kind(member), []).append(number)
    tuned = {}
    for numbers in alike.values():
        for first in range(0, len(numbers), config.population):
            chunk = numbers[first : first + config.population]
            run = _together if len(chunk) > 1 else _alone
            tuned |= zip(chunk, run([members[n] for n in chunk], name), strict=True)
    each = len(members) // len(trials)
    return [[tuned[n] for n in range(at, at + each)] for at in range(0, len(members), each)]


def _plan(trial, config):
    count, seed = len(trial.subset.train), trial.subset.seed
    return batches.plan(
        count, config.views, config.batch_size or count, config.epochs, seed, trial.mesh.size
    )


def _kind(member):
    """What has to be equal for members to run together: what is compiled in, and all shapes."""
    method, params, context, images = member.start
    width = member.plan.image_sb.shape[1]
    columns = images and tuple((n, x.dtype, x.shape[1:]) for n, x in images.bank.arrays.items())
    return method, width, columns, *population.shapes((params, context))


def _alone(members, name):
    """One tuning by itself; its batches come from the bank as they are needed."""
    ((trial, start, config, plan),) = members
    began = time.time()
    if config.features == "online":
        make = functools.partial(
            batches.online, trial.context.model, trial.context.data.image_dir, trial.subset.train,
            plan, trial.subset.seed, config, trial.mesh,
        )  # fmt: skip
    else:
        images = start.images
        make = functools.partial(
            batches.from_bank, images.bank, images.image_n, images.label_n, plan, trial.mesh
        )
    params = jax.tree.map(jnp.copy, start.params)  # steps consume them; other candidates follow
    state, tuning = train.init(start.method, params, start.context, config, plan, trial.mesh)
    try:
        state, losses = loop.fit(
            state, tuning, plan.steps, make, _folder(members, name), config.checkpoint_every
        )
    except loop.DivergedError:
        if len(candidates(config)) == 1:
            raise
        return _diverged(members, [tuning], time.time() - began)
    return [_tuned(members[0], state.params, tuning, losses, time.time() - began)]


def _together(members, name):
    """Members of one population; all rows that they need lie on the device from the start."""
    began = time.time()
    mesh, config = members[0].trial.mesh, members[0].config
    table, rows = _table(members)
    made = [train.init(*m.start[:3], m.config, m.plan, mesh) for m in members]
    state, shared = population.stack(made, table, mesh)
    tunings = [tuning for _, tuning in made]
    del made
    try:
        state, losses = loop.fit(
            state, shared, max(member.plan.steps for member in members),
            functools.partial(population.batches, rows, mesh),
            _folder(members, name), config.checkpoint_every,
        )  # fmt: skip
    except loop.DivergedError:
        if len(candidates(config)) == 1:
            raise
        return _diverged(members, tunings, time.time() - began)
    seconds = (time.time() - began) / len(members)
    return [
        _tuned(
            member, population.params_of(state, n, mesh), tunings[n],
            losses[: member.plan.steps, n], seconds,
        )
        for n, member in enumerate(members)
    ]  # fmt: skip


def _diverged(members, tunings, seconds):
    """What stands for members that kept no finite loss: other candidates may be chosen."""
    return [
        _tuned(m, m.start.params, tuning, np.full(m.plan.steps, np.nan), seconds / len(members))
        for m, tuning in zip(members, tunings, strict=True)
    ]


def _table(members):
    """The rows that members need, of all their banks, and each member's places among them."""
    banks = {id(member.start.images.bank): member.start.images.bank for member in members}
    plans = [
        batches.rows(m.start.images.bank, m.start.images.image_n, m.start.images.label_n, m.plan)
        for m in members
    ]
    wanted, offset = [], 0
    for key, bank in banks.items():
        own = [
            plan
            for plan, member in zip(plans, members, strict=True)
            if id(member.start.images.bank) == key
        ]
        row_n = np.unique(np.concatenate([plan["row_b"].ravel() for plan in own]))
        wanted.append((bank, row_n))
        for plan in own:
            plan["row_b"] = (offset + np.searchsorted(row_n, plan["row_b"])).astype(np.int32)
        offset += len(row_n)
    return batches.put_rows(wanted, members[0].trial.mesh), plans


def _tuned(member, params, tuning, losses, seconds):
    config = member.config
    by_epoch = losses.reshape(config.epochs, -1).mean(1)
    return Tuned(params, tuning, by_epoch, seconds, config.learning_rate, config.weight_decay)


def _folder(members, name):
    """Where checkpoints go: a name for what is tuned, so that no other is resumed."""
    which = [[m.trial.key, m.config.learning_rate, m.config.weight_decay] for m in members]
    own = knobs.own(members[0].config, name)
    digest = hashlib.sha256(json.dumps([which, own]).encode()).hexdigest()[:8]
    return members[0].trial.folder / f"{name}-{digest}"
