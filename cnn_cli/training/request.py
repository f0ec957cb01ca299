"""A request to train, and the network and recipe that it names."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cnn_cli.checkpoints.checkpoint import load_network
from cnn_cli.checkpoints.run_folder import CONFIG, is_stored
from cnn_cli.data.catalog import DATASETS
from cnn_cli.errors import CnnError, UsageError, closest
from cnn_cli.language.plan import Plan
from cnn_cli.language.registry import find, plan_document
from cnn_cli.settings import BY_OPTIMIZER, SETTINGS, Setting, by_optimizer, resolve


@dataclass(frozen=True)
class Request:
    """`options`: the settings that were given, None for the others; `say` shows a note to the user.

    For a run to fine-tune or to repeat: `spec` is its network, as Plan.document(), and `settings` those to repeat,
    which override the spec's.
    """

    network: str
    options: Mapping[str, Any]
    data_dir: Path | None = None
    device: str = "auto"
    models: tuple[Path, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)
    input: tuple[int, ...] | None = None
    output: Path | None = None
    recipe: str = ""
    film: bool = False  # whether to keep the first convolution's filters of every epoch
    command: str = ""
    verbose: bool = False  # whether the header shows the settings at their defaults too
    threads: int | None = None  # of the CPU, in each process; None: as PyTorch chooses
    say: Callable[[str], None] = print
    announce: Callable[[str], object] = str  # shows the headline of the result before its pictures are drawn
    spec: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def plan(self) -> Plan:
        """The network's plan; UsageError for a run or checkpoint that is neither resumed nor fine-tuned."""
        return self._find(self.args)

    def _find(self, args: Mapping[str, Any]) -> Plan:
        if self.spec:
            return plan_document(self.spec, self.network, args, self.input)
        if is_stored(path := self.network):
            raise UsageError(
                f"{path} is a run or checkpoint; add --resume to resume a run, or --data NAME_OR_FOLDER to fine-tune "
                f"its weights, or name a network and add --weights {path}"
            )
        return find(self.network, models=self.models, args=args, input=self.input)

    def plan_for(self, classes: int) -> Plan:
        """The plan whose argument `classes` follows the data set, unless the user has set it."""
        plan = self.plan()
        if "classes" in self.args or plan.args.get("classes", classes) == classes:
            return plan
        return self._find({**self.args, "classes": classes})


def complete(request: Request) -> Request:
    """The request completed by its NETWORK if that is a run or checkpoint to fine-tune on the given data, or the
    config.yaml of a run to repeat; other requests unchanged."""
    path = Path(request.network)
    if request.spec:
        return request
    if path.name == CONFIG and path.is_file():
        return _repeat(request, path)
    if is_stored(request.network) and request.options.get("data") and not request.options.get("weights"):
        metadata = load_network(request.network).metadata
        if metadata is None:
            raise UsageError(f"{path} does not record its network; name one: cnn train NETWORK --weights {path}")
        return replace(request, spec=metadata.spec, options={**request.options, "weights": request.network})
    return request


def _repeat(request: Request, path: Path) -> Request:
    """The request to repeat a run. Settings from the initial weights, the spec or the defaults are determined again by
    these; options override the settings of the file."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text("utf-8"))
        settings = {name: s["value"] for name, s in config["settings"].items() if not _comes_again(name, s, config)}
        spec, data_dir, device = config["spec"], Path(config["data"]["folder"]), str(config["on"])
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise CnnError(f"{path} is not the {CONFIG} of a run, or is damaged ({type(error).__name__})") from None
    device = "cpu" if request.device == "auto" and device == "cpu" else request.device
    return replace(request, spec=spec, settings=settings, data_dir=request.data_dir or data_dir, device=device)


def _comes_again(name: str, setting: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a setting of config.yaml gets the same value without being repeated."""
    usual = SETTINGS[name].default if name in SETTINGS else None
    if name in BY_OPTIMIZER:
        usual = by_optimizer(name, config["settings"]["optimizer"]["value"])
    if setting["source"] == "spec":
        usual = config["spec"][config["network"]].get("train", {}).get(name)
    usual = list(usual) if isinstance(usual, tuple) else usual  # as YAML has it
    return setting["source"] == "weights" or (setting["source"] in ("spec", "default") and setting["value"] == usual)


def resolve_settings(request: Request, plan: Plan) -> dict[str, Setting]:
    """Every setting of the requested run; UsageError if the network has no recipe of that name."""
    name, recipe = request.recipe, plan.recipes.get(request.recipe, {})
    if name and not plan.recipes:
        raise UsageError(f"{plan.network} has no recipes; leave out --recipe")
    if name and name not in plan.recipes:
        known = ", ".join(plan.recipes)
        raise UsageError(f"{plan.network} has no recipe {name!r}.{closest(name, plan.recipes)} Its recipes: {known}")
    return resolve(request.options, os.environ, plan.train, {**request.settings, **recipe})


def chosen_annotations(settings: Mapping[str, Setting]) -> str | None:
    """Which annotations of the data to read. Those that a spec names are for its folder, not for a named data set."""
    value, source = settings["annotations"]
    return None if source in ("spec", "recipe") and settings["data"].value in DATASETS else value
