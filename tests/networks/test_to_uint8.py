import torch

from sg3flow.networks.layers import to_uint8


def test_pixels_are_scaled_clamped_and_truncated():
    img = torch.tensor([-2.0, -1.0, 0.0, 0.0117, 0.5, 1.0, 3.0]).reshape(1, 1, 1, 7)
    pixels = to_uint8(img)
    assert pixels.dtype == torch.uint8 and pixels.shape == img.shape
    assert pixels.flatten().tolist() == [0, 0, 128, 129, 191, 255, 255]
    assert torch.equal(to_uint8(img.double()), pixels)
