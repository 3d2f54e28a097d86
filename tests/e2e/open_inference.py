"""What the published Open Inference Protocol (V2, REST) asks of responses, as JSON schemas."""

from typing import Any

import jsonschema

Schema = dict[str, Any]
DATATYPES = [
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip
TEXT: Schema = {"type": "string"}
PARAMETERS: Schema = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}


def _object(required: list[str], properties: Schema, **rest: Any) -> Schema:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
        **rest,
    }


METADATA_TENSOR = _object(
    ["name", "datatype", "shape"],
    {
        "name": TEXT,
        "datatype": {"enum": DATATYPES},
        # -1 stands for an axis of any length
        "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
    },
)
SERVER_METADATA = _object(
    ["name", "version", "extensions"],
    {"name": TEXT, "version": TEXT, "extensions": {"type": "array", "items": TEXT}},
)
MODEL_METADATA = _object(
    ["name", "platform", "inputs", "outputs"],
    {
        "name": TEXT,
        "versions": {"type": "array", "items": TEXT},
        "platform": TEXT,
        "inputs": {"type": "array", "items": METADATA_TENSOR},
        "outputs": {"type": "array", "items": METADATA_TENSOR},
        "parameters": PARAMETERS,  # not in the text of the protocol; in MLServer's schema of it
    },
)
LIVE = _object(["live"], {"live": {"type": "boolean"}})
READY = _object(["ready"], {"ready": {"type": "boolean"}})
MODEL_READY = _object(["name", "ready"], {"name": TEXT, "ready": {"type": "boolean"}})
SCALAR: Schema = {"type": ["number", "string", "boolean"]}
OUTPUT = _object(
    ["name", "shape", "datatype"],
    {
        "name": TEXT,
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"enum": DATATYPES},
        "parameters": PARAMETERS,
        "data": {"type": "array", "items": SCALAR},
    },
    # the values are in the JSON, or a size says how many bytes of the tail they take: one of both
    oneOf=[
        {"required": ["data"]},
        {
            "required": ["parameters"],
            "properties": {
                "parameters": {
                    "required": ["binary_data_size"],
                    "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
                }
            },
        },
    ],
)
INFERENCE = _object(
    ["model_name", "outputs"],
    {
        "model_name": TEXT,
        "model_version": TEXT,
        "id": TEXT,
        "parameters": PARAMETERS,
        "outputs": {"type": "array", "items": OUTPUT},
    },
)
ERROR = _object(["error"], {"error": TEXT})


def conforms(value: object, schema: Schema) -> None:
    """Raise when a response is not what the protocol says."""
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)
