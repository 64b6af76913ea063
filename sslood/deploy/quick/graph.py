"""A convolutional network as an ONNX graph that a runtime for processors can fuse, made in milliseconds.

torch.fx gives the operations. A network that holds others than those below is left to torch.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn

from sslood.deploy.quick.quick import INPUT
from sslood.nets.backbones.efficientnet_lite import SameConv2d

OPSET, IR = 18, 9
LEAST, MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max  # ends of a whole axis
OUTPUT = "features"


class Unsupported(Exception):
    """What a network does that the graph has no operation for."""


class _Tracer(fx.Tracer):
    """Convolutions of our own are single operations, as those of torch are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SameConv2d) or super().is_leaf_module(m, module_qualified_name)


class _Builder:
    """Nodes and weights of the graph so far."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> None:
        """Add a node whose output is `name`."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))

    def weight(self, value: Tensor | np.ndarray, name: str) -> str:
        """Add an array, and return its name."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def graph_of(network: nn.Module, channels: int, size: int) -> bytes:
    """Return the ONNX model of a network in eval mode: INPUT, float32 [1, channels, size, size] -> [1, D].

    Raises Unsupported for an operation that has no counterpart here.
    """
    try:
        traced = _Tracer().trace(network)
    except Exception as error:  # whatever code meets when it is run on a stand-in for images
        raise Unsupported(f"cannot be traced ({type(error).__name__})") from None
    modules, builder = dict(network.named_modules()), _Builder()
    names: dict[fx.Node, str] = {}
    result = ""
    for node in traced.nodes:
        if node.op == "placeholder":
            names[node] = INPUT
        elif node.op == "output":
            result = names[_only(node)]
        elif node.op == "call_module":
            names[node] = _module(builder, modules[node.target], names[_only(node)], node.name)
        else:
            names[node] = _function(builder, node, names)
    builder.add("Identity", [result], OUTPUT)
    types = (
        helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, channels, size, size]),
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, None]),
    )
    graph = helper.make_graph(builder.nodes, "network", [types[0]], [types[1]], builder.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return model.SerializeToString()


def _only(node: fx.Node) -> fx.Node:
    """Return the one node that another is given."""
    if len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
        raise Unsupported(f"{node.op} {node.target} of {node.args} {node.kwargs}")
    return node.args[0]


def _module(builder: _Builder, module: nn.Module, given: str, name: str) -> str:
    """Add a module's nodes, and return the name of its output."""
    if isinstance(module, nn.Identity | nn.Dropout):
        return given
    if isinstance(module, nn.Conv2d):
        _convolution(builder, module, given, name)
    elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
        parts: dict[str, Any] = {"weight": module.weight, "bias": module.bias}
        parts |= {"mean": module.running_mean, "var": module.running_var}
        stored = [builder.weight(value, f"{name}.{part}") for part, value in parts.items()]
        builder.add("BatchNormalization", [given, *stored], name, epsilon=module.eps)
    elif isinstance(module, nn.ReLU):
        builder.add("Relu", [given], name)
    elif isinstance(module, nn.ReLU6):
        limits = [builder.weight(np.array(v, np.float32), f"{name}.{v}") for v in (0, 6)]
        builder.add("Clip", [given, *limits], name)
    elif isinstance(module, nn.MaxPool2d) and not module.ceil_mode and module.dilation in (1, (1, 1)):
        kernel, stride, pad = (_pair(v) for v in (module.kernel_size, module.stride, module.padding))
        builder.add("MaxPool", [given], name, kernel_shape=kernel, strides=stride, pads=[*pad, *pad])
    elif isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        builder.add("Flatten", [given], name, axis=1)
    elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        builder.add("GlobalAveragePool", [given], name)
    else:
        raise Unsupported(type(module).__name__)
    return name


def _convolution(builder: _Builder, module: nn.Conv2d, given: str, name: str) -> None:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise Unsupported(f"padding {module.padding!r}")
    if type(module) not in (nn.Conv2d, SameConv2d):
        raise Unsupported(type(module).__name__)
    weights = [builder.weight(module.weight, f"{name}.weight")]
    if module.bias is not None:
        weights.append(builder.weight(module.bias, f"{name}.bias"))
    pads: dict[str, Any] = {"pads": [*_pair(module.padding), *_pair(module.padding)]}
    if isinstance(module, SameConv2d):
        pads = {"auto_pad": "SAME_UPPER"}  # the odd row below and right
    shape = {"kernel_shape": [*module.kernel_size], "strides": [*module.stride]}
    shape["dilations"] = [*module.dilation]
    builder.add("Conv", [given, *weights], name, group=module.groups, **shape, **pads)


