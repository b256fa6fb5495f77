"""Our own snapshots: same values, same bytes; and only whole, fitting ones are read."""

import hashlib
import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from sg3flow.checkpoints import load_networks, save_snapshot
from sg3flow.checkpoints.snapshots import read_snapshot
from sg3flow.errors import CheckpointError
from sg3flow.networks import Discriminator, StyleGAN3Generator

TRAINING_SET = {
    "name": "cats",
    "resolution": 16,
    "channels": 3,
    "label_dim": 0,
    "num_images": 7,
    "digest": "0" * 64,
    "mirror": False,
    "class_names": ["0", "storage", "cpu", "cats"],
}


def save(path, G, D, training_set=TRAINING_SET, progress=None, augment_p=0.25):
    return save_snapshot(
        path,
        G=G,
        D=D,
        G_ema=G,
        augment_p=augment_p,
        training_set=training_set,
        progress=progress or {"nimg": 3000, "seed": 1},
    )


def resaved(path, change):
    """The snapshot at ``path`` after ``change(content)``, written again."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("cfg", ["stylegan3-t", "stylegan3-r", "stylegan2"])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_round_trip(cfg, c_dim, networks, tmp_path):
    G, D = networks(cfg, c_dim)
    save(tmp_path / "a.pkl", G, D)
    random_state = torch.get_rng_state()
    loaded = load_networks(tmp_path / "a.pkl")
    assert torch.equal(torch.get_rng_state(), random_state)
    z, c = torch.randn(2, 8), torch.eye(c_dim)[:2] if c_dim else torch.zeros(2, 0)
    img = G(z, c)
    assert torch.equal(loaded.G(z, c), img) and torch.equal(loaded.G_ema(z, c), img)
    assert torch.equal(loaded.D(img, c), D(img, c))
    assert not loaded.G.training
    assert all(a.requires_grad == b.requires_grad for a, b in pairs(loaded.D, D))
    assert float(loaded.augment_pipe.p) == 0.25
    assert loaded.training_set == TRAINING_SET
    assert loaded.progress == {"nimg": 3000, "seed": 1}


def pairs(a, b):
    return zip(a.parameters(), b.parameters(), strict=True)


def test_the_hash_is_that_of_the_file(networks, tmp_path):
    digest = save(tmp_path / "a.pkl", *networks("stylegan3-t"))
    assert digest == hashlib.sha256((tmp_path / "a.pkl").read_bytes()).hexdigest()


def test_bytes_do_not_depend_on_path_identity_order_or_history(networks, tmp_path):
    G, D = networks("stylegan3-t")
    first = save(tmp_path / "network-snapshot-000001.pkl", G, D)

    def fresh(text):  # equal, but never the same object
        return "".join(list(text))

    copied = {fresh(k): fresh(v) if isinstance(v, str) else v for k, v in TRAINING_SET.items()}
    copied = dict(reversed(copied.items()))
    copied["class_names"] = tuple(fresh(name) for name in TRAINING_SET["class_names"])
    copied["resolution"] = np.int64(16)
    progress = {"seed": 1, "nimg": torch.tensor(3000)}
    weight = G.synthesis.input.weight
    weight.data = torch.stack([weight.data, weight.data], dim=-1)[..., 0]  # a strided view
    assert not weight.is_contiguous()
    D.b4.out.weight.data = torch.cat([D.b4.out.weight.data] * 2)[: len(D.b4.out.weight)]
    second = save(tmp_path / "b" / "other name.bin", G, D, copied, progress, np.float64(0.25))
    loaded = load_networks(tmp_path / "b" / "other name.bin")
    third = save_snapshot(
        tmp_path / "c.pkl",
        G=loaded.G,
        D=loaded.D,
        G_ema=loaded.G_ema,
        augment_p=float(loaded.augment_pipe.p),
        training_set=loaded.training_set,
        progress=loaded.progress,
    )
    assert first == second == third


SAVING = """
torch.manual_seed(0)
small = dict(img_resolution=16, img_channels=3, channel_base=256, channel_max=16)
G = StyleGAN3Generator(z_dim=8, c_dim=0, w_dim=8, num_layers=5, **small)
D = Discriminator(c_dim=0, **small)
rest = dict(augment_p=0.5, training_set={"name": "x"}, progress={"nimg": 5})
digest = save_snapshot(path, G=G, D=D, G_ema=G, **rest)
"""


@pytest.mark.medium
def test_bytes_do_not_depend_on_the_process(tmp_path):
    names = {"torch": torch, "save_snapshot": save_snapshot, "path": tmp_path / "here.pkl"}
    names |= {"StyleGAN3Generator": StyleGAN3Generator, "Discriminator": Discriminator}
    exec(SAVING, names)
    imports = (
        "import sys, pathlib, torch; path = pathlib.Path(sys.argv[1])\n"
        "from sg3flow.checkpoints import save_snapshot\n"
        "from sg3flow.networks import Discriminator, StyleGAN3Generator\n"
    )
    command = [sys.executable, "-c", imports + SAVING + "print(digest)", tmp_path / "there.pkl"]
    environment = {"PYTHONHASHSEED": "5", "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == names["digest"]


def test_values_that_are_not_primitives_are_refused_and_nothing_is_written(networks, tmp_path):
    G, D = networks("stylegan3-t")
    for bad in ({"name": object()}, {3: "x"}, {"name": {1, 2}}, {"x": torch.ones(2)}):
        with pytest.raises(CheckpointError, match="training_set"):
            save(tmp_path / "a.pkl", G, D, bad)
    endless = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="nested too deep"):
        save(tmp_path / "a.pkl", G, D, {"x": endless})
    assert list(tmp_path.iterdir()) == []


def test_every_truncation_is_one_line(networks, tmp_path):
    path = tmp_path / "a.pkl"
    save(path, *networks("stylegan3-t"))
    content = path.read_bytes()
    for length in (0, 1, 4, 100, len(content) // 2, len(content) - 30, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            load_networks(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_flipped_bit_is_noticed_or_harmless(networks, tmp_path):
    path = tmp_path / "a.pkl"
    G, D = networks("stylegan3-t")
    digest = save(path, G, D)
    content = bytearray(path.read_bytes())
    numbers = np.random.RandomState(0).randint(0, len(content), 20)
    for position in numbers:
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:
            loaded = load_networks(path)
        except CheckpointError as error:
            assert "\n" not in str(error)
        else:  # in the padding between entries
            assert save(tmp_path / "again.pkl", loaded.G, loaded.D) == digest


def test_what_does_not_fit_is_listed(networks, tmp_path):
    path = tmp_path / "a.pkl"
    save(path, *networks("stylegan3-t"))

    def change(content):
        state = content["G_ema"]["state_dict"]
        del state["mapping.fc0.bias"]
        state["mapping.fc9.bias"] = torch.zeros(3)
        state["mapping.fc1.bias"] = torch.zeros(4)

    with pytest.raises(CheckpointError) as caught:
        read_snapshot(resaved(path, change))
    message = str(caught.value)
    assert "missing: mapping.fc0.bias" in message
    assert "unexpected: mapping.fc9.bias" in message
    assert "mapping.fc1.bias is [4], not [8]" in message


def test_long_lists_are_capped(networks, tmp_path):
    path = tmp_path / "a.pkl"
    save(path, *networks("stylegan3-t"))
    with pytest.raises(CheckpointError, match=r"missing: .* and \d+ more") as caught:
        read_snapshot(resaved(path, lambda content: content["D"]["state_dict"].clear()))
    assert len(str(caught.value)) < 600


CHANGES = {
    "format": (
        lambda c: c.update(format="other-2"),
        "expected sg3flow-snapshot-1, found 'other-2'",
    ),
    "no format": (lambda c: c.pop("format"), "found None"),
    "extra key": (lambda c: c.update(extra=1), "unknown keys.*'extra'"),
    "missing key": (lambda c: c.pop("D"), "missing or unknown keys.*'D'"),
    "augment_p": (lambda c: c.update(augment_p=float("nan")), "augment_p must be"),
    "impossible p": (lambda c: c.update(augment_p=1.1), "augment_p is 1.1 after 3000 images"),
    "nimg": (lambda c: c["progress"].update(nimg=-5), "progress.nimg must be .*not -5"),
    "nimg type": (lambda c: c["progress"].update(nimg="5"), "progress.nimg must be .*not '5'"),
    "D as G": (lambda c: c.update(G=c["D"]), "G is a Discriminator and must be a generator"),
    "D as G_ema": (lambda c: c.update(G_ema=c["D"]), "G_ema is a Discriminator and must be a gene"),
    "G as D": (lambda c: c.update(D=c["G"]), "D is a StyleGAN3Generator and must be a discrimi"),
    "class": (lambda c: c["G"].update(class_name="Generatr"), "unknown network 'Generatr'"),
    "class type": (lambda c: c["G"].update(class_name=[["G"]]), "unknown network a list"),
    "kwarg": (lambda c: c["D"]["init_kwargs"].update(evil=1), "refuses its init_kwargs.*evil"),
    "no kwarg": (lambda c: c["D"]["init_kwargs"].pop("c_dim"), "refuses its init_kwargs.*c_dim"),
    "kwarg type": (lambda c: c["G"]["init_kwargs"].update(z_dim="x"), "refuses its init_kwargs"),
    "kwarg size": (lambda c: c["G"]["init_kwargs"].update(num_layers=257), "at most 256"),
    "kwarg size 2": (lambda c: c["G"]["init_kwargs"].update(img_resolution=32768), "at most"),
    "tensor": (
        lambda c: c["G"]["state_dict"].update(x=3),
        r"state_dict\['x'\] is not a dense float tensor",
    ),
    "expanded": (
        lambda c: c["G"]["state_dict"].update(x=torch.zeros(1).expand(1000)),
        "beyond its storage",
    ),
    "sparse": (
        lambda c: c["G"]["state_dict"].update(x=torch.zeros(3, 3).to_sparse()),
        "refused: the file names torch._utils._rebuild_sparse_tensor",
    ),
    "shared": (
        lambda c: c["D"]["state_dict"].update(
            {f"x{i}": c["D"]["state_dict"]["b4.fc.weight"] for i in range(100)}
        ),
        "share the same memory",
    ),
}


def test_ada_may_raise_p_above_1_with_enough_images(networks, tmp_path):
    path, (G, D) = tmp_path / "a.pkl", networks("stylegan3-t")
    save(path, G, D, progress={"nimg": 200_000}, augment_p=3.0)
    assert float(load_networks(path).augment_pipe.p) == 3.0
    save(path, G, D, progress={"nimg": 200_000}, augment_p=3.01)
    with pytest.raises(CheckpointError, match=r"contradicts itself: augment_p is 3\.01"):
        load_networks(path)


def test_networks_of_different_trainings_are_refused(networks, tmp_path):
    path, (G, D) = tmp_path / "a.pkl", networks("stylegan3-t")
    others = networks("stylegan3-t", 3), networks("stylegan2")
    for G_ema, other_D, word in (
        (G, others[0][1], "c_dim of G is 0 and of D 3"),
        (others[0][0], D, "c_dim of G is 0 and of G_ema 3"),
        (others[1][0], D, "class_name of G is 'StyleGAN3Generator' and of G_ema 'StyleGAN2Gen"),
    ):
        rest = {"augment_p": 0.0, "training_set": {}, "progress": {"nimg": 0}}
        save_snapshot(path, G=G, D=other_D, G_ema=G_ema, **rest)
        with pytest.raises(CheckpointError, match=f"contradicts itself: {word}"):
            load_networks(path)


@pytest.mark.parametrize("name", CHANGES)
def test_a_hostile_snapshot_is_refused(name, networks, tmp_path):
    path = tmp_path / "a.pkl"
    save(path, *networks("stylegan3-t"))
    change, message = CHANGES[name]
    with pytest.raises(CheckpointError, match=message) as caught:
        load_networks(resaved(path, change))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_a_compressed_or_overlapping_archive_is_refused(networks, tmp_path):
    path = tmp_path / "a.pkl"
    save(path, *networks("stylegan3-t"))
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    path.write_bytes(stream.getvalue())
    with pytest.raises(CheckpointError, match="compressed"):
        load_networks(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "not a snapshot")
    with pytest.raises(CheckpointError, match=r"must hold one data\.pkl"):
        load_networks(path)


def test_another_torch_file_is_told_apart(tmp_path):
    path = tmp_path / "a.pkl"
    torch.save([1, 2, 3], path)
    with pytest.raises(CheckpointError, match=r"not a snapshot of sg3flow.*found a list"):
        load_networks(path)


def test_half_precision_networks_are_stored_in_float32(networks, tmp_path):
    G, D = networks("stylegan3-t")
    save(tmp_path / "a.pkl", G.double(), D.half())
    content = read_snapshot(tmp_path / "a.pkl")
    tensors = [t for key in ("G", "D") for t in content[key]["state_dict"].values()]
    assert {t.dtype for t in tensors} == {torch.float32}


def test_reading_a_snapshot_does_not_import_the_compiler_of_torch(tmp_path, networks):
    # Building a network on the meta device would: two seconds for each command that reads one.
    for cfg in ("stylegan3-t", "stylegan3-r", "stylegan2"):
        save(tmp_path / f"{cfg}.pkl", *networks(cfg, c_dim=2))
    program = (
        "import sys\n"
        "from sg3flow.checkpoints import load_networks\n"
        "for path in sys.argv[1:]: load_networks(path)\n"
        "print(sorted({'torch._dynamo', 'sympy'} & set(sys.modules)))\n"
    )
    paths = map(str, tmp_path.glob("*.pkl"))
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
