"""The loops that `cnn train` is compared with. Each trains the same network on the same images with its own means.

    python tests/benchmarks/peers.py seed --mode speed --batch 64 --data-dir DIR

The last line printed is one JSON object. Modes: `speed`, images a second of training in the steady state, metrics on;
`epoch`, one epoch of training and an evaluation, to be timed from outside; `target`, the seed loop until 91.0 % of the
test images are right. `bare` is the fastest plain loop, to see what `cnn train` adds to it; `gemm` measures this
machine's peak; `about` says what is installed and counts the work of an image.
"""

import argparse
import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from work import PARAMETERS, TARGET, Done, Work, accuracy, arrays, fashion_convnet, loaders, stopwatch, synchronize

NEEDS = {  # what has to be installed for a loop, beside torch
    "lightning": "lightning",
    "lightning-lean": "lightning",
    "accelerate": "accelerate",
    "fastai": "fastai",
    "skorch": "skorch",
    "keras-tensorflow": "keras tensorflow",
    "keras-torch": "keras",
    "keras-jax": "keras jax",
}
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "lightning",
    "accelerate",
    "fastai",
    "skorch",
    "keras",
    "tensorflow-cpu",
    "jax",
)


def installed(loop: str) -> bool:
    return all(importlib.util.find_spec(package) for package in NEEDS.get(loop, "").split())


def seed_loop(work: Work) -> dict[str, Any]:
    """The loop of every tutorial; loss and accuracy read at each step."""
    import torch

    torch.manual_seed(work.seed)
    network, loss_of = fashion_convnet().to(work.device), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    train, test = loaders(work)
    tick, scores = stopwatch(work), []
    for _ in range(work.epochs):
        total = correct = 0.0
        for x, y in train:
            x, y = x.to(work.device), y.to(work.device)
            optimizer.zero_grad()
            outputs = network(x)
            loss = loss_of(outputs, y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
            correct += (outputs.argmax(1) == y).sum().item()
            tick(len(y))
        scores.append(accuracy(network, test, work.device))
        if work.mode == "target" and scores[-1] >= TARGET:
            break
    return {"accuracy": scores[-1], "accuracies": scores, "epochs": len(scores)}


def bare(work: Work, means: str = "") -> dict[str, Any]:
    """What `cnn train` does for speed and nothing else: no checks, no signals, no files.

    means: `graph`, a step as a CUDA graph (the last batch of an epoch left out), or `compile`, by torch.compile.

    Bytes in memory, gathered by index; the border of the image that is never used left out; max-pool before ReLU; a
    fused optimizer; on a CPU channels_last and freed memory kept. A whole epoch warms up, a whole epoch is measured.
    """
    import torch
    from torch import nn

    if work.device == "cpu":
        with suppress(OSError, AttributeError):  # as in cnn_cli/device.py
            libc = ctypes.CDLL(None)
            libc.mallopt(-1, 2**31 - 1), libc.mallopt(-2, 256 << 20), libc.mallopt(-4, 0)
    torch.manual_seed(work.seed)
    c1, relu, pool, c2, _, _, *rest = fashion_convnet()
    form = torch.channels_last if work.device == "cpu" or work.precision == "bf16" else torch.contiguous_format
    network = nn.Sequential(c1, pool, relu, c2, pool, relu, *rest).to(work.device, memory_format=form)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True, capturable=means == "graph")
    call = torch.compile(network) if means == "compile" else network
    parts = [torch.tensor(a).to(work.device) for a in arrays(work)]
    images, labels = parts[0][:, None, :26, :26].contiguous(), parts[1]
    autocast = partial(torch.autocast, work.device, torch.bfloat16, enabled=work.precision == "bf16")
    tick = stopwatch(work, warm=60_000)
    total, correct = torch.zeros((), device=work.device), torch.zeros((), device=work.device, dtype=torch.int64)

    def step(index: Any) -> None:
        x, y = images[index].to(torch.float32, memory_format=form).div_(255), labels[index]
        optimizer.zero_grad()
        with autocast():
            outputs = call(x)
            loss = nn.functional.cross_entropy(outputs, y)
        loss.backward()
        optimizer.step()
        total.add_(loss.detach() * len(y))
        correct.add_((outputs.detach().argmax(1) == y).sum())

    take = _recorded(step, torch.arange(work.batch, device=work.device)) if means == "graph" else step
    for _ in range(work.epochs):
        for index in torch.randperm(len(images)).to(work.device).split(work.batch):
            if means != "graph" or len(index) == work.batch:
                take(index)
                tick(len(index))
    network.eval()
    with torch.no_grad():
        chunks = (parts[2][:, None, :26, :26].float() / 255).split(1000)
        guesses = torch.cat([network(x).argmax(1) for x in chunks])
    return {"accuracy": (guesses == parts[3]).float().mean().item()}


