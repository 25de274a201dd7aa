"""Packaging of the checkout: four packages, listed by hand because a flat checkout must not ship its tests.

`train` and `launch` are names that others use, too. A wheel therefore puts all of it into one folder of its own, astrollama_trainer/,
which the `astrollama` command has first on its path. A .pth file names that folder last on everybody's: `python -m data_tools.prepare`
works where no other data_tools is installed, and what another distribution calls `train` or `launch` stays as it is.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

OURS, FOLDER = ("train", "data_tools", "launch", "ds_configs"), "astrollama_trainer"


class BuildIntoOneFolder(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        root = Path(self.build_lib)
        for name in OURS:
            shutil.rmtree(root / FOLDER / name, ignore_errors=True)  # of a build before
            (root / name).rename(root / FOLDER / name)
        (root / f"{FOLDER}.pth").write_text(f"{FOLDER}\n")


CORE = [
    "torch>=2.10",  # below 2.10 torch.load(weights_only=True) can be bypassed (CVE-2026-24747)
    "deepspeed>=0.19.8,<0.20",
    "transformers>=5.23,<6",
    "safetensors>=0.8",
    "datasets>=5",
    "datatrove[io,processing]>=0.10",
    "tokenizers>=0.23",
    "sentencepiece>=0.2.1",
    "protobuf>=5",
    "gguf>=0.19",
    "accelerate>=1.15",
    "pyarrow>=20",
    "numpy>=2",
    "PyYAML>=6",
    "Jinja2>=3.1",
    "httpx2>=2.16",
    "pylatexenc>=2.10",
    "tensorboard>=2.20",
    "matplotlib>=3.9",
    "tqdm>=4.66",
    "psutil>=6",
    "ninja>=1.11",
]

setup(
    name="astrollama-trainer",
    version="0.1.0",
    description="Continual pre-training and chat fine-tuning of LLaMA-family models on astronomy, with DeepSpeed ZeRO-3",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",  # transformers 5.23 needs it
    packages=[*find_packages(include=[p for name in OURS for p in (name, f"{name}.*")], exclude=["launch.command"]), FOLDER],
    package_dir={FOLDER: "launch/command"},
    package_data={
        "ds_configs": ["*.json"],
        "train.preflight.planner": ["*.json"],
        "launch": ["recipes/*", "examples/*", "multinode.sh", "slurm.sbatch", "kubernetes.yaml", "hostfile.example", "talk/vendor/*"],
    },
    entry_points={
        "console_scripts": [f"astrollama = {FOLDER}.doors:main"],
        "torchrun.logs_specs": [f"astrollama = {FOLDER}.torchrun:Brief"],  # torchrun --logs-specs astrollama
    },
    cmdclass={"build_py": BuildIntoOneFolder},
    install_requires=CORE,
    extras_require={
        "flash": ["flash-attn>=2.6"],
        "flash4": ["flash-attn-4>=4.0.0b36"],  # Hopper and newer; a version that is called a beta, without which pip would look for none
        "cuda": ["liger-kernel>=0.6"],
        "fast": ["gigatoken>=0.10"],  # used for encoding after it has proven itself id-identical on the data at hand
        "s3": ["s3fs>=2026.2", "universal-pathlib>=0.3"],  # checkpoint.to: s3://…
        "wandb": ["wandb>=0.31"],  # logging.to: curves there, too
        "mlflow": ["mlflow-skinny>=3.17"],
        "trackio": ["trackio>=0.43"],
        "web": ["starlette>=1.0", "uvicorn>=0.30"],  # launch/chat.py --web
        "dev": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.8",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "starlette>=1.0",
            "uvicorn>=0.30",
            "s3fs>=2026.2",
            "universal-pathlib>=0.3",
            "moto>=5",
            "flask>=3",
            "flask-cors>=6",
        ],  # fmt: skip
    },
)
