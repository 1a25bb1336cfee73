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
@pytest.mark.parametrize(
    "tied",
    [[], pytest.param(["--tied"], marks=pytest.mark.slow)],
    ids=["apart", "tied"],
)
def test_tiny_run(quantize_and_export, tmp_path, capsys, tied):
    arguments = (
        f"--out={tmp_path} --units=16 --steps=30 --held-out=60 "
        "--keep-rate=0.9 --threads=1"
    )
    arguments = arguments.split() + tied + installed()
    quantize_and_export.run(quantize_and_export.parse(arguments))
    printed = capsys.readouterr().out
    assert "Bits per character on 60 characters held out:" in printed
    assert "    in tensorflow " in printed
    for form in quantize_and_export.FORMS:
        size = (tmp_path / f"model_{form}.tflite").stat().st_size
        assert size > 1000
        assert f"  {form}, {size} bytes\n" in printed
    if any("micro" in each for each in installed()):
        assert "    in tflite-micro " in printed
        assert re.search("Arena of TFLite Micro: [0-9]{4} bytes", printed)


def test_array_holds_the_model(quantize_and_export, tmp_path):
    content = bytes(range(256)) * 3
    quantize_and_export.write_c_array(str(tmp_path), content, 5296)
    source = (tmp_path / "model_int16x8.cc").read_text()
    found = [int(byte, 16) for byte in re.findall("0x[0-9a-f]{2}", source)]
    assert bytes(found) == content
    assert "g_model_len = 768;" in source
    assert '#include "model_int16x8.h"' in source
    assert "measured it: 5296\n" in (tmp_path / "model_int16x8.h").read_text()


def test_too_little_text(quantize_and_export, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("too short")
    with pytest.raises(SystemExit, match="`--data` is too short"):
        quantize_and_export.run(
            quantize_and_export.parse([f"--data={text}", f"--out={tmp_path}"])
        )


@pytest.mark.slow
@versions.needs_contrib
@pytest.mark.parametrize("tied", [[], ["--tied"]], ids=["apart", "tied"])
def test_integers_are_as_good_as_floats(quantize_and_export, tmp_path, tied):
    arguments = [f"--out={tmp_path}", "--threads=1"] + tied + installed()
    results = quantize_and_export.run(quantize_and_export.parse(arguments))
    assert 1.5 < results["float"] < 2.5
    # One table for two purposes has one range, so it loses more.
    lost = 0.1 if tied else 0.05
    assert results["fake_quant"] <= results["float"] + lost
    for form in quantize_and_export.FORMS:
        assert results["bytes"][form] <= 0.35 * results["bytes"]["float"]
        for ran in results["ran"][form]:
            assert abs(ran["bits"] - results["fake_quant"]) <= 0.01
            assert ran["equal"] >= 0.8
            assert ran["largest"] <= 3


@pytest.mark.slow
@versions.needs_contrib
def test_long_recurrence(quantize_and_export, example, tmp_path):
    flags = quantize_and_export.parse([f"--out={tmp_path}", "--threads=1"])
    train_ids, held_out, characters = quantize_and_export.load(flags)
    ids = held_out[:10000]
    quantize_and_export.train(flags, train_ids, characters, is_quant=True)
    expected = graph_states(quantize_and_export, flags, ids, characters)
    for form, name, zero in [
        ("uint8", "ai-edge-litert", 128),
        ("int16x8", "ai-edge-litert", 0),
        ("int16x8", "tflite-micro", 0),
    ]:
        content = quantize_and_export.export(flags, characters, form)
        _, _, h = runtimes.run_steps(example("run_tflite"), name, content, ids)
        off = np.abs(h.astype(int) - zero - expected)
        print(f"{form} in {name}: {np.mean(off == 0):.1%}, {off.max()} steps")
        assert np.mean(off == 0) > 0.85
        assert off.max() <= 4


def graph_states(quantize_and_export, flags, ids, characters):
    """`h` of the fake-quant graph at each step, in its own steps."""
    network = quantize_and_export.Network(
        flags, characters, is_quant=True, is_train=False
    )
    state, found = [np.zeros([1, flags.units])] * 2, []
    with network.session() as session:
        for number in ids:
            feed = dict(zip(network.state, state))
            feed[network.ids] = [number]
            state = session.run(network.new_state, feed)
            found.append(state.h)
    return np.round(128 * np.array(found)).astype(int)
