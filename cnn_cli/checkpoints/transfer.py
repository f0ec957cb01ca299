"""Copying weights from a file into a network: all of them, all but the head, or those that match."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnn_cli.errors import UsageError, listed
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_spec
from cnn_cli.layers import Shape

_COUNTER = "num_batches_tracked"  # missing in files from before PyTorch 0.4.1; PyTorch then starts it at 0
_MAX_LISTED = 20
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
# Names of DenseNet's layers from when names could contain dots, as in torchvision's files.
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)")


@dataclass(frozen=True)
class Transfer:
    """The tensors that are copied to a network, and those that keep their initial values, each with the reason.

    `unused` are tensors of the file that the network does not have; `renamed` names the prefix that was removed from
    names in the file.
    """

    copied: dict[str, Tensor]
    new: dict[str, str]
    unused: tuple[str, ...] = ()
    renamed: str = ""

    def __str__(self) -> str:
        """`copied 120 of 122 tensors; new: fc.weight 10x512 (file: 1000x512), fc.bias 10 (file: 1000)`."""
        new = listed([f"{name} {reason}" for name, reason in self.new.items()], _MAX_LISTED)
        count = len(self.copied) + len(self.new)
        text = f"copied {len(self.copied)} of {count} tensors; new: {new}" if new else f"copied all {count} tensors"
        return f"{text}; unused in the file: {listed(self.unused, _MAX_LISTED)}" if self.unused else text


def fit(plan: Plan, tensors: Mapping[str, Tensor], origin: str, *, whole: bool = False) -> Transfer:
    """The tensors to copy. If the file is for another number of classes, the head keeps its initial values.

    The head: the tensors whose shape follows the argument `classes`. Auxiliary heads that the file leaves out keep
    their initial values, too, and tensors that are not finite, such as the classifier of VGG16's IMAGENET1K_FEATURES.
    With `whole`, all but auxiliary heads are copied. UsageError names the first tensors that differ in name, shape or
    type.
    """
    own = {name: t.shape for name, t in plan.tensors.items()}
    tensors, renamed = translated(tensors, own), _prefixes(tensors, own)
    head = {} if whole else _other_head(plan, own, tensors)
    missing = _left_out(plan, own, tensors)
    names = [name for name in dict.fromkeys((*own, *tensors)) if name not in head and name not in missing]
    differences = [d for name in names if (d := _difference(name, own.get(name), tensors.get(name)))]
    if differences:
        raise UsageError(f"{origin} does not fit {plan.network}: {_summary(differences)}")
    new = {name: f"{_sizes(own[name])} (file: {_sizes(tensors[name].shape)})" for name in head}
    new |= {name: f"{_sizes(own[name])} (not in the file)" for name in missing}
    if not whole:
        unusable = [name for name in not_finite(tensors) if name not in new]
        new |= {name: f"{_sizes(own[name])} (not finite in the file)" for name in unusable}
    return Transfer({name: tensors[name] for name in own if name not in new}, new, renamed=renamed)


def fit_partially(plan: Plan, tensors: Mapping[str, Tensor], origin: str) -> Transfer:
    """The tensors that match one of the network by name, shape and type; the others keep their initial values.
    UsageError if none matches."""
    own = {name: t.shape for name, t in plan.tensors.items()}
    renamed, tensors = _prefixes(tensors, own), translated(tensors, own)
    unusable = set(not_finite(tensors))
    new = {}
    for name, shape in own.items():
        theirs = tensors.get(name)
        if theirs is None:
            new[name] = f"{_sizes(shape)} (not in the file)"
        elif _difference(name, shape, theirs):
            new[name] = f"{_sizes(shape)} (file: {_sizes(theirs.shape)})"
        elif name in unusable:
            new[name] = f"{_sizes(shape)} (not finite in the file)"
    copied = {name: tensors[name] for name in own if name not in new}
    if not copied:
        raise UsageError(f"{origin}: no tensor has the name and shape of one in {plan.network}")
    return Transfer(copied, new, tuple(name for name in tensors if name not in own), renamed)


def fit_part(plan: Plan, part: str, tensors: Mapping[str, Tensor], origin: str) -> Transfer:
    """The tensors of a network that is a part of this one; all tensors outside of the part keep their initial values.

    Tensors of the file that the part does not have, such as the head of a classifier, are left out. UsageError names
    the first tensors of the part that are missing in the file or differ.
    """
    own = {name: t.shape for name, t in plan.tensors.items()}
    inside = {name.removeprefix(f"{part}."): name for name in own if name.startswith(f"{part}.") or not part}
    tensors = translated(tensors, inside)
    differences = [d for name, full in inside.items() if (d := _difference(name, own[full], tensors.get(name)))]
    if differences:
        fix = f"end the part before the layers that differ, with `until`, or name the weights of {plan.parts[part]}"
        raise UsageError(f"{origin} does not fit: {_summary(differences)}; {fix}")
    unusable = {full: "(not finite in the file)" for name, full in inside.items() if not_finite({"": tensors[name]})}
    copied = {full: tensors[name] for name, full in inside.items() if full not in unusable}
    others = {name: "(of no part)" for name in own if name not in copied and name not in unusable}
    new = {name: f"{_sizes(own[name])} {reason}" for name, reason in {**unusable, **others}.items()}
    return Transfer(copied, new)


def copy_into(network: nn.Module, transfer: Transfer) -> None:
    """Copy the tensors into a network of the same plan."""
    network.load_state_dict(network.state_dict() | transfer.copied)


def classes_of(plan: Plan, tensors: Mapping[str, Tensor]) -> int | None:
    """The number of classes of a file, from the shape of its head; None if it cannot be determined."""
    own = {name: t.shape for name, t in plan.tensors.items()}
    tensors = translated(tensors, own)
    for name, wider in _head(plan).items():
        theirs = tensors[name].shape if name in tensors else ()
        for mine, more, size in zip(own[name], wider, theirs, strict=False):
            if mine != more:
                count = plan.args["classes"] + (size - mine) // (more - mine)
                return count if count > 0 else None
    return None


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The tensors with values that are not finite."""
    return [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]


