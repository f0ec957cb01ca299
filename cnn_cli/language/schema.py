"""JSON Schema (draft 7) of the spec language, from the tables that check a spec, for completion and checks in editors.

A schema cannot follow names: only `cnn check` knows which blocks, siblings and arguments exist, and which shapes fit.
"""

from cnn_cli.language.spec import DETECTOR, NETWORK_KEYS, ORIGINS, PARTS, SIZE
from cnn_cli.layers import JOINS, LAYERS, LayerType, Setting
from cnn_cli.settings import train_schema
from cnn_cli.values import Integer, Schema

_ARGUMENT: Schema = {"type": "string", "pattern": r"^\$"}
_VALUE: Schema = {"type": "string"}  # the name of a sibling, or the path of a value inside of one
_OUTPUTS: Schema = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
_POSITIVE: Schema = {
    "type": "array",
    "items": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e6},
    "minItems": 1,
}
_SCALE: Schema = {
    "type": "object",
    "properties": {
        **{output: {"type": ["string", "integer"]} for output in DETECTOR},
        "origin": {"enum": list(ORIGINS), "description": "point of a cell from which its boxes are measured"},
        "anchors": {
            "type": "object",
            "properties": dict.fromkeys(("sizes", "ratios"), _POSITIVE),
            "required": ["sizes", "ratios"],
            "additionalProperties": False,
            "description": "anchors of the boxes: sizes in pixels, ratios of height to width",
        },
    },
    "required": ["scores", "boxes"],
    "additionalProperties": False,
}
_CENTERNESS_OF_ALL: Schema = {"items": {"required": ["centerness"]}}
_CENTERNESS_OF_NONE: Schema = {"items": {"not": {"required": ["centerness"]}}}
_SCALES: Schema = {
    "type": "array",
    "items": _SCALE,
    "minItems": 1,
    "anyOf": [_CENTERNESS_OF_ALL, _CENTERNESS_OF_NONE],
}
_PART: Schema = {"$ref": "#/definitions/part"}


