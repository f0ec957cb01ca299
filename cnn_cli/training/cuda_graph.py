"""A training step as a CUDA graph: recorded once, then replayed, so that the GPU never waits for the CPU.

A step of a small network is a hundred kernels of a few microseconds, and launching them one by one takes longer than
running them. A replay launches all of them at once. What changes from step to step is passed to the graph in tensors
that stay at the same address: the indices of the batch, the augmentation drawn for this epoch, the learning rates.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cnn_cli.errors import UsageError
from cnn_cli.setting_kinds import FAST

WARM_UP = 3  # first steps without a graph, in which libraries choose kernels and allocate workspaces


class StepGraph:
    """Calls `step(index)`, index (batch_size,) int64 on the device; from the fourth full batch on by replay.

    `step` must only read and write tensors, and never synchronize with the device. The last, smaller batch of an epoch
    runs without the graph. Every call is one training step: none is repeated or discarded.
    """

    def __init__(self, step: Callable[[Tensor], None], batch_size: int, draws: Tensor) -> None:
        """draws: the augmentation of each image in this epoch, which the step reads from this tensor."""
        self.step, self.draws = step, draws
        self.index = torch.zeros(batch_size, dtype=torch.int64, device=draws.device)
        self.warm_up, self.current = WARM_UP, False
        self.graph: torch.cuda.CUDAGraph | None = None

    def forget(self) -> None:
        """Record the step again: it has changed, since some parameters are no longer trained."""
        self.current = False

    def __call__(self, index: Tensor) -> None:
        if len(index) < len(self.index):
            self.step(index)
            return
        self.index.copy_(index)
        if self.warm_up:
            self.warm_up -= 1
            self._step_on_side_stream()
            return
        if self.graph is None or not self.current:
            self.graph, self.current = self._record(), True
        self.graph.replay()

    def _record(self) -> torch.cuda.CUDAGraph:
        """UsageError if an operation of the step synchronizes with the device, which is not allowed in a graph."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.graph.pool() if self.graph else None):
                self.step(self.index)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            others = ",".join(name for name in FAST if name not in ("cuda-graph", "keep-memory"))
            raise UsageError(
                f"this training step cannot be captured as a CUDA graph: {str(error).splitlines()[0]}\n"
                f"train without one: --fast {others}"
            ) from error
        return graph

    def _step_on_side_stream(self) -> None:
        """A step on a side stream, as it will be recorded: the default stream cannot be."""
        stream = torch.cuda.Stream(self.index.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.index.device))
        with torch.cuda.stream(stream):
            self.step(self.index)
        torch.cuda.current_stream(self.index.device).wait_stream(stream)
