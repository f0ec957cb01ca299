"""Random specs of the whole language, run by cnn_cli and by an independent interpreter in plain PyTorch.

    python tests/random_specs.py --count 100000 --seed 1

A spec is made piece by piece: what arrives is known, so that most settings fit; some do not, and a quarter of the
specs are changed at random afterwards. Both sides must accept or refuse alike, and agree in shapes, parameters,
state_dict(), weights and outputs, bit for bit. It prints what differs, and ends with 1 if anything does.
"""

import argparse
import copy
import random
import sys
import time
import warnings
from collections import Counter
from typing import Any

import torch
import yaml
from spec_differences import Difference, compare
from spec_writer import Writer

# changes at random

WORDS = [
    "input",
    "a",
    "0",
    "conv",
    "ReLU",
    "Conv2d",
    "same",
    "layers",
    "from",
    "$in_channels",
    "$w1",
    "${w0 * 2}",
    "x.y",
    "",
]


def change(r: random.Random, document: Any) -> None:
    """Change one place of a document at random."""
    places = [(holder, key) for holder, key in everywhere(document) if not (holder is document and key == "n")]
    holder, key = r.choice(places)
    value = holder[key]
    chance = r.random()
    if chance < 0.08 and isinstance(holder, dict):
        del holder[key]
    elif chance < 0.14 and isinstance(holder, dict):
        renamed = {(r.choice(WORDS[:12]) if k == key else k): v for k, v in holder.items()}
        holder.clear()
        holder.update(renamed)
    elif chance < 0.2 and isinstance(holder, dict):
        order = [*holder.items()]
        r.shuffle(order)
        holder.clear()
        holder.update(order)
    elif chance < 0.26 and isinstance(holder, list):
        r.choice(
            [lambda: holder.pop(key), lambda: holder.insert(key, copy.deepcopy(value)), lambda: r.shuffle(holder)]
        )()
    elif chance < 0.34:
        holder[key] = r.choice([None, True, False, [], {}, "text", 0, -1, 0.5, [value], {"ReLU": None}, str(value)])
    elif type(value) is int:
        holder[key] = r.choice([value + 1, value - 1, 0, -1, value * 2, 3, 7, 40])
    elif type(value) is float:
        holder[key] = r.choice([-value, 0, 0.0, value * 2, 3.0])
    elif isinstance(value, bool):
        holder[key] = not value
    elif isinstance(value, str):
        others = [h[k] for h, k in everywhere(document) if isinstance(h[k], str)]
        holder[key] = r.choice([*others, *WORDS, value + ".0", value.partition(".")[0]])
    else:
        parts = [h[k] for h, k in everywhere(document) if isinstance(h[k], dict | list)]
        holder[key] = copy.deepcopy(r.choice(parts))


def everywhere(node: Any) -> list[tuple[Any, Any]]:
    """All places of a document: holder and key."""
    keys = [*node] if isinstance(node, dict) else [*range(len(node))] if isinstance(node, list) else []
    return [place for key in keys for place in ((node, key), *everywhere(node[key]))]


def random_spec(seed: int) -> str:
    """The text of a file whose network `n` is to be compared."""
    r = random.Random(seed)
    writer = Writer(r)
    for name in ["body"] * (r.random() < 0.25) + ["n"]:
        torch.default_generator.manual_seed(0)  # torch.manual_seed asks every accelerator, which takes a while
        writer.network(name)
    document: dict[str, Any] = dict(writer.networks)
    used = {k: b if b["args"] else {"layers": b["layers"]} for k, b in writer.blocks.items()}
    if used and r.random() < 0.4 and "body" not in document:
        document["n"]["blocks"] = used
    elif used:
        document["blocks"] = used
    document = copy.deepcopy(document)
    if r.random() < 0.25:
        for _ in range(r.choice([1, 1, 2])):
            change(r, document)
    return yaml.dump(document, Dumper=DUMPER, default_flow_style=None, sort_keys=False, width=200)


class DUMPER(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="of the first spec; the others follow")
    parser.add_argument("--show", action="store_true", help="print the specs too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore")
    tally, differences, started = Counter[str](), 0, time.time()
    for n in range(options.count):
        seed = options.seed * 10_000_000 + n
        text = random_spec(seed)
        if options.show:
            print(f"# {seed}\n{text}")
        result = compare(text, seed)
        tally[result.outcome] += 1
        if isinstance(result, Difference):
            differences += 1
            print(f"== {seed}: {result.message}\n{text}", flush=True)
        if n % 1000 == 999:
            rate = (n + 1) / (time.time() - started)
            print(f"-- {n + 1:,} specs, {differences} differences, {rate:.0f}/s, {dict(tally)}", flush=True)
    print(f"{options.count:,} specs, {differences} differences; {dict(tally)}")
    sys.exit(differences > 0)


if __name__ == "__main__":
    main()
