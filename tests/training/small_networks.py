"""Networks of one or few weights, and batches for them: losses by hand."""

import torch
from torch import nn

from sg3flow.training.losses import MicroBatch


class LinearG(nn.Module):
    z_dim = 4

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.mapping = lambda z, c, update_emas: z[:, None, :]
        self.synthesis = lambda ws, noise_mode, update_emas: (
            ws[:, 0, :, None, None].expand(-1, -1, 2, 2) * self.gain
        )


class LinearD(nn.Module):
    """Logit = weight * sum of the pixels: the gradient wrt the pixels is weight everywhere."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, img, c):
        return (img * self.weight).sum([1, 2, 3])[:, None]


class LayeredG(nn.Module):
    """img = sum over the layers of gain_l w_l, the same in 2 x 2 pixels; every w is z + c."""

    z_dim, num_ws = 4, 5

    def __init__(self):
        super().__init__()
        self.gains = nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.5, -0.5]))
        self.calls = []  # the ws of every synthesis, and whether it and its mapping move averages
        self.maps_move = []

    def mapping(self, z, c, update_emas):
        self.maps_move.append(update_emas)
        return (z + c)[:, None].repeat(1, len(self.gains), 1).requires_grad_()

    def synthesis(self, ws, noise_mode, update_emas):
        self.calls.append((ws.detach(), update_emas))
        return (ws * self.gains[:, None]).sum(1)[:, :, None, None].expand(-1, -1, 2, 2)


class RecordingD(LinearD):
    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, img, c):
        self.calls.append((img.detach(), c))
        return super().forward(img, c)


class Tripled(nn.Module):
    """An augmentation that is easy to see."""

    def forward(self, images):
        return images * 3


def micro(n=2):
    torch.manual_seed(0)
    empty = torch.zeros(n, 0)
    return MicroBatch(torch.randn(n, 4, 2, 2), empty, torch.randn(n, 4), empty)


def labeled(n=2):
    """Labels of 10 for reals and of 100 for generated images, which have ws of 1000 more."""
    torch.manual_seed(0)
    reals = torch.randn(n, 4, 2, 2)
    return MicroBatch(
        reals, torch.full((n, 4), 10.0), torch.full((n, 4), 1e3), torch.full((n, 4), 1e2)
    )
