"""Adversarial examples as pictures and tables: images before and after, and accuracy against epsilon."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnn_cli.checkpoints.checkpoint import LoadedNetwork
from cnn_cli.data.batches import iterate_batches
from cnn_cli.data.dataset import Dataset
from cnn_cli.data.preparation import PreparedData, prepare
from cnn_cli.errors import UsageError
from cnn_cli.interpret.attacks import Attack, Attacked, Robustness, attack_images, measure_robustness
from cnn_cli.interpret.inputs import Inputs, whole_split
from cnn_cli.interpret.pictured import CPU, Pictured, Target, provenance, single_word, write_page
from cnn_cli.interpret.scores import Prediction, class_index, class_names, predicted, scores_of
from cnn_cli.pictures import image
from cnn_cli.pictures.grid import ACCENT, Cell, captioned_grid, picture, tinted
from cnn_cli.pictures.page import Bar, Page, compose_page
from cnn_cli.pictures.plots import robustness_curve
from cnn_cli.progress import progress_bar
from cnn_cli.tables import Column, Table, counted, percent, render

_BATCH = 256
_FRACTIONS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0)  # multiples of the usual epsilon: the points of a curve


@dataclass(frozen=True)
class AttackRequest:
    """The options of `cnn attack`; None: the default of the method or for the images."""

    method: str = "pgd"
    norm: str = "linf"
    steps: int | None = None
    step_size: float | None = None
    target: str | None = None
    seed: int = 0
    epsilons: Sequence[float] = ()

    def attack(self, classes: tuple[str, ...]) -> Attack:
        """The attack's settings. UsageError for an unknown class and for settings without effect."""
        if self.method == "fgsm" and (self.steps is not None or self.step_size is not None):
            raise UsageError("FGSM is a single step of length epsilon; --steps and --step-size are for --method pgd")
        target = None if self.target is None else class_index(self.target, classes)
        steps = 10 if self.steps is None else self.steps
        return Attack(self.method, self.norm, steps, self.step_size, target=target, seed=self.seed)

    def radii(self, channels: int, curve: bool) -> list[float]:
        """The epsilons, sorted; by default the usual one or, for a curve, multiples of it. A curve begins at 0, the
        accuracy without an attack. UsageError for invalid ones."""
        for epsilon in self.epsilons:
            if not 0 <= epsilon < float("inf"):
                raise UsageError(f"--epsilon {epsilon:g}: must be 0 or more, for pixels in [0, 1]; try 0.03")
            if epsilon > 1 and self.norm == "linf":
                hint = f"; {epsilon:g}/255 is {epsilon / 255:.2g}" if epsilon < 256 else ""
                raise UsageError(f"--epsilon {epsilon:g}: pixels are in [0, 1], so linf takes at most 1{hint}")
        usual = usual_epsilon(self.norm, channels)
        if not self.epsilons:
            return [usual * share for share in _FRACTIONS] if curve else [usual]
        return sorted({*self.epsilons, *([0.0] if curve else [])})


def parse_epsilons(texts: Sequence[str]) -> list[float]:
    """The numbers of `0.03`, `8/255` or a comma-separated list of such; UsageError for anything else."""
    parts = [part.partition("/") for text in texts for part in text.split(",")]
    try:
        return [float(number) / (float(divisor) if slash else 1) for number, slash, divisor in parts]
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"--epsilon takes numbers such as 0.03 or 8/255,16/255, not {','.join(texts)!r}") from None


def usual_epsilon(norm: str, channels: int) -> float:
    """The radius that papers report: 8/255 and 0.5 for color images, 0.1 and 1.5 for grayscale ones such as MNIST."""
    return {"linf": 8 / 255, "l2": 0.5}[norm] if channels == 3 else {"linf": 0.1, "l2": 1.5}[norm]