def spec_schema() -> Schema:
    """The schema of a file of networks."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Networks of cnn",
        "type": "object",
        "properties": {"blocks": {"$ref": "#/definitions/blocks"}},
        "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
        "additionalProperties": {"$ref": "#/definitions/network"},
        "definitions": {
            "network": _network(),
            "blocks": _mapping({"$ref": "#/definitions/block"}, "^[A-Z]", "reusable blocks, used like layers"),
            "block": _block(),
            "args": _mapping({}, "^[a-z_][a-z0-9_]*$", "arguments and their values; $name refers to one"),
            "part": _part(),
        },
    }


def _network() -> Schema:
    size = SIZE.schema()
    properties: dict[str, Schema] = {
        "description": {"type": ["string", "null"]},
        "reference": {"type": ["string", "null"], "description": "where the architecture comes from"},
        "input": {
            "type": "array",
            "items": size,
            "minItems": 2,
            "maxItems": 3,
            "description": "[channels, height, width], or [channels, length] for layers such as Conv1d",
        },
        "args": {"$ref": "#/definitions/args"},
        "blocks": {"$ref": "#/definitions/blocks"},
        "layers": _PART,
        "outputs": {"anyOf": [_mapping({"type": "number", "minimum": 0}, "", "auxiliary outputs"), _OUTPUTS]}
        | {
            "description": "outputs and their weights in the loss, main first; or a list of outputs of any shapes",
        },
        "detects": {"anyOf": [_SCALE, _SCALES]}
        | {"description": "the score and box outputs of a detector, or a list of such pairs"},
        "train": {"anyOf": [train_schema(), {"type": "null"}]},
        "recipes": _mapping(train_schema(), "^[a-z][a-z0-9_-]*$", "named alternatives to train, which override it"),
    }
    assert set(properties) == set(NETWORK_KEYS)
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "required": ["input", "layers"],
    }


def _block() -> Schema:
    properties = {"args": {"$ref": "#/definitions/args"}, "layers": _PART}
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": ["layers"]}


def _mapping(values: Schema, names: str, description: str) -> Schema:
    named = {"propertyNames": {"pattern": names}} if names else {}
    return {"type": ["object", "null"], "additionalProperties": values, "description": description, **named}


def _part() -> Schema:
    """A layer, a list of parts, or named parts. A capitalized key that is not a layer may be a block, or a child."""
    bare = [name for name, layer in LAYERS.items() if not layer.required]
    own: dict[str, Schema] = {
        "from": {
            "anyOf": [_VALUE, {"type": "array", "items": _VALUE, "minItems": 2}],
            "description": "the sibling whose output is the input, or `sibling.path`; `input` is the mapping's input",
        },
        "repeat": _or_argument(Integer(0, 1000).schema()),
        "layers": _PART,
    }
    mapping: Schema = {
        "type": "object",
        "properties": own | {name: _layer(layer) for name, layer in (LAYERS | JOINS).items()},
        "patternProperties": {"^[A-Z]": {}},
        "propertyNames": {"not": {"enum": [*_misspelt(), *PARTS]}},
        "additionalProperties": _PART,
        "minProperties": 1,
    }
    network: Schema = {
        "type": "object",
        "properties": {
            "Network": {"type": "string", "description": "another network as a part"},
            "until": {"type": "string", "description": "its last value; later layers are left out"},
            "args": {"type": "object", "description": "arguments of that network"},
            **{key: own[key] for key in ("from", "repeat")},
        },
        "required": ["Network"],
        "additionalProperties": False,
    }
    again: Schema = {
        "type": "object",
        "properties": {
            "Again": _VALUE | {"description": "the earlier sibling, a layer or group, to use again with its weights"},
            **{key: own[key] for key in ("from", "repeat")},
        },
        "required": ["Again"],
        "additionalProperties": False,
    }
    incomplete = [name for name, layer in (LAYERS | JOINS).items() if layer.required or layer.joins]
    names: Schema = {"type": "string", "pattern": r"^[A-Z]\w*$", "not": {"enum": _misspelt() + incomplete}}
    return {"anyOf": [{"enum": bare}, names, _ARGUMENT, {"type": "array", "items": _PART}, network, again, mapping]}


def _layer(layer: LayerType) -> Schema:
    """What may follow the colon of a layer: nothing, the first setting alone, or settings by name."""
    description = {"description": f"{layer.module}.{layer.name}"}
    if layer.joins:
        number = "takes a number" in layer.traits
        operand = {"anyOf": [_VALUE, {"type": "number" if number else "integer"}]}  # children 0, 1, … by number
        siblings = {"type": "array", "items": operand, "minItems": 2}
        return ({"anyOf": [siblings, {"type": "number"}, _ARGUMENT]} if number else siblings) | description
    properties = {name: _setting(s) for name, s in layer.settings.items()}
    named: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    required = list(layer.required)
    forms = [named | ({"required": required} if required else {})]
    if layer.first is not None and set(required) <= {layer.first}:
        forms.append(_setting(layer.settings[layer.first]))
    if not required:
        forms.append({"type": "null"})
    return {"anyOf": forms} | description


def _setting(setting: Setting) -> Schema:
    description = {"description": "inferred from the input"} if setting.inferred else {}
    value = setting.kind.schema()
    return _or_argument({"anyOf": [value, _VALUE]} if setting.sibling else value) | description


def _or_argument(of: Schema) -> Schema:
    """The same, or `$name` or `${arithmetic}` in its place or in place of any item of a list."""
    if "anyOf" in of:
        return {"anyOf": [*(_inside(option) for option in of["anyOf"]), _ARGUMENT]}
    return {"anyOf": [_inside(of), _ARGUMENT]}


def _inside(of: Schema) -> Schema:
    if of.get("type") == "array":
        return of | {"items": _or_argument(of["items"])}
    return _or_argument(of) if "anyOf" in of else of


def _misspelt() -> list[str]:
    """Common misspellings of layers: Relu, Conv2D."""
    forms = {form for name in LAYERS for form in (name.capitalize(), name.upper(), name.replace("d", "D"))}
    return sorted(forms - set(LAYERS))
