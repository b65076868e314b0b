"""A kernel as torch sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Operator:
    """A registered custom operator, which in plain eager code is called without the machinery of registration.

    torch.library's dispatch costs 50 to 100 us a call, with sixty calls in a step of a small model as much as its
    kernels. The same functions therefore also make an autograd.Function around the bare kernel. Where something
    traces (torch.compile, a fake or functional tensor, any dispatch mode) the registered operator is called.
    """

    def __init__(self, name: str, run: Callable[..., Any]):
        self.registered = torch.library.custom_op(name, run, mutates_args=(), device_types=("cpu", "cuda"))
        self._name = name
        self._run = run
        self._apply = run

    def register_fake(self, fake: Callable[..., Any]) -> None:
        """As of torch.library.custom_op."""
        self.registered.register_fake(fake)

    def register_autograd(self, backward: Callable[..., Any], setup_context: Callable[..., None] | None = None) -> None:
        """As of torch.library.custom_op; backward(ctx, *cotangents), setup_context(ctx, inputs, output).

        `backward` returns the gradients of the leading arguments, the tensors; the arguments after them have none.
        """

        def backward_of_all(ctx, *cotangents):
            gradients = backward(ctx, *cotangents)
            rest = ctx.needs_input_grad[len(gradients) :]
            # torch.library wants a gradient for each tensor of a list
            return (*gradients, *[[None] * len(need) if isinstance(need, list) else None for need in rest])

        self.registered.register_autograd(backward_of_all, setup_context=setup_context)
        run = self._run

        def forward(ctx, *inputs):
            output = run(*inputs)
            if setup_context is not None:
                setup_context(ctx, inputs, output)
            return output

        name = self._name.replace("::", "_")  # what a profile shows
        members = {"forward": staticmethod(forward), "backward": staticmethod(backward_of_all)}
        self._apply = type(name, (torch.autograd.Function,), members).apply

    def __call__(self, *inputs: Any) -> Any:
        """The operator's outputs, differentiable."""
        if _is_traced():
            return self.registered(*[list(value) if isinstance(value, tuple) else value for value in inputs])
        return self._apply(*inputs)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Decorator: registers a function on tensors, annotated as torch.library.custom_op wants, as `name`."""
    return lambda run: Operator(name, run)


def _is_traced() -> bool:
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
    )
