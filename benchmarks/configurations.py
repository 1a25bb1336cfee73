"""Settings of `train.py` by name, and the parts of the recipe.

`ptb` and `wikitext-2` have the hyper-parameters of section 5 of the paper,
arXiv 1708.02182. They take days on a CPU.
"""

_PAPER = {
    "level": "word",
    "embedding": 400,
    "units": 1150,
    "layers": 3,
    "batch_size": 40,
    "steps": 70,
    "epochs": 750,
    "optimizer": "nt_asgd",
    "learning_rate": 30.0,
    "clip_norm": 0.25,
    "weight_decay": 1.2e-6,
    "weight_keep": 0.5,
    "input_keep": 0.6,
    "hidden_keep": 0.7,
    "output_keep": 0.6,
    "embedding_keep": 0.9,
    "alpha": 2.0,
    "beta": 1.0,
    "weight_tying": True,
    "variable_bptt": True,
}

CONFIGURATIONS = {
    # Minutes on 2 cores, on a few hundred kB of text.
    "small": {
        "level": "word",
        "embedding": 200,
        "units": 200,
        "layers": 1,
        "batch_size": 20,
        "steps": 35,
        "epochs": 20,
        "optimizer": "adam",
        "learning_rate": 4e-3,
        "clip_norm": 1.0,
        "weight_decay": 0.0,
        "weight_keep": 0.5,
        "input_keep": 0.8,
        "hidden_keep": 1.0,
        "output_keep": 0.7,
        "embedding_keep": 0.95,
        "alpha": 1.0,
        "beta": 1.0,
        "weight_tying": True,
        "variable_bptt": False,
    },
    # Tiny Shakespeare, 1.1 MB, by character: 70 minutes on one core.
    "shakespeare": {
        "level": "char",
        "embedding": 128,
        "units": 512,
        "layers": 2,
        "batch_size": 32,
        "steps": 64,
        "epochs": 16,
        "optimizer": "adam",
        "learning_rate": 4e-3,
        "clip_norm": 1.0,
        "weight_decay": 0.0,
        "weight_keep": 0.8,
        "input_keep": 0.95,
        "hidden_keep": 0.75,
        "output_keep": 0.65,
        "embedding_keep": 0.98,
        "alpha": 0.5,
        "beta": 0.5,
        "weight_tying": False,
        "variable_bptt": False,
    },
    # For a table of many short runs: every regulariser, none strong.
    "ablation": {
        "level": "char",
        "embedding": 192,
        "units": 192,
        "layers": 2,
        "batch_size": 32,
        "steps": 64,
        "epochs": 12,
        "optimizer": "adam",
        "learning_rate": 4e-3,
        "clip_norm": 1.0,
        "weight_decay": 0.0,
        "weight_keep": 0.8,
        "input_keep": 0.95,
        "hidden_keep": 0.9,
        "output_keep": 0.8,
        "embedding_keep": 0.98,
        "alpha": 0.5,
        "beta": 0.5,
        "weight_tying": False,
        "variable_bptt": False,
    },
    # A text of a million words (PTB; WikiText-2 has twice that): under 6 hours
    # on 2 cores.
    "medium": {
        "level": "word",
        "embedding": 650,
        "units": 650,
        "layers": 2,
        "batch_size": 32,
        "steps": 35,
        "epochs": 36,
        "optimizer": "adam",
        "learning_rate": 2e-3,
        "clip_norm": 1.0,
        "weight_decay": 1.2e-6,
        "weight_keep": 0.5,
        "input_keep": 0.6,
        "hidden_keep": 0.75,
        "output_keep": 0.6,
        "embedding_keep": 0.9,
        "alpha": 1.0,
        "beta": 1.0,
        "weight_tying": True,
        "variable_bptt": False,
    },
    "ptb": _PAPER,
    "wikitext-2": dict(_PAPER, batch_size=80, input_keep=0.35),
}

# Each part of the recipe, and the settings that leave it out.
PARTS = {
    "weight_drop": {"weight_keep": 1.0},
    "locked_dropout": {
        "input_keep": 1.0,
        "hidden_keep": 1.0,
        "output_keep": 1.0,
    },
    "embedding_dropout": {"embedding_keep": 1.0},
    "ar": {"alpha": 0.0},
    "tar": {"beta": 0.0},
    "weight_decay": {"weight_decay": 0.0},
    "weight_tying": {"weight_tying": False},
    "variable_bptt": {"variable_bptt": False},
}


def leave_out(flags, parts):
    """Changes the settings of `parts` so that they do nothing."""
    for part in parts:
        vars(flags).update(PARTS[part])
