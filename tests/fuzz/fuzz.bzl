"""Fuzz targets that are ordinary tests too."""

def fuzz_target(name, srcs, deps, corpus = [], mutations = 20000, **kwargs):
    """A test around LLVMFuzzerTestOneInput().

    As a test (g++, every configuration) it replays the corpus and a fixed sequence of mutations of it.
    With --config=fuzz it is a libFuzzer program: `bazel-bin/.../NAME FOLDER` runs until it finds
    something or is stopped.

    Args:
      name: of the test, ending in _fuzz_test.
      srcs: define LLVMFuzzerTestOneInput(); it returns 0, and whatever it must not do ends the process.
      deps: what they include.
      corpus: files to start from.
      mutations: how many mutated inputs the test tries.
      **kwargs: for cc_test.
    """
    native.cc_test(
        name = name,
        srcs = srcs,
        args = select({
            "//tests/fuzz:libfuzzer": [],
            "//conditions:default": ["--mutations=%d" % mutations],
        }) + ["$(location %s)" % file for file in corpus],
        data = corpus,
        linkopts = select({
            "//tests/fuzz:libfuzzer": ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        deps = deps + select({
            "//tests/fuzz:libfuzzer": [],
            "//conditions:default": ["//tests/fuzz:replay_main"],
        }),
        **kwargs
    )
