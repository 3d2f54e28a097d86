"""What people write without a gateway: FastAPI, a pydantic model of nested lists, eager torch.

Run as: python -m tests.benchmarks.serving.bare PORT ARCHITECTURE WEIGHTS
"""

import io
import sys
from pathlib import Path

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from mantlet import architectures, weights


class Instances(BaseModel):
    """A batch of pictures as nested lists (n, C, H, W)."""

    instances: list[list[list[list[float]]]]


class Predictions(BaseModel):
    """A probability vector a picture."""

    predictions: list[list[float]]


def create(architecture: str, path: str | None) -> FastAPI:
    """One model, one JSON route as the tutorials have it, and one that reads .npy bytes."""
    torch.set_num_threads(1)
    network = architectures.build(architecture, {}).eval()
    if path:
        weights.load_into(network, Path(path), architecture)
    app = FastAPI()

    @torch.inference_mode()
    def answer(inputs: np.ndarray) -> list[list[float]]:
        return torch.softmax(network(torch.from_numpy(inputs)), dim=1).tolist()

    @app.post("/predict")
    def predict(request: Instances) -> Predictions:
        return Predictions(predictions=answer(np.array(request.instances, dtype=np.float32)))

    @app.post("/predict-npy")
    async def predict_npy(request: Request) -> Predictions:
        inputs = np.load(io.BytesIO(await request.body()), allow_pickle=False)
        return Predictions(predictions=await run_in_threadpool(answer, inputs))

    return app


if __name__ == "__main__":
    port, architecture, path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    uvicorn.run(
        create(architecture, path or None), port=port, log_level="warning", access_log=False
    )
