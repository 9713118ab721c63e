"""Published figures that a comparison shows beside its own, and what is known of their origin."""

from typing import NamedTuple

TABLE2 = ("cca", "dcca", "dccae", "cpm_net", "ae", "cra", "mmin", "if_mmin", "tate",
          "late_fusion", "qmf", "mla")  # fmt: skip
"""The rows of Table 2 of the MLA paper."""

RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)

OWN = "run by MLA's authors"
GCNET = "probably GCNet's IEMOCAP-four table: weighted F1, five folds, other features"
UNKNOWN = "origin unknown"


class Published(NamedTuple):
    """One row of a published table."""

    figures: dict[float, float]
    """``{nominal missing rate: per cent}``."""
    origin: str


def _row(origin: str, *figures: float) -> Published:
    return Published(dict(zip(RATES, figures, strict=True)), origin)


IEMOCAP = {
    "late_fusion": _row(OWN, 72.95, 69.06, 64.89, 61.09, 56.48, 52.41, 45.07),
    "qmf": _row(OWN, 73.49, 71.33, 65.89, 62.27, 57.94, 55.60, 50.25),
    "cca": _row(GCNET, 65.19, 62.60, 59.35, 55.25, 51.38, 45.73, 30.61),
    "dcca": _row(GCNET, 57.25, 51.74, 42.53, 36.54, 34.82, 33.65, 41.09),
    "dccae": _row(GCNET, 61.66, 57.67, 54.95, 51.08, 45.71, 39.07, 41.42),
    "ae": _row(GCNET, 71.36, 67.40, 62.02, 57.24, 50.56, 43.04, 39.86),
    "cra": _row(GCNET, 71.28, 67.34, 62.24, 57.04, 49.86, 43.22, 38.56),
    "mmin": _row(GCNET, 71.84, 69.36, 66.34, 63.30, 60.54, 57.52, 55.44),
    "if_mmin": _row(UNKNOWN, 71.32, 68.29, 64.17, 60.13, 57.45, 53.26, 52.04),
    "cpm_net": _row(GCNET, 55.29, 53.65, 52.52, 51.01, 49.09, 47.38, 44.76),
    "tate": _row(UNKNOWN, 67.84, 63.22, 62.19, 60.36, 58.74, 57.99, 54.35),
    "mla": _row(OWN, 75.07, 72.33, 68.47, 67.00, 63.48, 59.17, 55.89),
}
"""MLA paper, Table 2.  Its repository has no code for it, and does not say how masks were drawn."""
