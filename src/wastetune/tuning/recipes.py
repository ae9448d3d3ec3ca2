"""The recipes of a score: numbers that change only when the same study would score otherwise.

They are part of a study's fingerprint, and the version of wastetune is not: a new version goes on with every study
whose recipes it has not changed. `tests/tuning/test_recipes.py` fails when a score changes and its number does not.
"""

from wastetune.backbones import activation_store, augmentation
from wastetune.backbones.backbone import Backbone, nearest_cut
from wastetune.backbones.cuts import TOP
from wastetune.data import pixels
from wastetune.search.space import SearchSpace, bounds
from wastetune.storage.study import FIRST_RECIPE, RECIPE_OF

# Raise a number when the same inputs give other outputs, and renew the golden scores: `make golden`.
RECIPES = {
    "pictures": pixels.RECIPE,  # a file's content to pixels at the study's size
    "split": "1",  # near-duplicates, and the side of each picture
    "views": augmentation.RECIPE,  # pixels to augmented pixels
    "activations": activation_store.RECIPE,  # pixels and weights to what the trunk gives
    "head training": "1",  # activations at the top to a fitted head, in NumPy
    "tail training": "1",  # activations below the top to a fitted tail and head, in Keras
    "metrics": "1",  # probabilities to scores
}


def recipes_of(space: SearchSpace, backbone: Backbone) -> dict[str, str]:
    """The part of a fingerprint that tells the recipes: of those that the space can use, the ones that are not 1.

    So a recipe that was never changed, or that is not used, is not in it, and changing it orphans no study.
    """
    low, high = (nearest_cut(backbone, depth) for depth in bounds(space, "frozen_depth"))
    unused = {
        "views": bounds(space, "augmentation")[1] == 0,
        "head training": high != TOP or space.head is not None,
        "tail training": low == TOP and space.head is None,  # Keras trains a head of the user's own, too
    }
    return {
        RECIPE_OF + name: str(number)
        for name, number in RECIPES.items()
        if str(number) != FIRST_RECIPE and not unused.get(name)
    }
