"""Says what this machine can run, and how to mend what does not fit.

    python -m torchrec_gr.doctor

Sharding types and fused optimizers are found by trying them. Exits with 1 where torchrec_gr cannot
work: a package is missing or does not fit the others, or there is no way to shard a table.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple

# Nothing here imports torch, or what needs torch: the doctor is for where they do not load.


class Package(NamedTuple):
    """A package that torchrec_gr needs.

    Args:
        name: its name for pip.
        module: its name for `import`.
        version: the one release that fits the others; "" where many do.
        pip_options: what its installation needs.
    """

    name: str
    module: str
    version: str = ""
    pip_options: str = ""

    @property
    def release(self) -> str:
        """What to ask pip for."""
        return f"{self.name}=={self.version}" if self.version else self.name

    @property
    def install(self) -> str:
        """The command that installs the release that fits."""
        return " ".join(["pip install", *self.pip_options.split(), self.release])


TORCH = Package("torch", "torch", "2.13.0")
FBGEMM = {
    "cpu": Package("fbgemm-gpu-cpu", "fbgemm_gpu", "1.8.0"),
    "cuda": Package("fbgemm-gpu", "fbgemm_gpu", "1.8.0"),
}
# --no-deps: its own requirements name fbgemm-gpu, whatever the machine.
TORCHREC = Package("torchrec", "torchrec", "1.8.0", pip_options="--no-deps")
OTHERS = (
    Package("torchmetrics", "torchmetrics", "1.0.3"),  # 1.9 breaks TorchRec's RecMetricModule
    Package("tensordict", "tensordict"),
    Package("pyre-extensions", "pyre_extensions"),
    Package("iopath", "iopath"),
    Package("tqdm", "tqdm"),
    TORCHREC,
    Package("numpy", "numpy"),
    Package("pandas", "pandas"),
    Package("pyarrow", "pyarrow"),
    Package("pyyaml", "yaml"),
    Package("safetensors", "safetensors"),
    Package("tensorboard", "tensorboard"),
    Package("matplotlib", "matplotlib"),
)
FITTING_FBGEMM = {
    "CPU build": ("cpu",),
    "CUDA build without a GPU": ("cpu", "cuda"),
    "CUDA build with a GPU": ("cuda",),
}
"""Which builds of fbgemm fit which build of torch, the better one first."""

COMPILED_OPS = "torchrec_gr._C"
BUILD_OPS = "pip install --no-deps --no-build-isolation -e ."
"""To be given in the folder that has setup.py."""
CPU_SETTING = "TORCHREC_GR_CPU_CAPABILITY"

COLLECTIONS = ("EmbeddingBagCollection", "EmbeddingCollection")
SHARDING_TYPES = (
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
    "grid_shard",
    "data_parallel",
)
FUSED_OPTIMIZERS = ("SGD", "Adagrad", "RowWiseAdagrad", "Adam")

Attempt = str | tuple[str, str, str]
"""A module to import, or a table to train: its collection, sharding type and optimizer."""

SECONDS_PER_ATTEMPT = 60.0


class Outcome(NamedTuple):
    """How an attempt went; `said` is what it returned, or its error in a line."""

    worked: bool
    said: str = ""


class Finding(NamedTuple):
    """A line of the report. "FAIL": torchrec_gr cannot work so; "no": it does without."""

    mark: Literal["ok", "no", "FAIL"]
    name: str
    said: str
    mend: str = ""

    def __str__(self) -> str:
        line = f"  {self.mark:<4}  {self.name:<20}  {self.said}".rstrip()
        return f"{line}\n        mend: {self.mend}" if self.mend else line


def main() -> int:
    """Prints the report; returns 0 where torchrec_gr can work, else 1."""
    modules = {package.module for package in (TORCH, *FBGEMM.values(), *OTHERS)}
    outcomes = attempt_all(try_out, [*sorted(modules), COMPILED_OPS, *_tables()])
    packages = [check_python(sys.version_info[:3])]
    packages += check_packages(installed_versions(), outcomes)
    sections = {
        "Versions, and whether they fit each other": packages,
        "Compiled ops": [check_compiled_ops(outcomes)],
        **{
            f"Sharding types of {collection}, tried in one process": check_sharding(
                outcomes, collection
            )
            for collection in COLLECTIONS
        },
        "Fused table optimizers": check_optimizers(outcomes),
    }
    for title, findings in sections.items():
        print(title, *findings, sep="\n", end="\n\n")
    if any(finding.mark == "FAIL" for findings in sections.values() for finding in findings):
        print("torchrec_gr cannot work here: mend what is marked FAIL, from the top.")
        return 1
    print("torchrec_gr can work here.")
    return 0


def check_python(version: tuple[int, ...]) -> Finding:
    """Whether the pinned packages support this Python."""
    found = ".".join(map(str, version))
    if (3, 10) <= version[:2] < (3, 13):
        return Finding("ok", "python", found)
    said = f"{found}: expected 3.10, 3.11 or 3.12"
    return Finding("FAIL", "python", said, "make a virtual environment with python3.12")


def installed_versions() -> dict[str, str]:
    """The installed version of each package in question; absent ones are left out."""
    versions = {}
    for package in (TORCH, *FBGEMM.values(), *OTHERS):
        try:
            versions[package.name] = importlib.metadata.version(package.name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def check_packages(
    versions: Mapping[str, str], outcomes: Mapping[Attempt, Outcome]
) -> list[Finding]:
    """Whether every package is there, fits the others and imports.

    Args:
        versions: as `installed_versions` gives them.
        outcomes: at least of importing every package's module.
    """
    fbgemm, fbgemm_version = _check_fbgemm(versions, outcomes[TORCH.module])
    findings = [
        _check_version(TORCH, versions),
        fbgemm_version,
        *(_check_version(package, versions) for package in OTHERS),
    ]
    if any(finding.mark == "FAIL" for finding in findings):
        return findings  # what does not import then, most likely fails because of these
    packages = (TORCH, fbgemm, *OTHERS)
    return [
        _check_import(package, finding, outcomes[package.module])
        for package, finding in zip(packages, findings, strict=True)
    ]


def _check_version(package: Package, versions: Mapping[str, str]) -> Finding:
    found = versions.get(package.name)
    if found is None:
        return Finding("FAIL", package.name, "not installed", package.install)
    if package.version and found.partition("+")[0] != package.version:  # of "2.13.0+cpu"
        said = f"{found}: expected {package.version}, which fits the others"
        return Finding("FAIL", package.name, said, package.install)
    return Finding("ok", package.name, found)


def _check_fbgemm(versions: Mapping[str, str], torch: Outcome) -> tuple[Package, Finding]:
    """Which build of fbgemm is there, and whether it is one, and one that fits torch's build."""
    fitting = FITTING_FBGEMM.get(torch.said, tuple(FBGEMM))
    installed = [build for build, package in FBGEMM.items() if package.name in versions]
    best = FBGEMM[fitting[0]]
    if not installed:
        return best, _check_version(best, versions)
    package = FBGEMM[installed[0]]
    if len(installed) == 1 and installed[0] in fitting:
        return package, _check_version(package, versions)
    names = [FBGEMM[build].name for build in installed]
    wrong = "installed over each other" if names[1:] else f"does not fit torch's {torch.said}"
    mend = f"pip uninstall -y {' '.join(names)} && {best.install}"
    return package, Finding("FAIL", " and ".join(names), wrong, mend)


