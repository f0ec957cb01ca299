"""Runs the page's JavaScript in V8, without a browser, beside PyTorch."""

import base64
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnn_cli.language.plan import Plan
from cnn_cli.network.builder import build_plan
from cnn_cli.page.description import describe
from cnn_cli.page.sources import computing

# V8 alone has none, as a browser has.
_ATOB = """
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const CODES = new Uint8Array(128);
for (let i = 0; i < 64; i++) CODES[LETTERS.charCodeAt(i)] = i;
function atob(text) {
  const parts = [];
  for (let i = 0; i < text.length; i += 4) {
    let bits = 0;
    for (let j = 0; j < 4; j++) bits = (bits << 6) | (text[i + j] === "=" ? 0 : CODES[text.charCodeAt(i + j)]);
    parts.push(String.fromCharCode(bits >> 16, (bits >> 8) & 255, bits & 255));
  }
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
  return parts.join("").slice(0, parts.length * 3 - padding);
}
"""


@dataclass(frozen=True)
class Engine:
    """A V8 with the page's code."""

    context: Any

    def open(self, plan: Plan, module: nn.Module) -> dict[str, Any]:
        """Make `net` of a plan and its module's weights → the description."""
        document = describe(plan, module.state_dict()).document()
        self.open_document(document)
        return document

    def open_document(self, document: dict[str, Any]) -> None:
        code = "var net = openNetwork(opened.network, decoded(opened.weights, opened.half)); 0"
        self.context.eval(f"var opened = {self.literal(document)}; {code}")

    @staticmethod
    def literal(value: Any) -> str:
        return json.dumps(value)

    def set(self, name: str, values: Tensor) -> None:
        """A JavaScript tensor of this name."""
        data = base64.b64encode(values.detach().contiguous().numpy().astype("<f4").tobytes()).decode()
        self.context.eval(f'var {name} = tensor({list(values.shape)}, decoded("{data}", false)); 0')

    def get(self, expression: str) -> Tensor:
        """The numbers of a typed array."""
        return torch.tensor(
            json.loads(
                self.context.eval(f"JSON.stringify(Array.from({expression}, (v) => Number.isFinite(v) ? v : null))")
            )
        )

    def value(self, expression: str) -> Any:
        return json.loads(self.context.eval(f"JSON.stringify({expression})"))


def engine() -> Engine:
    """A fresh V8. Skips the test where mini-racer is not installed."""
    import pytest

    racer = pytest.importorskip("py_mini_racer", reason="needs mini-racer, a V8 for Python")
    context = racer.MiniRacer()
    load_page(context, _ATOB)
    return Engine(context)


def load_page(context: Any, before: str = "") -> None:
    """Give anything with eval() the page's code."""
    context.eval(before + computing().replace('"use strict";', "") + "\n0")


def fresh(plan: Plan, seed: int = 0) -> nn.Module:
    """A module with random weights, whose normalization layers have statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    module = build_plan(plan).eval()
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name == "running_mean":
                buffer.normal_(0, 0.1)
            elif name == "running_var":
                buffer.uniform_(0.5, 1.5)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    theirs = theirs.detach().flatten()
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6)) if len(theirs) else 0.0
