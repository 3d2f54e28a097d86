"""The OpenAPI document of the data plane, written down: the routes build no models it could come from."""

from functools import cache
from typing import Any

from mantlet import __version__
from serving.settings import Settings

Json = dict[str, Any]
NUMBERS: Json = {
    "description": "Numbers, flat or nested to the model's shape.",
    "type": "array",
    "items": {},
}
REFUSALS = {
    400: "Malformed JSON, tensor, shape, type or value.",
    401: "No key, or one that is unknown or revoked.",
    403: "The client is denied.",
    404: "No such model or version.",
    408: "The body took too long to arrive.",
    413: "Too many bytes or rows.",
    415: "A media type that is not taken.",
    429: "A rate or budget is used up; see Retry-After.",
    503: "Overloaded, not ready, or closed because a part failed; see Retry-After.",
    504: "The model took too long.",
}


def document(settings: Settings) -> Json:
    """OpenAPI 3.1 of the models in ``settings``."""
    return _document(tuple(sorted(settings.models)), settings.identity.open)


@cache
def _document(models: tuple[str, ...], is_open: bool) -> Json:
    keys: list[Json] = [] if is_open else [{"bearer": []}, {"header": []}]
    model = {"name": "model", "in": "path", "required": True, "schema": {"enum": list(models)}}
    version = {"name": "version", "in": "path", "required": True, "schema": {"enum": ["1"]}}
    infer = _operation("Infer", "#/components/schemas/InferResponse", keys, [model], _infer_body())
    metadata = _operation(
        "Metadata of a model", "#/components/schemas/ModelMetadata", keys, [model]
    )
    ready = _operation("Readiness of a model", "#/components/schemas/Ready", [], [model])
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mantlet", "version": __version__},
        "paths": {
            "/": {"get": _operation("Alive", "#/components/schemas/Alive", [], [])},
            "/v1/models": {"get": _operation("Models", "#/components/schemas/Models", [], [])},
            "/v1/models/{model}": {"get": ready | {"summary": "Status of a model"}},
            "/v1/models/{model}:predict": {
                "post": _operation(
                    "Predict", "#/components/schemas/Predictions", keys, [model], _predict_body()
                )
            },
            "/v2": {"get": _operation("Server", "#/components/schemas/Server", [], [])},
            "/v2/health/live": {"get": _operation("Liveness", "#/components/schemas/Live", [], [])},
            "/v2/health/ready": {
                "get": _operation("Readiness", "#/components/schemas/Ready", [], [])
            },
            "/v2/models/{model}": {"get": metadata},
            "/v2/models/{model}/ready": {"get": ready},
            "/v2/models/{model}/infer": {"post": infer},
            "/v2/models/{model}/versions/{version}": {
                "get": metadata | {"parameters": [model, version]}
            },
            "/v2/models/{model}/versions/{version}/ready": {
                "get": ready | {"parameters": [model, version]}
            },
            "/v2/models/{model}/versions/{version}/infer": {
                "post": infer | {"parameters": [model, version]}
            },
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _operation(
    summary: str, schema: str, keys: list[Json], parameters: list[Json], body: Json | None = None
) -> Json:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    refusals = {
        str(code): {"description": text, "content": error} for code, text in REFUSALS.items()
    }
    answer: Json = {"application/json": {"schema": {"$ref": schema}}}
    if schema.endswith("Predictions"):
        answer["application/x-npy"] = {"schema": {"type": "string", "format": "binary"}}
    if schema.endswith("InferResponse"):
        answer["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    if schema.endswith("Ready"):
        refusals["503"] = {"description": "Not ready.", "content": answer | {}}
    operation: Json = {
        "summary": summary,
        "parameters": parameters,
        "responses": {"200": {"description": "The answer.", "content": answer}, **refusals},
        "security": keys,
    }
    return operation | ({"requestBody": body} if body else {})


def _predict_body() -> Json:
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/Instances"}},
            "application/x-npy": binary,
            "image/png": binary,
            "image/jpeg": binary,
        },
    }


def _infer_body() -> Json:
    return {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}}},
    }


def _object(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Json, **bounds: int) -> Json:
    return {"type": "array", "items": items, **bounds}


TEXT: Json = {"type": "string"}
SHAPE = _list({"type": "integer"}, minItems=1)
PARAMETERS: Json = {"type": "object", "additionalProperties": True}
TENSOR_METADATA = _object(["name", "datatype", "shape"], name=TEXT, datatype=TEXT, shape=SHAPE)
SCHEMAS: Json = {
    "Error": _object(["error"], error=TEXT),
    "Models": _object(["models"], models=_list(TEXT)),
    "Instances": _object(["instances"], instances=NUMBERS | {"minItems": 1}),
    "Predictions": _object(
        ["predictions"],
        predictions=_list({"anyOf": [_list({"type": "number"}), {"type": "integer"}]}),
    ),
    "Server": _object(
        ["name", "version", "extensions"], name=TEXT, version=TEXT, extensions=_list(TEXT)
    ),
    "Alive": _object(["status"], status={"const": "alive"}),
    "Live": _object(["live"], live={"type": "boolean"}),
    "Ready": _object(["ready"], ready={"type": "boolean"}, name=TEXT),
    "ModelMetadata": _object(
        ["name", "platform", "inputs", "outputs"],
        name=TEXT,
        versions=_list(TEXT),
        platform=TEXT,
        inputs=_list(TENSOR_METADATA),
        outputs=_list(TENSOR_METADATA),
    ),
    "InferRequest": _object(
        ["inputs"],
        id=TEXT | {"maxLength": 1024},
        parameters=PARAMETERS,
        inputs=_list(
            _object(
                ["name", "shape", "datatype", "data"],
                name=TEXT,
                shape=SHAPE,
                datatype=TEXT,
                parameters=PARAMETERS,
                data=NUMBERS,
            ),
            minItems=1,
            maxItems=1,
        ),
        outputs=_list(_object(["name"], name=TEXT, parameters=PARAMETERS)),
    ),
    "InferResponse": _object(
        ["model_name", "outputs"],
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        outputs=_list(
            _object(
                ["name", "shape", "datatype", "data"],
                name=TEXT,
                shape=SHAPE,
                datatype=TEXT,
                data=_list({"type": "number"}),
            )
        ),
    ),
}
