"""Small pictures for a report, as data URIs; capped in number, so that the report stays small."""

import base64
import io
from collections.abc import Mapping

from PIL import Image

from sg3flow.data.images import UnusablePicture, decode_picture
from sg3flow.data.plain_pictures import plain_picture
from sg3flow.data.storage import Storage
from sg3flow.errors import DataError

MOST_SHOWN = 16  # offenders of one check
_MOST = 160
_SIDE = 112


class Thumbnails:
    """Collects thumbnails by the path or entry name of their picture, the first 160 asked for.

    Args:
        packed, raw: the packed set, and its source if it is there.
        entry_of: entries by the raw path of their picture.
    """

    def __init__(self, packed: Storage, raw: Storage | None, entry_of: Mapping[str, str]) -> None:
        self.uris: dict[str, str] = {}
        self._packed, self._raw, self._entry_of = packed, raw, entry_of
        self._entries = frozenset(packed.names)
        self._files = frozenset(raw.names) if raw else frozenset()

    def add(self, name: str) -> None:
        """Add one picture, known by its raw path or its entry; a name of neither is passed over."""
        entry = self._entry_of.get(name, name)
        if name in self.uris:
            return
        if entry in self._entries:
            self._keep(name, self._packed, entry)
        elif self._raw is not None and name in self._files:
            self._keep(name, self._raw, name)

    def _keep(self, key: str, storage: Storage, name: str) -> None:
        if len(self.uris) < _MOST:
            uri = _data_uri(storage, name)
            if uri:
                self.uris[key] = uri


def _data_uri(storage: Storage, name: str) -> str:
    try:
        picture = plain_picture(decode_picture(storage.read(name)).picture).picture
    except (DataError, UnusablePicture):
        return ""  # the report says in words what is wrong with it
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
