"""All cases by name, area by area."""

from tests.misuse import (
    commands,
    config,
    data,
    folders,
    front_door,
    machines,
    signals,
    studies,
    weights,
)

AREAS = {
    "commands": commands,
    "config": config,
    "data": data,
    "weights": weights,
    "folders": folders,
    "signals": signals,
    "studies": studies,
    "machines": machines,
    "python": front_door,
}
CASES = {f"{area}-{name}": case for area, m in AREAS.items() for name, case in m.CASES.items()}
