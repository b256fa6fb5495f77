"""What stands behind the page: one network, the thread that draws, and the jobs."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sg3flow.explorer.command_lines import DIRECTIONS_FILE, picture_command
from sg3flow.explorer.direction_sets import DirectionSets
from sg3flow.explorer.drawing_thread import DrawingThread
from sg3flow.explorer.films import read_film, start_film
from sg3flow.explorer.jobs import Job, JobRunner
from sg3flow.explorer.photos import known_losses, read_projection, start_projection
from sg3flow.explorer.picture_renderer import PictureRenderer
from sg3flow.explorer.pictures import Picture, read_picture
from sg3flow.networks.stylegan3 import input_transform
from sg3flow.rendering.edits import write_directions
from sg3flow.rendering.images import Model, network_device
from sg3flow.rendering.loaded_generator import LoadedGenerator


class Explorer:
    """A network that pages explore; ``close`` ends its threads.

    Args:
        model: the network.
        network: what ``--network`` of a command is to name.
        device: as it was asked for, ``auto`` say.
        sets: its directions.
    """

    def __init__(self, model: Model, network: str, device: str, sets: DirectionSets) -> None:
        self.model, self.network, self.device, self.sets = model, network, device, sets
        self.renderer = PictureRenderer(model, sets)
        self.drawing = DrawingThread()
        self.jobs = JobRunner(self.model, self.drawing)

    def close(self) -> None:
        """End the threads; remove the files of jobs."""
        self.jobs.close()
        self.drawing.close()

    def facts(self) -> dict[str, Any]:
        """What the page must know of the network."""
        loaded, labels = LoadedGenerator(self.model, self.network), self.model.labels
        return {
            "network": self.network,
            "config": loaded.config,
            "resolution": loaded.resolution,
            "device": str(network_device(self.model.G)),
            "num_ws": loaded.num_ws,
            "w_dim": loaded.w_dim,
            "label_dim": labels.dim,
            "num_classes": loaded.num_classes,
            "class_names": loaded.class_names,
            "sample_label": list(labels.samples[0]) if labels.samples else None,
            "can_move": input_transform(self.model.G) is not None,
            "has_noise": loaded.config == "stylegan2",
            "losses": known_losses(loaded.resolution),
            "direction_sets": self.sets.facts(),
        }

    def picture(self, content: object) -> Picture:
        """A picture from the JSON of a page; errors as ``read_picture``."""
        return read_picture(content, self.model)

    def command_of(self, picture: Picture) -> dict[str, str]:
        """The command that makes a picture; errors as ``DirectionSets.get``."""
        return picture_command(self.network, self.device, picture, self.sets)

    def directions_of(self, key: object) -> dict[str, Any]:
        """A set of directions for the page; errors as ``DirectionSets.get``."""
        found = self.sets.get(str(key))
        return {
            "names": list(found.names),
            "scales": found.scales.tolist(),
            "values": found.values.tolist(),
            "method": found.method,
            "layers": list(found.layers),
        }

    def directions_npz(self, key: object) -> bytes:
        """A set of directions as a file; errors as ``DirectionSets.get``."""
        found = self.sets.get(str(key))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / DIRECTIONS_FILE
            write_directions(path, found)
            return path.read_bytes()

    def start_film(self, content: Mapping[str, Any]) -> Job:
        """Start a film through pictures; errors as ``read_film``, ``JobRunner.start``."""
        film = read_film(content, self.model)
        return start_film(film, self.jobs, self.renderer, self.network, self.device)

    def start_projection(self, photo: bytes, words: Mapping[str, str]) -> Job:
        """Start the projection of a photo; errors as ``read_projection``, ``JobRunner.start``."""
        request = read_projection(photo, words, self.model)
        return start_projection(request, self.jobs, self.renderer)
