"""The page's JavaScript beside PyTorch on real images: `python tests/benchmarks/page.py fashion-mnist [NETWORK…]`;
how fast a page redraws: `python tests/benchmarks/page.py --redraw PAGE.html`.

Without networks: 1,000 test images through every network of less than a million parameters, and 10 through twenty large
ones. A line per network: the largest difference of its outputs relative to the largest output, how many images get the
same class, and milliseconds per image; for a network whose page has weights of 16 bits, PyTorch uses these, and the
first two figures follow once more for weights of 32 bits. `--browser` computes in Chromium instead of V8 alone.

`--redraw` draws strokes on the pad of a page or, where it takes colors, chooses images of its gallery. It prints the
fastest and the median of 40 redraws in milliseconds: until the prediction is there, and until all maps are.
"""

import argparse
import copy
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from page_engine import Engine, engine, fresh, load_page, relative

from cnn_cli.data.loading import load_dataset
from cnn_cli.data.preprocessing import Preprocessing, preprocess
from cnn_cli.language.registry import find

SMALL = (
    *("tiny-cnn", "large-net", "mnist-net", "block-cnn", "lenet-5", "unet", "detector", "fashion-convnet", "resnet20"),
    *("vgg-small", "convmixer-256-8", "densenet-bc-100", "resnet56", "nin"),
)
LARGE = (
    *("squeezenet1_1", "shufflenet_v2_x1_0", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"),
    *("efficientnet_b0", "efficientnet_b1", "regnet_x_400mf", "regnet_y_400mf", "regnet_y_800mf", "densenet121"),
    *(
        "densenet169",
        "googlenet",
        "inception_v3",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnext50_32x4d",
        "convnext_tiny",
    ),
)


class Browser:
    """Evaluates as the console of a page does, in Chromium without a window."""

    def __init__(self) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        for switch in ("--headless=new", "--no-sandbox", "--disable-gpu"):
            options.add_argument(switch)
        options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        self.driver.set_script_timeout(3600)
        self.driver.command_executor.client_config.timeout = 3600

    def eval(self, code: str) -> Any:
        answer = self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": code, "returnByValue": True})
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")


# Strokes are moves of the pointer, one at a time, each after the previous one is drawn.
_REDRAW = """
async (times) => {
  const pad = document.querySelector("#pad"), images = document.querySelectorAll(".thumbnail");
  const drawn = !document.querySelector("#draw").hidden, found = [];
  document.querySelector("#draw").open = drawn;
  const point = (kind, i) => {
    const box = pad.getBoundingClientRect();
    const place = { clientX: box.left + 60 + 4 * i, clientY: box.top + 60 + 30 * (i % 5), pointerId: 1 };
    pad.dispatchEvent(new PointerEvent(kind, place));
  };
  pad.setPointerCapture = () => {};
  const [show, finish] = [showPrediction, predict];
  for (let i = 0; i < times; i++) {
    let shown, done;
    const all = new Promise((resolve) => { done = resolve; });
    showPrediction = (...what) => { show(...what); shown ??= performance.now(); };
    predict = async (page) => { await finish(page); done(performance.now()); };
    const begin = performance.now();
    if (!drawn) images[(i + 1) % images.length].click();
    else point(i ? "pointermove" : "pointerdown", i);
    const end = await all;
    found.push([shown - begin, end - begin]);
  }
  return found;
}
"""


def redraw(page: Path, times: int = 40) -> str:
    browser = Browser()
    browser.driver.get(f"file://{page.resolve()}")
    while not browser.eval("document.body.dataset.ready || ''"):
        time.sleep(0.1)
    asked = {"expression": f"({_REDRAW})({times})", "returnByValue": True, "awaitPromise": True}
    found = browser.driver.execute_cdp_cmd("Runtime.evaluate", asked)["result"]["value"]
    browser.driver.quit()
    columns = [[row[i] for row in found[1:]] for i in (0, 1)]
    cells = [f"{figure(column):>9.1f}" for column in columns for figure in (min, statistics.median)]
    return f"{page.name:<22} {' '.join(cells)}"


def compare(name: str, images: torch.Tensor, javascript: Engine, batch: int) -> str:
    plan = find(name)
    module = fresh(plan)
    channels, height, width = plan.input
    pixels = preprocess(images, Preprocessing((channels, height, width)))
    half = javascript.open(plan, module)["half"]
    same_weights = copy.deepcopy(module).half().float() if half else module
    agreements = [Agreement(same_weights), *([Agreement(module)] if half else [])]
    browser = isinstance(javascript.context, Browser)
    clock, spent = time.monotonic if browser else time.process_time, 0.0
    for some in pixels.split(batch):
        x = some.float() / 255
        javascript.set("x", x)
        started = clock()
        javascript.context.eval("var ran = run(net, x); 0")
        spent += clock() - started
        ours = javascript.get("ran.output.data")
        for agreement in agreements:
            agreement.add(x, ours)
    first, *rounded = agreements
    text = f"{name:<22} {len(images):>6,} {first} {1000 * spent / len(images):>9.1f}"
    return text + "".join(f"  with weights of 32 bits: {agreement}" for agreement in rounded)


class Agreement:
    """How close the page's outputs are to those of a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.worst, self.same = module, 0.0, 0

    def add(self, x: torch.Tensor, ours: torch.Tensor) -> None:
        with torch.no_grad():
            theirs = self.module(x)
        theirs = next(iter(theirs.values())) if isinstance(theirs, dict) else theirs
        self.worst = max(self.worst, relative(ours, theirs))
        self.same += int((ours.view(theirs.shape).argmax(1) == theirs.argmax(1)).reshape(len(theirs), -1).all(1).sum())

    def __str__(self) -> str:
        return f"{self.worst:>9.1e} {self.same:>6,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", help="data set whose test images are taken")
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--redraw", type=Path, nargs="+", help="pages whose redraws are timed", metavar="PAGE")
    parser.add_argument("--images", type=int)
    parser.add_argument("--browser", action="store_true")
    options = parser.parse_args()
    if options.redraw:
        print(f"{'page':<22} {'shown':>9} {'median':>9} {'all':>9} {'median':>9}", flush=True)
        for page in options.redraw:
            print(redraw(page), flush=True)
        return
    images = load_dataset(options.data, options.data_dir).splits["test"].images
    javascript = Engine(Browser()) if options.browser else engine()
    if options.browser:
        load_page(javascript.context)
    print(f"{'network':<22} {'images':>6} {'error':>9} {'same':>6} {'ms/image':>9}", flush=True)
    for name in options.networks or (*SMALL, *LARGE):
        large = name not in SMALL
        count = options.images or (10 if large else 1000)
        print(compare(name, images[:count], javascript, 1 if large else 20), flush=True)


if __name__ == "__main__":
    main()