@dataclass(frozen=True)
class AdversarialExamples:
    """Images attacked with each epsilon, for `cnn attack` of images."""

    inputs: Inputs
    classes: tuple[str, ...]
    attack: Attack
    results: tuple[Attacked, ...]
    temperature: float = 1.0  # of probabilities, where they are calibrated

    def prediction(self, scores: torch.Tensor) -> Prediction:
        """The prediction from the scores of one image."""
        return predicted(scores, self.classes, self.temperature)

    def document(self) -> dict[str, Any]:
        rows = []
        for r in self.results:
            change = (r.pixels.cpu() - self.inputs.pixels).flatten(1)
            succeeded, changed = r.succeeded(self.attack.target), r.changed(self.attack.target)
            for i, name in enumerate(self.inputs.names):
                label = self.inputs.labels[i]
                true = None if label is None else self.classes[label]
                row: dict[str, Any] = {"image": name, "true": true, "epsilon": r.epsilon}
                row |= {"before": self.prediction(r.before[i]).document()}
                row |= {"after": self.prediction(r.after[i]).document(), "success": succeeded[i]}
                sizes = {"largest_change": float(change[i].abs().max()), "l2_change": float(change[i].norm())}
                pixels = {"changed_pixels": changed[i]} if r.dense else {}
                rows.append(row | sizes | pixels)
        return {"attack": self.attack.document(self.classes), "images": rows}

    def text(self) -> str:
        return f"{self.attack.title}\n\n{render(self.table())}"

    def table(self) -> Table:
        """A row per image and epsilon."""
        columns = (
            Column("image", "image", wraps=True),
            Column("true", "true class", wraps=True),
            Column("epsilon", "epsilon", number=True),
            Column("before", "before", wraps=True),
            Column("before_confidence", "", number=True, show=percent),
            Column("after", "after", wraps=True),
            Column("after_confidence", "", number=True, show=percent),
            Column("success", self.attack.effect),
            *([Column("changed_pixels", "pixels changed", number=True, show=percent)] if self.results[0].dense else []),
        )
        rows = []
        for row in self.document()["images"]:
            flat = {when: row[when]["class"] for when in ("before", "after")}
            flat |= {f"{when}_confidence": row[when]["confidence"] for when in ("before", "after")}
            rows.append(row | flat | self._without_effect(row["true"], flat["before"]))
        return Table(columns, rows)

    def _without_effect(self, true: str | None, before: str) -> dict[str, str]:
        """Why an attack cannot succeed: the prediction was already wrong or, with a target class, already the
        target."""
        if self.attack.target is not None:
            return {"success": "predicted before"} if before == self.classes[self.attack.target] else {}
        return {"success": "misclassified before"} if true not in (None, before) else {}


@dataclass(frozen=True)
class AccuracyUnderAttack:
    """A split, attacked with each epsilon."""

    data: str
    split: str
    classes: tuple[str, ...]
    attack: Attack
    measured: Robustness

    def document(self) -> dict[str, Any]:
        counts = {"n": self.measured.n, "zero_gradient": self.measured.zero_gradient}
        source = {"data": self.data, "split": self.split, "attack": self.attack.document(self.classes)}
        return source | counts | {"results": list(self.measured.rows)}

    def text(self) -> str:
        lines = [f"{self.attack.title}; {counted(self.measured.n, 'image')}", "", render(self.table())]
        if lost := self.measured.zero_gradient:
            lines += [
                "",
                f"{counted(lost, 'image')} with zero gradient, which the attack cannot change: not robustness",
            ]
        return "\n".join(lines)

    def table(self) -> Table:
        """A row per epsilon."""
        columns = [Column("epsilon", "epsilon", number=True), Column("accuracy", "accuracy", number=True, show=percent)]
        if self.attack.target is not None:
            title = f"predicted as {self.classes[self.attack.target]}"
            columns.append(Column("taken", title, number=True, show=percent))
        return Table(tuple(columns), self.measured.rows)


def show_attack(
    loaded: LoadedNetwork, inputs: Inputs, request: AttackRequest, target: Target, device: torch.device = CPU
) -> Pictured[AdversarialExamples]:
    """Attack images and draw them before and after."""
    classes, scores = class_names(loaded), scores_of(loaded).to(device)
    attack = request.attack(classes)
    epsilons = request.radii(inputs.pixels.shape[1], curve=False)
    path = target.path(loaded, "attack", *single_word(inputs.names))
    radii = progress_bar(epsilons, len(epsilons), "attacking")
    results = attack_images(scores, inputs.pixels.to(device), inputs.labels, radii, attack)
    examples = AdversarialExamples(inputs, classes, attack, results, scores.temperature)
    drawn = draw_examples(examples, f"{loaded.plan.network}: adversarial examples", provenance(loaded))
    return write_page(loaded, examples, drawn, path)


def show_robustness(
    loaded: LoadedNetwork,
    dataset: Dataset,
    split: str,
    request: AttackRequest,
    target: Target,
    device: torch.device = CPU,
) -> Pictured[AccuracyUnderAttack]:
    """Attack a split and draw accuracy against epsilon."""
    classes, scores = class_names(loaded), scores_of(loaded).to(device)
    attack = request.attack(classes)
    epsilons = request.radii(loaded.plan.input[0], curve=True)
    path = target.path(loaded, "attack", attack.method, attack.norm, split, suffixes=(".png", ".svg", ".pdf"))
    data = prepare(dataset, loaded.preprocessing, device)
    measured = measure_robustness(scores, _batches(data, split, device), epsilons, attack)
    title = f"{loaded.plan.network} on {Path(dataset.name).name}, {split}: accuracy under attack"
    aim = None if attack.target is None else classes[attack.target]
    robustness_curve(measured.rows, path, title, f"{attack.title}; {counted(measured.n, 'image')}", aim)
    return Pictured(loaded, AccuracyUnderAttack(dataset.name, split, classes, attack, measured), path)