def _recorded(step: Callable[[Any], None], index: Any) -> Callable[[Any], None]:
    """The step as a CUDA graph, which reads the indices of a batch from `index`."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(index)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(index)

    def replay(chosen: Any) -> None:
        index.copy_(chosen)
        graph.replay()

    return replay


def lightning(work: Work, lean: bool = False) -> dict[str, Any]:
    """Lightning as it comes, with metrics logged at each step; lean: with everything off that can be."""
    import lightning as pl
    import torch
    from torch.nn.functional import cross_entropy

    tick = stopwatch(work)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.total, self.correct = fashion_convnet(), 0.0, 0

        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            outputs = self.network(x)
            loss, correct = cross_entropy(outputs, y), (outputs.argmax(1) == y).sum()
            if lean:
                self.total, self.correct = self.total + loss.item() * len(y), self.correct + correct.item()
            else:
                self.log_dict({"loss": loss, "accuracy": correct / len(y)}, prog_bar=True)
            return loss

        def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
            tick(len(batch[1]))

        def validation_step(self, batch: Any, index: int) -> None:
            x, y = batch
            self.log("test_accuracy", (self.network(x).argmax(1) == y).float().mean(), batch_size=len(y))

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    pl.seed_everything(work.seed)
    names = ("enable_progress_bar", "logger", "enable_checkpointing", "enable_model_summary")
    off: dict[str, Any] = dict.fromkeys(names, False) if lean else {}
    trainer = pl.Trainer(max_epochs=work.epochs, devices=1, **off)
    train, test = loaders(work)
    trainer.fit(Module(), train, test if work.mode == "epoch" else None)
    return {"accuracy": float(trainer.callback_metrics["test_accuracy"])}


def accelerate(work: Work) -> dict[str, Any]:
    import torch
    from accelerate import Accelerator

    torch.manual_seed(work.seed)
    accelerator = Accelerator(cpu=work.device == "cpu")
    network, loss_of = fashion_convnet(), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network, optimizer, train, test = accelerator.prepare(network, optimizer, *loaders(work))
    tick = stopwatch(work)
    for _ in range(work.epochs):
        total = correct = 0.0
        for x, y in train:
            optimizer.zero_grad()
            outputs = network(x)
            loss = loss_of(outputs, y)
            accelerator.backward(loss)
            optimizer.step()
            total += loss.item() * len(y)
            correct += (outputs.argmax(1) == y).sum().item()
            tick(len(y))
    return {"accuracy": accuracy(network, test, work.device)}


def fastai(work: Work) -> dict[str, Any]:
    """With metrics of training too, PyTorch's settings of Adam, and no progress bar."""
    from fastai.vision.all import Adam, Callback, CrossEntropyLossFlat, DataLoaders, Learner, set_seed
    from fastai.vision.all import accuracy as fastai_accuracy

    tick = stopwatch(work)

    class Tick(Callback):
        def after_batch(self) -> None:
            if self.training:
                tick(len(self.y))

    set_seed(work.seed)
    adam = partial(Adam, sqr_mom=0.999, eps=1e-8, wd=0)
    data = DataLoaders(*loaders(work), device=work.device)
    learner = Learner(data, fashion_convnet(), CrossEntropyLossFlat(), adam, metrics=fastai_accuracy, cbs=Tick())
    learner.recorder.train_metrics = True
    with learner.no_bar(), learner.no_logging():
        learner.fit(work.epochs, 1e-3)
    return {"accuracy": learner.recorder.values[-1][-1]}


