"""One spec, by cnn_cli and by the independent interpreter: whether both accept it, and agree in every number."""

import random
import re
import traceback
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch_interpreter import Interpreter, is_input
from torch_values import Refused, TooLarge

from cnn_cli.analysis import explanation, memory, receptive_field, shapes, summary
from cnn_cli.errors import Problem, SpecError
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_document, plan_spec
from cnn_cli.language.spec import parse
from cnn_cli.network.builder import build_plan

# What PyTorch runs and the language refuses on purpose: a part of our message, and of its line in the guide.
LIMITS = {
    r"must be (an? |true or|one value|null|text|[\w, -]+ or [\w-]+, not)": "a setting of the wrong type",
    r"takes channels x": "a layer …2d on anything but channels x height x width",
    r"\(0 is the batch\)|must be 0 \(the batch\)": "a layer along axis 0",
    r"leaves nothing|takes everything away": "whose output would be empty",
    r"position -?\d+ needs as many": "a slice that starts or ends beyond its axis",
    r"CircularPad.*to copy from": "circular padding larger than the input that a negative padding",
    r"a crop of": "a `CenterCrop` larger than its input",
    r"; remove \w+ or write \d+": "an inferred size that is given but contradicts the input",
    r"equally many axes": "a join of values with different numbers of axes",
    r"block_size .* must be odd": "an even `block_size`",
    r"divides by 0": "a division by the number 0",
}


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.2, where 1e-3 is a number."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+"), list("-+0123456789"))
SEED = torch.default_generator.manual_seed


@dataclass(frozen=True)
class Result:
    outcome: str


@dataclass(frozen=True)
class Difference(Result):
    message: str


def compare(text: str, seed: int, name: str = "n") -> Result:
    """How both sides take the network `name` of a file. `seed` draws the weights, and what more is compared."""
    try:
        ours = plan(text, name)
    except Exception:
        return Difference("traceback", traceback.format_exc(limit=-4))
    document = yaml.load(text, Loader=Loader)
    try:
        shape = document[name]["input"]
        interpreter = Interpreter({k: v for k, v in document.items() if k != "blocks"}, document.get("blocks") or {})
        if not is_input(shape):
            raise Refused("the input")
        SEED(seed)
        one = interpreter.run(name, torch.ones(1, *shape))
        SEED(seed)
        x = torch.randn(2, *shape)
        outputs = interpreter.run(name, x)
        if any(v.shape[1:] != one[k].shape[1:] or v.shape[0] != 2 or 0 in v.shape for k, v in outputs.items()):
            raise Refused("the batch is mixed, or nothing is left")
        if isinstance(ours, list):  # what is refused may be what does not train
            interpreter.training = True
            interpreter.run(name, x)
    except TooLarge:
        return Result("too large")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return Result("refused") if isinstance(ours, list) else Difference("accepted", f"we accept, PyTorch: {reason}")
    if isinstance(ours, list):
        return limited(ours)
    try:
        differences = [*compared(ours, interpreter, name, x, outputs, seed)]
    except Exception:
        return Difference("traceback", traceback.format_exc(limit=-6))
    return Difference("numbers", "; ".join(differences)) if differences else Result("equal")


def limited(problems: list[Problem]) -> Result:
    """What is refused: by limits that the guide names, or by mistake."""
    for problem in problems:
        limit = next((text for words, text in LIMITS.items() if re.search(words, str(problem))), "")
        if not limit:
            return Difference("refused", f"PyTorch runs it, we refuse: {problem}")
    return Result(f"limit: {limit}")


def plan(text: str, name: str) -> Plan | list[Problem]:
    """The plan of a network of the text, or the mistakes in it. All that is shown of it must work in both cases."""
    try:
        file = parse(text, "f.yaml")
    except SpecError as error:
        return list(error.problems)
    if name not in file.networks or file.problems:
        return list(file.problems) or [Problem("f.yaml", 1, 1, "", "no such network", False)]
    result = plan_spec(file.networks[name], None, None)
    assert all(str(problem) for problem in result.problems)
    if random.Random(text).random() < 0.25:
        shapes.ShapeDerivation(result).text()
        receptive_field.sights(result)
    return list(result.errors) or result


