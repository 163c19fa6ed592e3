"""Our .proto files against the descriptors that tritonclient carries.

Names, numbers and types of the interface belong to its clients: any difference is a bug here. Comments and the order
of declarations are ours and are not compared. Each difference is printed with the full name of what differs.
"""

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from tritonclient.grpc import model_config_pb2, service_pb2

PROTO_DIR = Path(__file__).resolve().parents[2] / "proto"
THEIRS = {
    "grpc_service.proto": service_pb2,
    "model_config.proto": model_config_pb2,
}
FieldType = descriptor_pb2.FieldDescriptorProto.Type
FieldLabel = descriptor_pb2.FieldDescriptorProto.Label


def compile_protos(directory: Path, out: Path) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Compiles the two files of `directory` with protoc; `out` is a folder to write in."""
    descriptor_set = out / "descriptors.pb"
    arguments = ["protoc", f"--proto_path={directory}", f"--descriptor_set_out={descriptor_set}", *THEIRS]
    assert protoc.main(arguments) == 0, f"protoc refused the files in {directory}"
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set.read_bytes()).file
    return {file.name: file for file in files}


def their_protos() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    files = {}
    for name, module in THEIRS.items():
        files[name] = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(files[name])
    return files


def camel_case(name: str) -> str:
    """The JSON name protoc gives a field: descriptors built into a module may leave it out."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)


def facts_of_message(message, prefix: str) -> dict[str, object]:
    name = f"{prefix}.{message.name}"
    facts: dict[str, object] = {
        name: {
            "kind": "message",
            "map_entry": message.options.map_entry,
            "oneofs": sorted(oneof.name for oneof in message.oneof_decl),
            "reserved_numbers": sorted((span.start, span.end) for span in message.reserved_range),
            "reserved_names": sorted(message.reserved_name),
            "options": message.options.SerializeToString(deterministic=True),
        }
    }
    for field in message.field:
        facts[f"{name}.{field.name}"] = {
            "kind": "field",
            "number": field.number,
            "type": FieldType.Name(field.type),
            "label": FieldLabel.Name(field.label),
            "type_name": field.type_name,
            "oneof": message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None,
            "proto3_optional": field.proto3_optional,
            "json_name": field.json_name or camel_case(field.name),
            "options": field.options.SerializeToString(deterministic=True),
        }
    for nested in message.nested_type:
        facts |= facts_of_message(nested, name)
    for enum in message.enum_type:
        facts |= facts_of_enum(enum, name)
    return facts


def facts_of_enum(enum, prefix: str) -> dict[str, object]:
    name = f"{prefix}.{enum.name}"
    facts: dict[str, object] = {
        name: {
            "kind": "enum",
            "options": enum.options.SerializeToString(deterministic=True),
            # The first value is the default, so here the order is part of the interface.
            "values_in_order": [value.name for value in enum.value],
        }
    }
    for value in enum.value:
        facts[f"{name}.{value.name}"] = {"kind": "enum value", "number": value.number}
    return facts


def facts_of_service(service, prefix: str) -> dict[str, object]:
    name = f"{prefix}.{service.name}"
    facts: dict[str, object] = {name: {"kind": "service"}}
    for method in service.method:
        facts[f"{name}.{method.name}"] = {
            "kind": "method",
            "input": method.input_type,
            "output": method.output_type,
            "client_streaming": method.client_streaming,
            "server_streaming": method.server_streaming,
        }
    return facts


def facts_of(files) -> dict[str, object]:
    """Everything of the interface, flat: full name -> what a client could notice."""
    facts: dict[str, object] = {}
    for file in files.values():
        facts[file.name] = {
            "kind": "file",
            "package": file.package,
            "syntax": file.syntax,
            "imports": sorted(file.dependency),
        }
        # A service and a message may share a short name, never a full one: protoc refuses that.
        for message in file.message_type:
            facts |= facts_of_message(message, file.package)
        for enum in file.enum_type:
            facts |= facts_of_enum(enum, file.package)
        for service in file.service:
            facts |= facts_of_service(service, file.package)
    return facts


