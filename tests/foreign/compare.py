"""Foreign networks, written in the language, against the code of their own libraries; run by hand.

    pip install --target FOLDER huggingface_hub
    pip install --no-deps --target FOLDER timm segmentation-models-pytorch
    python tests/foreign/compare.py --packages FOLDER [NAME …]

For each network of the YAML files in this folder: its state_dict keys, the outputs of evaluation, the BatchNorm
statistics and gradients after a training step, parameters and MACs (FlopCounterMode), all against the original with
the same weights. It ends with 1 if one of them differs.
"""

import argparse
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import StochasticDepth

from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import plan_spec, read_file
from cnn_cli.network.builder import build_plan

HERE = Path(__file__).parent
# Where keys cannot be the original's: parts of ours, and what they are there.
RENAMED = {
    "inception_resnet_v2": {r"^repeat_0\b": "repeat"},
    "res2net50_26w_4s": {r"(conv|bn)_(\d)": r"\1s.\2"},
}
HEADINGS = ("network", "keys", "output", "training step", "parameters", "MACs")


@dataclass(frozen=True)
class Comparison:
    """What is equal; the text of a cell begins with `!` where something is not."""

    network: str
    keys: str
    output: str
    step: str
    params: str
    macs: str

    @property
    def cells(self) -> tuple[str, ...]:
        return self.network, self.keys, self.output, self.step, self.params, self.macs

    @property
    def equal(self) -> bool:
        return not any(cell.startswith("!") for cell in self.cells)


def fill(module: nn.Module) -> None:
    """Weights with nothing left at 0 or 1, where a mistake would hide."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        draw = torch.rand(tensor.shape, generator=generator)
        if tensor.dim() > 1:
            tensor.copy_((draw - 0.5) * (12 / max(1, tensor[0].numel())) ** 0.5)
        elif name.endswith(("running_var", "weight")):
            tensor.copy_(draw + 0.5)
        else:
            tensor.copy_((draw - 0.5) * 0.2)


def still(module: nn.Module) -> None:
    """Switch off what is random in training."""
    for part in module.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d | StochasticDepth):
            part.p = 0.0
        if type(part).__name__ == "DropPath":
            part.drop_prob = 0.0
        if isinstance(getattr(part, "drop_rate", None), float):
            part.drop_rate = 0.0  # timm's own use of F.dropout


def main_output(result: object) -> Tensor:
    """The output, or the first of several."""
    if isinstance(result, dict):
        return main_output(next(iter(result.values())))
    if isinstance(result, tuple | list):
        return main_output(result[0])
    assert isinstance(result, Tensor)
    return result


def difference(a: Tensor, b: Tensor) -> str:
    """Equal, or by how much of the largest value they differ."""
    if a.shape != b.shape:
        return f"!{tuple(a.shape)} {tuple(b.shape)}"
    if torch.equal(a, b):
        return "equal"
    error = float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
    return f"{'' if error < 2e-5 else '!'}{error:.0e}"


def step(module: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A training step's output, and gradients and statistics by name; in float64, where rounding hides no mistake."""
    module.train()
    output = main_output(module(images))
    output.backward(torch.linspace(-1, 1, output.numel()).view_as(output))
    gradients = {k: p.grad for k, p in module.named_parameters() if p.grad is not None}
    return output.detach(), gradients | dict(module.named_buffers())


def compare(plan: Plan, original: nn.Module) -> Comparison:
    torch.manual_seed(0)
    network = build_plan(plan)
    fill(original)
    theirs, ours = original.state_dict(), network.state_dict()
    names = {k: k for k in ours}
    keys = "exact"
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        names = {k: renamed(plan.network, k) for k in ours}
        if {names[k]: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
            ours = {names[k]: v for k, v in ours.items()}
            missing, extra = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
            shapes = [k for k in ours if k in theirs and ours[k].shape != theirs[k].shape]
            return Comparison(plan.network, f"!lacks {missing[:4]}, has {extra[:4]}, shapes {shapes[:4]}", *[""] * 4)
        keys = "mapped"
    network.load_state_dict({k: theirs[names[k]] for k in ours})
    images = torch.randn(2, *plan.input, generator=torch.Generator().manual_seed(1))
    still(network), still(original)
    with torch.no_grad():
        output = difference(main_output(network.eval()(images)), main_output(original.eval()(images)))
    (a, after), (b, expected) = step(network.double(), images.double()), step(original.double(), images.double())
    worst = [difference(a, b), *(difference(after[k].float(), expected[names[k]].float()) for k in after)]
    lacking = set(expected) - {names[k] for k in after}
    stepped = f"!no {sorted(lacking)[:3]}" if lacking else max(worst, key=lambda w: (w[0] == "!", w != "equal", w[-3:]))
    params, macs = sum(p.numel() for p in original.parameters()), counted(original, images[:1].double())
    same = [str(n) if n == m else f"!{n} {m}" for n, m in ((plan.params, params), (plan.macs, macs))]
    return Comparison(plan.network, keys, output, stepped, *same)


def renamed(network: str, key: str) -> str:
    """The original's name for one of our keys."""
    for pattern, name in RENAMED.get(network, {}).items():
        key = re.sub(pattern, name, key)
    return key


def counted(module: nn.Module, images: Tensor) -> int:
    """The MACs of one image, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(images)
    return counter.get_total_flops() // 2


def originals() -> dict[str, Callable[[], nn.Module]]:
    """Every network of the YAML files by its name → what makes the original."""
    import timm
    from generators import GENERATORS
    from segmentation import SEGMENTATION

    def of_timm(name: str) -> Callable[[], nn.Module]:
        return lambda: timm.create_model(name)

    names = {name: of_timm(name) for name in read_file(HERE / "timm.yaml").networks}
    return names | SEGMENTATION | GENERATORS


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare networks of the language with those of other libraries.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--packages", type=Path, required=True, help="folder with timm and segmentation-models-pytorch")
    options = parser.parse_args()
    sys.path += [str(options.packages), str(HERE)]
    warnings.simplefilter("ignore")
    make, rows = originals(), []
    specs = {name: spec for file in sorted(HERE.glob("*.yaml")) for name, spec in read_file(file).networks.items()}
    print("  ".join(HEADINGS))
    for name in options.names or specs:
        plan = plan_spec(specs[name], None, None)
        row = Comparison(name, f"!{plan.errors[0]}", *[""] * 4) if plan.errors else compare(plan, make[name]())
        rows.append(row)
        print("  ".join(row.cells), flush=True)
    print(
        f"{sum(r.equal for r in rows)} of {len(rows)} equal, {sum(r.keys == 'exact' for r in rows)} with the same keys"
    )
    return 0 if all(r.equal for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