def draw_examples(examples: AdversarialExamples, title: str, provenance: str) -> Page:
    """A row per image and epsilon: the image, the magnified difference, the adversarial example; for a dense network
    also the pixels with another prediction."""
    inputs, target = examples.inputs, examples.attack.target
    color, dense = inputs.pixels.shape[1] == 3, examples.results[0].dense
    captions = inputs.captions(examples.classes)
    rows = [_row(examples, r, i, caption) for i, caption in enumerate(captions) for r in examples.results]
    headings = (
        "image",
        "difference, magnified",
        *["magnitude"] * color,
        "adversarial example",
        *[examples.attack.effect] * dense,
    )
    panel, count = captioned_grid(rows, headings)
    aim = "" if target is None else f", target class {examples.classes[target]}"
    shown = f"; the first {count} of {len(rows)} rows are shown" if count < len(rows) else ""
    quantity = "change of each color" if color else "change of a pixel"
    bar = Bar(image.ramp(color), "−max", "0", "max", f"{quantity}, for pixels in [0, 1]; the maximum is below each")
    return compose_page([panel], title, [f"{examples.attack.title}{aim}{shown}", provenance], bar)


def _row(examples: AdversarialExamples, attacked: Attacked, i: int, caption: str) -> list[Cell]:
    target, pixels = examples.attack.target, examples.inputs.pixels[i]
    change, example = attacked.pixels[i].cpu() - pixels, picture(attacked.pixels[i])
    ink = ACCENT if attacked.succeeded(target)[i] else image.INK
    cells = [Cell(picture(pixels), (str(examples.prediction(attacked.before[i])), caption))]
    cells.append(Cell(difference(change), magnification(change)))
    if len(pixels) == 3:
        largest = float(change.abs().mean(0).max())
        cells.append(Cell(magnitude(change), (f"up to {image.number(largest)}", "mean over colors")))
    result = (str(examples.prediction(attacked.after[i])), f"epsilon {attacked.epsilon:.3g}")
    cells.append(Cell(example, result, ink))
    if attacked.dense:
        share = percent(attacked.changed(target)[i])
        cells.append(Cell(tinted(example, attacked.hits(target)[i].cpu().numpy()), (f"{share} of pixels",)))
    return cells


def difference(change: Tensor) -> image.Array:
    """(C, H, W) → (H, W, 3) uint8, scaled to its largest value: red is brighter, blue darker; RGB differences in
    color."""
    values = change.detach().cpu().numpy()
    scale = float(np.abs(values).max())
    return image.color(values, scale) if len(values) == 3 else image.signed(values.mean(0), scale)


def magnitude(change: Tensor) -> image.Array:
    """(C, H, W) → (H, W, 3) uint8 grayscale: the mean absolute change, white where it is largest."""
    values = change.detach().abs().mean(0)
    return picture((values / values.max().clamp_min(1e-12)).unsqueeze(0))


def magnification(change: Tensor) -> tuple[str, str]:
    """The caption of a difference: `×20, ±0.05`, and its L2 norm."""
    largest = float(change.abs().max())
    if not largest:
        return "no difference", ""
    factor = f"{1 / largest:,.0f}" if largest < 0.1 else f"{1 / largest:.2g}"
    return f"×{factor}, ±{image.number(largest)}", f"L2 norm {image.number(float(change.norm()))}"


def read_split(
    loaded: LoadedNetwork,
    split: str,
    data: str | None,
    data_dir: Path | None,
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """The split to attack, or `limit` images of it, drawn from `seed`, since the first ones could be of one class.

    UsageError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit must be at least 1, not {limit}")
    dataset = whole_split(loaded, split, data, data_dir)
    part = dataset.splits[split]
    if limit is None or limit >= len(part):
        return dataset
    chosen = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:limit].sort().values
    return Dataset(dataset.name, dataset.classes, {split: part.subset(chosen)}, dataset.notes)


def _batches(data: PreparedData, split: str, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    images = data.splits[split]
    parts = iterate_batches(images, torch.split(torch.arange(len(images)), _BATCH), device)
    return progress_bar(parts, -(-len(images) // _BATCH), "attacking")
