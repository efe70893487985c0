"""What ``lwdc --help`` says: commands, groups and their choices, settings."""

import importlib.resources

COMMANDS = {
    "compress": "the whole line: baseline, search, discretise, fine-tune, export, verify, measure",
    "inspect": "sites, candidates and costs of a network, without training: the first thing to run on a new one",
    "train": "only the baseline",
    "search": "baseline and search, up to the architecture",
    "finetune": "go on after `search`: run=FOLDER, with any finetune.* settings",
    "evaluate": "accuracy of a finished run's network: run=FOLDER",
    "export": "write and verify a finished run's files again: run=FOLDER, with any export.* settings",
    "push": "put a finished run's network on the Hugging Face hub: run=FOLDER repo=USER/NAME",
    "report": "one page of HTML about runs or sweeps: FOLDER ... [out=FILE] [--figures]",
}

_USAGE = {
    "report": """FOLDER [FOLDER ...] [out=FILE] [--figures]

A folder is that of a run or of a sweep, finished or not. Without out= the page is report.html,
in the folder if one is named, else here. It needs nothing but a browser.

--figures also writes its figures for papers, as SVG and PNG, to report_figures/ beside it. That
needs kaleido (pip install 'lwdc[figures]') and Chrome or Chromium.""",
    "push": """run=FOLDER repo=USER/NAME [private=false] [out=FOLDER] [trust=MODULE]

Uploads the package that lwdc.load reads, the ONNX and torch.export files and the model card, as
README.md. It needs an account of huggingface.co, logged in by `hf auth login`. A new repository is
private unless private=false; in one that is there, files of the same names are replaced.

With out= nothing is sent: the folder then holds what would be. A network with operators or a
backbone of your own needs trust=my_package.ops, the module that registers them.""",
}


def overview() -> str:
    """What `lwdc` alone prints."""
    lines = [
        "lwdc: layer-wise differentiable compression of PyTorch vision models",
        "",
        "usage: lwdc COMMAND [group=choice ...] [key=value ...]",
        "",
        *(f"  {name:<10} {text}" for name, text in COMMANDS.items()),
        "",
        *_choices(),
        "",
        "examples",
        "  lwdc compress                                          digits, a minute or two",
        "  lwdc inspect backbone=resnet50 inspect.input_size=[3,224,224]",
        "  lwdc compress experiment=cifar10_resnet20 data.root=data cost.budget=40%",
        "  lwdc compress -m cost.factor=0.1,0.3,1,3               a sweep, with results.csv",
        "  lwdc compress -m strategy=joint_front cost.budget=75%,50%,25%    one search for all of them",
        "  lwdc compress -m strategy=random,evolution,local       searches by scores, on one supernet",
        "  lwdc compress -m hydra/launcher=submitit_slurm seed=0,1,2    the same as jobs of a cluster",
        "  lwdc compress -m hydra/sweeper=optuna 'cost.factor=tag(log, interval(0.03,3))'",
        "  lwdc compress resume=outputs/compress/<run>            go on with an interrupted run",
        "",
        "lwdc COMMAND --help lists the settings; LWDC_DEBUG=1 shows tracebacks.",
    ]
    return "\n".join(lines)


def help_of(command: str) -> str:
    """What `lwdc COMMAND --help` prints."""
    if command in _USAGE:
        return "\n".join([f"lwdc {command}: {COMMANDS[command]}", "", f"usage: lwdc {command} {_USAGE[command]}"])
    root = importlib.resources.files("lwdc.conf")
    text = (root / "config.yaml").read_text().split("\nseed:", 1)[1].split("\nhydra:", 1)[0]
    lines = [
        f"lwdc {command}: {COMMANDS[command]}",
        "",
        f"usage: lwdc {command} [group=choice ...] [group.key=value ...] [key=value ...]",
        "",
        *_choices(),
        "",
        "settings outside of groups, with their defaults",
        *(f"  {line}" for line in f"seed:{text}".rstrip().splitlines()),
        "",
        f"lwdc {command} --cfg job prints the whole configuration; -m sweeps over comma-separated values:",
        "one run after the other, or with hydra/launcher=joblib, submitit_local or submitit_slurm side by side.",
        "--config-dir=FOLDER adds yaml files of your own: FOLDER/experiment/mine.yaml is experiment=mine.",
        "trust=my_package.MyData lets the configuration build a class of your own (SECURITY.md);",
        "trust=my_package.ops imports that module, which may register operators and backbones.",
        "hydra/sweeper=optuna proposes the values, also of choice(..), range(..), interval(..) and tag(log, ..).",
    ]
    return "\n".join(lines)


def config_groups() -> dict[str, list[str]]:
    """Config groups and their choices, as the installed package has them; without Hydra's own."""
    root = importlib.resources.files("lwdc.conf")
    return {
        group.name: sorted(f.name.removesuffix(".yaml") for f in group.iterdir() if f.name.endswith(".yaml"))
        for group in sorted(root.iterdir(), key=lambda entry: entry.name)
        if group.is_dir() and not group.name.startswith("_") and group.name != "hydra"
    }


def _choices() -> list[str]:
    return ["groups and their choices", *(f"  {name:<10} {', '.join(c)}" for name, c in config_groups().items())]
