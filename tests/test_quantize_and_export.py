"""examples/quantize_and_export.py, at tiny size and at its own."""

import re

import numpy as np
import pytest
import runtimes
import versions

NAMES = ("ai-edge-litert", "tflite-runtime", "tflite-micro")


@pytest.fixture(scope="module")
def quantize_and_export(example):
    return example("quantize_and_export")


def installed():
    """Options for all runtimes that there are."""
    return [
        f"--runtime={path}"
        for path in (runtimes.FOLDER / name / "bin/python" for name in NAMES)
        if path.exists()
    ]


@versions.needs_contrib
@pytest.mark.parametrize("tied", [[], ["--tied"]], ids=["apart", "tied"])
def test_tiny_run(quantize_and_export, tmp_path, capsys, tied):
    arguments = (
        f"--out={tmp_path} --units=16 --embedding=8 --steps=30 --held-out=60 "
        "--batch-size=8 --window=10 --keep-rate=0.9 --threads=1"
    )
    arguments = arguments.split() + tied + installed()
    quantize_and_export.main(arguments)
    printed = capsys.readouterr().out
    assert "Bits per character on 60 characters held out:" in printed
    assert "  uint8    in tensorflow" in printed
    for form in quantize_and_export.FORMS:
        assert f"  {form}: " in printed
        assert (tmp_path / f"model_{form}.tflite").stat().st_size > 1000
    if any("micro" in each for each in installed()):
        assert "  int16x8  in tflite-micro: " in printed
        assert "Arena of TFLite Micro: " in printed


def test_array_holds_the_model(quantize_and_export, tmp_path):
    content = bytes(range(256)) * 3
    stem = str(tmp_path / "model_int16x8")
    quantize_and_export.write_c_array(stem, content, 5296)
    source = (tmp_path / "model_int16x8.cc").read_text()
    found = [int(byte, 16) for byte in re.findall("0x[0-9a-f]{2}", source)]
    assert bytes(found) == content
    assert "g_model_len = 768;" in source
    assert '#include "model_int16x8.h"' in source
    assert "5296 bytes" in (tmp_path / "model_int16x8.h").read_text()


def test_too_little_text(quantize_and_export, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("too short")
    with pytest.raises(SystemExit, match="`--data` is too short"):
        quantize_and_export.main([f"--data={text}", f"--out={tmp_path}"])


@pytest.mark.slow
@versions.needs_contrib
@pytest.mark.parametrize("tied", [[], ["--tied"]], ids=["apart", "tied"])
def test_integers_are_as_good_as_floats(quantize_and_export, tmp_path, tied):
    arguments = [f"--out={tmp_path}", "--threads=1"] + tied + installed()
    results = quantize_and_export.run(quantize_and_export.parse(arguments))
    assert results["steps"] == 2000
    assert results["fake_quant"] <= results["float"] + 0.1
    for form in quantize_and_export.FORMS:
        assert results["bytes"][form] <= 0.35 * results["float_bytes"]
        for ran in results["ran"][form]:
            assert abs(ran["bits"] - results["fake_quant"]) <= 0.01
            assert ran["equal"] >= 0.8
            assert ran["largest"] <= 3
    assert np.isfinite(results["float"])
