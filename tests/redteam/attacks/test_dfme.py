"""Data-free extraction: pictures, probes beside them, and a cost that is counted."""

import torch

from redteam.attacks.dfme import PROBE, dfme
from redteam.oracle import InProcess
from serving.pipeline import Pipeline
from serving.victims.torch import TorchVictim


def test_a_turn_sends_pictures_their_probes_and_five_batches(shipped_victim: TorchVictim) -> None:
    oracle = InProcess(Pipeline(shipped_victim), recording=True)
    got = dfme(oracle, budget=200, generator=torch.Generator().manual_seed(0), batch=16)
    sent = torch.cat(oracle.sent)
    apart = (sent[16:32] - sent[:16]).flatten(1).norm(dim=1)

    assert oracle.rows == len(sent) == 2 * 7 * 16  # two whole turns
    assert len(got.inputs) == 2 * 5 * 16
    assert float(apart.max()) <= PROBE  # tanh shrinks them further
    assert float(apart.min()) > 0
    assert sent.min() >= 0
    assert sent.max() <= 1


def test_the_same_seed_sends_the_same_rows(shipped_victim: TorchVictim) -> None:
    sent = []
    for seed in (0, 0, 1):
        oracle = InProcess(Pipeline(shipped_victim), recording=True)
        dfme(oracle, budget=224, generator=torch.Generator().manual_seed(seed), batch=16)
        sent.append(torch.cat(oracle.sent))

    assert torch.equal(sent[0], sent[1])
    assert not torch.equal(sent[0], sent[2])
