"""What a writer of ``sg3flow export`` gets, and what is known of a format.

Imports no heavy library.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from sg3flow.output_checks import Recognizer

if TYPE_CHECKING:
    from torch import nn

    from sg3flow.checkpoints import Networks


@dataclass(frozen=True)
class ExportSource:
    """What a writer gets.

    Attributes:
        G: the generator to export, G_ema if there is one, on the CPU, in evaluation mode.
        networks: all that the source contains.
        address: the source for records and messages, without secrets.
        training_set: the description of the training set, with its license; may be empty.
        class_names: of a conditional network, in their order; may be empty.
        weights_sha256: digest of the weights of G, as registered versions have it.
    """

    G: "nn.Module"
    networks: "Networks"
    address: str
    training_set: Mapping[str, Any]
    class_names: tuple[str, ...]
    weights_sha256: str


# Writes the file and returns what was checked, as a sentence; empty: nothing was. An error leaves
# no file.
Writer = Callable[[ExportSource, BinaryIO], str]


@dataclass(frozen=True)
class ExportFormat:
    """A format.

    Attributes:
        suffix: how its file names end.
        about: a few words for the help.
        is_ours: recognizes a file that sg3flow wrote; only these are replaced.
        write: the writer; it imports what it needs when it is called.
    """

    name: str
    suffix: str
    about: str
    is_ours: Recognizer
    write: Writer
