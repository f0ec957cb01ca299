"""The page's JavaScript beside PyTorch on real images: `python tests/benchmarks/page.py fashion-mnist [NETWORK…]`.

Without networks: 1,000 test images through every network of less than a million parameters, and 10 through twenty large
ones. A line per network: the largest difference of its outputs relative to the largest output, how many images get the
same class, and milliseconds per image. `--browser` computes in Chromium instead of V8 alone.
"""

import argparse
import shutil
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


def compare(name: str, images: torch.Tensor, javascript: Engine, batch: int) -> str:
    plan = find(name)
    module = fresh(plan)
    channels, height, width = plan.input
    pixels = preprocess(images, Preprocessing((channels, height, width)))
    javascript.open(plan, module)
    worst, same, spent = 0.0, 0, 0.0
    for some in pixels.split(batch):
        x = some.float() / 255
        with torch.no_grad():
            theirs = module(x)
        theirs = next(iter(theirs.values())) if isinstance(theirs, dict) else theirs
        javascript.set("x", x)
        started = time.process_time() if not isinstance(javascript.context, Browser) else time.monotonic()
        javascript.context.eval("var ran = run(net, x); 0")
        spent += (time.process_time() if not isinstance(javascript.context, Browser) else time.monotonic()) - started
        ours = javascript.get("ran.output.data")
        worst = max(worst, relative(ours, theirs))
        same += int((ours.view(theirs.shape).argmax(1) == theirs.argmax(1)).reshape(len(theirs), -1).all(1).sum())
    return f"{name:<22} {len(images):>6,} {worst:>9.1e} {same:>6,} {1000 * spent / len(images):>9.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="data set whose test images are taken")
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--images", type=int)
    parser.add_argument("--browser", action="store_true")
    options = parser.parse_args()
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