def skorch(work: Work) -> dict[str, Any]:
    """Over float32 arrays in memory, with the accuracy of training."""
    import torch
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback, EpochScoring

    tick = stopwatch(work)

    class Tick(Callback):
        def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **rest: Any) -> None:
            if training:
                tick(len(batch[1]))

    torch.manual_seed(work.seed)
    x, y, test_x, test_y = arrays(work)
    x, test_x = (a[:, None].astype("float32") / 255 for a in (x, test_x))
    net = NeuralNetClassifier(
        fashion_convnet(),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        batch_size=work.batch,
        max_epochs=work.epochs,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[EpochScoring("accuracy", lower_is_better=False, on_train=True, name="train_accuracy"), Tick()],
        device=work.device,
        verbose=0,
    )
    net.fit(x, y)
    return {"accuracy": float(net.score(test_x, test_y))}


def keras(work: Work, backend: str) -> dict[str, Any]:
    """compile and fit over float32 arrays in memory, with no progress bar.

    Its speed is taken by whole passes over 16,384 images: a callback at each step would slow it down.
    """
    os.environ["KERAS_BACKEND"] = backend
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    from keras import layers

    keras.utils.set_random_seed(work.seed)
    if work.precision == "bf16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    x, y, test_x, test_y = arrays(work)
    x, test_x = (a[..., None].astype("float32") / 255 for a in (x, test_x))
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, dtype="float32"),
        ]
    )
    assert model.count_params() == PARAMETERS
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    if work.mode == "speed":
        x, y = x[:16_384], y[:16_384]
    tick = stopwatch(work)
    after = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: tick(len(x)))
    model.fit(x, y, batch_size=work.batch, epochs=work.epochs, callbacks=[after], verbose=0)
    return {"accuracy": float(model.evaluate(test_x, test_y, batch_size=work.batch, verbose=0)[1])}


def gemm(work: Work) -> dict[str, Any]:
    """GFLOP/s of the best of many square matrix products: what this machine can do at most."""
    import torch

    size = 1024 if work.device == "cpu" else 8192

    def best(dtype: torch.dtype) -> float:
        a, b = (torch.randn(size, size, device=work.device).to(dtype) for _ in "ab")
        out, times, end = torch.empty_like(a), [], time.perf_counter() + min(1.5, work.seconds)
        while time.perf_counter() < end or len(times) < 5:
            synchronize(work)
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            synchronize(work)
            times.append(time.perf_counter() - start)
        return 2 * size**3 / min(times) / 1e9

    return {"size": size, "fp32": best(torch.float32), "bf16": best(torch.bfloat16)}


def about(work: Work) -> dict[str, Any]:
    """Versions, machine, and the training FLOPs of an image: of the whole one, and without its unused border."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def flops(side: int) -> float:
        network, counter = fashion_convnet(), FlopCounterMode(display=False)
        with counter:
            outputs = network(torch.zeros(1, 1, side, side))
            torch.nn.functional.cross_entropy(outputs, torch.zeros(1, dtype=torch.int64)).backward()
        return counter.get_total_flops() / 1e6

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    machine = torch.cuda.get_device_name() if work.device == "cuda" else _processor()
    facts = {"versions": versions, "machine": machine, "threads": torch.get_num_threads()}
    return facts | {"mflop": flops(28), "mflop_without_border": flops(26)}


def _processor() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return platform.processor()


LOOPS: dict[str, Callable[[Work], dict[str, Any]]] = {
    "seed": seed_loop,
    "bare": bare,
    "bare-graph": partial(bare, means="graph"),
    "bare-compiled": partial(bare, means="compile"),
    "lightning": lightning,
    "lightning-lean": partial(lightning, lean=True),
    "accelerate": accelerate,
    "fastai": fastai,
    "skorch": skorch,
    "keras-tensorflow": partial(keras, backend="tensorflow"),
    "keras-torch": partial(keras, backend="torch"),
    "keras-jax": partial(keras, backend="jax"),
    "gemm": gemm,
    "about": about,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("--mode", choices=("speed", "epoch", "target"), default="speed")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of bare and Keras")
    parser.add_argument("--data-dir", type=Path, required=True, help="holds FashionMNIST/raw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=4.0, help="to measure speed for, at least")
    parser.add_argument("--limit", type=int, help="use so many images only, to try this out")
    options = vars(parser.parse_args())
    loop = options.pop("loop")
    try:
        result = LOOPS[loop](Work(**options))
    except Done as done:
        result = done.result
    print("\n" + json.dumps({"loop": loop, "mode": options["mode"], "batch": options["batch"], **result}), flush=True)


if __name__ == "__main__":
    main()