def _check_import(package: Package, fits: Finding, outcome: Outcome) -> Finding:
    if outcome.worked:
        return fits._replace(said=f"{fits.said}  {outcome.said}")
    mend = f"pip install --force-reinstall --no-deps {package.release}"
    return Finding("FAIL", package.name, f"does not import: {outcome.said}", mend)


def check_compiled_ops(outcomes: Mapping[Attempt, Outcome]) -> Finding:
    """Whether torchrec_gr's own compiled ops are there and load, and what they run on."""
    outcome = outcomes[COMPILED_OPS]
    if outcome.worked:
        return Finding("ok", COMPILED_OPS, f"loaded; CPU instructions in use: {outcome.said}")
    if not outcomes[TORCH.module].worked:
        return Finding("no", "not tried", "torch does not import")
    if importlib.util.find_spec(COMPILED_OPS) is None:
        return Finding("FAIL", COMPILED_OPS, "not built", BUILD_OPS)
    if CPU_SETTING in outcome.said:
        return Finding("FAIL", COMPILED_OPS, outcome.said, f"unset {CPU_SETTING}")
    return Finding("FAIL", COMPILED_OPS, f"does not load: {outcome.said}", BUILD_OPS)


def check_sharding(outcomes: Mapping[Attempt, Outcome], collection: str) -> list[Finding]:
    """Which sharding types a collection's tables take; a FAIL at the end where it is none."""
    if not outcomes[TORCHREC.module].worked:
        return [_NOT_TRIED]
    findings = [_check_table(kind, outcomes[collection, kind, "SGD"]) for kind in SHARDING_TYPES]
    if all(finding.mark == "no" for finding in findings):
        mend = f"pip install --force-reinstall --no-deps {TORCHREC.release}"
        findings.append(Finding("FAIL", collection, "no sharding type works", mend))
    return findings


