"""`cnn attack`."""

from dataclasses import dataclass
from typing import Any

from cnn_cli.cli.app import command
from cnn_cli.cli.options import SEED, Data, Format, Images, Network, Picture, Spec, Weights, option
from cnn_cli.cli.output import note_weights
from cnn_cli.errors import UsageError

_EPSILON_HELP = (
    "Maximum norms of the perturbation, for pixels in [0, 1], such as 0.03 or 4/255,8/255 "
    "[linf: 0.1, color 8/255; l2: 1.5, color 0.5]."
)


@dataclass(frozen=True)
class Attack:
    """Options of the attack."""

    method: str = option("Attack", "NAME", "Method: pgd or fgsm.", default="pgd")
    norm: str = option("Attack", "NAME", "Norm of the perturbation: linf or l2.", default="linf")
    epsilon: list[str] | None = option("Attack", "E,…", _EPSILON_HELP)
    steps: int | None = option("Attack", "N", "Number of PGD steps [10].")
    step_size: float | None = option("Attack", "E", "PGD step size [2.5 epsilon / steps].")
    target: str | None = option("Attack", "NAME|INDEX", "Target class [untargeted].")
    limit: int | None = option("Data", "N", "Number of random images to attack, from the split [all].")
    seed: int = SEED


@command("attack")
def attack_command(
    network: Network,
    images: Images,
    options: Attack,
    spec: Spec,
    data: Data,
    weights: Weights,
    picture: Picture,
    format: Format,
) -> None:
    """Generate adversarial examples (FGSM, PGD).

    Given images, draws their adversarial examples; given a whole --split, plots accuracy against epsilon.
    """
    from cnn_cli.interpret.adversarial import AttackRequest, parse_epsilons, read_split, show_attack, show_robustness
    from cnn_cli.interpret.pictured import Pictured

    named = bool(images.images or images.index)
    if not named and images.split is None:
        raise UsageError(
            "name images, choose some of the data set with --index 0, or attack a whole split: --split test"
        )
    if named and options.limit is not None:
        raise UsageError("--limit is for a whole split; leave it out, or leave out the images")
    format.check()
    loaded = weights.load(network, spec)
    request = AttackRequest(
        options.method,
        options.norm,
        options.steps,
        options.step_size,
        options.target,
        options.seed,
        parse_epsilons(options.epsilon or ()),
    )
    device = weights.torch_device
    result: Pictured[Any]
    if named:
        result = show_attack(loaded, images.load(loaded, data), request, picture.target, device)
    else:
        split = images.split or "test"
        dataset = read_split(loaded, split, data.data, data.data_dir, options.limit, options.seed)
        result = show_robustness(loaded, dataset, split, request, picture.target, device)
    note_weights(network, loaded)
    format.emit(result)
    picture.preview(result.path, result.body)
