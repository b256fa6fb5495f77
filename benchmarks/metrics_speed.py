"""Speed of generating images and extracting features: in turn or overlapped, by memory format.

    python benchmarks/metrics_speed.py --resolution 256 --images 2048 --batch 32

The Inception network has random weights: the time is the same, and no download is needed.
"""

import argparse
import time
from collections.abc import Iterator
from typing import cast

import torch

from sg3flow.metrics.features.inception import Inception
from sg3flow.metrics.generation import MeasuredGenerator, generate_images, overlapped
from sg3flow.networks import StyleGAN3Generator
from sg3flow.precision import computing


class Contest:
    """One generator and one detector, run in several ways."""

    def __init__(self, resolution: int, images: int, batch: int, device: torch.device) -> None:
        self.images, self.batch, self.device = images // batch * batch, batch, device
        G = StyleGAN3Generator(
            z_dim=512, c_dim=0, w_dim=512, img_resolution=resolution, img_channels=3
        )
        self.G = cast(MeasuredGenerator, G.eval().requires_grad_(False).to(device))
        self.detector = Inception().eval().requires_grad_(False).to(device)

    def pictures(self) -> Iterator[torch.Tensor]:
        """Batches, uint8."""
        random = torch.Generator().manual_seed(0)
        c = torch.zeros(self.batch, 0, device=self.device)
        for _ in range(self.images // self.batch):
            z = torch.randn(self.batch, 512, generator=random).to(self.device)
            yield generate_images(self.G, z, c)

    @torch.inference_mode()
    def look(self, images: torch.Tensor) -> torch.Tensor:
        """Features, on the CPU."""
        features: torch.Tensor = self.detector(images)["f2048"].cpu()
        return features

    def run(self, threaded: bool) -> tuple[float, torch.Tensor]:
        """Images per second, and the features."""
        start = time.perf_counter()
        features = torch.cat(list(overlapped(self.pictures(), self.look, self.device, threaded)))
        return self.images / (time.perf_counter() - start), features


def main() -> None:
    """Print images per second, the better of two rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    contest = Contest(options.resolution, options.images, options.batch, device)
    with computing():
        plain = contest.run(False)[1]  # kernels are built and chosen here
        for layout in (torch.contiguous_format, torch.channels_last):
            contest.detector.to(memory_format=layout)  # type: ignore[call-overload]
            for threaded in (False, True):
                rate, features = max((contest.run(threaded) for _ in range(2)), key=lambda r: r[0])
                apart = float((features - plain).abs().max() / plain.abs().max())
                way = "overlapped" if threaded else "in turn"
                print(f"{layout}, {way}: {rate:.1f} images/s, features within {apart:.1e}")


if __name__ == "__main__":
    main()
