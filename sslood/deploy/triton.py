"""What NVIDIA's Triton Inference Server must know of an exported graph: the text of its config.pbtxt.

Triton finds a model as REPOSITORY/NAME/config.pbtxt and REPOSITORY/NAME/1/model.onnx. Its ONNX Runtime
backend allows optional inputs only for models whose requests it does not put together (`ValidateInputs` in
src/onnxruntime.cc of triton-inference-server/onnxruntime_backend), so there are two forms.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sslood.core.errors import InputError, as_line
from sslood.core.files import atomic

PLATFORM = "onnxruntime_onnx"  # what Triton calls its ONNX Runtime backend
_TYPES = {"UINT8": "TYPE_UINT8", "DOUBLE": "TYPE_FP64", "BOOL": "TYPE_BOOL", "INT64": "TYPE_INT64"}


def save_config(path: str | Path, graph: str | Path, batch_size: int) -> None:
    """Write config.pbtxt for a graph that `sslood.deploy.onnx.export` wrote.

    batch_size: images of several requests that are computed together, at most. `is_ood` is then decided at
    the rate of the file; for another one, compare `p_value` with it. 0: each request is computed by itself,
    holds any number of images, and may have the inputs alpha and fdr. Raises InputError if the graph cannot
    be read, or onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise InputError(
            "reading ONNX needs the package 'onnx': pip install -r requirements-onnx.txt"
        ) from None
    try:
        proto = onnx.load(str(graph))
    except Exception as error:  # whatever protobuf raises for bytes that are none
        raise InputError(f"{graph}: cannot be read as ONNX ({as_line(error)}); export it again") from None
    with atomic(path) as temporary:
        temporary.write_text(_text(proto, batch_size), encoding="utf-8")


def _text(proto: Any, batch_size: int) -> str:
    from google.protobuf.text_encoding import CEscape  # type: ignore[import-untyped] # comes with onnx

    optional = {one.name for one in proto.graph.initializer}
    inputs = [
        _tensor(one, batch_size, one.name in optional)
        for one in proto.graph.input
        if not (batch_size and one.name in optional)
    ]
    outputs = [_tensor(one, batch_size) for one in proto.graph.output]
    said = [(entry.key, CEscape(entry.value.encode(), as_utf8=True)) for entry in proto.metadata_props]
    parts = [f'platform: "{PLATFORM}"', f"max_batch_size: {batch_size}"]
    parts += [f"input [\n{_joined(inputs)}\n]", f"output [\n{_joined(outputs)}\n]"]
    parts += ["dynamic_batching { }"] if batch_size else []
    parts += [f'parameters {{ key: "{key}" value: {{ string_value: "{text}" }} }}' for key, text in said]
    return "\n".join(parts) + "\n"


def _joined(tensors: Sequence[str]) -> str:
    return ",\n".join(f"  {{ {tensor} }}" for tensor in tensors)


def _tensor(value: Any, batch_size: int, optional: bool = False) -> str:
    """Return one input or output; the images of a request are its first dimension, or Triton's batch."""
    from onnx import TensorProto

    kind = value.type.tensor_type
    dims = [-1 if one.dim_param else one.dim_value for one in kind.shape.dim]
    shape = dims[1:] if batch_size else dims
    text = f'name: "{value.name}" data_type: {_TYPES[TensorProto.DataType.Name(kind.elem_type)]}'
    text += f" dims: {shape or [1]}"
    if not shape:  # one number for each image, which Triton cannot say otherwise
        text += " reshape { shape: [ ] }"
    return f"{text} optional: true" if optional else text
