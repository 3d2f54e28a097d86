"""What thieves do who know how the mark is made: wash it off, and answer for each other."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from defenses.watermark.detection import detect
from defenses.watermark.mark import Mark
from defenses.watermark.tracing import trace
from redteam.attacks.washing import Wash
from redteam.judging import Record
from redteam.watermarks.distortions import levels

WASHES: Mapping[str, Sequence[tuple[str, float]]] = {
    "none": (),
    "black below 0.05": (("black", 0.05),),
    "black below 0.08": (("black", 0.08),),
    "less the mean residue of 16": (("residue", 16),),
}
"""In the order in which each is done."""
SEEN = (64, 2_000)
"""Pictures of which each set is."""
ACCOUNTS = (1, 2, 3, 5, 10)
"""Clients who put their pictures together."""
SET = 64
Making = Callable[[bytes], Mark]
"""From a secret."""


def washed(clean: Tensor, made: Making, secrets: int, client: str) -> list[Record]:
    """P-values and PSNR of one client's (n, C, H, W) pictures after each wash, median and largest over secrets."""
    marks = [made(f"the owner's key {i}".encode()) for i in range(secrets)]
    found = []
    for count in SEEN:
        own = clean[:count]
        marked = [levels(mark.embed(own, [client] * len(own))) for mark in marks]
        for name, washes in WASHES.items():
            taken = [_through(pictures, washes) for pictures in marked]
            p = torch.tensor(
                [detect(x, mark.key).p for x, mark in zip(taken, marks, strict=True)]
            ).double()
            kept = torch.stack([_psnr(own, x) for x in taken])
            found.append({
                "wash": name, "pictures": len(own), "keys": secrets, "p_median": float(p.quantile(0.5)),
                "p_most": float(p.max()), "p_least": float(p.min()), "psnr": float(kept.mean()),
            })  # fmt: skip
    return found


def colluding(clean: Tensor, made: Making, leaks: int, clients: Sequence[str]) -> list[Record]:
    """Traces of 64 pictures that several accounts asked for: the mean of theirs, and one of each in turn."""
    pictures = clean.split(SET)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    found = []
    for accounts in ACCOUNTS:
        for how, put in (("mean", _mean), ("mixed", _mixed))[: min(accounts, 2)]:
            first, least, honest, model = [], [], [], []
            for i in range(leaks):
                mark = made(f"the owner's key {i}".encode())
                guilty = [clients[(i * accounts + n) % len(clients)] for n in range(accounts)]
                own = pictures[i % len(pictures)]
                theirs = torch.stack([levels(mark.embed(own, [c] * len(own))) for c in guilty])
                seen = detect(levels(put(theirs)), mark.key)
                ranked = trace(seen, mark.key, clients)
                first.append(ranked[0].client in guilty)
                least.append(min(s.p for s in ranked if s.client in guilty))
                honest.append(min(s.p for s in ranked if s.client not in guilty))
                model.append(seen.p)
            found.append({
                "accounts": accounts, "how": how if accounts > 1 else "alone", "leaks": leaks, "clients": len(clients),
                "pictures": SET, "right": sum(first) / leaks, "p_median": _median(least), "p_most": max(least),
                "p_honest_least": min(honest), "p_model_most": max(model),
            })  # fmt: skip
    return found


def _through(pictures: Tensor, washes: Sequence[tuple[str, float]]) -> Tensor:
    for how, strength in washes:
        wash = Wash.model_validate({"how": how, "strength": strength})
        pictures = wash.apply(pictures, torch.Generator())
    return levels(pictures)


def _mean(theirs: Tensor) -> Tensor:
    return theirs.mean(dim=0)


def _mixed(theirs: Tensor) -> Tensor:
    """Picture i of (accounts, n, C, H, W) from account i, in turn."""
    return torch.stack([theirs[i % len(theirs), i] for i in range(theirs.shape[1])])


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values).double().quantile(0.5))


def _psnr(before: Tensor, after: Tensor) -> Tensor:
    """Of the mean square over all pictures, in dB: some are as they were."""
    found: Tensor = -10 * (after - before).square().mean().clamp(min=1e-12).log10()
    return found
