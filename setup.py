"""Packaging of awd_lstm_tf."""

import io
import os
import re

from setuptools import setup

HERE = os.path.dirname(os.path.abspath(__file__))

# TensorFlow 1.13 put no upper bound on what it needs, and each of these has
# since had a release that breaks it. All four suit every TensorFlow from 1.13
# to 1.15.
PINS = [
    "protobuf<3.21",  # later: `import tensorflow` fails
    "numpy<1.17",  # later: `import tensorflow` warns
    "h5py<3",  # later: Keras cannot load the weights it saved
    "gast==0.2.2",  # later: AutoGraph cannot convert a function
]
TFLITE = ["flatbuffers>=2"]
DEV = [
    "hypothesis",
    "importlib-metadata",
    "matplotlib",
    "pytest>=6.2",
    "pytest-xdist",
    "tqdm",
]


def read(*path):
    with io.open(os.path.join(HERE, *path), encoding="utf-8") as f:
        return f.read()


def version():
    """The package's version, without importing it (that needs TensorFlow)."""
    source = read("awd_lstm_tf", "__init__.py")
    return re.search(r'^__version__ = "([^"]+)"$', source, re.M).group(1)


setup(
    name="awd-lstm-tf",
    version=version(),
    description="AWD-LSTM weight drop for TensorFlow 1.x graphs",
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    author="The awd_lstm_tf authors",
    license="Apache-2.0",
    packages=["awd_lstm_tf"],
    python_requires=">=3.6,<3.8",
    install_requires=["numpy"],
    extras_require={
        "tf": ["tensorflow==1.13.1"] + PINS,
        "tf-gpu": ["tensorflow-gpu==1.13.1"] + PINS,
        "pins": PINS,  # for those who bring another TensorFlow 1.x
        "tflite": TFLITE,
        "dev": DEV + TFLITE,
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.6",
        "Programming Language :: Python :: 3.7",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="tensorflow lstm awd-lstm weight-drop dropconnect dropout",
)
