"""What is said of a drawn scene, in several phrasings."""

import random

from safe_jax.data import scenes

ALL_OF_IT = (
    "{}.", "a photo of {}.", "a picture of {}.", "an image of {}.", "{} in a picture.",
    "there is {} here.", "a scene with {}.", "a drawing of {}.", "we see {}.",
)  # fmt: skip
GROUND = ("on a {} background", "on {} ground", "over a {} ground")
NAMES = {
    "digit": ("the digit {}", "the number {}", "a {}", "the numeral {}"),
    "letter": ("the letter {}", "a capital {}", "the character {}"),
    "shape": ("a {}", "the shape of a {}", "the {}"),
}
COLOURED = {
    "digit": ("the {c} digit {n}", "the digit {n} in {c}", "a {c} {n}", "a {c} number {n}"),
    "letter": ("the {c} letter {n}", "the letter {n} in {c}", "a {c} {n}"),
    "shape": ("a {c} {n}", "a {n} in {c}", "the {c} {n}"),
}


def caption(rng: random.Random, drawn: scenes.Scene) -> str:
    """Tells what is in a scene: mostly all of it in any order, at times a single thing."""
    things = rng.sample(drawn.things, 1 if rng.random() < 0.2 else len(drawn.things))
    phrases = [_phrase(rng, thing) for thing in things]
    text = ", ".join(phrases[:-1]) + (" and " if phrases[1:] else "") + phrases[-1]
    if rng.random() < 0.25:
        ground = rng.choice((drawn.texture, drawn.ground, f"{drawn.texture} {drawn.ground}"))
        text += " " + rng.choice(GROUND).format(ground)
    return rng.choice(ALL_OF_IT).format(text)


def _phrase(rng, thing):
    name = thing.name
    if thing.kind == "digit" and rng.random() < 0.3:
        name = str(scenes.DIGITS.index(name))
    if rng.random() < 0.5:
        return rng.choice(COLOURED[thing.kind]).format(c=thing.colour, n=name)
    return rng.choice(NAMES[thing.kind]).format(name)


def words() -> list[str]:
    """Texts that have every word of a caption between them."""
    phrases = [p for d in (NAMES, COLOURED) for ps in d.values() for p in ps]
    texts = [*ALL_OF_IT, *GROUND, *phrases, *scenes.COLOURS, *scenes.TEXTURES, "and, 0123456789"]
    texts += [*scenes.DIGITS, *map(str, range(10)), *scenes.LETTERS, *scenes.SHAPES]
    return [text.format("", c="", n="") for text in texts]
