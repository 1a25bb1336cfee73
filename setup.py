"""Packaging of awd_lstm_tf."""

import io
import os
import re

from setuptools import setup

HERE = os.path.dirname(os.path.abspath(__file__))

# TensorFlow 1.13 put no upper bound on what it needs, and each of these has
# since had a release that breaks it. All four suit every TensorFlow from 1.13
# to 1.15, and those of 2.x on Python 3.6 and 3.7 need none.
PINS = [
    "protobuf<3.21",  # later: `import tensorflow` fails
    "numpy<1.17",  # later: `import tensorflow` warns
    "h5py<3",  # later: Keras cannot load the weights it saved
    "gast==0.2.2",  # later: AutoGraph cannot convert a function
]
# The newest tested TensorFlow 2.x on each Python, and what it needs.
TF2 = [
    "tensorflow==2.4.4; python_version < '3.7'",
    "tensorflow==2.8.4; python_version >= '3.7' and python_version < '3.9'",
    "protobuf<3.21; python_version < '3.9'",  # later: as above
    "numpy<1.24; python_version < '3.9'",  # later: `import tensorflow` fails
    "tensorflow==2.15.1; python_version == '3.9'",
    "tensorflow==2.21.0; python_version >= '3.10'",
    "tf_keras==2.21.0; python_version >= '3.10'",  # Keras 2, to 2.15 built in
]


def where(requirements, condition):
    """`requirements`, but only where `condition` holds."""
    return [
        f"{each} and {condition}" if ";" in each else f"{each}; {condition}"
        for each in requirements
    ]


OLD, NEW = "python_version < '3.8'", "python_version >= '3.8'"
TFLITE = ["flatbuffers>=1.12"]
EXAMPLES = ["matplotlib", "tqdm"] + TFLITE
DEV = [
    "hypothesis",
    "importlib-metadata",
    "packaging",
    "pytest>=6.2",
    "pytest-xdist",
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
    python_requires=">=3.6",
    install_requires=["numpy"],
    extras_require={
        "tf": where(["tensorflow==1.13.1"] + PINS, OLD) + where(TF2, NEW),
        "tf-gpu": where(["tensorflow-gpu==1.13.1"] + PINS, OLD),
        "tf2": TF2,
        # For those who bring another TensorFlow 1.x (NVIDIA's is for 3.8).
        "pins": where(PINS, OLD) + ["protobuf<3.21; python_version == '3.8'"],
        "tflite": TFLITE,
        "examples": EXAMPLES,
        "dev": DEV + EXAMPLES,
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.6",
        "Programming Language :: Python :: 3.7",
        "Programming Language :: Python :: 3.8",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="tensorflow lstm awd-lstm weight-drop dropconnect dropout",
)
