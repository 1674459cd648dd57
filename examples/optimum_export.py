"""An encoder to ONNX by optimum, to be timed beside bundles: `python optimum_export.py ENCODER FOLDER`.

ENCODER is what `python -m vqrae.benchmarks.studies.peer_encoder` wrote. Run it in an environment of its own, since
optimum-onnx takes no transformers 5: `pip install 'optimum-onnx[onnxruntime]' 'transformers<4.58'`, and a torch.
"""

from __future__ import annotations

import sys

from optimum.exporters.onnx import main_export
from optimum.exporters.onnx.model_configs import ViTOnnxConfig
from transformers import AutoConfig

source, target = sys.argv[1:]
# optimum knows SigLIP with its text encoder only; the vision network alone has the inputs and outputs of a ViT.
signature = ViTOnnxConfig(AutoConfig.from_pretrained(source), task="feature-extraction")
main_export(source, target, task="feature-extraction", opset=20, custom_onnx_configs={"model": signature})
