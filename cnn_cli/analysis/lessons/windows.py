"""Lessons of layers with windows: convolution, transposed convolution, pooling, padding and upsampling."""

from math import floor

from cnn_cli.analysis.lessons.base import Lesson, Make, alike, symbols, times
from cnn_cli.analysis.taps import fold_windows, windows
from cnn_cli.language.plan import Layer
from cnn_cli.layers import Shape, sizes
from cnn_cli.layers.formulas import transposed


def _windows(layer: Layer) -> list[tuple[int, int, int, int, int, int]]:
    """(arriving, kernel, stride, padding before, dilation, leaving) along each axis."""
    s, arrives = layer.settings, layer.input_shape
    dilation = s.get("dilation", (1,) * len(s["kernel_size"]))
    taps = windows(s, arrives)
    rows = zip(arrives[1:], s["kernel_size"], taps, dilation, layer.output_shape[1:], strict=True)
    return [(n, k, t.step, -t.phases[0][0], d, o) for n, k, t, d, o in rows]


def _window_size(layer: Layer) -> tuple[str, ...]:
    if layer.settings.get("padding") == "same":
        kept = alike([f"{n} + {d}·({k} − 1) − {d}·({k} − 1) = {o}" for n, k, _, _, d, o in _windows(layer)])
        return ("n + d·(k − 1) − d·(k − 1)    padding: same adds what the window takes away", *kept)
    ceil = layer.settings.get("ceil_mode", False)
    left, right = "⌈⌉" if ceil else "⌊⌋"
    lines = []
    for n, k, s, p, d, o in _windows(layer):
        steps = n + 2 * p - d * (k - 1) - 1
        dropped = " − 1" if (-(-steps // s) if ceil else steps // s) + 1 != o else ""
        lines.append(f"{left}({n} + 2·{p} − {d}·({k} − 1) − 1)/{s}{right} + 1{dropped} = {o}")
    general = f"{left}(n + 2·p − d·(k − 1) − 1)/s{right} + 1"
    same = {(n, k, s, p, d) for n, k, s, p, d, _ in _windows(layer)}
    meaning = symbols("n kernel.k stride.s padding.p dilation.d", same)
    reason = (
        ("− 1: a last window would begin in the padding behind",) if any(" − 1 = " in line for line in lines) else ()
    )
    return (general, meaning, *alike(lines), *reason)


def _convolution(layer: Layer) -> Lesson:
    s, arrives, out = layer.settings, layer.input_shape, layer.output_shape
    kernel, groups = s["kernel_size"], s["groups"]
    inside = s["in_channels"] // groups
    per = times(*kernel, inside)
    span = f"a {sizes(kernel)} window"
    if groups == 1:
        what = f"Each of the {out[0]} output channels is a weighted sum over {span} of {_channels(arrives[0])}"
    elif inside == 1:
        what = f"Depthwise: {span} over each of the {arrives[0]} channels by itself"
    else:
        what = f"In {groups} groups: each output is a weighted sum over {span} of {inside} of {arrives[0]} channels"
    what += (", plus a bias" if s["bias"] else "") + f", at {times(*out[1:])} places."
    if max(s["dilation"]) > 1:
        wide = tuple(d * (k - 1) + 1 for k, d in zip(kernel, s["dilation"], strict=True))
        what += f" Its taps are {sizes(s['dilation'])} apart, so that it spans {sizes(wide)}."
    return Lesson(
        what,
        _window_size(layer),
        _conv_parameters(layer, kernel, inside, out[0]),
        (
            "places · kernel · input channels" + (" / groups" if groups > 1 else "") + " · output channels",
            f"{times(*out[1:])} · {per} · {out[0]} = {layer.macs:,}",
        ),
    )


def _channels(count: int) -> str:
    return f"all {count} channels" if count > 1 else "the one channel"


def _conv_parameters(layer: Layer, kernel: Shape, inside: int, outside: int) -> tuple[str, ...]:
    s = layer.settings
    per, groups = times(*kernel, inside), " / groups" if s["groups"] > 1 else ""
    if s["bias"]:
        return (
            f"(kernel · input channels{groups} + 1 bias) · output channels",
            f"({per} + 1) · {outside} = {layer.params:,}",
        )
    return f"kernel · input channels{groups} · output channels", f"{per} · {outside} = {layer.params:,}"


def _transposed(layer: Layer) -> Lesson:
    s, arrives, out = layer.settings, layer.input_shape, layer.output_shape
    kernel, groups = s["kernel_size"], s["groups"]
    axes = zip(arrives[1:], kernel, s["stride"], s["padding"], s["dilation"], s["output_padding"], strict=True)
    rows = list(axes)
    lines = [
        f"({n} − 1)·{st} − 2·{p} + {d}·({k} − 1) + {e} + 1 = {transposed(n, k, st, p, d, e)}"
        for n, k, st, p, d, e in rows
    ]
    return Lesson(
        f"The way back of a convolution: each arriving value times a {sizes(kernel)} kernel is added to the "
        f"output, {sizes(s['stride'])} apart. So it enlarges by its stride.",
        (
            "(n − 1)·s − 2·p + d·(k − 1) + e + 1",
            symbols("n kernel.k stride.s padding.p dilation.d output_padding.e", set(rows)),
            *alike(lines),
        ),
        _conv_parameters(layer, kernel, s["in_channels"] // groups, out[0]),
        (
            "arriving places · kernel · input channels · output channels" + (" / groups" if groups > 1 else ""),
            f"{times(*arrives[1:])} · {times(*kernel)} · {arrives[0]} · {out[0] // groups} = {layer.macs:,}",
        ),
    )


def _pooling(verb: str) -> Make:
    def make(layer: Layer) -> Lesson:
        kernel = layer.settings["kernel_size"]
        what = f"{verb} each {sizes(kernel)} window, in every channel by itself. No parameters."
        if layer.settings["stride"] is None:
            what += f" The stride is the kernel, {sizes(kernel)}, since none is written."
        return Lesson(what, _window_size(layer))

    return make


def _adaptive(verb: str) -> Make:
    def make(layer: Layer) -> Lesson:
        lines = []
        for n, o in zip(layer.input_shape[1:], layer.output_shape[1:], strict=True):
            if n == o:
                lines.append(f"{n} arrive and {o} come out: here it changes nothing")
            elif o == 1:
                lines.append(f"output 0 covers all {n}")
            elif n % o == 0:
                lines.append(f"{n}/{o} = {n // o}: output i covers {n // o} from {n // o}·i on")
            else:
                lines.append(
                    f"⌊i·{n}/{o}⌋ to before ⌈(i + 1)·{n}/{o}⌉: output 0 covers {-(-n // o)}, and windows overlap"
                )
        out = sizes(layer.output_shape[1:])
        return Lesson(
            f"{verb} of as many windows as are asked for: {out} come out, whatever arrives. No parameters.",
            ("output i covers ⌊i·n/o⌋ to before ⌈(i + 1)·n/o⌉", "n arrive, o come out", *alike(lines)),
        )

    return make


def _padding(what: str) -> Make:
    def make(layer: Layer) -> Lesson:
        pads = layer.settings["padding"]
        pairs = [pads[i : i + 2] for i in range(0, len(pads), 2)][::-1]  # PyTorch lists the last axis first
        axes = zip(layer.input_shape[1:], pairs, layer.output_shape[1:], strict=True)
        return Lesson(
            f"Sets {what} around what arrives. No parameters.",
            ("before + n + after", *alike([f"{a} + {n} + {b} = {o}" for n, (a, b), o in axes])),
        )

    return make


def _upsample(layer: Layer) -> Lesson:
    s = layer.settings
    mode = s.get("mode") or ("nearest" if "Nearest" in layer.type else "bilinear")
    factors = s["scale_factor"] or ()
    how = "copies the nearest value" if mode.startswith("nearest") else f"mixes neighbours ({mode})"
    lines = [f"⌊{n}·{f:g}⌋ = {floor(n * f)}" for n, f in zip(layer.input_shape[1:], factors, strict=False)]
    return Lesson(
        f"Enlarges: each output {how}. No parameters.",
        ("⌊n·scale_factor⌋", *alike(lines))
        if lines
        else (f"any size becomes {sizes(layer.output_shape[1:])}, as written",),
    )


def _unfold(layer: Layer) -> Lesson:
    taps = fold_windows(layer.settings, layer.input_shape)
    places = [
        (n - 2 * t.phases[0][0] - (t.phases[0][-1] - t.phases[0][0]) - 1) // t.step + 1
        for n, t in zip(layer.input_shape[1:], taps, strict=True)
    ]
    c, kernel = layer.input_shape[0], layer.settings["kernel_size"]
    return Lesson(
        "Writes out every window as a column.",
        (
            f"{times(c, *kernel)} = {layer.output_shape[0]} values in a window",
            f"{times(*places)} = {layer.output_shape[1]} windows",
        ),
    )


def _fold(layer: Layer) -> Lesson:
    kernel = layer.settings["kernel_size"]
    return Lesson(
        "Puts every column back as a window, and adds where windows overlap.",
        (f"channels {layer.input_shape[0]}/({times(*kernel)}) = {layer.output_shape[0]}",),
    )


_PADS = {
    "Zero": "zeros",
    "Constant": "a constant",
    "Reflection": "a mirror image",
    "Replication": "copies of the border",
    "Circular": "the opposite side",
}
WINDOWS: dict[str, Make] = {
    **{f"{name}Pad{n}d": _padding(text) for name, text in _PADS.items() for n in (1, 2)},
    **{f"Conv{n}d": _convolution for n in (1, 2)},
    **{f"ConvTranspose{n}d": _transposed for n in (1, 2)},
    **{f"MaxPool{n}d": _pooling("The largest value of") for n in (1, 2)},
    **{f"AvgPool{n}d": _pooling("The mean of") for n in (1, 2)},
    "LPPool2d": _pooling("The root of summed powers of"),
    **{f"AdaptiveAvgPool{n}d": _adaptive("The means") for n in (1, 2)},
    **{f"AdaptiveMaxPool{n}d": _adaptive("The largest values") for n in (1, 2)},
    **dict.fromkeys(("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d"), _upsample),
    "Unfold": _unfold,
    "Fold": _fold,
}
