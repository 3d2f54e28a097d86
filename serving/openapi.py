"""The OpenAPI document of the data plane, written down: the routes build no models it could come from."""

from collections.abc import Iterable, Mapping
from typing import Any

from mantlet import __version__
from mantlet.attribution import METHODS
from serving.api_v2 import BINARY, DTYPES, MAX_TEXT
from serving.explaining import PROXIED
from serving.latents import LARGEST_SEED
from serving.settings import Settings

Json = dict[str, Any]
JSON = "application/json"
BYTES: Json = {"schema": {"type": "string", "format": "binary"}}
RETRY: Json = {
    "headers": {
        "Retry-After": {
            "description": "Seconds to wait.",
            "required": True,
            "schema": {"type": "integer", "minimum": 1},
        }
    }
}
REFUSALS: dict[int, Json] = {
    400: {"description": "Malformed JSON, tensor, shape, type or value."},
    401: {"description": "No key, or one that is unknown or revoked."},
    403: {"description": "The client is denied."},
    404: {"description": "No such model or version."},
    405: {"description": "The path takes another method."},
    408: {"description": "The body took too long to arrive."},
    413: {"description": "Too many bytes or rows."},
    415: {"description": "A media type that is not taken."},
    429: {"description": "A rate or budget is used up."} | RETRY,
    503: {"description": "Overloaded, not loaded yet, or closed because a part failed."} | RETRY,
    504: {"description": "The model took too long."},
}
ASKS = tuple(REFUSALS)
LOOKS = (401, 403, 404, 405, 503)
HEALTH = (405,)


def document(settings: Settings, versions: Iterable[str] = ()) -> Json:
    """OpenAPI 3.1 of the models of the config; ``versions`` are those of the models that are loaded."""
    keys: list[Json] = [] if settings.identity.open else [{"bearer": []}, {"header": []}]
    model = _in_path("model", sorted(settings.models))
    version = _in_path("version", sorted(set(versions)))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mantlet", "version": __version__},
        "paths": _paths(model, version, keys),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _in_path(name: str, values: list[str]) -> Json:
    schema = {"enum": values} if values else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _paths(model: Json, version: Json, keys: list[Json]) -> Json:
    predict = _post("Predict", "Predictions", PREDICT_BODY, "application/x-npy")
    generate = _post("Generate", "Pictures", GENERATE_BODY, *AS_PICTURES)
    translate = _post("Translate", "Pictures", PREDICT_BODY, *AS_PICTURES)
    explain = _post("Explain", "Explanations", EXPLAIN_BODY, "application/x-npy", "image/png")
    infer = _post("Infer", "InferResponse", INFER_BODY, BINARY)
    metadata = _get("Metadata of a model", "ModelMetadata", LOOKS)
    ready = _get("Readiness of a model", "ModelReady", (404, *HEALTH), _not("ModelReady"))
    status = _get("Status of a model", "ModelReady", (404, *HEALTH), _not("ModelReady"))
    server_ready = _get("Readiness", "Ready", HEALTH, _not("Ready"))
    keyed = {"parameters": [model], "security": keys}
    of_version = {"parameters": [model, version], "security": keys}
    for_all = {"parameters": [model], "security": []}
    return {
        "/": {"get": _get("Alive", "Alive", HEALTH)},
        "/v1/models": {"get": _get("Models", "Models", HEALTH)},
        "/v1/models/{model}": {"get": status | for_all},
        "/v1/models/{model}:predict": {"post": predict | keyed},
        "/v1/models/{model}:generate": {"post": generate | keyed},
        "/v1/models/{model}:translate": {"post": translate | keyed},
        "/v1/models/{model}:explain": {
            "post": explain | keyed | {"parameters": [model, *EXPLAIN_OPTIONS]}
        },
        "/v2": {"get": _get("Server", "Server", HEALTH)},
        "/v2/health/live": {"get": _get("Liveness", "Live", HEALTH)},
        "/v2/health/ready": {"get": server_ready},
        "/v2/models/{model}": {"get": metadata | keyed},
        "/v2/models/{model}/ready": {"get": ready | for_all},
        "/v2/models/{model}/infer": {"post": _binary(infer | keyed)},
        "/v2/models/{model}/versions/{version}": {"get": metadata | of_version},
        "/v2/models/{model}/versions/{version}/ready": {
            "get": ready | of_version | {"security": []}
        },
        "/v2/models/{model}/versions/{version}/infer": {"post": _binary(infer | of_version)},
    }


def _binary(operation: Json) -> Json:
    """An operation that takes binary tensors behind its JSON."""
    return operation | {"parameters": [*operation["parameters"], HEADER_LENGTH]}


def _get(
    summary: str, schema: str, refusals: tuple[int, ...], others: Mapping[str, Json] | None = None
) -> Json:
    good = {"description": "The answer.", "content": {JSON: _ref(schema)}}
    responses = {"200": good, **_refused(refusals), **(others or {})}
    return {"summary": summary, "parameters": [], "responses": responses, "security": []}


def _post(summary: str, schema: str, body: Json, *others: str) -> Json:
    answer = {JSON: _ref(schema)} | dict.fromkeys(others, BYTES)
    responses = {"200": {"description": "The answer.", "content": answer}, **_refused(ASKS)}
    return {"summary": summary, "requestBody": body, "responses": responses}


