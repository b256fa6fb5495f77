"""Public data sets by name: where they are, how to know them, and on which terms they come."""

from dataclasses import dataclass, field

_AFHQ_CITATION = (
    "Choi, Uh, Yoo, Ha: StarGAN v2: Diverse Image Synthesis for Multiple Domains, CVPR 2020"
)
_AFHQ_LICENCE = "CC BY-NC 4.0 (NAVER Corp.)"


@dataclass(frozen=True)
class KnownSet:
    """A zip file that can be fetched by name; counts are its pictures by folder."""

    name: str
    url: str
    file_name: str
    sha256: str | None  # None: not public; the first download's is held on to
    size: str
    licence: str
    citation: str
    counts: dict[str, int] = field(hash=False)


KNOWN_SETS = {
    "afhq": KnownSet(
        name="afhq",
        url="https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1",
        file_name="afhq.zip",
        sha256="7f63dcc14ef58c0e849b59091287e1844da97016073aac20403ae6c6132b950f",
        size="729,484,677 bytes",
        licence=_AFHQ_LICENCE,
        citation=_AFHQ_CITATION,
        counts={
            "afhq/train/cat": 5153,
            "afhq/train/dog": 4739,
            "afhq/train/wild": 4738,
            "afhq/val/cat": 500,
            "afhq/val/dog": 500,
            "afhq/val/wild": 500,
        },
    ),
    # Unlike version 1 it has no top folder, and "test" stands where version 1 says "val".
    "afhqv2": KnownSet(
        name="afhqv2",
        url="https://www.dropbox.com/s/vkzjokiwof5h8w6/afhq_v2.zip?dl=1",
        file_name="afhq_v2.zip",
        sha256=None,
        size="about 7 GB",
        licence=_AFHQ_LICENCE,
        citation=_AFHQ_CITATION,
        counts={
            "test/cat": 493,
            "test/dog": 491,
            "test/wild": 483,
            "train/cat": 5065,
            "train/dog": 4678,
            "train/wild": 4593,
        },
    ),
}


def known_by_digest(sha256: str) -> KnownSet | None:
    """The public set whose zip file has this SHA-256: a mirror's copy is as good."""
    return next((known for known in KNOWN_SETS.values() if known.sha256 == sha256), None)
