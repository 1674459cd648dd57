"""Tensors over the Open Inference Protocol, with NVIDIA's client as it is: `pip install tritonclient[http]`.

python client_triton.py [localhost:8000]
"""

import sys

import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient(sys.argv[1] if len(sys.argv) > 1 else "localhost:8000")
if not client.is_server_ready():
    sys.exit("the server is not ready")
height, width, channels = client.get_model_metadata("encode")["inputs"][0]["shape"][1:]

images = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), np.uint8)
tensor = triton.InferInput("images", list(images.shape), "UINT8")
tensor.set_data_from_numpy(images)
# Without `outputs` the features come too: much more bytes than the tokens.
encoded = client.infer("encode", [tensor], outputs=[triton.InferRequestedOutput("indices")])
indices = encoded.as_numpy("indices")

tensor = triton.InferInput("indices", list(indices.shape), "INT32")
tensor.set_data_from_numpy(indices)
decoded = client.infer("decode", [tensor]).as_numpy("images")
print(indices.shape, decoded.shape)