def compared(ours: Plan, interpreter: Interpreter, name: str, x: Tensor, outputs: dict[str, Tensor], seed: int) -> Any:
    """What differs between a plan and what PyTorch computed."""
    found = {k: tuple(v.shape[1:]) for k, v in outputs.items()}
    if ours.shapes != found:
        yield f"shapes {ours.shapes}, PyTorch {found}"
    state = interpreter.state()
    if {k: t.shape for k, t in ours.tensors.items()} != {k: tuple(v.shape) for k, v in state.items()}:
        yield f"tensors {sorted(ours.tensors)}, PyTorch {sorted(state)}"
    buffers = {f"{p}.{k}".strip(".") for p, m in interpreter.modules.items() for k, _ in m.named_buffers()}
    count = sum(v.numel() for k, v in state.items() if k not in buffers)
    if ours.params != count:
        yield f"{ours.params} parameters, PyTorch {count}"
    SEED(seed)
    module = build_plan(ours)
    yield from differing("weights", dict(module.state_dict()), state)
    draw = random.Random(seed)
    with torch.no_grad():
        yield from differing("outputs", evaluated(module, ours, x), {k: outputs[k] for k in evaluated_names(ours)})
        if draw.random() < 0.15:
            yield from macs(ours, interpreter, name, x[:1])
        if draw.random() < 0.3:
            yield from trained(ours, module, interpreter, name, x)
    if draw.random() < 0.25:
        summary.summarize(ours, summary.setup(ours)).text()
        explanation.text(explanation.explain(ours))
        memory.training(ours, 4, "adam")
        again = plan_document(ours.document(), "again")
        if (again.shapes, again.tensors, again.macs) != (ours.shapes, ours.tensors, ours.macs):
            yield f"what a run keeps of it is another network: {again.shapes}"


def evaluated_names(ours: Plan) -> list[str]:
    """The outputs in evaluation: of auxiliary ones the main one alone."""
    return list(ours.shapes)[: 1 if ours.outputs else None]


def evaluated(module: nn.Module, ours: Plan, x: Tensor) -> dict[str, Tensor]:
    result = module.eval()(x)
    return result if isinstance(result, dict) else {next(iter(ours.shapes)): result}


def differing(what: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Any:
    if set(ours) != set(theirs):
        yield f"{what} {sorted(ours)}, PyTorch {sorted(theirs)}"
        return
    for key, value in theirs.items():
        same = ours[key].shape == value.shape and torch.equal(ours[key], value)
        if not same and not (ours[key].shape == value.shape and equal_but_nan(ours[key], value)):
            yield f"{what} {key} differ"


def equal_but_nan(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(0), b.nan_to_num(0))


def macs(ours: Plan, interpreter: Interpreter, name: str, x: Tensor) -> Any:
    with FlopCounterMode(display=False) as counter:
        interpreter.run(name, x)
    if ours.macs != counter.get_total_flops() // 2:
        yield f"{ours.macs} MACs, FlopCounterMode {counter.get_total_flops() // 2}"


def trained(ours: Plan, module: nn.Module, interpreter: Interpreter, name: str, x: Tensor) -> Any:
    """The outputs in training mode, with what is random drawn alike, and the statistics afterwards."""
    if ours.outputs:
        return  # the order of computation is another
    interpreter.training = True
    SEED(3)
    theirs = interpreter.run(name, x)
    SEED(3)
    result = module.train()(x)
    mine = result if isinstance(result, dict) else {"": result}
    yield from differing("outputs in training", mine, theirs)
    yield from differing("statistics", dict(module.state_dict()), interpreter.state())
