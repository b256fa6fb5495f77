"""Parts of a training step as CUDA graphs: recorded once, then replayed with one launch.

At few images per GPU the time of a step is that of launching its kernels. A ``Sections`` runs the
parts of a loss that have fixed shapes and take no decision on the CPU: G, D, and the gradients
inside R1 and path lengths. ``EagerSections`` calls them; ``GraphSections`` records the forward and
the backward pass of each at its first use and replays them from then on, with equal results bit
for bit. Between them the augmentations, which the CPU chooses, run as always.

A graph works on tensors that stay where they are: inputs are copied into them, results are read
from them until the next replay. Nothing in a section draws random numbers: a ``NoiseTape`` draws
them before each replay, in the order in which the section would.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sg3flow import distributed
from sg3flow.errors import ConfigError, cut

# Before they are recorded, kernels must have been built, chosen and loaded.
WARM_UP_RUNS = 3

Tensors = tuple[torch.Tensor, ...]


class Sections(Protocol):
    """Runs parts of a loss."""

    def run(
        self,
        name: str,
        function: Callable[..., Tensors],
        inputs: Tensors,
        module: torch.nn.Module,
        is_collective: bool = False,
    ) -> Tensors:
        """``function(*inputs)``, once differentiable with respect to inputs and parameters.

        Args:
            name: of the section; calls with the same name must have equal functions.
            function: must depend on its inputs and on the module only.
            module: its parameters that require gradients get them in the backward pass.
            is_collective: the function waits for other processes.
        """
        ...


class EagerSections:
    """Calls the functions."""

    def run(
        self,
        name: str,
        function: Callable[..., Tensors],
        inputs: Tensors,
        module: torch.nn.Module,
        is_collective: bool = False,
    ) -> Tensors:
        """See ``Sections``."""
        return function(*inputs)


@dataclass(frozen=True)
class Recording:
    """A recorded function: its results, and what computes them anew in the same tensors."""

    outputs: Tensors
    replay: Callable[[], None]


class Recorder(Protocol):
    """Records functions without arguments that return tensors."""

    def new_pool(self) -> Any:
        """Memory for recordings that are always replayed in the order of their recording."""
        ...

    def warm_up(self, run: Callable[[], object]) -> None:
        """Run what is going to be recorded."""
        ...

    def record(self, run: Callable[[], Tensors], pool: Any) -> Recording:
        """Record a function; its results hold nothing before the first replay."""
        ...


class CudaRecorder:
    """Records CUDA graphs."""

    def new_pool(self) -> Any:
        """A private pool: tensors in it are not reused by anything else."""
        return torch.cuda.graph_pool_handle()

    def warm_up(self, run: Callable[[], object]) -> None:
        """Run a few times in another stream, as capturing requires."""
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                run()
        torch.cuda.current_stream().wait_stream(stream)

    def record(self, run: Callable[[], Tensors], pool: Any) -> Recording:
        """Capture a graph.

        Raises:
            ConfigError: an operation cannot be captured.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads go on allocating pinned memory and asking NCCL's events.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                outputs = run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ConfigError(
                f"train.cuda_graphs: torch {torch.__version__} cannot capture this training "
                f"({cut(' '.join(str(error).split()), 200)}); run it without --cuda-graphs"
            ) from error
        return Recording(outputs, graph.replay)


class NoiseTape:
    """The normal numbers that a function draws, in tensors that stay where they are."""

    def __init__(self) -> None:
        self._drawn: list[torch.Tensor] = []
        self._position = 0

    def draw_again(self) -> None:
        """Draw new numbers, in the order of the first run."""
        for drawn in self._drawn:
            drawn.copy_(distributed.drawn_randn(drawn.shape, device=drawn.device))

    @contextlib.contextmanager
    def playing(self) -> Iterator[None]:
        """Let ``distributed.randn`` give these numbers; the first time, they are drawn."""
        self._position = 0
        with distributed.noise_from(self._next):
            yield

    def _next(self, size: Sequence[int], device: torch.device | str) -> torch.Tensor:
        if self._position == len(self._drawn):
            self._drawn.append(distributed.drawn_randn(size, device=device))
        self._position += 1
        return self._drawn[self._position - 1]


