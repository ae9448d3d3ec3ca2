"""What others have published for the known data sets, in a table; each row with its source."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wastetune.data.datasets import KNOWN_DATASETS


@dataclass(frozen=True)
class Published:
    """One published result; None where the publication does not say. Precision, recall and F1 are macro averages."""

    dataset: str
    model: str
    accuracy: float
    source: str
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    spread: float | None = None  # what stands behind the accuracy's plus-minus sign
    note: str = ""


_ORIGINAL = "the study that wastetune comes from"
_PMC = "PubMed Central, PMC11479324"
_IRE = "IRE Journals, paper 1704821"
_VK = "GitHub, VK4041/TrashNet_Image_Classification"

PUBLISHED: tuple[Published, ...] = (
    # Its precision, recall and F1 fit each other as macro averages; its accuracy does not fit them, so show all four.
    Published("wid", "InceptionV3", 0.9546, _ORIGINAL, 0.8906, 0.8897, 0.8901),
    Published("wcd", "InceptionV3", 0.9351, _ORIGINAL, 0.9636, 0.9234, 0.9430),
    Published("trashnet", "ResNeXt50 + IPAM", 0.9605, _PMC, spread=0.0014),
    Published("trashnet", "DenseNet169", 0.9575, _PMC, spread=0.0029),
    Published("trashnet", "EfficientNet-B2", 0.9413, _PMC),
    Published("trashnet", "ResNet101", 0.9238, _IRE, note="10 epochs, 75/25 split"),
    Published("trashnet", "ResNet50", 0.9202, _IRE, note="10 epochs, 75/25 split"),
    Published("trashnet", "InceptionV3", 0.9143, _IRE, note="10 epochs, 75/25 split"),
    Published("trashnet", "ResNet50", 0.9105, _VK, note="last block trained"),
    Published("trashnet", "ResNet50", 0.8395, _VK, note="frozen"),
    Published("trashnet", "ResNet50", 0.7526, _VK, note="whole network trained"),
    Published("trashnet", "MobileNetV3-Large", 0.768, "MMU Press, IJORAS 1958", note="untuned, 5-fold"),
)


def published_for(report: Mapping[str, Any]) -> tuple[Published, ...]:
    """The rows for a report's data set; none for a folder that only bears a known name but has other classes."""
    known = {source.name: set(source.classes) for source in KNOWN_DATASETS}
    if known.get(report["dataset"]) != set(report["classes"]):
        return ()
    return tuple(row for row in PUBLISHED if row.dataset == report["dataset"])
