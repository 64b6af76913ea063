"""The part of Triton's model configuration that we write, as protobuf messages."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

DTYPES = {
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_INT64": "tensor(int64)",
}
# what model_config.proto of triton-inference-server/common calls the fields that we write
FIELDS = {
    "Value": "string_value:9",
    "Entry": "key:9 value:.t.Value",
    "Shape": "shape:3*",
    "Tensor": "name:9 data_type:.t.Kind dims:3* reshape:.t.Shape optional:8",
    "Batching": "",
    "Config": "platform:9 max_batch_size:5 input:.t.Tensor* output:.t.Tensor* dynamic_batching:.t.Batching "
    "parameters:.t.Entry*",
}


def parsed(path):
    """Return the message that a config.pbtxt is, by protobuf's own parser of text."""
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t")
    kinds = file.enum_type.add(name="Kind").value
    for number, name in enumerate(DTYPES):
        kinds.add(name=name, number=number)
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate(fields.split(), 1):
            key, kind = field.split(":")
            one = message.field.add(name=key, number=number, label=3 if kind.endswith("*") else 1)
            kind = kind.rstrip("*")
            if kind.isdigit():
                one.type = int(kind)
            else:
                one.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Config"))
    return text_format.Parse(path.read_text(), found())