def differences(ours, theirs) -> list[str]:
    our_facts, their_facts = facts_of(ours), facts_of(theirs)
    found = []
    for name in sorted(our_facts.keys() | their_facts.keys()):
        if name not in our_facts:
            found.append(f"{name}: missing in ours, {their_facts[name]}")
        elif name not in their_facts:
            found.append(f"{name}: only in ours, {our_facts[name]}")
        else:
            our_fact, their_fact = our_facts[name], their_facts[name]
            for key in sorted(our_fact.keys() | their_fact.keys()):
                if our_fact.get(key) != their_fact.get(key):
                    found.append(f"{name}: {key} is {our_fact.get(key)!r}, must be {their_fact.get(key)!r}")
    return found


def test_our_protos_are_the_interface_that_clients_speak(tmp_path):
    found = differences(compile_protos(PROTO_DIR, tmp_path), their_protos())
    assert not found, "\n" + "\n".join(found)


def test_the_comparison_covers_the_whole_interface():
    """Guards the comparison itself: an empty walk would find no difference either."""
    facts = facts_of(their_protos())
    kinds = [fact["kind"] for fact in facts.values()]
    assert kinds.count("method") == 20
    assert kinds.count("message") > 100
    assert kinds.count("field") > 300
    streaming = [name for name, fact in facts.items() if fact.get("client_streaming") or fact.get("server_streaming")]
    assert streaming == ["inference.GRPCInferenceService.ModelStreamInfer"]


@pytest.mark.parametrize(
    ("file", "before", "after", "expected"),
    [
        pytest.param(
            "grpc_service.proto", "repeated bytes raw_input_contents = 7;", "repeated bytes raw_input_contents = 8;",
            ["inference.ModelInferRequest.raw_input_contents: number is 8, must be 7"],
            id="field number",
        ),
        pytest.param(
            "grpc_service.proto", "int64 device_id = 3;", "uint64 device_id = 3;",
            ["inference.CudaSharedMemoryRegisterRequest.device_id: type is 'TYPE_UINT64', must be 'TYPE_INT64'"],
            id="field type",
        ),
        pytest.param(
            "grpc_service.proto", "repeated string extensions = 3;", "string extensions = 3;",
            ["inference.ServerMetadataResponse.extensions: label is 'LABEL_OPTIONAL', must be 'LABEL_REPEATED'"],
            id="label",
        ),
        pytest.param(
            "grpc_service.proto", "bytes bytes_param = 4;\n  }", "}\n  bytes bytes_param = 4;",
            ["inference.ModelRepositoryParameter.bytes_param: oneof is None, must be 'parameter_choice'"],
            id="oneof",
        ),
        pytest.param(
            "grpc_service.proto", "map<string, InferResponseStatistics> response_stats",
            "map<uint64, InferResponseStatistics> response_stats",
            ["inference.ModelStatistics.ResponseStatsEntry.key: type is 'TYPE_UINT64', must be 'TYPE_STRING'"],
            id="map key",
        ),
        pytest.param(
            "grpc_service.proto", "returns (stream ModelStreamInferResponse)", "returns (ModelStreamInferResponse)",
            ["inference.GRPCInferenceService.ModelStreamInfer: server_streaming is False, must be True"],
            id="streaming",
        ),
        pytest.param(
            "model_config.proto", "TYPE_BF16 = 14;", "TYPE_BF16 = 15;",
            ["inference.DataType.TYPE_BF16: number is 15, must be 14"],
            id="enum value",
        ),
        pytest.param(
            "model_config.proto", "bool decoupled = 1;", "",
            ["inference.ModelTransactionPolicy.decoupled: missing in ours"],
            id="missing field",
        ),
    ],
)
def test_a_changed_proto_is_noticed(tmp_path, file, before, after, expected):
    for name in THEIRS:
        text = (PROTO_DIR / name).read_text()
        if name == file:
            assert text.count(before) == 1, f"{before!r} should stand once in {file}"
            text = text.replace(before, after)
        (tmp_path / name).write_text(text)
    found = differences(compile_protos(tmp_path, tmp_path), their_protos())
    assert len(found) == len(expected), "\n".join(found)
    for line, start in zip(found, expected):
        assert line.startswith(start)
