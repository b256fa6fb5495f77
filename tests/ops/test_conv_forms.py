"""All forms of a convolution give equal results, with gradients of two orders."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from sg3flow.ops import conv2d_resample, modulated_conv2d, setup_filter
from sg3flow.ops.conv_forms import (
    FORMS,
    USUAL,
    ConvForm,
    ConvLayer,
    ModulatedLayer,
    ProductLayer,
    chosen_per_sample,
    conv_in_form,
    product_in_form,
    seen_layers,
    use_forms,
)


@pytest.fixture(autouse=True)
def nothing_chosen():
    use_forms({})
    yield
    use_forms({})


def with_gradients(function, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Results, their gradients, and gradients of the squares of these."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    y = function(*leaves)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    first = torch.autograd.grad((y * weights).sum() + y.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    return [y.detach(), *(g.detach() for g in first), *second]


def assert_equal_but_for_rounding(found, expected, dtype) -> None:
    tolerance = 1e-11 if dtype == torch.float64 else 2e-4
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == dtype
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max().clamp(min=1))


CASES = [
    # inputs, outputs, kernel, stride, padding, groups, transposed
    (3, 5, 3, 1, 1, 1, False),
    (9, 8, 3, 2, 1, 1, False),
    (8, 16, 1, 1, 0, 1, False),  # aligned
    (7, 5, 3, 1, 2, 3, False),
    (5, 9, 3, 2, 1, 1, True),
    (5, 3, 3, 2, 0, 2, True),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_every_form_equals_that_of_torch(case, dtype):
    inputs, outputs, k, stride, padding, groups, transposed = case
    random = torch.Generator().manual_seed(0)
    batch = 2 if groups == 1 else 1
    x = torch.randn(batch, groups * inputs, 6, 7, generator=random, dtype=dtype)
    shape = [groups * inputs, outputs] if transposed else [groups * outputs, inputs]
    w = torch.randn(*shape, k, k, generator=random, dtype=dtype) / k
    run = F.conv_transpose2d if transposed else F.conv2d
    expected = with_gradients(
        lambda x, w: run(x, w, stride=stride, padding=padding, groups=groups), x, w
    )
    for form in FORMS.values():
        found = with_gradients(
            lambda x, w, form=form: conv_in_form(
                form, x, w, stride, (padding, padding), groups, transposed
            ),
            x,
            w,
        )
        assert_equal_but_for_rounding(found, expected, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("up", "k"), [(1, 3), (2, 3), (1, 1)])
def test_modulated_layers_in_every_form_equal_the_usual_one(up, k, dtype):
    random = torch.Generator().manual_seed(0)
    x, w, s = (
        torch.randn(*size, generator=random, dtype=dtype)
        for size in ([2, 7, 6, 6], [5, 7, k, k], [2, 7])
    )
    f = setup_filter([1, 3, 3, 1]).to(dtype)

    def run(x, w, s):
        return modulated_conv2d(x, w, s, padding=k // 2, up=up, f=f)

    expected = with_gradients(run, x, w, s)
    layer = ModulatedLayer.of(x, w, k // 2, up)
    seen_forms = set()
    for per_sample, form in itertools.product((True, False), FORMS.values()):
        use_forms({layer: per_sample})
        with seen_layers() as seen:
            run(x, w, s)
        inner = [each for each in seen if each != layer]
        convs = [each for each in inner if isinstance(each, ConvLayer)]
        assert all((each.groups == len(x)) == per_sample for each in convs)
        assert len(inner) == 1
        use_forms({layer: per_sample} | dict.fromkeys(inner, form))
        assert_equal_but_for_rounding(with_gradients(run, x, w, s), expected, dtype)
        seen_forms.add((per_sample, len(convs)))
    # Weights of each sample with k = 1 are matrix products, not convolutions.
    assert seen_forms == {(True, int(k == 3)), (False, 1)}


def test_products_are_padded_to_equal_results():
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*n, generator=random).double() for n in ([2, 5, 9], [2, 9, 16]))
    expected = with_gradients(lambda a, b: a @ b, a, b)
    found = with_gradients(lambda a, b: product_in_form(ConvForm(padded=True), a, b), a, b)
    assert_equal_but_for_rounding(found, expected, torch.float64)
    assert str(ProductLayer.of(a, b)) == "product 2x5x9 2x9x16 float64"
    assert not ProductLayer.of(a, b).is_aligned and ProductLayer.of(a[:, :0, :8], b).is_aligned


def test_scaled_activations_stay_in_the_range_of_float16():
    """Activations of 256, the clamp of the networks, with weights of unit mean square."""
    x, w, s = torch.full([1, 64, 3, 3], 256.0), torch.randn(2, 64, 3, 3).abs(), torch.ones(1, 64)
    options = {"padding": 1, "normalize": "rms", "per_sample": False}
    expected = modulated_conv2d(x, w, s, **options)
    found = modulated_conv2d(x.half(), w, s, **options)
    assert torch.allclose(found.float(), expected, rtol=5e-3)
    assert (w / w.square().mean().sqrt()).sum() * 256 / 2 > 65504


def test_a_form_computes_as_it_says(monkeypatch):
    called = []

    def conv2d(x, w, **options):
        last = (x.is_contiguous(memory_format=torch.channels_last), x.is_contiguous())
        called.append((tuple(x.shape), tuple(w.shape), last))
        return run(x, w, **options)

    run = F.conv2d
    monkeypatch.setattr(F, "conv2d", conv2d)
    x, w = torch.randn(2, 9, 4, 4), torch.randn(5, 9, 3, 3)
    for form in FORMS.values():
        y = conv_in_form(form, x, w, 1, (1, 1), 1, False)
        assert y.shape == (2, 5, 4, 4) and y.is_contiguous()
    narrow, wide = ((2, 9, 4, 4), (5, 9, 3, 3)), ((2, 16, 4, 4), (8, 16, 3, 3))
    nchw, nhwc = (False, True), (True, False)
    assert called == [(*narrow, nchw), (*wide, nchw), (*narrow, nhwc), (*wide, nhwc)]


def test_a_layer_is_computed_in_its_chosen_form(monkeypatch):
    x, w = torch.randn(2, 9, 4, 4), torch.randn(5, 9, 3, 3)
    with seen_layers() as seen:
        conv2d_resample(x, w, padding=1)
        conv2d_resample(x[:1], w, padding=1)
    first, second = seen
    assert str(first) == "conv x2x9x4x4 w5x9x3x3 stride1 pad1x1 groups1 float32"
    assert first.channels == (9, 5) and not first.is_aligned and first != second
    shapes = []
    run = F.conv2d
    monkeypatch.setattr(
        F, "conv2d", lambda x, w, **options: shapes.append(x.shape[1]) or run(x, w, **options)
    )
    use_forms({first: ConvForm(padded=True)})
    conv2d_resample(x, w, padding=1)
    conv2d_resample(x[:1], w, padding=1)  # another layer
    use_forms({})
    conv2d_resample(x, w, padding=1)
    assert shapes == [16, 9, 9]


def test_on_a_cpu_the_choice_is_as_ever_and_on_others_the_given_one():
    x, w = torch.randn(2, 9, 4, 4), torch.randn(5, 9, 3, 3)
    on_gpu = [t.to("meta") for t in (x, w)]
    assert chosen_per_sample(x, w, 1, 1) is chosen_per_sample(*on_gpu, 1, 1) is None
    use_forms({}, per_sample=False)
    assert chosen_per_sample(x, w, 1, 1) is None
    assert chosen_per_sample(*on_gpu, 1, 1) is False
    use_forms({ModulatedLayer.of(*on_gpu, 1, 1): True}, per_sample=False)
    assert chosen_per_sample(*on_gpu, 1, 1) is True
    assert chosen_per_sample(x, w, 1, 1) is None
    assert str(ModulatedLayer.of(x, w, 1, 1)) == "modulated x2x9x4x4 w5x9x3x3 pad1 up1 float32"


def test_the_names_of_the_forms():
    assert list(FORMS) == ["nchw", "nchw-padded", "nhwc", "nhwc-padded"]
    assert FORMS["nchw"] == USUAL
