"""An image file to tokens and back, without torch: `pip install 'vqrae[onnxruntime]'`.

python client_python.py BUNDLE photo.jpg reconstruction.png
"""

import sys

from PIL import Image

import vqrae

bundle, photograph, reconstruction = sys.argv[1:]
with vqrae.load(bundle) as tokenizer:
    tokens, features = tokenizer.encode(photograph)
    images = tokenizer.decode(tokens)
Image.fromarray(images[0]).save(reconstruction)
print(tokens.shape, features.shape)
