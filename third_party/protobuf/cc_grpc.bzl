"""C++ messages and gRPC services from .proto files, by Debian's protoc and its gRPC plugin."""

def cc_grpc_library(name, srcs, visibility = None, deps = []):
    """Makes a cc_library of x.pb.h and x.grpc.pb.h for each x.proto.

    Args:
      name: the cc_library.
      srcs: .proto files of this package; they import each other by their path from the root.
      visibility: of the cc_library.
      deps: other cc_grpc_library targets whose .proto files these import.
    """
    stems = [src[:-len(".proto")] for src in srcs]
    headers = [stem + end for stem in stems for end in [".pb.h", ".grpc.pb.h"]]
    sources = [stem + end for stem in stems for end in [".pb.cc", ".grpc.pb.cc"]]

    native.filegroup(
        name = name + "_protos",
        srcs = srcs + [dep + "_protos" for dep in deps],
        visibility = visibility,
    )
    native.genrule(
        name = name + "_generate",
        srcs = srcs,
        outs = headers + sources,
        tools = [dep + "_protos" for dep in deps],
        cmd = " ".join([
            "/usr/bin/protoc -I. -I/usr/include --cpp_out=$(GENDIR) --grpc_out=$(GENDIR)",
            "--plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin $(SRCS)",
        ]),
        message = "Generating C++ from",
        visibility = ["//visibility:private"],
    )
    native.cc_library(
        name = name,
        srcs = sources,
        hdrs = headers,
        copts = ["-w"],  # Not our code.
        visibility = visibility,
        deps = deps + [
            "//third_party/grpc:grpc++",
            "//third_party/protobuf",
        ],
    )
