"""The sets of directions that a page offers: of a file, and found in the weights on demand."""

from collections.abc import Callable
from typing import Any

from sg3flow.errors import ConfigError, cut, listed
from sg3flow.rendering.edits import Directions

FILE = "file"
_METHOD = "sefa"
NUM_FOUND = 10

Find = Callable[[str], Directions]


class DirectionSets:
    """Sets by their keys: ``file``, or ``sefa:`` and layers.

    Args:
        num_ws: layers of the network.
        find: finds directions in the weights that move some layers, given as ``4-7``.
        file: directions of a file; None: there is none.
        file_name: the name of that file.
    """

    def __init__(
        self, num_ws: int, find: Find, file: Directions | None = None, file_name: str = ""
    ) -> None:
        self._find, self.file_name = find, file_name
        self._known: dict[str, Directions] = {} if file is None else {FILE: file}
        self.labels = {FILE: file_name} if file is not None else {}
        self.labels |= {
            f"{_METHOD}:{layers}": f"SeFa, {name} (layers {layers})"
            for name, layers in layer_groups(num_ws).items()
        }

    def get(self, key: str) -> Directions:
        """The directions of a set.

        Raises:
            ConfigError: there is no such set.
        """
        if key not in self.labels:
            known = listed(self.labels, 8)
            raise ConfigError(f"there is no set of directions '{cut(key)}'; known: {known}")
        if key not in self._known:
            self._known[key] = self._find(key.partition(":")[2])
        return self._known[key]

    def facts(self) -> list[dict[str, Any]]:
        """Keys and labels, for the page."""
        return [{"key": key, "label": label} for key, label in self.labels.items()]


def layer_groups(num_ws: int) -> dict[str, str]:
    """All layers, and thirds of them: the first decide pose and shape, the last color."""
    a, b, last = round(num_ws / 3), round(num_ws * 2 / 3), num_ws - 1
    return {
        "all layers": f"0-{last}",
        "coarse": f"0-{a - 1}",
        "middle": f"{a}-{b - 1}",
        "fine": f"{b}-{last}",
    }
