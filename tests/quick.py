"""XLA's flags that make compiling quick, for what runs briefly; they are set before jax is imported."""

import importlib.metadata

# Compiling is most of a test's time. A jaxlib that does not know a flag would end the process.
FLAGS = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith(("0.8.", "0.9.", "0.10.")):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
