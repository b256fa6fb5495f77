"""Names of networks, for ``--network``, ``--resume`` and ``sg3flow.load``.

``starter`` comes with this package. The others are NVIDIA's public networks, at the addresses that
the README of NVlabs/stylegan3 gives; each is downloaded at its first use. A file or folder of the
same name goes before a name: ``./starter`` is always a path.

NVIDIA publishes neither sizes nor digests of these files. The digest of the first download is
recorded in the cache, and a file there that no longer has it is downloaded again.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

STARTER = "starter"

_NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research"
NVIDIA_LICENSE = "Nvidia Source Code License"
NVIDIA_TERMS = "https://github.com/NVlabs/stylegan3/blob/main/LICENSE.txt"
_BUNDLED = Path(__file__).parent
_MOST_NEAR = 3
_MOST_OF_A_NAME = 60


@dataclass(frozen=True)
class NamedNetwork:
    """A network that has a name.

    Attributes:
        name: as it is given; lower case.
        about: what it draws, in one line.
        license: name of its license; the data that it was trained with may have another.
        terms: where the license stands; empty: beside the network in this package.
        address: URL of its file; empty: it comes with this package.
        sha256: of its file, if its publisher gives it; empty: not.
    """

    name: str
    about: str
    license: str
    terms: str = ""
    address: str = ""
    sha256: str = ""

    @property
    def bundled(self) -> Path | None:
        """Its file in this package; None: it has to be downloaded."""
        return None if self.address else _BUNDLED / self.name / "network.safetensors"

    @property
    def file_name(self) -> str:
        """The name of its file at its address; empty: it comes with this package."""
        return self.address.rpartition("/")[2]


_ABOUT = {
    "ffhq": "FFHQ: faces of people",
    "ffhqu": "FFHQ-U: faces of people, not aligned",
    "metfaces": "MetFaces: faces in works of art",
    "metfacesu": "MetFaces-U: faces in works of art, not aligned",
    "afhqv2": "AFHQv2: faces of cats, dogs and wild animals",
    "afhqcat": "AFHQ: faces of cats",
    "afhqdog": "AFHQ: faces of dogs",
    "afhqwild": "AFHQ: faces of wild animals",
    "brecahad": "BreCaHAD: breast cancer tissue",
    "cifar10": "CIFAR-10: ten classes of objects",
    "celebahq": "CelebA-HQ: faces of celebrities",
    "lsundog": "LSUN: dogs",
}
_STYLEGAN3 = (
    *(("ffhq", 1024), ("ffhqu", 1024), ("ffhqu", 256)),
    *(("metfaces", 1024), ("metfacesu", 1024), ("afhqv2", 512)),
)
_STYLEGAN2 = (
    *(("ffhq", 1024), ("ffhq", 512), ("ffhq", 256), ("ffhqu", 1024), ("ffhqu", 256)),
    *(("metfaces", 1024), ("metfacesu", 1024), ("afhqv2", 512)),
    *(("afhqcat", 512), ("afhqdog", 512), ("afhqwild", 512)),
    *(("brecahad", 512), ("cifar10", 32), ("celebahq", 256), ("lsundog", 256)),
)


def _of_nvidia(cfg: str, ending: str, data: str, side: int) -> NamedNetwork:
    collection = cfg.partition("-")[0]
    file = f"{cfg}-{data}-{side}x{side}.pkl"
    return NamedNetwork(
        f"{data}-{side}-{ending}",
        f"{_ABOUT[data]}, {side} px",
        NVIDIA_LICENSE,
        NVIDIA_TERMS,
        f"{_NGC}/{collection}/versions/1/files/{file}",
    )


_ALL = (
    NamedNetwork(STARTER, "drawn faces of cats, dogs and wild animals, 64 px", "Apache-2.0"),
    *(_of_nvidia("stylegan3-t", "t", *each) for each in _STYLEGAN3),
    *(_of_nvidia("stylegan3-r", "r", *each) for each in _STYLEGAN3),
    *(_of_nvidia("stylegan2", "stylegan2", *each) for each in _STYLEGAN2),
)
NETWORKS = {network.name: network for network in _ALL}


def named_network(source: str) -> NamedNetwork | None:
    """The network that ``source`` names; None: it is a path or an address, or no known name.

    A file or folder that exists goes before a name.
    """
    network = NETWORKS.get(source)
    return None if network is None or Path(source).exists() else network


def near_names(text: str) -> list[str]:
    """The names that are most like ``text``, or whose file is; the nearest first."""
    text = text.lower().removesuffix(".pkl")
    if len(text) > _MOST_OF_A_NAME:  # slow to compare
        return []
    by_word = {word: network.name for network in _ALL for word in (network.name, _stem(network))}
    close = difflib.get_close_matches(text, filter(None, by_word), n=2 * _MOST_NEAR, cutoff=0.6)
    return list(dict.fromkeys(by_word[word] for word in close))[:_MOST_NEAR]


def _stem(network: NamedNetwork) -> str:
    return network.file_name.removesuffix(".pkl")
