"""`compile`: from a torch model to a compiled one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rtaccel.backends.cuda_errors import NEXT, dead
from rtaccel.convert.frontend.batches import signature_of
from rtaccel.convert.frontend.exported.example import check_example, shared_batch
from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.guards.numbers import Guard
from rtaccel.convert.frontend.named_arguments import by_names
from rtaccel.convert.frontend.private_copy import private_copy
from rtaccel.convert.frontend.torchscript import in_python
from rtaccel.convert.frontend.tracing.outside_state import outside_untouched
from rtaccel.convert.module_swap.name_patterns import unmatched
from rtaccel.convert.open_sizes import OpenSizes
from rtaccel.core.dynamic import dynamic_dims
from rtaccel.core.errors import BackendUnavailable, FallbackWarning, FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.process.one_at_a_time import one_at_a_time
from rtaccel.core.process.warn_caller import warn_caller
from rtaccel.core.scheme import SchemeLike, SchemeMap
from rtaccel.core.sparsity import SparsityLike, SparsityMap
from rtaccel.runtime.build import ExportFailed, HasState, NoState, build_verified
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.dynamic import DynamicModel, dynamic_model
from rtaccel.runtime.eager_fallback import UncapturedModel
from rtaccel.runtime.fallback import warn_of_fallbacks
from rtaccel.runtime.foreign import as_tensors
from rtaccel.runtime.gpu.persistent_choice import CUDA_CHAIN, only
from rtaccel.runtime.guarded import GuardedModel
from rtaccel.runtime.options import check_threads
from rtaccel.runtime.recipe import Recipe
from rtaccel.runtime.stateful.build import compiled_with_state
from rtaccel.runtime.verification.script_check import check_form

CUDA = "cuda"
"""Kernels in CUDA C++, as a backend."""
MODES = ("graph", "eager", "persistent")
"""How a model is launched on a GPU."""


@one_at_a_time
@outside_untouched
def compile(
    model: nn.Module,
    example_inputs: Sequence[Any] | Mapping[str, Any] | Tensor,
    scheme: SchemeLike = "float32",
    sparsity: SparsityLike | None = None,
    calibration: Any = None,
    device: str | torch.device = "cpu",
    backend: str | None = None,
    threads: int = 1,
    max_batch: int | None = None,
    mode: str | None = None,
    verify: bool = True,
    strict: bool = False,
    specialize: bool = False,
    exact: bool = False,
    dynamic: Mapping[str | int, Mapping[int, tuple[int, int]]] | None = None,
) -> CompiledModel | DynamicModel | GuardedModel | UncapturedModel:
    """Compiles a model in eval mode for inference. The model itself is not changed and not kept.

    model: of Python, of TorchScript (`torch.jit.load("policy.pt")`), or of both.
    example_inputs: arguments of one call, tensors float32 [batch, ...] or int64 [batch, ...] for indices; the kernels are
        chosen for their batch size, and others work where the model leaves its first dimension dynamic. A dict has them by
        name, as tokenizers give them: the compiled model takes these arguments, by name or in the order of `forward`.
    scheme: a scheme, its name, or a dict from module-name pattern to scheme; a layer that no pattern fits stays float32.
    sparsity: a pattern (`rt.Unstructured(0.9)`), its name, or a dict from module-name pattern to it: the smallest weights of
        linear layers are left out. Better choices of weights: `rt.sparsify_` on the model first. Existing zeros
        are used without asking, where a sparse kernel is measured (on a GPU: modeled) to be faster; notes in `explain()`
        give the figures. `rt.Unstructured(always=True)` uses them in any case.
    calibration: an iterable of inputs (tensors or tuples, float32 [n, ...] as the example) for static int8 scales; without it
        they are per row (dynamic).
    backend: force "cpu", "portable", "triton" or "numba_cuda"; None takes the best for the device. Operators that a forced
        backend has no kernel for run as plain torch, and `explain()` says so. "cuda": the persistent kernel in CUDA C++, with
        `mode="persistent"`.
    mode: on a GPU, "graph" (the default): the model is captured once for the example's batch and replayed as one launch; other
        batches are launched kernel by kernel. "eager": always kernel by kernel. "persistent": an MLP with static W8A8 or
        static W4A8 layers runs in a persistent kernel (LSTM and GRU: `rt.stream`); inputs and outputs are then
        tensors of the CPU with one row, and `close()` ends it.
    threads: most threads of a call, the calling one included; at most the cores it may run on. Used where that pays,
        `explain()` says where; results are the same bits for any number. PyTorch fallbacks have torch's own threads.
    max_batch: largest batch of a call; None for no limit.
    verify: compare the result with the model at several batches, on the CPU in float32, before it is handed out; `explain()`
        says at which, how long that took and what it showed. A difference fixes the batch size.
    specialize: numbers of the inputs that the model's Python reads (`.item()`, `.numpy()`, `if (x > 0).any()`) are always
        those of the example, and so are the shapes. Without it, a model that reads whole numbers or truth values gives a
        GuardedModel on the CPU: the model itself answers where they differ. One that reads real numbers is not captured.
    strict: raise UnsupportedProblem where a call falls back to PyTorch or the model is not captured, instead of warning.
    exact: float32 convolutions are sums of products. By default those of three taps an axis with stride 1 are computed by
        Winograd's algorithm where that is faster: up to 3 times as fast, and off by 3e-7 to 3e-6 of the results' size (rms)
        where sums are by 2e-7 to 1e-6.

    dynamic: dimensions beside the batch whose size changes from call to call, with the bounds of each, both included:
        `{"x": {1: (1, 512)}}`, an argument by name or place. Gives a DynamicModel, with a plan for each size; the bounds are
        compiled and verified at once, other sizes when they come or by `prepare` and `seal`. Calibration batches may have
        any size where the model is captured once, and else the size that is planned.

    A model that keeps state of its own in buffers or attributes gives a StatefulModel: it goes on from call to call. On a GPU it
    is one CUDA graph, and its states stay in the card's memory. Its batch is that of the example, and calibration batches are
    calls one after another.

    A call without a kernel stays a PyTorch call inside the result, and `explain()` names it and gives the reason. A model
    that torch.export cannot capture at all gives an UncapturedModel: the model itself, its layers swapped.

    Example:
        >>> import torch, rtaccel as rt
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).eval()
        >>> x = torch.randn(1, 16)
        >>> fast = rt.compile(model, (x,), scheme="w8a8", calibration=[torch.randn(64, 16)])
        >>> fast(x).shape
        torch.Size([1, 4])

    Raises UnsupportedProblem, FormatError, ShapeError or BackendUnavailable; each names the value and the next step.
    """
    if backend == CUDA:
        check_mode(str(device), mode)
        with only(CUDA_CHAIN):
            return compile(
                model, example_inputs, scheme, sparsity, calibration, device, None, threads, max_batch, mode, verify, strict,
                specialize, exact, dynamic,
            )  # fmt: skip
    if isinstance(scheme, Tensor):
        raise FormatError(
            "compile", "a tensor as the scheme", "a scheme, its name, or a dict of them",
            "Several example inputs are one tuple, as in rt.compile(model, (x, mask)).",
        )  # fmt: skip
    original, model = model, in_python("compile", model)
    original, model, example, calibration = by_names(original, model, example_inputs, calibration)
    args = as_tensors("compile", check_example(model, example))
    device = check_options(device, max_batch, mode)
    given = shared_batch(args)
    if max_batch is not None and given is not None and given > max_batch:
        raise ShapeError(
            "compile",
            f"an example with a batch of {given}",
            f"at most max_batch={max_batch}",
            "Raise it, or cut the example.",
        )
    check_threads(threads, device, backend)
    schemes, patterns = SchemeMap(scheme), None if sparsity is None else SparsityMap(sparsity)
    signature = signature_of(model)
    names = () if signature is None else tuple(signature.parameters)[: len(args)]
    title = type(model).__name__
    nested: Any = None  # how results are nested, where a flag comes with them
    recipe = Recipe(
        args, schemes, patterns, calibration, device, backend, threads, max_batch, mode, exact, title, names
    )

    def built(captured: ExportedGraph, graph: OpGraph) -> CompiledModel:
        nonlocal nested
        nested = captured.guarded
        return recipe.compiled(captured, graph)

    float32 = patterns is None and schemes.exact and recipe.on_cpu
    guard = Guard.NONE if device != "cpu" or strict else Guard.ALL if float32 else Guard.INPUTS

    def with_state(found: HasState) -> CompiledModel:
        if mode not in (None, "graph") or backend not in (None, "cpu" if device == "cpu" else "triton"):
            where = f"mode={mode!r}" if mode not in (None, "graph") else f"backend={backend!r}"
            raise ExportFailed(
                "compile", f"{found.got}, with {where}", "a native plan on the CPU or a CUDA graph, which keep state",
                "Leave it out, or take the state as an input and return it.",
            )  # fmt: skip
        return compiled_with_state(
            model, args, found.names, recipe.with_state, calibration, verify=verify, exact=float32, names=names
        )

    def made(given: tuple[Any, ...], sizes: OpenSizes | None = None, notes: tuple[str, ...] = ()) -> CompiledModel:
        fast = build_verified(
            model, given, built, verify=verify, exact=float32, names=names, specialize=specialize, sizes=sizes,
            guard=guard, notes=notes, original=original,
        )  # fmt: skip
        if specialize:
            fast.note("specialize=True: what the model's Python read of its inputs is as in the example")
        return fast

    try:
        check_form(original, model, args)
        whole: CompiledModel | DynamicModel | GuardedModel
        if dynamic is not None:
            dims = dynamic_dims(dynamic, names, [a.dim() if isinstance(a, Tensor) else None for a in args])
            whole = sized = dynamic_model(model, args, dims, specialize, made, names)
            fast = sized.plan_for(*args)
        else:
            try:
                fast = whole = made(args)
            except HasState as found:
                try:
                    fast = whole = with_state(found)
                except NoState as read_by_none:
                    fast = whole = made(args, notes=read_by_none.names)
            if nested is not None:
                whole = GuardedModel(fast, private_copy("compile", original), nested)
        lines = fast.explain_lines(measure=False)
        for kind in (scheme, sparsity):
            unmatched("compile", kind, model, also=[line.name for line in lines])
        warn_of_fallbacks(fast, original, args, lines, strict)
        return whole
    except ExportFailed as error:
        if type(error) is HasState:  # found before dynamic sizes were looked at
            raise
        reason = error
    if strict:
        raise UnsupportedProblem(
            "compile", reason.got, "a model that is captured whole (strict=True)", reason.next_step
        )
    if patterns is not None:
        raise UnsupportedProblem(
            "compile", f"sparsity={sparsity!r} for a model that cannot be captured: {reason}", "a model that can be",
            "Prune and swap its layers with rt.sparsify_ instead.",
        ) from reason  # fmt: skip
    warn_caller(
        f"{title} was not captured and runs layer by layer in Python, not faster than torch: {reason}",
        FallbackWarning,
    )  # fmt: skip
    return UncapturedModel(original, str(reason), scheme, calibration, args)


def check_options(device: str | torch.device, max_batch: int | None, mode: str | None) -> str:
    """The kind of device. Raises a typed error where a model cannot be compiled so on this machine."""
    given, device = device, _kind_of(device)
    if max_batch is not None and (type(max_batch) is not int or max_batch < 1):
        raise ShapeError("compile", f"max_batch={max_batch!r}", "a positive number of rows, or None", "Pass one.")
    if not isinstance(device, str) or device not in ("cpu", "cuda"):
        hint = "Leave it out for 'cpu'; see `rtaccel info`."
        raise BackendUnavailable("compile", f"device={given!r}", "'cpu', 'cuda' or such a torch.device", hint)
    if mode not in (None, *MODES):
        raise UnsupportedProblem(
            "compile", f"mode={mode!r}", f"None or one of {', '.join(MODES)}", "Pass one of these."
        )
    if mode is not None and device != "cuda":
        raise UnsupportedProblem(
            "compile", f"mode={mode!r} on {device}", "mode=None, or device='cuda'", "Modes are ways to launch on a GPU."
        )
    if device == "cuda" and dead() is not None:
        raise BackendUnavailable("compile", "device='cuda'", f"a GPU that works ({dead()})", NEXT)
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(
            "compile",
            "device='cuda'",
            "a CUDA GPU that torch can see",
            "Compile with device='cpu', or install a driver.",
        )
    index = torch.device(given).index
    if device == "cuda" and index is not None and index != torch.cuda.current_device():
        raise BackendUnavailable(
            "compile", f"device={given!r}", f"the current GPU, which is cuda:{torch.cuda.current_device()}",
            f"Call torch.cuda.set_device({index}) first: a plan is of the current GPU.",
        )  # fmt: skip
    return device


def _kind_of(device: Any) -> Any:
    """ "cpu" or "cuda" of what names one of them; else what was given."""
    try:
        found = torch.device(device) if isinstance(device, (str, torch.device)) else None
    except RuntimeError:
        return device
    if found is None or (found.type == "cpu" and found.index not in (None, 0)):
        return device
    return found.type


def check_mode(device: str, mode: str | None) -> None:
    """Of a model in CUDA C++. Raises BackendUnavailable on a CPU, UnsupportedProblem for a mode that has no such kernels."""
    if not device.startswith("cuda"):
        raise BackendUnavailable("backend", f"'cuda' on {device}", "a device it runs on: cuda", "Pass device=.")
    if mode != "persistent":
        raise UnsupportedProblem(
            "backend", f"'cuda' with mode={mode!r}", "mode='persistent', which has kernels in CUDA C++",
            "Pass that mode, or backend='triton'.",
        )  # fmt: skip
