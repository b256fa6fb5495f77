"""What a reproduction on another GPU names as the reason of other bits."""

from types import SimpleNamespace

import pytest

from sg3flow.runs import reproduce


def provenance(forms, precision="exact float32"):
    layers = [{"name": name, "form": form} for name, form in forms.items()]
    return {
        "compute": {},
        "machine": {},
        "precision": precision,
        "conv_forms": {"setting": "auto", "layers": layers},
    }


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (provenance({"a": "grouped", "b": "nhwc"}), []),
        (
            provenance({"a": "shared", "b": "nhwc"}),
            ["forms of convolutions changed"],
        ),
        (
            {"compute": {}, "precision": "exact float32"},
            ["forms of convolutions changed"],
        ),
        (
            provenance({"a": "grouped", "b": "nhwc"}, "TF32 in float32 layers"),
            ["precision changed: exact float32 -> TF32 in float32 layers"],
        ),
    ],
)
def test_other_forms_and_another_precision_are_differences(tmp_path, monkeypatch, now, words):
    record = SimpleNamespace(
        run={"fingerprint": "f"},
        provenance=provenance({"a": "grouped", "b": "nhwc"}),
        packages={},
    )
    monkeypatch.setattr(reproduce, "read_provenance", lambda _: now)
    monkeypatch.setattr(reproduce, "read_packages", lambda _: {})
    assert list(reproduce._differences(record, tmp_path, "f")) == words
    del record.provenance["precision"]  # as in earlier versions
    assert not any(each.startswith("precision") for each in reproduce._differences(
        record, tmp_path, "f"
    ))  # fmt: skip