class _Section:
    """One recorded section: its tensors, and the graphs of its forward and backward pass."""

    def __init__(
        self,
        recorder: Recorder,
        function: Callable[..., Tensors],
        inputs: Tensors,
        module: torch.nn.Module,
    ) -> None:
        self._function = function
        self._inputs = tuple(i.detach().clone().requires_grad_(i.requires_grad) for i in inputs)
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._tape = NoiseTape()
        self._live: Tensors = ()  # the last results that have a gradient, with their history
        self._live_numbers: list[int] = []
        self._output_gradients: list[torch.Tensor] = []
        self._trained: list[torch.nn.Parameter] = []  # those that get a gradient
        before = [buffer.clone() for buffer in module.buffers()]
        recorder.warm_up(self._forward_and_backward)
        # A pool of its own: between its two passes other sections are replayed.
        pool = recorder.new_pool()
        self._forward_recording = recorder.record(self._forward, pool)
        self._backward_recording: Recording | None = None
        if self._live_numbers:
            self._backward_recording = recorder.record(self._backward, pool)
        with torch.no_grad():
            for buffer, content in zip(module.buffers(), before, strict=True):
                # The moving averages were updated. What did not change is left alone: the backward
                # pass of another section, still to come, may need it.
                if not torch.equal(buffer, content):
                    buffer.copy_(content)
        # Parameters are no inputs of a replay: this makes its results require gradients.
        device, trains = inputs[0].device, self._backward_recording is not None
        self._trigger = torch.zeros([], device=device, requires_grad=trains)
        self._is_new = True

    def run(self, inputs: Tensors) -> Tensors:
        """The results for other inputs of the same shapes."""
        with torch.no_grad():
            for static, given in zip(self._inputs, inputs, strict=True):
                static.copy_(given)
        if not self._is_new:  # else its numbers have just been drawn
            self._tape.draw_again()
        self._is_new = False
        outputs: Tensors = _Replay.apply(  # type: ignore[no-untyped-call]
            self, self._trigger, *inputs
        )
        return outputs

    def replay_forward(self) -> Tensors:
        """The results, in the tensors of the recording."""
        self._forward_recording.replay()
        return tuple(output.detach() for output in self._forward_recording.outputs)

    def is_constant(self, number: int) -> bool:
        """Whether a result has no gradient."""
        return number not in self._live_numbers

    def replay_backward(self, gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
        """Add to the parameters' gradients; the gradients of the inputs that have one, in order.

        Args:
            gradients: of all results; None for those without.
        """
        for static, number in zip(self._output_gradients, self._live_numbers, strict=True):
            gradient = gradients[number]
            static.zero_() if gradient is None else static.copy_(gradient)
        assert self._backward_recording is not None
        self._backward_recording.replay()
        *of_inputs, of_parameters = self._backward_recording.outputs
        _accumulate(self._trained, of_parameters)
        return list(of_inputs)

    def _forward(self) -> Tensors:
        with self._tape.playing():
            outputs = self._function(*self._inputs)
        self._live_numbers = [i for i, output in enumerate(outputs) if output.requires_grad]
        self._live = tuple(outputs[i] for i in self._live_numbers)
        return tuple(output.detach() for output in outputs)

    def _backward(self) -> Tensors:
        """The gradients of the inputs that have one, then those of all parameters, flat."""
        leaves = [i for i in self._inputs if i.requires_grad]
        found = torch.autograd.grad(
            self._live,
            [*leaves, *self._parameters],
            self._output_gradients,
            allow_unused=True,
        )
        of_inputs, of_parameters = found[: len(leaves)], found[len(leaves) :]
        pairs = zip(self._parameters, of_parameters, strict=True)
        self._trained = [p for p, gradient in pairs if gradient is not None]
        parts = [gradient.flatten() for gradient in of_parameters if gradient is not None]
        flat = torch.cat(parts) if parts else self._live[0].new_empty(0)
        return (*of_inputs, flat)

    def _forward_and_backward(self) -> None:
        self._forward()
        if self._live:
            if not self._output_gradients:
                self._output_gradients = [torch.zeros_like(output) for output in self._live]
            self._backward()


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, section: _Section, trigger: torch.Tensor, *inputs: Any) -> Any:
        ctx.section = section
        ctx.set_materialize_grads(False)
        outputs = section.replay_forward()
        constant = [output for i, output in enumerate(outputs) if section.is_constant(i)]
        ctx.mark_non_differentiable(*constant)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        of_inputs = iter(ctx.section.replay_backward(gradients))
        wanted = ctx.needs_input_grad[2:]
        return (None, None, *(next(of_inputs) if needed else None for needed in wanted))


def _accumulate(parameters: list[torch.nn.Parameter], flat: torch.Tensor) -> None:
    """Add gradients to those of the parameters, as a backward pass does.

    Args:
        flat: overwritten by the next replay.
    """
    sizes = [p.numel() for p in parameters]
    if not all(p.grad is None for p in parameters):
        parts = [g.view_as(p) for p, g in zip(parameters, torch.split(flat, sizes), strict=True)]
        sums = [p.grad for p in parameters if p.grad is not None]
        assert len(sums) == len(parts), "the passes of a phase reach different parameters"
        torch._foreach_add_(sums, parts)
        return
    for parameter, gradient in zip(parameters, torch.split(flat.clone(), sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)


class GraphSections:
    """Records each section at its first use with inputs of a kind, then replays it."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._sections: dict[tuple[Any, ...], _Section] = {}

    def run(
        self,
        name: str,
        function: Callable[..., Tensors],
        inputs: Tensors,
        module: torch.nn.Module,
        is_collective: bool = False,
    ) -> Tensors:
        """See ``Sections``; collective calls of several processes are not recorded."""
        if is_collective and distributed.world_size() > 1:
            return function(*inputs)
        key = (name, *((i.shape, i.dtype, i.requires_grad) for i in inputs))
        if key not in self._sections:
            self._sections[key] = _Section(self._recorder, function, inputs, module)
        return self._sections[key].run(inputs)
