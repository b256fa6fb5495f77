"""The animals of the starter set: their builds, coats and eyes. Colors are RGB in [0, 1]."""

from dataclasses import dataclass

from sg3flow.data.starter import builds
from sg3flow.data.starter.shapes import Color


@dataclass(frozen=True)
class Coat:
    """The colors of one kind of fur, and its markings by name."""

    base: Color
    light: Color
    dark: Color
    marks: tuple[str, ...]
    nose: Color
    inner_ear: Color
    ear: Color | None  # None: the base color
    eyes: tuple[Color, ...]  # empty: those of the kind


@dataclass(frozen=True)
class Kind:
    """An animal: its build, its usual eye colors, and the coats it comes in."""

    name: str
    build: builds.Build
    eyes: tuple[Color, ...]
    coats: tuple[Coat, ...]


def _rgb(code: str) -> Color:
    return int(code[:2], 16) / 255, int(code[2:4], 16) / 255, int(code[4:], 16) / 255


def _coat(
    colors: str,
    marks: str,
    nose: str = "211f21",
    inner_ear: str = "cc9485",
    ear: str | None = None,
    eyes: tuple[Color, ...] = (),
) -> Coat:
    """A coat from RRGGBB codes: base, light and dark color, then the names of its markings."""
    base, light, dark = map(_rgb, colors.split())
    own_ear = _rgb(ear) if ear else None
    names = tuple(marks.split())
    return Coat(base, light, dark, names, _rgb(nose), _rgb(inner_ear), own_ear, eyes)


_GREEN = _rgb("85a84c")
_YELLOW = _rgb("d1b23d")
_COPPER = _rgb("c77524")
_BLUE = _rgb("548fd1")
_ICE = _rgb("99c7eb")
_AMBER = _rgb("db9e2e")
_BROWN = _rgb("5c331a")
_HAZEL = _rgb("855724")
_DEEP = _rgb("381f12")

_CATS = (
    Kind(
        "cat",
        builds.CAT,
        (_GREEN, _GREEN, _YELLOW, _YELLOW, _COPPER, _BLUE),
        (
            _coat("8f7559 e6d6bf 33261c", "tabby muzzle", nose="a86659"),
            _coat("878582 ebe8e3 303033", "tabby muzzle", nose="b2736b"),
            _coat("d48c47 f5debd 9e5421", "tabby muzzle", nose="db8f8c"),
            _coat("d48c47 f2ede6 9e5421", "tabby muzzle blaze bib", nose="db8f8c"),
            _coat("8f8578 f2ede6 332b26", "tabby muzzle blaze bib", nose="db8f8c"),
            _coat("262426 f2ede6 211f21", "muzzle blaze bib", nose="db8f8c"),
            _coat("242121 332e2e 211f21", "", nose="1f1a1c", inner_ear="5c4240"),
            _coat("757d8a 8f96a1 575c69", "", nose="575259", inner_ear="9e8080"),
            _coat("f0ebe3 f2ede6 ccc4ba", "", nose="db8f8c", inner_ear="edb2ab"),
            _coat("e8cca6 f7e8d1 c79e73", "muzzle", nose="db8f8c"),
            _coat(
                "e3d1b8 c7ad91 422e24",
                "points",
                nose="33241f",
                inner_ear="6b4c42",
                ear="453026",
                eyes=(_BLUE,),
            ),
            _coat("d68a42 f2ede6 2b2421", "patches muzzle blaze bib", nose="db8f8c"),
            _coat("f2ede6 f2ede6 333033", "patches muzzle bib", nose="db8f8c"),
        ),
    ),
)

_DOGS = (
    Kind(
        "retriever",
        builds.DOG,
        (_BROWN, _DEEP),
        (
            _coat("d9ad6e f2dbb2 a8753d", "muzzle", ear="b27d42"),
            _coat("eddbba f7f0de d1b285", "muzzle", ear="dbbd8c"),
            _coat("333033 454245 211f21", ""),
            _coat("664029 805438 472b1a", "", nose="6b4233", eyes=(_HAZEL,)),
            _coat("ad5c2b c78047 753817", "muzzle", nose="6b4233", ear="8c451c"),
        ),
    ),
    Kind(
        "hound",
        builds.DOG,
        (_BROWN, _DEEP),
        (
            _coat("b8753d f2ede6 4c2e1c", "cap muzzle blaze bib", ear="945426"),
            _coat("292629 f2ede6 211f21", "muzzle blaze bib"),
            _coat("6b4530 f2ede6 472b1f", "muzzle blaze bib", nose="6b4233"),
            _coat("f2f0ed f2ede6 211f21", "dots", ear="292626"),
            _coat("f2ede6 f2ede6 7a4729", "patches", ear="7a4729"),
            _coat("242121 ad6933 211f21", "muzzle brows bib"),
        ),
    ),
    Kind(
        "husky",
        builds.SPITZ,
        (_BROWN,),
        (
            _coat("73757d f5f2f0 333338", "cap cheeks muzzle brows bib", eyes=(_ICE, _ICE, _BROWN)),
            _coat("3d3b40 f5f2f0 1f1f21", "cap cheeks muzzle brows bib", eyes=(_ICE, _ICE, _BROWN)),
            _coat("f2f0eb f2ede6 d6cfc2", "", inner_ear="e6b8a8"),
        ),
    ),
    Kind(
        "shepherd",
        builds.SPITZ,
        (_BROWN, _DEEP),
        (
            _coat("ad7a45 cc9e66 33261f", "mask cap", ear="4c3826"),
            _coat("d68c4a f7f0e6 a3612b", "cheeks muzzle blaze bib"),
            _coat("db9952 f7e8d1 b27033", "cheeks muzzle bib"),
        ),
    ),
    Kind(
        "pug",
        builds.PUG,
        (_DEEP,),
        (
            _coat("d6b282 e6c99e 261f1c", "mask wrinkles", ear="2e2621"),
            _coat("cc9e6b f2ede6 6b4c33", "muzzle blaze wrinkles bib"),
        ),
    ),
)

