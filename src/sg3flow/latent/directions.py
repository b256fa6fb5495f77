"""Directions in w of a generator: of its style weights (SeFa), or of the w that it makes (PCA).

Both are eigenvectors of a symmetric matrix [w_dim, w_dim], by descending eigenvalue, of unit
length, with the largest absolute component positive.

- ``sefa``, closed-form factorization (Shen and Zhou 2021, Sec. 3): the directions that change the
  styles of the chosen layers most are eigenvectors of A^T A. A has the weights of the affine
  transforms of w of these layers below each other, as the network applies them: with the gain of
  the equalized learning rate, without the bias, which an edit does not change. Rows are not
  normalized, as in the paper; the authors' code does that. An eigenvalue is the squared change of
  the styles per unit of w.
- ``pca`` (Haerkoenen et al. 2020, "GANSpace", Sec. 3): the principal components of w over many z.
  An eigenvalue is the variance of w along the direction. Layers only choose where it is applied.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sg3flow.errors import ConfigError
from sg3flow.networks import StyleGAN2Generator, StyleGAN3Generator
from sg3flow.networks.layers import FullyConnectedLayer
from sg3flow.precision import computing
from sg3flow.progress import tracked
from sg3flow.rendering.conditions import Condition, label_tensor
from sg3flow.rendering.edits import Directions
from sg3flow.rendering.images import Model, network_device

SEFA, PCA = "sefa", "pca"
METHODS = (SEFA, PCA)

Matrix = npt.NDArray[np.float64]

_BATCH = 1000  # latents at a time; another number would change the last bits of a covariance


def find_directions(
    model: Model,
    method: str,
    layers: Sequence[int],
    num: int,
    *,
    condition: Condition = None,
    num_samples: int = 100_000,
    seed: int = 0,
) -> Directions:
    """The first ``num`` directions of a generator, named ``sefa0``, ``sefa1`` and so on.

    Args:
        method: one of ``METHODS``.
        layers: numbers of the layers that they edit; ``sefa`` factorizes the weights of these.
        condition: class or label of the sampled w; None: all classes or training labels in turn.
        num_samples: number of sampled w, for the natural steps and for ``pca``.
        seed: of their latents z.

    Raises:
        ConfigError: there are fewer directions than ``num``, or no layer is chosen.
    """
    G = model.G
    if not 1 <= num <= G.w_dim:
        raise ConfigError(f"num must be from 1 to {G.w_dim}, the dimension of w, not {num}")
    if not layers:
        raise ConfigError(f"layers must name at least one layer, from 0 to {G.num_ws - 1}")
    batches = sampled_w(model, condition, num_samples, seed)
    covariance = covariance_of(tracked(batches, "sampling w", -(-num_samples // _BATCH)))
    matrix = covariance if method == PCA else gram_matrix(style_weights(G, layers))
    values, vectors = principal_axes(matrix, num)
    variances = np.einsum("ki,ij,kj->k", vectors, covariance, vectors)
    spread = np.zeros((num, G.num_ws, G.w_dim), np.float32)
    spread[:, list(layers)] = vectors[:, None].astype(np.float32)
    return Directions(
        vectors=spread,
        names=tuple(f"{method}{k}" for k in range(num)),
        values=values,
        scales=np.sqrt(variances.clip(min=0)),
        method=method,
        layers=tuple(layers),
        network=model.digest,
    )


def principal_axes(matrix: Matrix, num: int) -> tuple[Matrix, Matrix]:
    """The eigenvalues [num] and eigenvectors [num, n] of a symmetric matrix without negative ones.

    They descend; a vector has unit length, and its largest absolute component is positive.
    """
    values, columns = np.linalg.eigh(matrix)  # ascending
    vectors = columns.T[::-1][:num]
    largest = np.abs(vectors).argmax(axis=1)
    signs = np.sign(vectors[np.arange(num), largest])
    return values[::-1][:num].clip(min=0), vectors * signs[:, None]


def gram_matrix(weights: Matrix) -> Matrix:
    """A^T A, [w_dim, w_dim], of A [rows, w_dim]."""
    return weights.T @ weights


def style_weights(G: Any, layers: Sequence[int]) -> Matrix:
    """A of some layers, [rows, w_dim]: the weights of all that reads the w of these layers."""
    readers = affines(G)
    chosen = [affine for layer in layers for affine in readers[layer]]
    parts = [each.weight.detach().cpu().double().numpy() * each.weight_gain for each in chosen]
    return np.concatenate(parts)


def affines(G: Any) -> list[list[FullyConnectedLayer]]:
    """The affine transforms that read each of the ``num_ws`` w.

    - StyleGAN3: one per layer. Layer 0 is the Fourier input, whose 4 outputs rotate and translate
      the image; the last is ToRGB.
    - StyleGAN2: one per convolution. ToRGB of a block shares its w with the first convolution of
      the next block, so that layer has both; the last layer has the last ToRGB alone.

    Raises:
        ConfigError: another kind of generator.
    """
    synthesis: Any = getattr(G, "synthesis", None)
    if isinstance(G, StyleGAN3Generator):
        names = [plan.name for plan in synthesis.schedule.layers]
        return [[synthesis.get_submodule(name).affine] for name in ("input", *names)]
    if isinstance(G, StyleGAN2Generator):
        return _shared_affines(synthesis)
    raise ConfigError("directions need a StyleGAN2 or StyleGAN3 generator")


def _shared_affines(synthesis: Any) -> list[list[FullyConnectedLayer]]:
    readers: list[list[FullyConnectedLayer]] = [[] for _ in range(synthesis.num_ws)]
    start = 0
    for resolution in synthesis.resolutions:
        block = synthesis.get_submodule(f"b{resolution}")
        convs = [block.conv1] if block.num_conv == 1 else [block.conv0, block.conv1]
        for i, layer in enumerate((*convs, block.torgb)):
            readers[start + i].append(layer.affine)
        start += len(convs)
    return readers


def sampled_w(model: Model, condition: Condition, count: int, seed: int) -> Iterator[Matrix]:
    """``count`` w of random z without truncation, float64 [n, w_dim] at a time.

    The latents are one stream of NumPy's legacy generator, which does not change between versions.
    """
    G, random = model.G, np.random.RandomState(seed)
    device = network_device(G)
    kinds = [condition] if condition is not None else model.labels.in_turn(_kinds(model))
    table = torch.cat([label_tensor(kind, model.labels) for kind in kinds]).to(device)
    for start in range(0, count, _BATCH):
        numbers = torch.arange(start, min(start + _BATCH, count))
        z = torch.from_numpy(random.randn(len(numbers), G.z_dim)).to(device, torch.float32)
        with torch.no_grad(), computing():
            ws = G.mapping(z, table[numbers % len(table)])  # [n, num_ws, w_dim], equal
        yield ws[:, 0].double().cpu().numpy()


def _kinds(model: Model) -> int:
    return len(model.labels.samples) or max(model.labels.dim, 1)


def covariance_of(batches: Iterator[Matrix]) -> Matrix:
    """The covariance [w_dim, w_dim] of all rows, with 1 / N, in float64."""
    first = next(batches)
    shift = first.mean(axis=0)  # keeps the digits of a variance that is small beside the mean
    count, total, products = 0, np.zeros(len(shift)), np.zeros((len(shift), len(shift)))
    for w in itertools.chain([first], batches):
        centered = w - shift
        count += len(w)
        total += centered.sum(axis=0)
        products += centered.T @ centered
    mean = total / count
    return products / count - np.outer(mean, mean)
