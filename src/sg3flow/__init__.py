"""sg3flow: from a folder of pictures to a StyleGAN3 model in the MLflow registry."""

__version__ = "0.2.0"