_WILD = (
    Kind(
        "fox",
        builds.FOX,
        (_AMBER, _HAZEL),
        (
            _coat("d66e26 f7f0e6 2b1a14", "cheeks muzzle bib", inner_ear="e6d1bd", ear="a8521c"),
            _coat("bd6630 f2e8d9 2b1a14", "cheeks muzzle bib", inner_ear="dbc2a8", ear="66331a"),
            _coat("cc8c4c f7eddb 38241a", "cheeks muzzle bib", inner_ear="ebd6c2", ear="8f572e"),
        ),
    ),
    Kind(
        "wolf",
        builds.WOLF,
        (_AMBER, _YELLOW),
        (
            _coat(
                "857d75 e6ded1 383330",
                "cap cheeks muzzle brows bib",
                inner_ear="9e8a7a",
                ear="6b5c4f",
            ),
            _coat(
                "998063 ebdec9 423326",
                "cap cheeks muzzle brows bib",
                inner_ear="9e8a7a",
                ear="856347",
            ),
            _coat(
                "bdb5a8 f0ebe3 665e57",
                "cap cheeks muzzle brows bib",
                inner_ear="a89485",
                ear="948273",
            ),
        ),
    ),
    Kind(
        "tiger",
        builds.BIG_CAT,
        (_AMBER, _YELLOW),
        (
            _coat(
                "e0872e f7f2e8 17120f",
                "cheeks muzzle brows tiger bib",
                nose="cc786e",
                inner_ear="ede0d4",
                ear="291f1a",
            ),
            _coat(
                "ebe6de faf7f5 241f1c",
                "tiger",
                nose="d18a85",
                inner_ear="ede0d4",
                ear="383330",
                eyes=(_ICE,),
            ),
            _coat(
                "d67826 f7f0e0 1a120f",
                "cheeks muzzle brows tiger bib",
                nose="c76b61",
                inner_ear="ede0d4",
                ear="291f1a",
            ),
        ),
    ),
    Kind(
        "lion",
        builds.LION,
        (_AMBER, _HAZEL),
        (
            _coat("cc9e61 f0dbb8 70401f", "muzzle bib", nose="6b3d33", inner_ear="e0c299"),
            _coat("c28f52 ebd4ad 3d2414", "muzzle", nose="5c332b", inner_ear="d6b28a"),
            _coat("d6ad73 f2e3c4 a86b33", "muzzle bib", nose="855245", inner_ear="e0c299"),
        ),
    ),
    Kind(
        "leopard",
        builds.BIG_CAT,
        (_GREEN, _AMBER, _YELLOW),
        (
            _coat(
                "dba85e f7f0e0 1f140f",
                "muzzle rosettes bib",
                nose="bd756b",
                inner_ear="e6d1b8",
                ear="38291f",
            ),
            _coat(
                "b8b5b2 f2f0ed 333033",
                "muzzle rosettes bib",
                nose="a37a7a",
                inner_ear="dbd1cc",
                ear="4c4a4a",
                eyes=(_ICE, _GREEN),
            ),
        ),
    ),
    Kind(
        "lioness",
        builds.BIG_CAT,
        (_AMBER, _HAZEL),
        (
            _coat("cca169 f2e6cc 754c2b", "muzzle bib", nose="7a473d", inner_ear="e0c7a3"),
            _coat("ba8f5c ebdbbf 664226", "muzzle bib", nose="6b4036", inner_ear="d6bd99"),
        ),
    ),
    Kind(
        "cheetah",
        builds.CHEETAH,
        (_AMBER,),
        (
            _coat(
                "dbb06e f7eddb 1c140f",
                "muzzle freckles tears bib",
                inner_ear="ebd6bd",
                ear="85613b",
            ),
        ),
    ),
)
# Kinds of each class, in the order of AFHQ's class folders.
KINDS: dict[str, tuple[Kind, ...]] = {"cat": _CATS, "dog": _DOGS, "wild": _WILD}
