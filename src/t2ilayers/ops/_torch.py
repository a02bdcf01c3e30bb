"""The private names of torch that this package uses, each beside the public way to the same.

A small map takes less time than the Python around it, and the public ways cost microseconds. Whoever moves to
another version of torch looks here first; `tests/ops/test_torch.py` checks that both ways agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._pytree import _register_namedtuple

_Output = TypeVar("_Output", bound=type)
_Function = TypeVar("_Function", bound=Callable[..., Any])

below_autograd: Any = torch._C._AutoDispatchBelowAutograd
"""A context in which ops run without recording gradients; `torch.no_grad` for calls that autograd need not see."""

_peek_interpreter_stack = torch._C._functorch.peek_interpreter_stack
_is_tracing: Callable[[], bool] = torch._C._is_tracing

ORDINARY = (torch.Tensor, torch.nn.Parameter, type(None))
"""Types without behaviour of their own, for arguments that may be None."""


def transformed() -> bool:
    """Whether torch.func, forward-mode differentiation or torch.jit.trace is at work.

    They need ordinary operations: custom autograd functions support none of them as they are. The public way is
    `torch.jit.is_tracing`, and to apply a `torch.autograd.Function` with neither `setup_context` nor `jvp`, which
    refuses.
    """
    return _peek_interpreter_stack() is not None or forward_ad._current_level >= 0 or _is_tracing()


is_batched: Callable[[torch.Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor
"""Whether a gradient is many at once, by `torch.autograd.grad(..., is_grads_batched=True)`. No public way."""


def hooks_on_all_modules() -> bool:
    """Whether a hook was registered for every module, by `nn.modules.module.register_module_forward_hook` or so.

    There is no public way to ask.
    """
    found: bool = _has_any_global_hook()  # type: ignore[no-untyped-call]
    return found


def wanted(node: Any) -> bool:
    """Within a backward pass: whether it goes on to `node`, an entry of a function's `next_functions`.

    `ctx.needs_input_grad` tells what requires gradients, not what this pass was asked for. The public way is to
    compute them all; autograd drops the others.
    """
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # torch refuses leaves that torch.autograd.grad was asked for
        return True


def exportable(output: _Output) -> _Output:
    """Let `torch.export.save` write programs that return this NamedTuple. There is no public way."""
    _register_namedtuple(output, serialized_type_name=f"{output.__module__}.{output.__qualname__}")
    return output


def constant_result(function: _Function) -> _Function:
    """As `torch.compiler.assume_constant_result`, which imports torch._dynamo, for seconds."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def direct_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply` without its look for torch.func's transforms; see :func:`transformed`."""
    apply: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return apply
