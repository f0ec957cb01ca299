"""Training settings that exclude each other."""

from collections.abc import Mapping
from typing import Any


def conflicts(values: Mapping[str, Any], epochs: float) -> dict[str, str]:
    """Why settings exclude each other, by the name of one of them. epochs: their default."""
    reasons = {}
    if values.get("nesterov") and values.get("momentum") == 0:
        reasons["nesterov"] = "nesterov needs a momentum above 0; write momentum 0.9"
    if values.get("warmup") and values.get("schedule") in ("onecycle", "triangular"):
        reasons["warmup"] = f"schedule {values['schedule']} has its own warm-up; leave out warmup"
    if values.get("balanced_sampling") and values.get("shuffle") is False:
        reasons["balanced_sampling"] = "balanced_sampling samples images at random; leave out --no-shuffle"
    epochs = values.get("epochs", epochs)
    if values.get("warmup", 0) >= epochs:
        reasons["warmup"] = f"warmup {values['warmup']:g} must be less than epochs {epochs:g}"
    if values.get("momentum") == 1 and values.get("optimizer") == "muon":
        reasons["momentum"] = "muon with momentum 1 ignores every gradient; write 0.95"
    if values.get("padding_mode", "constant") != "constant" and not values.get("shift"):
        reasons["padding_mode"] = "padding_mode applies only to shifted images; write shift 2, or leave it out"
    if values.get("ema") is not None and values.get("lookahead") is not None:
        reasons["lookahead"] = "ema and lookahead both average the weights; leave one out"
    if values.get("weights_partial") and not values.get("weights"):
        reasons["weights_partial"] = "weights_partial needs weights; write --weights SOURCE"
    if values.get("ema") == 1:
        reasons["ema"] = "with ema 1 the average never changes; write 0.999"
    return reasons
