"""Which classes label noise confuses: flip maps, noisy groups and the superclasses of CIFAR-100, as data."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

# Fine labels of CIFAR-100 by superclass (Krizhevsky 2009, section 3), numbered alphabetically by name.
CIFAR100_SUPERCLASSES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "aquatic_mammals": (4, 30, 55, 72, 95),
        "fish": (1, 32, 67, 73, 91),
        "flowers": (54, 62, 70, 82, 92),
        "food_containers": (9, 10, 16, 28, 61),
        "fruit_and_vegetables": (0, 51, 53, 57, 83),
        "household_electrical_devices": (22, 39, 40, 86, 87),
        "household_furniture": (5, 20, 25, 84, 94),
        "insects": (6, 7, 14, 18, 24),
        "large_carnivores": (3, 42, 43, 88, 97),
        "large_man-made_outdoor_things": (12, 17, 37, 68, 76),
        "large_natural_outdoor_scenes": (23, 33, 49, 60, 71),
        "large_omnivores_and_herbivores": (15, 19, 21, 31, 38),
        "medium_mammals": (34, 63, 64, 66, 75),
        "non-insect_invertebrates": (26, 45, 77, 79, 99),
        "people": (2, 11, 35, 46, 98),
        "reptiles": (27, 29, 44, 78, 93),
        "small_mammals": (36, 50, 65, 74, 80),
        "trees": (47, 52, 56, 59, 96),
        "vehicles_1": (8, 13, 48, 58, 90),
        "vehicles_2": (41, 69, 81, 85, 89),
    }
)


def _cycles(groups: Iterable[tuple[int, ...]]) -> dict[int, int]:
    """Each member of a group to the next one in it, the last to the first."""
    return {a: b for group in groups for a, b in zip(group, (*group[1:], group[0]), strict=True)}


_MNIST = {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}

# Class -> the class it is mistaken for. The order of the CIFAR-10 entries is the one in which SR's code works through
# them, which matters where a class is both source and target (`asymmetric(form="sequential_sr")`).
ASYMMETRIC_MAPS: Mapping[str, Mapping[int, int]] = MappingProxyType(
    {
        "mnist": MappingProxyType(_MNIST),
        "digits": MappingProxyType(_MNIST),
        "cifar10": MappingProxyType({9: 1, 2: 0, 3: 5, 5: 3, 4: 7}),
        "cifar100": MappingProxyType(_cycles(CIFAR100_SUPERCLASSES.values())),
    }
)

# The map that the code of SR and ELR uses for CIFAR-100: blocks of five consecutive fine labels, which are alphabetical
# and so are not the superclasses that the papers name.
CIFAR100_BLOCKS: Mapping[int, int] = MappingProxyType(_cycles(tuple(range(i, i + 5)) for i in range(0, 100, 5)))

# Classes whose labels are confused among themselves, all others clean (HAR, section 4 and its code). HAR has no digits:
# there the two pairs that people do confuse, 1 and 7, 3 and 5, are this library's choice.
HETEROSKEDASTIC_GROUPS: Mapping[str, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        "cifar10": ((1, 9), (3, 5)),
        "cifar100": (CIFAR100_SUPERCLASSES["vehicles_1"], CIFAR100_SUPERCLASSES["vehicles_2"]),
        "mnist": ((1, 7), (3, 5)),
        "digits": ((1, 7), (3, 5)),
    }
)
