"""examples/quantize_and_export.py, at tiny size and at its own."""

import pytest
import versions


@pytest.fixture(scope="module")
def quantize_and_export(example):
    return example("quantize_and_export")


def test_tiny_run(quantize_and_export, tmp_path, capsys):
    arguments = (
        f"--out={tmp_path} --units=16 --embedding=8 --steps=30 --held-out=60 "
        "--batch-size=8 --window=10 --keep-rate=0.9 --threads=1"
    )
    quantize_and_export.main(arguments.split())
    printed = capsys.readouterr().out
    assert "Bits per character on 60 characters held out:" in printed
    if versions.VERSION >= (1, 13):
        assert "Types of the model's tensors: int16, int32, uint8" in printed
    assert (tmp_path / "model.tflite").stat().st_size > 1000


def test_too_little_text(quantize_and_export, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("too short")
    with pytest.raises(SystemExit, match="`--data` is too short"):
        quantize_and_export.main([f"--data={text}", f"--out={tmp_path}"])


@pytest.mark.slow
def test_integers_are_as_good_as_floats(quantize_and_export, tmp_path):
    results = quantize_and_export.run(
        quantize_and_export.parse([f"--out={tmp_path}", "--threads=1"])
    )
    assert results["steps"] == 2000
    assert results["largest"] <= 1
    assert abs(results["integer"] - results["fake_quant"]) <= 0.01
    assert results["integer"] <= results["float"] + 0.05
    assert results["bytes"] <= 0.3 * results["float_bytes"]
    assert "float32" not in results["types"]