def _refused(codes: tuple[int, ...]) -> dict[str, Json]:
    return {str(code): REFUSALS[code] | {"content": {JSON: _ref("Error")}} for code in codes}


def _not(schema: str) -> dict[str, Json]:
    return {"503": {"description": "Not ready.", "content": {JSON: _ref(schema)}} | RETRY}


def _ref(schema: str) -> Json:
    return {"schema": {"$ref": f"#/components/schemas/{schema}"}}


def _object(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Json, **bounds: int) -> Json:
    return {"type": "array", "items": items, **bounds}


PREDICT_BODY: Json = {
    "required": True,
    "content": {
        JSON: _ref("Instances"),
        "application/x-npy": BYTES,
        "image/png": BYTES,
        "image/jpeg": BYTES,
    },
}
EXPLAIN_BODY: Json = {
    "required": True,
    "content": PREDICT_BODY["content"] | {JSON: _ref("ExplainRequest")},
}
EXPLAIN_OPTIONS: list[Json] = [
    {"name": "method", "in": "query", "schema": {"enum": [*METHODS, PROXIED]}},
    {"name": "class", "in": "query", "schema": {"type": "integer", "minimum": 0}},
]
GENERATE_BODY: Json = {
    "required": False,
    "content": {JSON: _ref("Wish"), "application/x-npy": BYTES},
}
AS_PICTURES = ("application/x-npy", "image/png", "application/zip")
INFER_BODY: Json = {"required": True, "content": {JSON: _ref("InferRequest"), BINARY: BYTES}}
HEADER_LENGTH: Json = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of JSON before the binary tensors.",
    "schema": {"type": "integer", "minimum": 0},
}
TEXT: Json = {"type": "string"}
FLAG: Json = {"type": "boolean"}
WHOLE: Json = {"type": "integer"}
PARAMETERS: Json = {"type": "object"}
TENSOR = _object(["name", "datatype", "shape"], name=TEXT, datatype=TEXT, shape=_list(WHOLE))
SCHEMAS: Json = {
    "Error": _object(["error"], error=TEXT),
    "Alive": _object(["status"], status={"const": "alive"}),
    "Models": _object(["models"], models=_list(TEXT)),
    "Numbers": {
        "description": "Numbers, flat or nested to the model's shape; see its metadata.",
        "type": "array",
        "items": {"anyOf": [{"type": "number"}, {"$ref": "#/components/schemas/Numbers"}]},
    },
    "Instances": _object(
        ["instances"], instances=_list({"$ref": "#/components/schemas/Numbers"}, minItems=1)
    ),
    "ExplainRequest": _object(
        ["instances"],
        instances=_list({"$ref": "#/components/schemas/Numbers"}, minItems=1),
        method={"enum": [*METHODS, PROXIED]},
        **{"class": WHOLE | {"minimum": 0}},
        classes=_list(WHOLE | {"minimum": 0}),
    ),
    "Explanations": _object(
        ["explanations", "predictions"],
        explanations=_list({"$ref": "#/components/schemas/Numbers"}),
        predictions=_list({"anyOf": [_list({"type": "number"}), WHOLE]}),
    ),
    "Predictions": _object(
        ["predictions"], predictions=_list({"anyOf": [_list({"type": "number"}), WHOLE]})
    ),
    "Wish": _object(
        [],
        n=WHOLE | {"minimum": 1, "description": "How many pictures."},
        seed=WHOLE | {"minimum": 0, "maximum": LARGEST_SEED},
        latents=_list({"$ref": "#/components/schemas/Numbers"}, minItems=1),
    ),
    "Pictures": _object(
        ["predictions"], predictions=_list({"$ref": "#/components/schemas/Numbers"}), seed=WHOLE
    ),
    "Server": _object(
        ["name", "version", "extensions"], name=TEXT, version=TEXT, extensions=_list(TEXT)
    ),
    "Live": _object(["live"], live=FLAG),
    "Ready": _object(["ready"], ready=FLAG),
    "ModelReady": _object(["name", "ready"], name=TEXT, ready=FLAG),
    "ModelMetadata": _object(
        ["name", "platform", "inputs", "outputs"],
        name=TEXT,
        versions=_list(TEXT),
        platform=TEXT,
        inputs=_list(TENSOR),
        outputs=_list(TENSOR),
        parameters=PARAMETERS,
    ),
    "InferRequest": _object(
        ["inputs"],
        id=TEXT | {"maxLength": MAX_TEXT},
        parameters=PARAMETERS,
        inputs=_list(
            _object(
                ["name", "shape", "datatype"],
                name=TEXT,
                shape=_list(WHOLE | {"minimum": 1}, minItems=1),
                datatype={"enum": sorted(DTYPES)},
                parameters=PARAMETERS,
                data={"$ref": "#/components/schemas/Numbers"},
            ),
            minItems=1,
            maxItems=1,
        ),
        outputs=_list(_object(["name"], name=TEXT, parameters=PARAMETERS)),
    ),
    "InferResponse": _object(
        ["model_name", "model_version", "outputs"],
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        outputs=_list(
            _object(
                ["name", "shape", "datatype", "data"],
                name=TEXT,
                shape=_list(WHOLE),
                datatype=TEXT,
                data=_list({"type": "number"}),
            )
        ),
    ),
}