def _pair(value: Any) -> list[int]:
    return [int(value)] * 2 if isinstance(value, int) else [int(one) for one in value]


def _function(builder: _Builder, node: fx.Node, names: dict[fx.Node, str]) -> str:
    """Add a function's or method's node, and return the name of its output."""
    name, target = node.name, node.target
    given = [names[one] for one in _nodes(node.args)]
    rest = [one for one in node.args if not isinstance(one, fx.Node | list | tuple)]
    adds: tuple[Callable[..., Any], ...] = (operator.add, operator.iadd, torch.add)
    if target in adds and len(given) == 2 and not node.kwargs:
        builder.add("Add", given, name)
    elif target in (F.relu, torch.relu) and len(given) == 1:
        builder.add("Relu", given, name)
    elif target in (torch.cat, torch.concat) and (node.kwargs.get("dim", *rest[:1] or [0])) == 1:
        builder.add("Concat", given, name, axis=1)
    elif target == "flip" and rest == [3] and not node.kwargs:
        _slice(builder, given, name, {3: slice(-1, LEAST, -1)})
    elif target is operator.getitem and len(given) == 1:
        _slice(builder, given, name, _axes_of(node.args[1]))
    elif target is F.pad and len(given) == 1:
        builder.add("Pad", [*given, builder.weight(_ends_of(node), f"{name}.ends")], name, mode="reflect")
    elif target is operator.truediv and len(given) == len(rest) == 1 and type(rest[0]) in (int, float):
        builder.add("Div", [*given, builder.weight(np.array(rest[0], np.float32), f"{name}.by")], name)
    elif target == F.avg_pool2d and len(rest) == 1 and not node.kwargs:
        builder.add("AveragePool", given, name, kernel_shape=_pair(rest[0]), strides=_pair(rest[0]))
    elif target == "mean" and tuple(node.args[1:]) == ((2, 3),) and not node.kwargs:
        axes = builder.weight(np.array([2, 3], np.int64), f"{name}.axes")
        builder.add("ReduceMean", [*given, axes], name, keepdims=0)
    elif target in ("flatten", torch.flatten) and rest == [1] and not node.kwargs:
        builder.add("Flatten", given, name, axis=1)
    else:
        raise Unsupported(str(target))
    return name


def _ends_of(node: fx.Node) -> np.ndarray:
    """Return how many rows and columns of reflection a border gets, at the start and end of each axis."""
    given = dict(zip(("input", "pad", "mode"), node.args, strict=False)) | node.kwargs
    match given:
        case {"pad": (int() as left, int() as right, int() as top, int() as bottom), "mode": "reflect"}:
            return np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
    raise Unsupported(f"pad {given}")


def _axes_of(index: Any) -> dict[int, slice]:
    """Return the slice of each axis of an index `[..., slice, slice]` of images; Unsupported for others."""
    match index:
        case (e, slice() as rows, slice() as columns) if e is Ellipsis:
            return {2: rows, 3: columns}
    raise Unsupported(f"index {index}")


def _slice(builder: _Builder, given: Sequence[str], name: str, axes: Mapping[int, slice]) -> None:
    steps = [1 if one.step is None else one.step for one in axes.values()]
    starts = [0 if one.start is None else one.start for one in axes.values()]
    stops = [MOST if one.stop is None else one.stop for one in axes.values()]
    bounds = {"start": starts, "end": stops, "axis": list(axes), "step": steps}
    stored = [builder.weight(np.array(part, np.int64), f"{name}.{key}") for key, part in bounds.items()]
    builder.add("Slice", [*given, *stored], name)


def _nodes(values: Any) -> list[fx.Node]:
    """Return the nodes among arguments, in order; lists are looked into."""
    found: list[fx.Node] = []
    for value in values:
        found += [value] if isinstance(value, fx.Node) else []
        found += _nodes(value) if isinstance(value, list | tuple) else []
    return found