def translated(tensors: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """The tensors under current names: without prefixes of wrappers, DenseNet's without dots, with all counters."""
    prefix = _prefix(tensors, own)
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    renamed = {_OLD_DENSENET.sub(r"\1\2", name) if name not in own else name: t for name, t in named.items()}
    for name in own:
        layer, _, last = name.rpartition(".")
        if last == _COUNTER and name not in renamed and f"{layer}.running_mean" in renamed:
            renamed[name] = torch.tensor(0)
    return renamed


def _prefix(tensors: Collection[str], own: Collection[str]) -> str:
    """The prefix of DataParallel, torch.compile or Lightning, if all names have it and no name of the network does.
    Prefixes may be nested."""
    prefix = ""
    for _ in range(2):
        for more in (prefix + known for known in _PREFIXES):
            if all(name.startswith(more) for name in tensors) and not any(name.startswith(more) for name in own):
                prefix = more
                break
    return prefix


def _prefixes(tensors: Collection[str], own: Collection[str]) -> str:
    """The prefix that was removed from the names, in words; empty if there was none."""
    prefix = _prefix(tensors, own)
    return f"names in the file without their prefix {prefix}" if prefix else ""


def _head(plan: Plan) -> dict[str, Shape]:
    """The tensors whose shape follows the argument `classes`, each with its shape for one class more."""
    classes = plan.args.get("classes")
    if not isinstance(classes, int):
        return {}
    wider = plan_spec(plan.spec, {**plan.args, "classes": classes + 1}, plan.input).tensors
    return {name: wider[name].shape for name, t in plan.tensors.items() if name in wider and wider[name] != t}


def _other_head(plan: Plan, own: Mapping[str, Shape], tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The head if the file has one for another number of classes, which is the only way in which it may differ."""
    head = {name: shape for name, shape in _head(plan).items() if name in tensors}
    if all(tensors[name].shape == own[name] for name in head):
        return {}
    return {name: wider for name, wider in head.items() if _alike(own[name], wider, tensors[name].shape)}


def _alike(own: Shape, wider: Shape, other: Shape) -> bool:
    """Whether `other` differs only along axes that depend on the number of classes."""
    axes = zip(own, wider, other, strict=False)
    return len(own) == len(other) and all(mine == theirs or mine != more for mine, more, theirs in axes)


def _left_out(plan: Plan, own: Mapping[str, Shape], tensors: Mapping[str, Tensor]) -> list[str]:
    """The tensors of auxiliary heads that are not in the file, as torchvision saves GoogLeNet without them."""
    absent = [h for h in plan.only_in_training if not any(name.startswith(f"{h}.") for name in tensors)]
    return [name for name in own if name.split(".")[0] in absent]


def _difference(name: str, own: Shape | None, other: Tensor | None) -> str:
    if own is None or other is None:
        return f"{name} is {'not in the network' if own is None else 'missing'}"
    kind = torch.int64 if name.endswith(_COUNTER) else torch.float32
    if own == tuple(other.shape) and other.dtype == kind:
        return ""
    type_ = "" if other.dtype == torch.float32 else f" of {str(other.dtype).removeprefix('torch.')}"
    return f"{name} is {_sizes(other.shape)}{type_}, but should be {_sizes(own)}"


def _summary(differences: Sequence[str]) -> str:
    return "; ".join([*differences[:2], *[f"{len(differences) - 2} more differ"] * (len(differences) > 2)])


def _sizes(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "one number"
