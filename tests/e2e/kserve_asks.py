"""Run with KServe's environment: its REST client asks a gateway; prints what it got as JSON.

python kserve_asks.py URL KEY ROWS.npy
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def ask(url: str, key: str, rows: np.ndarray) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {key}"}
    said: dict[str, object] = {}
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as v2:
        said["live"] = await v2.is_server_live(url)
        said["ready"] = await v2.is_server_ready(url)
        said["model_ready"] = await v2.is_model_ready(url, "mnist")
        said["stranger_ready"] = await v2.is_model_ready(url, "nobody")
        for name, binary in (("json", False), ("binary", True)):
            tensor = InferInput("input", list(rows.shape), "FP32")
            tensor.set_data_from_numpy(rows, binary_data=binary)
            wishes = {"binary_data_output": binary}
            request = InferRequest("mnist", [tensor], request_id=name, parameters=wishes)
            answer = await v2.infer(url, request, model_name="mnist", headers=dict(headers))
            said[name] = answer.outputs[0].as_numpy().argmax(axis=1).tolist()
            said[f"{name}_id"] = answer.id
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as v1:
        said["v1_live"] = await v1.is_server_live(url)
        said["v1_model_ready"] = await v1.is_model_ready(url, "mnist")
        body = {"instances": rows.tolist()}
        answer = await v1.infer(url, body, model_name="mnist", headers=dict(headers))
        said["v1"] = np.argmax(answer["predictions"], axis=1).tolist()
        # the client has no call for metadata, so its connection is asked
        about = await v1._client.get(f"{url}/v2/models/mnist", headers=headers)
        said["inputs"] = about.json()["inputs"]
    return said


if __name__ == "__main__":
    told = asyncio.run(ask(sys.argv[1], sys.argv[2], np.load(sys.argv[3])))
    sys.stdout.write(json.dumps(told))