def check_optimizers(outcomes: Mapping[Attempt, Outcome]) -> list[Finding]:
    """Which optimizers a table takes fused into its backward pass."""
    if not outcomes[TORCHREC.module].worked:
        return [_NOT_TRIED]
    return [
        _check_table(name, outcomes["EmbeddingBagCollection", "table_wise", name])
        for name in FUSED_OPTIMIZERS
    ]


def _check_table(name: str, outcome: Outcome) -> Finding:
    return Finding("ok" if outcome.worked else "no", name, outcome.said)


_NOT_TRIED = Finding("no", "not tried", "torchrec does not import")


def _tables() -> list[tuple[str, str, str]]:
    sharded = [(collection, kind, "SGD") for collection in COLLECTIONS for kind in SHARDING_TYPES]
    fused = [("EmbeddingBagCollection", "table_wise", name) for name in FUSED_OPTIMIZERS]
    return sharded + fused


def try_out(attempt: Attempt) -> str:
    """Imports a module, or trains a table; whatever goes wrong is raised.

    Returns:
        What there is to say: torch's build, as in FITTING_FBGEMM; the CPU instructions that the
        compiled ops use; the device of a table.
    """
    if not isinstance(attempt, str):
        from torchrec_gr.training.table_probe import try_table

        return try_table(*attempt)
    if attempt == COMPILED_OPS:
        torch = importlib.import_module(TORCH.module)  # whose libraries they link to
        importlib.import_module(COMPILED_OPS)
        return torch.ops.torchrec_gr.cpu_capability()
    module = importlib.import_module(attempt)
    if attempt != TORCH.module:
        return ""
    if module.version.cuda is None:
        return "CPU build"
    return "CUDA build with a GPU" if module.cuda.is_available() else "CUDA build without a GPU"


def attempt_all(
    run: Callable[[Attempt], str],
    attempts: Sequence[Attempt],
    seconds_each: float = SECONDS_PER_ATTEMPT,
) -> dict[Attempt, Outcome]:
    """Runs every attempt, one after the other, in a process that may fall over.

    A crash or a hang costs only the attempt that it befell: the next ones get a new process.

    Args:
        run: a function that another process can import.
    """
    context = multiprocessing.get_context("spawn")
    outcomes: dict[Attempt, Outcome] = {}
    while left := [attempt for attempt in attempts if attempt not in outcomes]:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_run_each, args=(run, left, sender), daemon=True)
        process.start()
        sender.close()
        for attempt in left:
            if not receiver.poll(seconds_each):
                outcomes[attempt] = Outcome(False, f"took over {seconds_each:g} s")
                break
            try:
                outcomes[attempt] = receiver.recv()
            except EOFError:
                process.join()
                outcomes[attempt] = Outcome(False, f"crashed, with exit code {process.exitcode}")
                break
        process.kill()
        process.join()
    return outcomes


def _run_each(
    run: Callable[[Attempt], str], attempts: Sequence[Attempt], sender: Connection
) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    for attempt in attempts:
        try:
            sender.send(Outcome(True, run(attempt)))
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0]
            sender.send(Outcome(False, f"{type(error).__name__}: {first_line}"))


if __name__ == "__main__":
    sys.exit(main())
