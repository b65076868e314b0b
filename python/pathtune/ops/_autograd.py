"""What the running backward pass is, and which gradients it will use."""

from __future__ import annotations

import torch


def needed_gradients(ctx) -> list[bool]:
    """For each argument of the operator: will the running backward pass use its gradient?

    `ctx.needs_input_grad` is fixed when the forward runs and says yes to every differentiable input. The
    autograd engine knows better: it has marked the nodes that lead to the `inputs` of this very
    `autograd.grad` or `backward(inputs=...)` call. Asking it skips, in the force pass, every gradient
    that reaches only weights, and in the loss's pass every gradient that reaches only positions or
    frozen weights; nothing has to be declared, so nothing can be declared wrongly
    (docs/decisions/0001-ask-the-engine.md).

    The engine knows tensor arguments only, so every operator takes its tensors first. No tensor of a list has a
    gradient.
    """
    needs = list(ctx.needs_input_grad)
    if torch.compiler.is_compiling():
        return needs
    # next_functions has an entry for each tensor, needs_input_grad one for each argument: what they share is
    # the order of the arguments that require a gradient.
    functions = iter([function for function, _ in ctx.next_functions if function is not None])
    return [need is True and _will_execute(next(functions, None)) for need in needs]


def _will_execute(function) -> bool:
    try:
        return torch._C._will_engine_execute_node(function)
    except (RuntimeError, AttributeError):
        # Raised exactly when `function` is a leaf whose gradient autograd.grad() was asked for, and
        # outside of a backward pass (a direct call in a test); AttributeError where torch lacks it: all mean yes.
        return True


def pass_number() -> int:
    """Number of the running backward pass, no other pass has it; -1 outside of one, or where torch does not tell."""
    number = getattr(torch._C, "_current_graph_task_id", None)
    return -1 if number is None else number()
