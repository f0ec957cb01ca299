"""How much memory a network needs for inference and training: a simulation of its allocations, tensor by tensor.

Counted are weights, buffers, the batch, and all outputs as long as something refers to them; in training also the
tensors saved for the backward pass, the gradients, and the state and temporary values of the optimizer. Not counted are
the loss, workspaces of libraries such as cuDNN, fragmentation, and PyTorch itself (about half a gigabyte on a GPU).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

from cnn_cli.language.plan import Group, Layer, Plan

COPIES = {
    "sgd": 1,
    "adam": 2,
    "adamw": 2,
    "muon": 1,
}  # of all parameters, that the optimizer keeps (sgd: with momentum)
BORROWED = {"sgd": 0, "adam": 1, "adamw": 1, "muon": 0}  # during a step, by PyTorch's grouped (foreach) kernels
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Memory:
    """Bytes by their use; of a peak, `activations`, `gradients` and the fields after them at that moment."""

    weights: int
    buffers: int
    batch: int
    activations: int
    gradients: int = 0
    optimizer: int = 0
    activation_gradients: int = 0
    temporary: int = 0  # of the optimizer's step

    @property
    def total(self) -> int:
        return sum(self.__dict__.values())

    def document(self) -> dict[str, int]:
        return {**self.__dict__, "total": self.total}


def inference(plan: Plan, batch: int = 1, precision: str = "float32") -> Memory:
    """In evaluation mode without gradients, all of the network in `precision`."""
    run = _Run(plan, batch, BYTES[precision], training=False)
    run.forward()
    weights, buffers = _weights(plan, BYTES[precision])
    return Memory(weights, buffers, run.batch, run.peak - run.batch)


def training(
    plan: Plan, batch: int, optimizer: str, precision: str = "float32", frozen: frozenset[str] = frozenset()
) -> Memory:
    """The peak of one step after the first."""
    return breakdown_and_peak(plan, batch, optimizer, precision, frozen)[1]


def breakdown_and_peak(
    plan: Plan, batch: int, optimizer: str, precision: str, frozen: frozenset[str]
) -> tuple[Memory, Memory]:
    """The memory of training as textbooks add it up: all gradients, the optimizer's state, and the activations that the
    backward pass needs. And the peak, at which some activations are already freed, or some gradients not yet allocated.

    With a half precision: PyTorch's autocast, which keeps weights and gradients in float32.
    """
    size = BYTES[precision]
    weights, buffers = _weights(plan, 4)
    trained = 4 * sum(layer.params for layer in plan.layers if layer.name not in frozen)
    copies = weights // 4 * size if size < 4 else 0  # autocast's cast weights
    run = _Run(plan, batch, size, training=True, frozen=frozen)
    run.forward()
    state, step = COPIES[optimizer] * trained, BORROWED[optimizer] * trained
    kept = Memory(weights + copies, buffers, run.batch, run.live - run.batch, trained, state)
    held, moving, gradients = run.backward()
    if trained + step > held + moving + gradients + copies - run.batch:  # the step itself needs more than the rest
        return kept, Memory(weights, buffers, run.batch, 0, trained, state, temporary=step)
    return kept, Memory(weights + copies, buffers, run.batch, held - run.batch, gradients, state, moving)


def output_bytes(layer: Layer) -> int:
    """Bytes of the output of a layer, for one image in float32; 0 if it is a view of the input."""
    return 0 if "view" in layer.rule.traits or not layer.takes else 4 * prod(layer.output_shape)


def _weights(plan: Plan, size: int) -> tuple[int, int]:
    tensors = [t for layer in plan.layers for t in layer.tensors]
    weights = sum(prod(t.shape) for t in tensors if not t.buffer) * size
    return weights, sum(prod(t.shape) * (size if t.shape else 8) for t in tensors if t.buffer)


@dataclass
class _Run:
    """Tensors by number with their reference counts; those without references are freed."""

    plan: Plan
    images: int
    size: int
    training: bool
    frozen: frozenset[str] = frozenset()
    bytes: list[int] = field(default_factory=list)
    references: list[int] = field(default_factory=list)
    live: int = 0
    peak: int = 0
    steps: list[tuple[Layer, list[int], int, list[int]]] = field(default_factory=list)  # layer, inputs, output, kept
    wanted: set[int] = field(default_factory=set)  # tensors that the backward pass goes through

    @property
    def batch(self) -> int:
        return self.images * prod(self.plan.input) * self.size

    def forward(self) -> None:
        image = self.new(self.batch)
        skipped = frozenset() if self.training else self.plan.only_in_training
        self.run(self.plan.root, [image], skipped, tuple(self.plan.named_outputs), {})

    def new(self, count: int) -> int:
        self.bytes.append(count)
        self.references.append(1)
        self.live += count
        self.peak = max(self.peak, self.live)
        return len(self.bytes) - 1

    def hold(self, tensor: int) -> int:
        self.references[tensor] += 1
        return tensor

    def drop(self, tensor: int) -> None:
        self.references[tensor] -= 1
        if not self.references[tensor]:
            self.live -= self.bytes[tensor]

    def run(
        self,
        part: Layer | Group,
        inputs: list[int],
        skipped: frozenset[str] = frozenset(),
        exports: Sequence[str] = (),
        exported: dict[str, int] | None = None,
    ) -> int:
        """The output of a part, with one reference for the caller, who holds the inputs meanwhile, and one for each
        value in `exported`, as in network/modules.py."""
        if isinstance(part, Layer):
            return self.leaf(part, inputs)
        names = ["input"] if len(inputs) == 1 else [f"input.{n}" for n in range(len(inputs))]
        values = {name: self.hold(tensor) for name, tensor in zip(names, inputs, strict=True)}
        inner = part.inside(exports)
        last = {name: child.key for child in part.children for name in child.takes}
        done: dict[str, list[str]] = {}  # the values that a child is the last to take
        for name, key in last.items():
            done.setdefault(key, []).append(name)
        for child in part.children:
            if child.key in skipped:
                continue
            taken = [values[n if n in values else n.rpartition(".")[0]] for n in child.takes]
            own: dict[str, int] = {}
            values[child.key] = self.run(child.part, taken, exports=inner.get(child.key, ()), exported=own)
            values |= {f"{child.key}.{name}": tensor for name, tensor in own.items()}
            for name in done.get(child.key, ()):
                if name in values and name != part.output and name not in exports:
                    self.drop(values.pop(name))
        for name in exports:
            assert exported is not None
            exported[name] = self.hold(values[name if name in values else name.rpartition(".")[0]])
        end = next(n for n in (part.output, part.output.rpartition(".")[0], "input") if n in values)
        out = self.hold(values[end])
        for tensor in values.values():
            self.drop(tensor)
        return out

    def leaf(self, layer: Layer, inputs: list[int]) -> int:
        traits = layer.rule.traits
        inputs = inputs[: len(layer.reads)]
        if not inputs:  # a parameter, whose bytes are among the weights
            out = self.new(0)
        elif "view" in traits or (not self.training and "view in evaluation" in traits):
            out = self.hold(inputs[0])
        else:
            out = self.new(self.images * prod(layer.output_shape) * self.size)
        learns = layer.owner not in self.frozen and any(not t.buffer for t in layer.used_tensors)
        # If the first layers are frozen, autograd saves nothing before the first layer that is trained.
        if self.training and (not self.frozen or learns or not self.wanted.isdisjoint(inputs)):
            self.wanted.add(out)
            self.steps.append((layer, inputs, out, [self.hold(t) for t in self.kept(layer, inputs, out)]))
        return out

    def kept(self, layer: Layer, inputs: list[int], out: int) -> Iterator[int]:
        saved = layer.saved
        yield from inputs if saved.input else []
        yield from [out] if saved.output else []
        values = saved.values(layer.settings, layer.input_shape, layer.output_shape)
        extra = self.images * (values * self.size + prod(layer.output_shape) * 8 * saved.indices)
        if extra:
            tensor = self.new(extra)
            self.references[tensor] = 0  # only the backward pass refers to it
            yield tensor

    def backward(self) -> tuple[int, int, int]:
        """Bytes of saved tensors, gradients of outputs, and gradients of parameters, when their sum is largest."""
        top = (self.peak, 0, 0)
        incoming: dict[int, int] = {}  # gradients that are still needed, by tensor
        params = {layer.name: layer.params for layer in self.plan.layers if layer.name not in self.frozen}
        moving = gradients = 0
        for layer, inputs, out, kept in reversed(self.steps):
            if out not in incoming:
                incoming[out] = self.bytes[out]
                moving += self.bytes[out]
            arriving = {t for t in inputs if t in self.wanted and t not in (0, out)}  # the image itself needs none
            fresh = sum(self.bytes[t] for t in arriving)
            gradients += 4 * params.pop(layer.owner, 0)  # of shared weights, where they are used last
            if self.live + moving + fresh + gradients > sum(top):
                top = (self.live, moving + fresh, gradients)
            for t in arriving:
                moving += 0 if t in incoming else self.bytes[t]
                incoming[t] = self.bytes[t]
            if out not in inputs:  # else a view: its gradient is that of its base
                moving -= incoming.pop(out)
            for t in kept:
                self.drop(t)
        return top
