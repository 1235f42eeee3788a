"""The exported FCN-8s in ONNX Runtime or OpenVINO, timed by run.py: `onnxruntime` or `openvino`."""

import os
import sys

from answers import serve

folder, way = sys.argv[1], sys.argv[3]
path = os.path.join(folder, "net.onnx")
if way == "onnxruntime":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    serve(folder, lambda batch: session.run(None, {"image": batch})[0], f"ONNX Runtime {onnxruntime.__version__}")
else:
    import openvino
    # On CPUs with bfloat16, OpenVINO's default precision is not float32.
    settings = {"INFERENCE_NUM_THREADS": os.cpu_count(), "INFERENCE_PRECISION_HINT": "f32",
                "PERFORMANCE_HINT": "LATENCY"}
    network = openvino.Core().compile_model(path, "CPU", settings)
    serve(folder, lambda batch: network(batch)[0], f"OpenVINO {openvino.__version__.split('-')[0]}")
