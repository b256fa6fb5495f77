"""Early warnings: what raises them, what does not, and that they change no training."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sg3flow.data.archive import PackedSet
from sg3flow.data.dataset import TrainingSet
from sg3flow.errors import DataError
from sg3flow.files import sha256_file
from sg3flow.networks.discriminator import Discriminator
from sg3flow.runs.run_folder import read_whole_lines
from sg3flow.training import early_warning
from sg3flow.training.diversity import (
    FEATURES,
    FEATURES_WITHIN,
    RATIO,
    WITHIN,
    WORST,
    DiversityMeter,
    block_features,
    class_ratios,
    collapse_words,
    low_pass,
)
from sg3flow.training.early_warning import (
    COPIES,
    MEAN_SIGN_HELD_OUT,
    MEAN_SIGN_TRAIN,
    NEAREST,
    SEEN_ABOVE,
    Alarm,
    EarlyWarning,
    MemorizationProbe,
    OverfitProbe,
    seen_above,
)
from sg3flow.training.job import open_held_out
from sg3flow.training.training_run import train

CPU = torch.device("cpu")
SIDE = 16


class Told(list):
    """A notifier."""

    def send(self, event, message):
        self.append((event, message))


class Items:
    """Images of two classes: class 1 is the brighter one; ``flat``: no labels."""

    def __init__(self, seed, count=48, *, flat=False, mirror=False):
        random = np.random.RandomState(seed)
        self.mirror, self.label_dim = mirror, 0 if flat else 2
        self.packed = SimpleNamespace(num_images=count, class_names=["dark", "bright"])
        base = random.randint(0, 128, (count, 3, SIDE, SIDE))
        base[1::2] += 127
        self.images = torch.from_numpy(base.astype(np.uint8))

    def __len__(self):
        return self.packed.num_images * (2 if self.mirror else 1)

    def __getitem__(self, i):
        n = self.packed.num_images
        image = self.images[i % n]
        return (image.flip(2) if i >= n else image), self.label(i)

    def label(self, i):
        return torch.eye(2)[i % 2] if self.label_dim else torch.zeros(0)


class Copying:
    """Draws training images: one of each class, or others."""

    def __init__(self, items, *, one_per_class):
        self.items, self.one_per_class, self.calls = items, one_per_class, 0

    def __call__(self, z, c, noise_mode):
        chosen = []
        for k, label in enumerate(c.argmax(1).tolist()):
            number = 0 if self.one_per_class else int(z[k, 0])
            chosen.append(2 * number + label)
        self.calls += len(z)
        return torch.stack([self.items[i][0] for i in chosen]) / 127.5 - 1


class Score(torch.nn.Module):
    """A discriminator of one block whose logit is 1 for known images and -1 for others."""

    resolutions = ()
    b4 = SimpleNamespace(mbstd_group_size=4)

    def __init__(self, known=None):
        super().__init__()
        self.known = known
        self.passes = []

    def forward(self, img, c):
        self.passes.append(len(img))
        if self.known is None:
            return img.mean((1, 2, 3)) * 0 + torch.arange(len(img)) % 2
        near = torch.cdist(img.flatten(1), self.known.flatten(1)).min(1).values
        return torch.where(near < 0.1, 1.0, -1.0)[:, None]


def latents(count=8):
    """``count`` latents of each class."""
    z = torch.arange(count).repeat(2)[:, None].float()
    return z, torch.eye(2).repeat_interleave(count, 0)


def warning_of(items, held_out=None):
    z, c = latents()
    chosen = [2 * k for k in range(8)] + [2 * k + 1 for k in range(8)]
    return EarlyWarning(
        DiversityMeter.of(items, chosen, z, c, 4),
        MemorizationProbe(items, held_out, 0),
        OverfitProbe(items, held_out, 0, 4) if held_out else None,
        Told(),
        items.packed.class_names,
    )


def reports(warning, G, D, nimgs=range(0, 6000, 1000), at_snapshot=False):
    parts = SimpleNamespace(G_ema=G, D=D, device=CPU)
    return [warning.measure(parts, nimg, at_snapshot) for nimg in nimgs]


def test_the_ratio_within_a_class_leaves_out_other_classes():
    """Reals differ by 1 within both classes, fakes by 0.5 in class 0 and by nothing in class 1."""
    reals = torch.tensor([[0.0], [1.0], [10.0], [11.0], [5.0]])
    fakes = torch.tensor([[0.0], [0.5], [10.0], [10.0], [5.0], [6.0]])
    found = class_ratios(fakes, reals, [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2])
    assert found == {0: pytest.approx(0.5), 1: 0.0}  # class 2 has one real image


def test_one_image_per_class_raises_the_alarm_though_the_batch_is_diverse(capsys):
    items = Items(0)
    warning = warning_of(items)
    rows = reports(warning, Copying(items, one_per_class=True), Score())
    assert rows[-1][RATIO].mean > 0.5
    assert rows[-1][WORST].mean == rows[-1][WITHIN].mean == pytest.approx(0, abs=1e-4)
    [(event, words)] = warning.notifier  # once
    assert event == "collapse" and "at 3 kimg, in 2 of 2 measured classes" in words
    assert "dark" in words and "bright" in words and "train.class_batches" in words
    assert capsys.readouterr().err == f"warning: {words}\n"


def test_one_collapsed_class_of_two_is_enough():
    items = Items(0)
    warning = warning_of(items)

    class Half(Copying):
        def __call__(self, z, c, noise_mode):
            return super().__call__(z * c[:, 1:], c, noise_mode)

    row = reports(warning, Half(items, one_per_class=False), Score())[-1]
    assert row[WORST].mean < 0.25 < row[WITHIN].mean
    [(_, words)] = warning.notifier
    assert "in 1 of 2 measured classes (dark)" in words


def test_a_healthy_generator_raises_nothing():
    items, other = Items(0), Items(1)
    warning = warning_of(items, Items(2))
    G = Copying(other, one_per_class=False)  # images of the same distribution, none a copy
    rows = reports(warning, G, Score(), at_snapshot=True)
    assert rows[-1][WORST].mean == pytest.approx(1, abs=0.2)
    assert rows[-1][COPIES].mean == 0 and rows[-1][NEAREST].mean == pytest.approx(1, abs=0.2)
    assert abs(rows[-1][SEEN_ABOVE].mean) < 0.2
    assert list(warning.notifier) == [] and COPIES not in rows[0]
    assert G.calls == 6 * 16  # each report draws each latent once


def test_an_untrained_network_is_no_class_collapse_but_a_fall_is():
    one = warning_of(Items(0))
    assert not any(one._is_class_collapse(0.1, 0.15, 1000 * k) for k in range(9))
    assert not one._is_class_collapse(0.6, 0.7, 9000)
    found = [one._is_class_collapse(0.1, 0.15, 10000 + k) for k in range(5)]
    assert found == [False, False, True, False, False]


def test_an_alarm_waits_is_raised_once_and_again_after_a_recovery():
    alarm = Alarm(2)
    bad, between, good = (True, False), (False, False), (False, True)
    seen = [bad, between, bad, bad, bad, between, bad, bad, good, bad, bad]
    found = [alarm.update(*each, 1000) for each in seen]
    assert [i for i, raised in enumerate(found) if raised] == [3, 10]
    untrained = Alarm(1)
    assert not untrained.update(True, False, 0) and untrained.update(True, False, 1)


def test_a_resumed_training_does_not_tell_again(capsys):
    items = Items(0)
    rows = [{"nimg": 1000 * k, RATIO: {"mean": 0.9}, WORST: {"mean": 0.0}} for k in (1, 2, 3)]
    resumed, earlier = warning_of(items), warning_of(items)
    resumed.resume(rows)
    earlier.resume(rows[:2])
    G = Copying(items, one_per_class=True)
    for warning in (resumed, earlier):
        reports(warning, G, Score(), (4000, 5000))
    assert list(resumed.notifier) == [] and len(earlier.notifier) == 1
    fallen = warning_of(items)
    fallen.resume([{"nimg": 0, RATIO: {"mean": 0.9}}, {"nimg": 1000}])  # untrained; older version
    assert fallen._alarms({RATIO: 0.1}, 2000) == []
    fallen.resume([{"nimg": 3000, RATIO: {"mean": 0.9}}])
    assert fallen._alarms({RATIO: 0.1}, 4000) == ["collapse"]
    fallen._tell("collapse", {RATIO: 0.1}, 4000, torch.zeros(0))
    assert list(fallen.notifier) == [("collapse", collapse_words(0.1, 4000))]


def test_mean_sign_of_pairs_in_closed_form():
    seen, unseen = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0, 3.0])
    # 1 > 0, 1 < 2, 1 < 3; 3 > 0, 3 > 2, 3 = 3
    assert seen_above(seen, unseen) == pytest.approx((1 - 1 - 1 + 1 + 1 + 0) / 6)
    assert seen_above(unseen, seen) == pytest.approx(-1 / 6)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_discriminator_that_knows_its_images_raises_the_alarm(mirror):
    items, held_out = Items(0, mirror=mirror), Items(1, 30)
    D = Score(torch.stack([items[i][0] for i in range(len(items))]) / 127.5 - 1)
    warning = warning_of(items, held_out)
    row = reports(warning, Copying(Items(3), one_per_class=False), D)[-1]
    assert row[SEEN_ABOVE].mean == row[MEAN_SIGN_TRAIN].mean == 1
    assert row[MEAN_SIGN_HELD_OUT].mean == -1 and row[MEAN_SIGN_HELD_OUT].num == 30
    assert set(D.passes) == {4}  # full groups: 30 images are 8 passes
    [(event, words)] = warning.notifier
    assert event == "overfit" and "at 3 kimg" in words and "100 % of pairs" in words


def test_logits_that_are_not_finite_have_no_statistic():
    probe = OverfitProbe(Items(0), Items(1), 0, 4)
    broken = Score(torch.full((1, 3, SIDE, SIDE), math.nan))
    broken.forward = lambda img, c: img.mean((1, 2, 3)) * math.nan
    assert probe.measure(broken, CPU) == {}


@pytest.mark.parametrize("known_held_out", [False, True])
def test_a_copying_generator_raises_the_memorization_alarm(known_held_out):
    items = Items(0)
    warning = warning_of(items)
    if known_held_out:
        warning.memorization = MemorizationProbe(items, Items(1), 0)
    G = Copying(items, one_per_class=False)
    rows = reports(warning, G, Score(), at_snapshot=True)
    assert rows[-1][COPIES].mean == 1 and rows[-1][NEAREST].mean == pytest.approx(0, abs=1e-2)
    [(event, words)] = warning.notifier
    assert event == "memorization" and "at 1 kimg" in words and "100 % of the sample" in words
    assert COPIES not in reports(warning, G, Score())[-1]  # at snapshots only


def test_distances_are_relative_to_those_between_reals():
    """Uniform levels 0, 40, 80…: the nearest other one is 40 away, a fake 10 away is at 1/4."""
    items = Items(0, 6, flat=True)
    items.images[:] = torch.arange(0, 240, 40, dtype=torch.uint8)[:, None, None, None]
    points = low_pass((items.images + 20).float() / 127.5 - 1)
    found = MemorizationProbe(items, None, 0).measure(points)
    assert found[NEAREST].mean == pytest.approx(0.5, abs=1e-4) and found[COPIES].mean == 0
    near = low_pass((items.images + 9).float() / 127.5 - 1)
    assert MemorizationProbe(items, None, 0).measure(near)[COPIES].mean == 1
    items.images[:] = 7
    assert MemorizationProbe(items, None, 0).measure(points) == {}


def test_copies_of_mirror_images_count_if_the_training_has_them():
    for mirror, share in ((True, 1), (False, 0)):
        items = Items(0, mirror=mirror)
        points = low_pass(items.images[:16].flip(3).float() / 127.5 - 1)
        assert MemorizationProbe(items, None, 0).measure(points)[COPIES].mean == share


def test_copies_are_estimated_from_the_part_that_is_searched(monkeypatch):
    monkeypatch.setattr(early_warning, "MOST_REALS", 12)
    items = Items(0)
    probe = MemorizationProbe(items, None, 0)
    assert probe.searched_share == 0.25 and len(probe._searched) == 12
    points = low_pass(items.images.float() / 127.5 - 1)  # all are copies: 12 of 48 are found
    assert probe.measure(points)[COPIES].mean == 1
    others = low_pass(Items(5, 9).images.float() / 127.5 - 1)
    for found, share in ((1, 0), (2, 0), (3, 1)):  # one and two are chance
        points = torch.cat([probe._reals[:found], others])
        assert probe.measure(points)[COPIES].mean == share


def test_features_of_d_come_before_the_block_that_compares_images():
    torch.manual_seed(0)
    D = Discriminator(2, SIDE, 3, channel_base=256, channel_max=16)
    img = torch.randn(5, 3, SIDE, SIDE)
    whole = block_features(D, img)
    torch.testing.assert_close(whole[:1], block_features(D, img[:1]))  # no image looks at others
    assert whole.shape == (5, 16 * 16)
    items = Items(0)
    meter = warning_of(items).meter
    found = meter.sample(Copying(items, one_per_class=True), CPU, D)
    stats = meter.compare_features(found, D, CPU)
    assert stats[FEATURES_WITHIN].mean < 0.01 < stats[FEATURES].mean
    same = meter.sample(Copying(items, one_per_class=False), CPU, D)
    stats = meter.compare_features(same, D, CPU)
    assert stats[FEATURES].mean == pytest.approx(1) == stats[FEATURES_WITHIN].mean


@pytest.fixture
def unseen_set(tmp_path):
    """A set of the form of ``tiny_set`` without labels."""

    def write(like, count=9):
        packed, folder = PackedSet(like), tmp_path / "unseen"
        folder.mkdir()
        random = np.random.RandomState(7)
        for k in range(count):
            shape = packed.image(0).shape
            Image.fromarray(random.randint(0, 256, shape, np.uint8)).save(folder / f"{k}.png")
        return folder

    return write


def test_held_out_images_must_be_others_of_the_same_form(tiny_set, unseen_set, tmp_path):
    items = TrainingSet(PackedSet(tiny_set))
    assert open_held_out("", items) is None
    with pytest.raises(DataError, match="has the images of the training set"):
        open_held_out(str(tiny_set), items)
    with pytest.raises(DataError, match=r"none\.zip"):
        open_held_out(str(tmp_path / "none.zip"), items)
    unseen = unseen_set(tiny_set)
    assert len(open_held_out(str(unseen), items)) == 9
    with pytest.raises(DataError, match=r"labels of length 0; the training set .* pack both"):
        open_held_out(str(unseen), TrainingSet(PackedSet(tiny_set), labels=True))


def leaves(state, path=""):
    """The values of a state by path; tensors as their bytes."""
    if isinstance(state, dict):
        parts = list(state.items())
    elif isinstance(state, list | tuple):
        parts = list(enumerate(state))
    else:
        return {path: state.numpy().tobytes() if isinstance(state, torch.Tensor) else str(state)}
    return {k: v for name, part in parts for k, v in leaves(part, f"{path}/{name}").items()}


@pytest.mark.medium
@pytest.mark.parametrize("settings", [{}, {"cond": True, "mirror": True}])
def test_the_training_is_the_same_with_and_without(
    cheap_config, tiny_set, unseen_set, tmp_path, monkeypatch, settings
):
    losses, digests, states = [], set(), []
    held_out = "" if settings else str(unseen_set(tiny_set))
    for name, path in (("off", ""), ("on", held_out)):
        with monkeypatch.context() as patch:
            patch.setenv("SG3FLOW_STATE_DIR", str(tmp_path / name))
            if name == "off":
                patch.setattr(EarlyWarning, "measure", lambda self, parts, nimg, at_snapshot: {})
            config = dataclasses.replace(
                cheap_config, kimg=2, snap=1, notify="", held_out=path, **settings
            )
            out = train(config, tiny_set, run_dir=tmp_path / f"out-{name}")
        rows = read_whole_lines(out / "stats.jsonl")
        losses.append([{k: v for k, v in row.items() if k.startswith("Loss/")} for row in rows])
        digests.add(sha256_file(out / "network-snapshot-000002.pkl"))
        state = sorted((tmp_path / name).rglob("state-*.pt"))[-1]
        states.append(torch.load(state, weights_only=False))
    for state in states:
        del state["clock"]  # its time
    assert leaves(states[0]) == leaves(states[1])
    assert losses[0] == losses[1] and losses[0] and len(digests) == 1
    assert (SEEN_ABOVE in rows[-1]) == bool(held_out) and NEAREST in rows[-1]
    assert NEAREST not in rows[0] and FEATURES in rows[-1]
    assert (WORST in rows[-1]) == bool(settings)
