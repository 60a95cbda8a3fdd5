"""The `README.md` of a classifier's folder: a model card with the front matter of the Hub."""

import json

from safe_jax.backbones import LICENCES
from safe_jax.classifier.image_classifier import ImageClassifier
from safe_jax.methods.catalogue import METHODS

_MOST_CLASSES = 20  # that are named in the text


def text(classifier: ImageClassifier, name: str) -> str:
    """The card; `name` is the folder's."""
    backbone, making = classifier.backbone, classifier.making
    label = METHODS[classifier.classifier.name].label
    front = {
        "library_name": "safe_jax",
        "pipeline_tag": "image-classification",
        "tags": list(
            dict.fromkeys([backbone.family, "few-shot", "safe", classifier.classifier.name])
        ),
        "license": LICENCES[backbone.name][0] if backbone.name in LICENCES else "other",
        "license_name": None if backbone.name in LICENCES else "see-below",
    }
    lines = ["---"]
    lines += [f"{key}: {json.dumps(value)}" for key, value in front.items() if value]
    lines += ["---", "", f"# {name}", ""]
    lines += [_what(classifier, label), ""]
    lines += ["## How good", "", *_how_good(classifier), ""]
    lines += ["## How it was made", ""]
    lines += [f"- {line}" for line in _how_made(classifier)]
    lines += ["", "## How to use", "", "```bash", f"safe-jax predict {name} IMAGE", "```", ""]
    lines += ["```python", "from safe_jax import SafeClassifier", ""]
    lines += [f'classifier = SafeClassifier.load("{name}")']
    lines += ['classifier.predict(["cat.jpg"])', "```", "", "## Licence", ""]
    lines += [_licence(backbone.name), ""]
    if making.notes:
        lines += ["## To know", "", *(f"- {note}" for note in making.notes), ""]
    return "\n".join(lines)


def _what(classifier: ImageClassifier, label: str) -> str:
    classes = classifier.classes
    shown = ", ".join(classes[:_MOST_CLASSES])
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    paper = "https://arxiv.org/abs/2311.04464"  # SAFE's; other methods are compared with it there
    method = f"[{label}]({paper})" if classifier.classifier.name == "safe" else label
    return (
        f"Tells {len(classes)} classes apart: {shown}{more}. Made with safe_jax by {method} from "
        f"{classifier.backbone.name} (weights {classifier.backbone.digest[:12]})."
    )


def _how_good(classifier: ImageClassifier) -> list[str]:
    making = classifier.making
    if making.val_accuracy is None or making.val_accuracy_zero_shot is None:
        return ["There were no validation images: nothing was chosen, and nothing was measured."]
    lines = [
        f"{making.val_accuracy:.2f} % of {making.val_images} validation images, beside "
        f"{making.val_accuracy_zero_shot:.2f} % by zero-shot. These images chose the values below, "
        "so the figure is rather high: `safe-jax evaluate` measures it on images of your own.",
    ]
    if making.worse:
        worse = ", ".join(
            f"{name} ({x.zero_shot:.0f} % → {x.tuned:.0f} %)" for name, x in making.worse.items()
        )
        lines += ["", f"Worse than zero-shot: {worse}."]
    return lines


def _how_made(classifier: ImageClassifier) -> list[str]:
    making, inner = classifier.making, classifier.classifier
    point = ", ".join(f"{axis} {value:g}" for axis, value in inner.point.items())
    lines = [
        f"{making.train_images} training images (at most {making.shots} a class), seed "
        f"{making.seed}, from {making.dataset}",
        f"selection: {making.selection}",
    ]
    if point:
        lines.append(f"chosen: {point}")
    if making.learning_rate is not None:
        lines.append(
            f"learning rate {making.learning_rate:g}, weight decay {making.weight_decay:g}, "
            f"{making.epochs} epochs"
        )
    lines.append(
        f"temperature {classifier.temperature:g}, chosen on {making.temperature_images} images"
    )
    if classifier.templates:
        lines.append("templates: " + "; ".join(classifier.templates))
    return lines


def _licence(weights: str) -> str:
    if weights in LICENCES:
        return f"The pre-trained weights are {LICENCES[weights][1]}."
    return (
        f"The pre-trained weights, {weights}, are a checkpoint that was converted by hand: its "
        "licence holds for this classifier too."
    )
