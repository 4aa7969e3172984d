"""From a PyTorch module to a program of jax: torch.export's graph, operator by operator."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from ssdkd_jax.errors import InputError
from ssdkd_jax.interop.torch_graph import program as programs
from ssdkd_jax.interop.torch_graph.program import OPERATORS, REMEDY, Program, Step, Value, line
from ssdkd_jax.types import Variables

if TYPE_CHECKING:
    import torch

NORMS = ("batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
STATISTICS = {"running_mean": "mean", "running_var": "var"}
SILENT = (  # arguments that change no value
    *("device", "layout", "pin_memory", "memory_format", "non_blocking", "generator"),
    *("momentum", "cudnn_enabled", "cudnn_enable"),
)
NARROWED = {"float64": "float32", "int64": "int32"}


def _exported(module: torch.nn.Module, inputs: np.ndarray) -> torch.export.ExportedProgram:
    """The module's graph for any batch size, without in-place operators, its layers whole."""
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would make one operator of a whole attention layer
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = (torch.from_numpy(inputs.copy()),)
            exported = torch.export.export(module, example, dynamic_shapes=({0: batch},), strict=False)
            return exported.run_decompositions({})
    except Exception as error:
        raise InputError(
            f"torch.export cannot trace the module {type(module).__name__} for batches of any size ({line(error)}); "
            f"let its forward depend on shapes alone and keep the batch apart, {REMEDY}."
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def traced(module: torch.nn.Module, inputs: np.ndarray) -> tuple[Program, Variables]:
    """The module as a program of jax, and its weights."""
    exported = _exported(module, inputs)
    stored = {**exported.state_dict, **exported.constants}
    sources = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    targets = {name: spec.target for name, spec in sources.items() if spec.target is not None}
    nodes = list(exported.graph.nodes)
    steps = [_step(node, targets) for node in nodes if node.op not in ("placeholder", "output")]
    logits = Value(exported.graph_signature.user_outputs[0])
    steps, names = programs.live(steps, logits)
    _check_known(type(module).__name__, steps)
    statistics = {
        step.kwargs[field].name: (*filter(None, step.layer.split("/")), kind)
        for step in steps
        for field, kind in STATISTICS.items()
        if step.layer is not None and field in step.kwargs
    }
    weights, constants, leaves = {}, {}, {}
    for name in (name for name in targets if name in names):  # in one order on every host
        array = _array(stored[targets[name]])
        if "CONSTANT" in sources[name].kind.name or array.dtype != np.float32:
            constants[name] = array
            continue
        collection = "batch_stats" if name in statistics else "params"
        weights[name] = (collection, *statistics.get(name, targets[name].split(".")))
        leaves[weights[name]] = array
    (images,) = exported.graph_signature.user_inputs
    variables = {"params": {}, **unflatten_dict(dict(sorted(leaves.items())))}
    keys, rest = _stored(module, {targets[name]: path for name, path in weights.items()})
    return Program(steps, weights, constants, images, logits, keys, rest), variables


def _stored(
    module: torch.nn.Module, paths: Mapping[str, tuple[str, ...]]
) -> tuple[dict[tuple[str, ...], list[str]], dict[str, np.ndarray]]:
    """The keys of a module's state dict by the path of the variable that each holds, and what no variable holds.

    Args:
        paths: of the variables, by one of their keys.
    """
    state = module.state_dict()
    same = {(x.data_ptr(), x.shape): paths[key] for key, x in state.items() if key in paths}
    keys, rest = dict[tuple[str, ...], list[str]](), {}
    for key, x in state.items():
        if path := same.get((x.data_ptr(), x.shape)):
            keys.setdefault(path, []).append(key)
        else:
            rest[key] = x.detach().cpu().numpy().copy()
    return keys, rest


def _check_known(name: str, steps: Sequence[Step]) -> None:
    unknown = dict.fromkeys(f"{step.operator} in {step.place}" for step in steps if step.function is None)
    if unknown:
        raise InputError(
            f"The module {name} calls what has no counterpart in jax here: {', '.join(unknown)}; {REMEDY}."
        )


def _step(node: torch.fx.Node, targets: Mapping[str, str]) -> Step:
    """One operator of the graph; without a function where it is not known.

    Args:
        targets: the dotted names of the module's arrays, by the names of their values.
    """
    args, kwargs, place = _plain(node.args), _plain(node.kwargs), _place(node)
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # arithmetic of sizes, or one of several results
        ours = node.op == "call_function" and getattr(node.target, "__module__", "") == "_operator"
        name = getattr(node.target, "__name__", str(node.target))
        return Step(node.name, name, node.target if ours else None, args, kwargs, place)
    names = [argument.name for argument in schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    given = {name: value for name, value in given.items() if name not in SILENT}
    default = {x.name: x.default_value for x in schema.arguments if x.has_default_value()}
    kind = schema.name.removeprefix("aten::")
    function = OPERATORS.get(kind)
    arguments = None if function is None else programs.called(function, given, default)
    if arguments is None:
        overload = f".{schema.overload_name}" if function and schema.overload_name else ""
        return Step(node.name, schema.name + overload, None, args, kwargs, place)
    layer = _layer(kind, arguments, place, targets)
    return Step(node.name, schema.name, function, (), arguments, place, layer)


def _layer(kind: str, arguments: Mapping[str, Any], place: str, targets: Mapping[str, str]) -> str | None:
    """The path of a layer whose input is reported: a BatchNorm by running statistics of the module's, or a linear."""
    if kind == "linear":
        weight = targets.get(getattr(arguments["weight"], "name", None), place.partition(" ")[0])
        return weight.removesuffix(".weight").replace(".", "/")
    if kind not in NORMS or arguments.get("training"):
        return None
    kept = [targets.get(getattr(arguments.get(field), "name", None)) for field in STATISTICS]
    if None in kept:
        return None
    *parents, last = kept[0].split(".")
    return "/".join(parents if last == "running_mean" else [*parents, last])


def _plain(tree: Any) -> Any:
    """A node's arguments without PyTorch's types."""
    import torch

    if isinstance(tree, torch.fx.Node):
        return Value(tree.name)
    if isinstance(tree, Mapping):
        return {key: _plain(x) for key, x in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(x) for x in tree]
    return _dtype(tree) if isinstance(tree, torch.dtype) else tree


def _place(node: torch.fx.Node) -> str:
    """The module that calls the operator, 'features.3 (MyAttention)'."""
    stack = [entry for key, entry in (node.meta.get("nn_module_stack") or {}).items() if not key.startswith("_empty")]
    path, kind = stack[-1] if stack else ("", "")
    kind = kind if isinstance(kind, str) else kind.__name__
    return f"{path or 'forward'} ({kind.rpartition('.')[2] or 'the module itself'})"


def _dtype(dtype: torch.dtype) -> np.dtype:
    name = str(dtype).removeprefix("torch.")
    return jnp.dtype(NARROWED.get(name, name))


def _array(tensor: torch.Tensor) -> np.ndarray:
    """A copy in float32, or in the integers that jax has."""
    wide = tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.detach().cpu()
    return np.array(wide.numpy(), _dtype(wide.dtype))
