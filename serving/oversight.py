"""What an operator sees of the clients of all models."""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from mantlet.errors import RequestError
from serving.admission import Client
from serving.folding import ALARMS, CAMPAIGN, HISTORY, Memory, rows_before
from serving.gateway import Gateway
from serving.service import Service
from serving.standing import highest, standing_of, suspicions_of

Fields = dict[str, object]


def clients(service: Service, *, model: str | None, limit: int, offset: int) -> Fields:
    """A page of all clients, one entry for each model that a client asked, the most suspicious first."""
    total = 0

    def ranked() -> Iterator[tuple[float, int, str, Gateway, Memory]]:
        nonlocal total
        for gateway in gateways(service, model):
            for client_id, memory in gateway.remembered():
                total += 1
                fold = gateway.pipeline.fold  # read without the rest: a page is chosen from all
                yield (
                    highest(suspicions_of(memory, fold), fold),
                    rows_before(memory),
                    client_id,
                    gateway,
                    memory,
                )

    first = heapq.nlargest(offset + limit, ranked(), key=lambda entry: entry[:3])
    names = service.admission.known()
    page = [_entry(names, c, gateway, memory) for _, _, c, gateway, memory in first[offset:]]
    return {"clients": page, "total": total, "offset": offset, "limit": limit}


def client(service: Service, client_id: str) -> Fields:
    """One client at every model that it asked, with its suspicion over time; 404 when it is unknown."""
    names = service.admission.known()
    asked = []
    for gateway in service.gateways.values():
        memory = gateway.memory_of(client_id)
        if memory:
            points = memory[HISTORY]["points"].tolist() if HISTORY in memory else []
            history = [{"at": at, "rows": int(n), "suspicion": s} for at, n, s in points]
            asked.append({**_entry(names, client_id, gateway, memory), "history": history})
    if not asked:
        raise unknown(client_id)
    return {"client": client_id, "models": asked}


def campaigns(service: Service) -> Fields:
    """Every campaign with those of its members that are remembered."""
    members: dict[tuple[str, str], list[Fields]] = {}
    for gateway in service.gateways.values():
        for client_id, memory in gateway.remembered():
            if CAMPAIGN in memory.get(ALARMS, {}):
                now = standing_of(memory, gateway.pipeline)
                about: Fields = {"client": client_id, "rows": now.rows, "level": now.level}
                members.setdefault((gateway.name, now.campaign or ""), []).append(about)
    return {
        "campaigns": [
            {"campaign": number, "model": model, "size": len(found), "members": found}
            for (model, number), found in sorted(members.items())
        ]
    }


def gateways(service: Service, model: str | None) -> list[Gateway]:
    """The gateway of a model, or all of them; 404 for a model that is not served."""
    if model is not None and model not in service.gateways:
        raise RequestError(404, f"model '{model[:80]}' is not served here", reason="unknown_model")
    return [gateway for name, gateway in service.gateways.items() if model in (None, name)]


def unknown(client_id: str) -> RequestError:
    """No model remembers the client."""
    return RequestError(
        404, f"client '{client_id[:80]}' is not known; GET /clients lists those that are"
    )


def _entry(names: Mapping[str, Client], client_id: str, gateway: Gateway, memory: Memory) -> Fields:
    now, who = standing_of(memory, gateway.pipeline), names.get(client_id)
    return {
        "client": client_id,
        "name": who.name if who else None,
        "tier": who.tier if who else None,
        "model": gateway.name,
        "rows": now.rows,
        "suspicion": now.suspicion,
        "alarm": now.alarm,
        "level": now.level,
        "detectors": {name: asdict(opinion) for name, opinion in now.detectors.items()},
        "extraction_progress": now.progress,
        "campaign": now.campaign,
        "denied_until": now.denied_until or None,
        "override": now.override,
        "acknowledged": now.acknowledged,
    }
